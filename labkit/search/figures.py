"""Pictures of a study: each setting by itself, all of them at once, what mattered, and how the best one came about.

Takes a Study and gives matplotlib Figures by `plots`, each with its finding in the title.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING

from labkit import plots
from labkit.errors import LabError
from labkit.scratch.search import luck, place_in_range
from labkit.search.space import Choice
from labkit.search.store import hushed, import_optuna
from labkit.search.study import Study, Tried

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN = 10  # trials that TPE draws at random first: Optuna's default
MARKS = {"done": "o", "stopped early": "x"}
NAMES = {"learning_rate": "learning rate", "rank": "rank r", "alpha_over_rank": "alpha / r",
         "batch_size": "batch (rows)", "weight_decay": "weight decay"}


def _named(name: str) -> str:
    return NAMES.get(name, name)


def _ended(study: Study, least: int = 2) -> list[Tried]:
    found = [t for t in study.counted if t.value is not None]
    if len(found) < least:
        raise LabError(f"{len(found)} trials have a figure", where=study.store.place, expected=f"at least {least}",
                       todo="Let the study run longer")
    return found


def _times(study: Study) -> tuple[float, str]:
    """What a figure is multiplied with on an axis, and what the axis is called."""
    share = study.head["metric"] == "accuracy"
    return (100, "validation accuracy (%)") if share else (1, "log-likelihood (nats a token)")


def _place(study: Study, name: str, value) -> float:
    """Where a value stands on the axis of its setting, 0 to 1, on the scale that it was drawn on."""
    d = study.space[name]
    if isinstance(d, Choice):
        return d.values.index(value) / max(1, len(d.values) - 1)
    return place_in_range(value, d.low, d.high, d.log)


def slices(study: Study, names: Sequence[str] | None = None) -> Figure:
    """One panel a setting: its value to the right, the figure upwards, a dot a trial; crosses were stopped early.

    Args:
        names: which settings; None is all of the space.
    """
    from matplotlib.figure import Figure

    found, (times, axis), names = _ended(study), _times(study), list(names or study.space)
    best = study.best
    figure = Figure(figsize=(7.6, 3.2), layout="constrained", dpi=130)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        d = study.space[name]
        for state, mark in MARKS.items():
            own = [t for t in found if t.state == state]
            if not own:
                continue
            x = [d.values.index(t.params[name]) if isinstance(d, Choice) else t.params[name] for t in own]
            axes.scatter(x, [times * t.value for t in own], s=22, marker=mark, alpha=0.8,
                         color=plots.COLOURS["blue" if state == "done" else "grey"], label=state)
        mine = d.values.index(best.params[name]) if isinstance(d, Choice) else best.params[name]
        axes.scatter([mine], [times * best.value], s=90, facecolors="none", edgecolors=plots.COLOURS["orange"],
                     linewidths=2, label="best")
        if isinstance(d, Choice):
            axes.set_xticks(range(len(d.values)), [str(v) for v in d.values])
            axes.set_xlim(-0.5, len(d.values) - 0.5)
        elif d.log:
            axes.set_xscale("log")
            if d.high / d.low < 100:  # one decade has one tick of its own
                axes.set_xticks([d.low, (d.low * d.high) ** 0.5, d.high],
                                [f"{v:.2g}" for v in (d.low, (d.low * d.high) ** 0.5, d.high)])
                axes.minorticks_off()
            axes.set_xlim(d.low / (d.high / d.low) ** 0.1, d.high * (d.high / d.low) ** 0.1)
        else:
            axes.set_xlim(d.low - 0.1 * (d.high - d.low), d.high + 0.1 * (d.high - d.low))
        axes.set_xlabel(_named(name))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(axis)
    edge = [name for name in names if not isinstance(study.space[name], Choice)
            and not 0.05 < _place(study, name, best.params[name]) < 0.95]
    ends = f"the best has {_named(edge[0])} at the end of its range" if edge else "the best lies within every range"
    figure.suptitle(f"{len(found)} trials: {ends}", fontsize=11, x=0.01, ha="left")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False,
                  fontsize=9)
    return figure


def parallel(study: Study) -> Figure:
    """Parallel coordinates: an axis a setting and one for the figure, a line a trial; the upper third in front."""
    found, (times, axis) = _ended(study), _times(study)
    names, values = list(study.space), [t.value for t in found]
    low, high = min(values), max(values)
    good = sorted(values, reverse=True)[: max(1, len(values) // 3)][-1]
    spread = {name: [_place(study, name, t.params[name]) for t in found if t.value >= good] for name in names}
    width = {name: max(places) - min(places) for name, places in spread.items()}
    said = [f"{_named(name)} {study.best.params[name]}" for name in names
            if isinstance(study.space[name], Choice) and not width[name]]
    if numbers := [name for name in names if not isinstance(study.space[name], Choice)]:
        narrow = min(numbers, key=width.get)
        said.append(f"{_named(narrow)} within {width[narrow]:.0%} of its range")
    title = "The best third: " + (", ".join(said) or "every setting in more than one value")
    figure, axes = plots.new(title, "", "place in its range (bottom to top)", width=7.6, height=3.8)
    for t in sorted(found, key=lambda t: t.value):
        y = [_place(study, name, t.params[name]) for name in names] + [(t.value - low) / ((high - low) or 1)]
        front = t.value >= good
        axes.plot(range(len(y)), y, color=plots.COLOURS["blue" if front else "grey"], alpha=0.9 if front else 0.25,
                  linewidth=1.8 if front else 1, linestyle="-" if t.state == "done" else ":")
    label = {"ha": "center", "fontsize": 8, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}}
    for i, name in enumerate(names):
        d = study.space[name]
        ends = (d.values[0], d.values[-1]) if isinstance(d, Choice) else (d.low, d.high)
        for y, end in zip((-0.07, 1.03), ends, strict=True):
            axes.text(i, y, f"{end:g}" if isinstance(end, int | float) else str(end), **label)
    for y, end in zip((-0.07, 1.03), (low, high), strict=True):
        axes.text(len(names), y, f"{times * end:.3g}", **label)
    axes.set_xticks(range(len(names) + 1), [*map(_named, names), axis.replace(" (", "\n(")], fontsize=9)
    axes.set_ylim(-0.12, 1.12)
    axes.set_yticks([])
    for i in range(len(names) + 1):
        axes.axvline(i, color="black", linewidth=0.6)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def importances(study: Study, seeds: int = 5) -> dict[str, list[float]]:
    """Share of the spread of the figures that each setting explains alone (fANOVA; Hutter et al., 2014), a seed each.

    A forest is fitted to the trials that came to their end; how far its answers differ by seed says how little twenty
    trials tell.

    Raises:
        LabError: fewer than four trials came to their end.
    """
    optuna = import_optuna()
    done = [t for t in study.trials if t.state == "done"]
    if len(done) < 4 or len({t.value for t in done}) < 2:
        raise LabError(f"{len(done)} trials came to their end", where=study.store.place,
                       expected="at least 4, not all of one figure", todo="Let the study run longer")
    found: dict[str, list[float]] = {name: [] for name in study.space}
    with hushed():
        for seed in range(seeds):
            one = optuna.importance.get_param_importances(
                study.optuna, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed),
                params=list(study.space), normalize=False)
            for name in found:
                found[name].append(float(one.get(name, 0.0)))
    return found


def importance_bars(study: Study, seeds: int = 5) -> Figure:
    """The importances as bars, the largest on top, with the spread over seeds of the forest."""
    found = importances(study, seeds)
    order = sorted(found, key=lambda name: mean(found[name]))
    top, second = order[-1], order[-2] if len(order) > 1 else order[-1]
    clear = min(found[top]) > max(found[second])
    title = (f"{_named(top).capitalize()} explains the largest share: {mean(found[top]):.0%}" if clear else
             f"{_named(top).capitalize()} or {_named(second)}: these trials cannot tell which matters more")
    figure, axes = plots.new(title, "share of the spread explained (%), line: lowest to highest of "
                             f"{seeds} forests", "", height=1.2 + 0.4 * len(order))
    for i, name in enumerate(order):
        values = [100 * v for v in found[name]]
        axes.barh(i, mean(values), color=plots.COLOURS["blue"], height=0.6)
        axes.plot([min(values), max(values)], [i, i], color="black", linewidth=2)
    axes.set_yticks(range(len(order)), [_named(name) for name in order])
    axes.set_xlim(0, 100)
    axes.grid(axis="x", alpha=0.3)
    axes.grid(axis="y", visible=False)
    return figure


def history(study: Study) -> Figure:
    """Each trial's figure in the order in which they came, and the best so far."""
    found, (times, axis) = _ended(study), _times(study)
    rest = [t for t in found if t.number >= DRAWN]
    best = study.best
    title = f"Trial {best.number} is the best of {len(found)}; {sum(t.state == 'stopped early' for t in found)} were " \
            "stopped early"
    if study.head["strategy"] == "tpe" and rest:
        title += f", {sum(t.state == 'stopped early' for t in rest)} of TPE's {len(rest)}"
    figure, axes = plots.new(title, "trial (number)", axis)
    for state, mark in MARKS.items():
        own = [t for t in found if t.state == state]
        if not own:
            continue
        axes.scatter([t.number for t in own], [times * t.value for t in own], marker=mark, s=26, clip_on=False,
                     color=plots.COLOURS["blue" if state == "done" else "grey"], label=state)
    so_far, steps = None, []
    for t in found:
        if t.state == "done":
            so_far = t.value if so_far is None else max(so_far, t.value)
        steps.append((t.number, so_far))
    steps = [(n, times * v) for n, v in steps if v is not None]
    axes.step(*zip(*steps, strict=True), where="post", color=plots.COLOURS["orange"], label="best so far")
    if study.head["strategy"] == "tpe" and rest:
        axes.axvline(DRAWN - 0.5, color=plots.COLOURS["grey"], linestyle=":")
        axes.margins(y=0.15)
        for side, away, words in (("right", -4, "before TPE"), ("left", 4, "chosen by TPE")):
            axes.annotate(words, (DRAWN - 0.5, axes.get_ylim()[1]), ha=side, fontsize=8, xytext=(away, -8),
                          textcoords="offset points")
        axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=9, loc="best")
    return figure


def _apart(values: Sequence[float], step: float = 0.14) -> list[float]:
    """How far up or down each value is drawn, so that equal ones stand one above the other around their row.

    >>> _apart([0.5, 0.25, 0.5], step=0.5)
    [-0.25, 0.0, 0.25]
    """
    equal, drawn, away = Counter(values), Counter(), []
    for value in values:
        away.append(step * (drawn[value] - (equal[value] - 1) / 2))
        drawn[value] += 1
    return away


def seeds(study: Study, again: Sequence[float], most: int = 5) -> Figure:
    """The best trials of a study beside one setting with other seeds, and how far that luck reaches from the first.

    Args:
        again: figures of one setting, a seed each.
        most: how many of the best trials.
    """
    (times, axis) = _times(study)
    done = sorted((t for t in study.trials if t.state == "done"), key=lambda t: -t.value)[:most]
    reach = luck(again)
    inside = sum(abs(t.value - done[0].value) <= reach for t in done[1:])
    title = f"{inside} of the {len(done) - 1} runners-up lie within the luck of a seed from the first"
    figure, axes = plots.new(title, axis, "", height=2.6)
    low, high = done[0].value - reach, done[0].value + reach
    axes.axvspan(times * low, times * (min(1, high) if times > 1 else high), color=plots.COLOURS["grey"],
                 alpha=0.15, label="the first ± the luck between two runs")
    for row, values, colour, mark in ((0, again, "orange", "D"), (1, [t.value for t in done], "blue", "o")):
        axes.scatter([times * v for v in values], [row + away for away in _apart(values)],
                     color=plots.COLOURS[colour], marker=mark, s=40)
    axes.set_yticks([0, 1], [f"one setting,\n{len(again)} seeds", f"best {len(done)}\nsettings"])
    axes.set_ylim(-0.6, 1.6)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure
