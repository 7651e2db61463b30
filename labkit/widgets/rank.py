"""The rank explorer: two sliders, and what they do to parameters, loss and accuracy, trained while you look.

A front end over `labkit.search.trial`; without ipywidgets it leaves its picture and its table.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence

from labkit import plots
from labkit.errors import LabError
from labkit.search import Trial
from labkit.tables import Table
from labkit.widgets.shown import TEXT, bundle, shown

RANKS = (1, 2, 4, 8, 16, 32)
SCALES = (0.5, 1.0, 2.0, 4.0)


class RankExplorer:
    """Move rank and alpha / r; each pair is trained once, in seconds, and kept.

    Args:
        measure: (rank, alpha) to a Trial.
        ranks, scales: the stops of the two sliders.
        start: pairs (rank, alpha / r) that are measured at once, so that there is something to see.
    """

    def __init__(
        self,
        measure: Callable[[int, float], Trial],
        ranks: Sequence[int] = RANKS,
        scales: Sequence[float] = SCALES,
        start: Sequence[tuple[int, float]] = ((8, 2.0),),
    ):
        self.measure, self.ranks, self.scales = measure, tuple(ranks), tuple(scales)
        self.trials: dict[tuple[int, float], Trial] = {}
        for rank, scale in start:
            self.at(rank, scale)
        self.chosen = tuple(start[-1])

    def at(self, rank: int, scale: float) -> Trial:
        """The trial at this rank and alpha = scale × rank, trained if it was not yet."""
        if (rank, scale) not in self.trials:
            self.trials[rank, scale] = self.measure(rank, scale * rank)
        return self.trials[rank, scale]

    def table(self) -> Table:
        """All trials so far."""
        return Table([self.trials[key].row() for key in sorted(self.trials)])

    def figure(self):
        """Loss curves of all trials so far, the chosen one in front."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 3.4), layout="constrained", dpi=110)
        left, right = figure.subplots(1, 2)
        for key, trial in sorted(self.trials.items(), key=lambda item: item[0] == self.chosen):
            mine = key == self.chosen
            colour = plots.COLOURS["blue" if mine else "grey"]
            points = [(p["step"], p["loss"]) for p in trial.curve if "loss" in p]
            left.plot(*zip(*points, strict=True), color=colour, alpha=1 if mine else 0.35, linewidth=2 if mine else 1)
            low, high = 100 * trial.accuracy.low, 100 * trial.accuracy.high
            right.plot([trial.parameters] * 2, [low, high], color=colour, alpha=1 if mine else 0.35)
            right.plot(trial.parameters, 100 * trial.accuracy.value, "o", color=colour)
        rank, scale = self.chosen
        left.set_title(f"loss with r = {rank}, alpha = {scale * rank:g}", loc="left", fontsize=10)
        left.set_xlabel("step")
        left.set_ylabel("loss (nats per counted token)")
        left.set_ylim(bottom=0)
        right.set_title("accuracy of every trial so far", loc="left", fontsize=10)
        right.set_xlabel("trainable parameters")
        right.set_ylabel("accuracy (%), 95 % interval")
        right.set_xscale("log")
        seen = sorted({trial.parameters for trial in self.trials.values()})
        right.set_xticks(seen, [f"{n:,}" for n in seen], rotation=20)
        right.minorticks_off()
        right.set_ylim(0, 103)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.3)
        return figure

    def alt(self) -> str:
        """What the picture shows, in words."""
        trial = self.trials[self.chosen]
        return (
            f"Loss curve and accuracy for rank {self.chosen[0]}, alpha {self.chosen[0] * self.chosen[1]:g}: "
            f"accuracy {trial.accuracy}, {trial.parameters:,} trainable parameters."
        )

    def _img(self) -> str:
        """The picture as HTML: ipywidgets' own Image has no text for readers who cannot see it."""
        data = base64.b64encode(plots.png(self.figure())).decode()
        return f'<img style="max-width:100%" alt="{html.escape(self.alt())}" src="data:image/png;base64,{data}">'

    def widget(self):
        """The sliders and the picture, as an ipywidgets box."""
        import ipywidgets as w

        style = {"description_width": "11em"}
        wide = w.Layout(width="32em", max_width="95%")
        rank = w.SelectionSlider(
            options=self.ranks,
            value=self.chosen[0],
            description="rank r",
            style=style,
            layout=wide,
            continuous_update=False,
        )
        scale = w.SelectionSlider(
            options=self.scales,
            value=self.chosen[1],
            description="alpha / r",
            style=style,
            layout=wide,
            continuous_update=False,
        )
        picture = w.HTML(value=self._img(), layout=w.Layout(max_width="100%"))
        said = w.HTML(value=_status(self.alt()), layout=w.Layout(width="95%"))  # a Label would cut the line off

        def moved(_):
            said.value = _status(f"training with rank {rank.value}, alpha {rank.value * scale.value:g} ...")
            try:
                self.at(rank.value, scale.value)
            except LabError as error:  # an error in a callback would be seen nowhere
                said.value = _status(str(error))
                return
            self.chosen = (rank.value, scale.value)
            picture.value, said.value = self._img(), _status(self.alt())

        rank.observe(moved, "value")
        scale.observe(moved, "value")
        return w.VBox([rank, scale, said, picture])

    def _repr_mimebundle_(self, include=None, exclude=None):
        """The widget where there are widgets; beside it the picture and a text, for every other viewer."""
        still = {"text/plain": self.alt(), "image/png": plots.png(self.figure())}
        return bundle(still, self.widget, include, exclude), {"image/png": {"alt": self.alt()}}


def _status(text: str) -> str:
    return f'<div role="status" class="said" style="{TEXT}">{shown(text)}</div>'
