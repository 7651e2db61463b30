"""Two replies side by side, no names: choose by button or by key. A front end over `labkit.evaluation.rating`.

Without ipywidgets it leaves the pair at hand as text and says how to choose by code. Replies are shown as text only.
"""

from __future__ import annotations

from labkit.errors import LabError
from labkit.evaluation.rating import Ratings
from labkit.tables import VERBATIM, cut
from labkit.widgets.shown import LONGEST, TEXT, bundle, shown

KEYS = {"a": "left", "b": "right", "t": "tie"}
HOW = "With the cursor in the box: a = left, b = right, t = tie; Backspace takes the last one back."


class RatingBox:
    """Buttons, a box that takes keys, and the pair at hand.

    Args:
        ratings: what is rated, and where it is kept.
    """

    def __init__(self, ratings: Ratings):
        self.ratings = ratings
        self.said = ""

    def press(self, keys: str) -> None:
        """Rate by letters, as the box that takes keys does; letters that mean nothing are passed over."""
        for key in keys.lower():
            if key in KEYS:
                self.ratings.choose(KEYS[key])

    def _progress(self) -> str:
        return f"{len(self.ratings.choices)} of {len(self.ratings.order)} pairs rated by {self.ratings.rater}"

    def __str__(self) -> str:
        pair = self.ratings.pair()
        if pair is None:
            return f"{self._progress()}: done."
        prompt, left, right = (cut(text, LONGEST) for text in (pair.prompt, pair.left, pair.right))
        return (f"{self._progress()}\n\nASKED\n{prompt}\n\nLEFT\n{left}\n\nRIGHT\n{right}\n\n"
                'Choose: ratings.choose("left"), "right" or "tie"; ratings.undo() takes it back.')

    __repr__ = __str__

    def _html(self) -> str:
        """The pair at hand; every text escaped, so that a reply is read and never run."""
        pair = self.ratings.pair()
        note = f'<p role="status">{shown(self.said or self._progress())}</p>'
        if pair is None:
            return f"{note}<p>All pairs are rated.</p>"
        box = f"flex:1 1 18em;border:1px solid #999;border-radius:4px;padding:0.5em 0.8em;margin:0.3em;{TEXT}"
        replies = "".join(f'<div style="{box}"><b>{side}</b><br>{shown(reply) or "(nothing)"}</div>'
                          for side, reply in (("left", pair.left), ("right", pair.right)))
        return (f'<div class="{VERBATIM}">{note}<div style="{TEXT};max-width:60em">{shown(pair.prompt)}</div>'
                f'<div style="display:flex;flex-wrap:wrap;max-width:60em">{replies}</div></div>')

    def widget(self):
        """The buttons, the box for keys and the pair, as an ipywidgets box."""
        import ipywidgets as w

        pair = w.HTML(value=self._html())
        keys = w.Text(description="keys", continuous_update=True, tooltip=HOW, style={"description_width": "auto"},
                      layout=w.Layout(width="16em"))
        tape = ""  # what was typed so far: a letter more is a choice, a letter less takes one back

        def do(step) -> None:
            try:
                step()
                self.said = ""
            except LabError as error:  # an error in a callback would be seen nowhere
                self.said = str(error)
            pair.value = self._html()

        def typed(change) -> None:
            nonlocal tape
            new, old = change["new"], tape
            tape = new
            if new.startswith(old):
                do(lambda: self.press(new[len(old):]))
            elif old.startswith(new):
                do(lambda: [self.ratings.undo() for key in old[len(new):].lower() if key in KEYS])

        keys.observe(typed, "value")
        buttons = []
        for name, choice, hint in (("left", "left", "the left reply is better (a)"),
                                   ("tie", "tie", "neither is better (t)"),
                                   ("right", "right", "the right reply is better (b)")):
            button = w.Button(description=name, tooltip=hint)
            button.on_click(lambda _, choice=choice: do(lambda: self.ratings.choose(choice)))
            buttons.append(button)
        back = w.Button(description="undo", tooltip="take the last choice back (Backspace)")
        back.on_click(lambda _: do(self.ratings.undo))
        return w.VBox([pair, w.HBox([*buttons, back], layout=w.Layout(flex_flow="row wrap")), keys, w.HTML(HOW)])

    def _repr_mimebundle_(self, include=None, exclude=None):
        return bundle({"text/plain": str(self), "text/html": self._html()}, self.widget, include, exclude)
