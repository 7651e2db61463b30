"""A training as a picture that redraws itself under the cell: loss, validation loss, rate, gradient norm, speed.

While it runs it is a drawing of a few lines (SVG, made in a millisecond); at the end a still picture stays.
"""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit import plots
from labkit.monitoring.lines import EVERY, in_notebook, terminal_line
from labkit.monitoring.meter import Meter, meter_callback

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import TrainerCallback

PANELS = (("loss (nats)", ("loss", "validation_loss")), ("learning rate", ("learning_rate",)),
          ("gradient norm", ("grad_norm",)), ("tokens a second", ("tokens_per_second",)))
COLOURS = {"validation_loss": plots.COLOURS["orange"]}
NAMES = {"loss": "loss", "eval_loss": "validation_loss", "learning_rate": "learning_rate", "grad_norm": "grad_norm"}
WIDE, HIGH = 210, 120  # pixels of a panel
SHARE = 0.02  # of the training's time, at most, goes into drawing


def live(every: float = EVERY) -> TrainerCallback:
    """Watch a training: a picture in a notebook, a progress line in a terminal. For `finetune(callbacks=[live()])`.

    Args:
        every: seconds from one drawing to the next, at least; where drawing is slow it draws less often.
    """
    if not in_notebook():
        return terminal_line()
    from IPython.display import HTML, display

    class Picture(meter_callback()):
        def on_train_begin(self, args, state, control, **kwargs):
            super().on_train_begin(args, state, control, **kwargs)
            self.handle, self.points = display(HTML("the first step is on its way"), display_id=True), []
            self.looked = time.monotonic()

        def on_log(self, args, state, control, logs=None, **kwargs):
            super().on_log(args, state, control, logs, **kwargs)
            found = {NAMES[name]: float(value) for name, value in (logs or {}).items() if name in NAMES}
            if found:
                speed = self.meter.tokens_per_second
                found |= {"step": state.global_step} | ({"tokens_per_second": speed} if speed else {})
                self.points.append(found)

        def show(self, state):
            now = time.monotonic()
            if now - self.looked < every or self.meter.spent > SHARE * (now - self.meter.begun):
                return
            self.looked = now
            self.handle.update(HTML(svg(self.points, self.meter.words())))

        def on_train_end(self, args, state, control, **kwargs):
            super().on_train_end(args, state, control, **kwargs)
            if not self.points:
                return self.handle.update(HTML("nothing was logged"))
            figure, alt = still(self.points)
            self.handle.update(plots.show(figure, alt))

    return Picture(Meter())


def svg(points: Sequence[dict], words: str) -> str:
    """The picture as it stands: four panels, in as many lines as the page is narrow, and a line of words.

    Args:
        points: one dict a logged step with `step` and whatever was logged of the panels' names.
    """
    most = max((point["step"] for point in points), default=1)
    panels = []
    for title, keys in PANELS:
        values = [point[key] for point in points for key in keys if key in point]
        high = max(values, default=0) or 1
        lines, last = [], ""
        for key in keys:
            seen = [(point["step"], point[key]) for point in points if key in point]
            if not seen:
                continue
            path = " ".join(f"{WIDE * (0.04 + 0.9 * step / most):.1f},{HIGH * (0.95 - 0.7 * max(0, value) / high):.1f}"
                            for step, value in seen)
            lines.append(f'<polyline points="{path}" fill="none" stroke-width="1.5" '
                         f'stroke="{COLOURS.get(key, plots.COLOURS["blue"])}"/>')
            last += f" {seen[-1][1]:,.0f}" if seen[-1][1] >= 1000 else f" {seen[-1][1]:.3g}"
        panels.append(f'<svg width="{WIDE}" height="{HIGH}" fill="currentColor" font-size="12">'
                      f'<text x="8" y="14">{title}{last}</text>'
                      f'<line x1="8" x2="{WIDE - 10}" y1="{HIGH * 0.95}" y2="{HIGH * 0.95}" stroke="#999"/>'
                      + "".join(lines) + "</svg>")
    words = html.escape(words)
    return (f'<div role="img" aria-label="training: {words}" style="display:flex;flex-wrap:wrap">{"".join(panels)}'
            f"</div><div>{words}</div>")


def still(points: Sequence[dict]) -> tuple[Figure, str]:
    """The curves of a training as a figure of three panels, and a text that says what is in it.

    Args:
        points: as `Run.curve`.
    """
    from matplotlib.figure import Figure

    losses = [point["loss"] for point in points if "loss" in point]
    held = [point for point in points if "validation_loss" in point]
    title = f"The training loss goes from {losses[0]:.2f} to {losses[-1]:.2f} nats" if losses else "No loss was logged"
    if held:
        best = min(held, key=lambda point: point["validation_loss"])
        title += f"; validation is lowest at step {best['step']}, {best['validation_loss']:.2f}"
    figure = Figure(figsize=(9.0, 2.9), layout="constrained", dpi=130)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    for axes, (name, keys) in zip(figure.subplots(1, 3), PANELS, strict=False):
        for key, style in zip(keys, ("-", "--"), strict=False):
            seen = [(point["step"], point[key]) for point in points if key in point]
            if seen:
                axes.plot(*zip(*seen, strict=True), style, color=COLOURS.get(key, plots.COLOURS["blue"]),
                          marker="." if len(seen) < 15 else "", label="validation" if "val" in key else "training")
        axes.set_ylabel(name)
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", scilimits=(-2, 4))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        if len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize=8)
    return figure, title
