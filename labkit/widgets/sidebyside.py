"""The same prompt to several models, their answers beside each other; a text box to write your own.

A front end over functions that answer; lab 00 puts base and fine-tuned model in, lab 05 one function an adapter.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping

from labkit.errors import LabError
from labkit.tables import VERBATIM, Table
from labkit.widgets.shown import TEXT, bundle, shown, text_box


class SideBySide:
    """A text box, a button, and one answer a model.

    Args:
        answerers: name of the column to a function from the text to an answer.
        text: what stands in the box at first; it is answered at once, so that there is something to see.
        label: what the box is for.
    """

    def __init__(self, answerers: Mapping[str, Callable[[str], str]], text: str, label: str = "your ticket"):
        self.answerers, self.label = dict(answerers), label
        self.text, self.answers = text, self.ask(text)

    def ask(self, text: str) -> dict[str, str]:
        """Every model's answer to the text; an error that can be named takes the place of an answer."""
        said = {}
        for name, answer in self.answerers.items():
            try:
                said[name] = answer(text)
            except LabError as error:
                said[name] = f"({error})"
        return said

    def table(self) -> Table:
        """The answers to what was asked last, one row a model."""
        return Table([{"model": name, "answers": answer} for name, answer in self.answers.items()])

    def _html(self) -> str:
        column = "flex:1 1 18em;border:1px solid #999;border-radius:4px;padding:0.5em 0.8em;margin:0.3em"
        boxes = "".join(f'<div style="{column}"><b>{html.escape(name)}</b>'
                        f'<div style="{TEXT}">{shown(answer) or "(nothing)"}</div></div>'
                        for name, answer in self.answers.items())
        return f'<div role="status" class="{VERBATIM}" style="display:flex;flex-wrap:wrap;max-width:60em">{boxes}</div>'

    def widget(self):
        """The box, the button and the answers, as an ipywidgets box."""
        import ipywidgets as w

        box = text_box(self.text, self.label)
        button = w.Button(description="Ask", button_style="primary", tooltip="ask every model")
        answers = w.HTML(value=self._html())

        def pressed(_):
            button.description = "asking ..."  # not switched off: it would lose the keyboard's focus
            try:
                self.text, self.answers = box.value, self.ask(box.value)
                answers.value = self._html()
            finally:
                button.description = "Ask"

        button.on_click(pressed)
        return w.VBox([box, button, answers])

    def _repr_mimebundle_(self, include=None, exclude=None):
        return bundle({"text/plain": str(self.table()), "text/html": self._html()}, self.widget, include, exclude)
