"""A chat window over an exported model: a menu of adapters, a text box, and the answer as it is being written.

A front end over `labkit.export`; lab 10 shows it.
"""

from __future__ import annotations

from labkit.errors import LabError
from labkit.export import OnnxModel
from labkit.tables import Table
from labkit.widgets.shown import TEXT, bundle, shown, text_box

NONE, WHOLE = "(none: the base)", "(the model)"  # the second where there are no adapters to leave out


class AdapterChat:
    """One question, answered through the adapter that the menu shows; the answer streams.

    Args:
        model: an exported model, with or without adapters.
        text: what stands in the box at first; each adapter answers it once, so that there is something to see.
        tokens: of the longest answer.
    """

    def __init__(self, model: OnnxModel, text: str, tokens: int = 64):
        self.model, self.text, self.tokens = model, text, tokens
        self.said = {name: self.ask(text, name) for name in [NONE if model.adapters else WHOLE, *model.adapters]}

    def pieces(self, text: str, name: str):
        """The answer's pieces of text; an error that can be named takes the place of an answer."""
        try:
            for piece in self.model.stream(text, self.tokens, adapter=None if name in (NONE, WHOLE) else name):
                yield piece.text
        except LabError as error:
            yield f"({error})"

    def ask(self, text: str, name: str = NONE) -> str:
        """The whole answer."""
        return "".join(self.pieces(text, name)).strip()

    def table(self) -> Table:
        """What each adapter said to the text that stood there first."""
        return Table([{"adapter": name, "answers": said} for name, said in self.said.items()])

    def widget(self):
        """Menu, box, button and the answer, as an ipywidgets box."""
        import ipywidgets as w

        menu = w.Dropdown(options=list(self.said), description="adapter")
        box = text_box(self.text, "what is asked", rows=4)
        button = w.Button(description="Ask", button_style="primary", tooltip="ask through the chosen adapter")
        answer = w.HTML()

        def show(text: str) -> None:
            answer.value = f'<div role="status" style="{TEXT};max-width:60em">{shown(text)}</div>'

        def pressed(_):  # the button stays as it is: one that is switched off meanwhile loses the keyboard's focus
            so_far = ""
            show("...")
            for text in self.pieces(box.value, menu.value):
                so_far += text
                show(so_far)
            if not so_far.strip():
                show("(nothing)")

        button.on_click(pressed)
        show(self.said[menu.value])
        return w.VBox([menu, box, button, answer])

    def _repr_mimebundle_(self, include=None, exclude=None):
        still = {"text/plain": str(self.table()), "text/html": self.table()._repr_html_()}
        return bundle(still, self.widget, include, exclude)
