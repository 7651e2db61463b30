"""How every widget of the course shows itself: as a widget where there are widgets, and beside it as something still.

A notebook's `_repr_mimebundle_` ends here; the still part is what nbconvert, GitHub and a terminal show.
"""

from __future__ import annotations

import html
from collections.abc import Callable

from labkit.tables import cut

LONGEST = 4_000  # characters of a text that a widget shows; of a longer one both ends
# The look of somebody's text: with its own lines, and no word too wide.
TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.4"


def shown(text: str) -> str:
    """Somebody's text as HTML that shows it and does nothing else."""
    return html.escape(cut(text, LONGEST))


def text_box(text: str, label: str, rows: int = 5):
    """A box to write in, with its label above it: a label of ipywidgets' own is what a screen reader says of a box."""
    import ipywidgets as w

    above = w.Layout(width="95%", max_width="60em", flex_flow="column", align_items="stretch")
    own = {"description_width": "max-content"}
    return w.Textarea(value=text, rows=rows, description=label, style=own, layout=above)


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
