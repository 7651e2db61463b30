"""How every widget of the course shows itself: as a widget where there are widgets, and beside it as something still.

A notebook's `_repr_mimebundle_` ends here; the still part is what nbconvert, GitHub and a terminal show.
"""

from __future__ import annotations

from collections.abc import Callable


def bundle(still: dict, widget: Callable, include=None, exclude=None) -> dict:
    """The still forms by their MIME types, with the widget's own view added where ipywidgets is installed.

    Args:
        still: "text/plain" and whatever else can be shown without a kernel.
        widget: makes the ipywidgets object.
        include, exclude: as IPython hands them on.
    """
    try:
        box = widget()
    except ImportError:
        return still
    more = box._repr_mimebundle_(include=include, exclude=exclude) or {}
    return {**still, **{kind: data for kind, data in more.items() if kind != "text/plain"}}
