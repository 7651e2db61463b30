"""Figures with one look: axis names with units, colours that everybody can tell apart, and a text for who can't see.

Used by the notebooks, the widgets and the reports; each function gives a matplotlib Figure.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.display import Image
    from matplotlib.figure import Figure

# Okabe and Ito's palette (2008), readable with every common form of colour blindness.
COLOURS = {"blue": "#0072B2", "orange": "#D55E00", "green": "#009E73", "purple": "#CC79A7", "grey": "#595959"}


def new(title: str, x: str, y: str, width: float = 7.0, height: float = 3.4):
    """A Figure and its axes, with title and axis names set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return figure, axes


def curve(points: Sequence[dict], title: str, height: float = 3.4) -> Figure:
    """Training loss, and validation loss where there is one, over steps; `points` as in `Run.curve`."""
    figure, axes = new(title, "step", "loss (nats per counted token)", height=height)
    for key, name, colour, style in (
        ("loss", "training", "blue", "-"),
        ("validation_loss", "validation", "orange", "--"),
    ):
        seen = [(p["step"], p[key]) for p in points if key in p]
        if seen:
            axes.plot(
                *zip(*seen, strict=True), style, marker="." if len(seen) < 15 else "", color=COLOURS[colour], label=name
            )
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)  # there is no step 2.5
    if len(axes.lines) > 1:
        axes.legend(frameon=False)
    return figure


def text_curve(points: Sequence[dict], width: int = 60, height: int = 6, blocks: bool = True) -> str:
    """The training loss over steps as a picture of letters, for a terminal: bars from 0 to the highest loss.

    Args:
        points: as in `Run.curve`; those with a loss are drawn, each column the mean of its share of them.
        width: columns at most. height: lines of bars.
        blocks: eighths of a block; False draws with # alone, where a terminal has no such letters.

    >>> print(text_curve([{"step": i, "loss": 4 / i} for i in range(1, 9)], height=2, blocks=False))
    training loss (nats per counted token)
    4.00 |#
         |###
    0.00 +--------
          steps 1 to 8
    """
    seen = [(point["step"], point["loss"]) for point in points if "loss" in point]
    columns = min(width, len(seen))
    edges = [len(seen) * i // max(columns, 1) for i in range(columns + 1)]
    means = [sum(loss for _, loss in seen[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    if not means or not all(map(math.isfinite, means)):
        return "There is no loss to draw, or one that is no number."
    fills, highest = (" ▁▂▃▄▅▆▇█" if blocks else " #"), max(means) or 1.0
    levels = [round(mean / highest * height * (len(fills) - 1)) for mean in means]
    axis = [f"{highest:.2f}", *[""] * (height - 1), "0.00"]
    room = max(map(len, axis))
    lines = ["training loss (nats per counted token)"]
    for line in range(height):
        below = (height - 1 - line) * (len(fills) - 1)
        bars = "".join(fills[min(max(level - below, 0), len(fills) - 1)] for level in levels)
        lines.append(f"{axis[line]:>{room}} |{bars}".rstrip())
    lines += [f"{axis[-1]:>{room}} +{'-' * columns}", f"{'':{room}}  steps {seen[0][0]} to {seen[-1][0]}"]
    return "\n".join(lines)


def scores(rows: Sequence[tuple[str, float, float, float]], title: str, x: str = "accuracy") -> Figure:
    """One dot with its 95 % interval a row; rows are (name, value, low, high), 0 to 1, drawn from the top down."""
    figure, axes = new(title, f"{x} (%), with 95 % interval", "", height=0.9 + 0.42 * len(rows))
    names = [name for name, *_ in rows][::-1]
    for i, (_, value, low, high) in enumerate(reversed(rows)):
        axes.plot([100 * low, 100 * high], [i, i], color=COLOURS["blue"], linewidth=2)
        axes.plot(100 * value, i, "o", color=COLOURS["blue"], clip_on=False)  # a dot at 0 is whole, too
        axes.annotate(
            f"{value:.0%}", (100 * value, i), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=9
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.2)
    axes.set_xlim(0, 103)
    axes.grid(axis="x", alpha=0.3)
    axes.grid(axis="y", visible=False)
    return figure


def heat(values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], title: str,
         x: str = "", y: str = "") -> Figure:
    """A table of figures, 0 to 100, as coloured fields with the number in each; rows from the top down."""
    figure, axes = new(title, x, y, height=0.9 + 0.42 * len(rows))
    axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    axes.grid(visible=False)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", color="black" if value > 55 else "white")
    return figure


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes, the same each time it is drawn."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def show(figure: Figure, alt: str) -> Image:
    """The figure as a notebook's output, with a text for readers who cannot see it."""
    from IPython.display import Image

    return Image(png(figure), width=int(figure.get_figwidth() * 110), alt=alt)


def clouds(panels: dict[str, Sequence[Sequence[float]]], labels: Sequence[str], title: str) -> Figure:
    """One panel of points a name, side by side, coloured and marked by label; `panels` has (points, 2) arrays."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.8), layout="constrained", dpi=130)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    names, marks = list(dict.fromkeys(labels)), "os^Dv"
    for axes, (panel, points) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for i, name in enumerate(names):
            own = [p for p, label in zip(points, labels, strict=True) if label == name]
            axes.scatter(*zip(*own, strict=True), s=16, marker=marks[i % len(marks)],
                         color=list(COLOURS.values())[i % len(COLOURS)], label=name)
        axes.set_title(panel, fontsize=10, loc="left")
        axes.set_xlabel("first component (no unit)")
        axes.set_ylabel("second component (no unit)")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure
