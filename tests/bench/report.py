"""What the bench shows: one table of ratios, a table of each job's ways, JSON, a picture, and the machine's name."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench.turns import Middle, Result
from labkit import measured, plots, profiles
from labkit.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABSENT = "not measured here"
RECORD = measured.FOLDER / "bench.json"  # what README's table is made of
LIBRARIES = ("torch", "transformers", "peft", "trl", "onnxruntime-genai", "bitsandbytes", "llama-cpp-python")


def machine() -> dict[str, str]:
    """`profiles.machine` with PyTorch's threads and the versions of the libraries that are measured."""
    import torch

    threads = {"threads": str(torch.get_num_threads())}
    return profiles.machine() | threads | {name: version(name) for name in LIBRARIES}


def version(name: str) -> str:
    """Of a distribution that is installed, or "not installed"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def here(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def ratios(results: Sequence[Result], rounds: int) -> Table:
    """One row for each pair: how many times as good a way is as the other, median over the rounds, and its spread."""
    rows = [_pair(result, *pair) for result in results for pair in result.pairs]
    rows += [_limit(result, *limit) for result in results for limit in result.limits]
    return Table(rows, f"Measured in turn; medians of {rounds} rounds, from lowest to highest in brackets. A ratio "
                       "above 1 means faster, or smaller.")


def _pair(result: Result, way: str, against: str) -> dict:
    row = {"part": result.part, "what": result.what, "way": way, "against": against}
    if gone := [name for name in (way, against) if name in result.absent]:
        return row | {"ratio": ABSENT, "figures": result.absent[gone[0]]}
    ratio, said = Middle.of(result.ratios(way, against)), []
    for figure in filter(None, (result.figure, result.beside)):
        ours, theirs = (number(Middle.of(result.values(name, figure)).median) for name in (way, against))
        said.append(_measured(figure, f"{ours} against {theirs}"))
    return row | {"ratio": f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})", "figures": "; ".join(said)}


def _limit(result: Result, way: str, figure: str, most: float) -> dict:
    row = {"part": result.part, "what": result.what, "way": way, "against": f"at most {number(most)}"}
    if way in result.absent:
        return row | {"ratio": ABSENT, "figures": result.absent[way]}
    broken = (way, figure, most) in result.broken()
    return row | {"ratio": "BROKEN" if broken else "kept",
                  "figures": _measured(figure, Middle.of(result.values(way, figure)).median)}


def _measured(figure: str, value: float | str) -> str:
    """A value with the name and the unit of its figure.

    >>> _measured("all, s", 41.2), _measured("tokens/s", 7.0)
    ('all: 41.2 s', '7 tokens/s')
    """
    name, _, unit = figure.rpartition(", ")
    return f"{name + ': ' if name else ''}{value if isinstance(value, str) else number(value)} {unit}"


def ways(result: Result) -> Table:
    """All figures of a job's ways: medians of numbers with their spread, and words of the first round."""
    rows = []
    for name, laps in result.laps.items():
        row = {"way": name}
        for figure, value in laps[0].items():
            row[figure] = value if isinstance(value, str) else spread([lap[figure] for lap in laps])
        rows.append(row)
    rows += [{"way": name, result.figure or "why": f"{ABSENT}: {why}"} for name, why in result.absent.items()]
    return Table(rows, f"{result.part}: {result.what}")


def spread(values: Sequence[float]) -> str:
    """A median, and in brackets the lowest and the highest where they differ from it in what is shown.

    >>> spread([1.0, 1.0, 1.0]), spread([100, 300, 200])
    ('1', '200 (100-300)')
    """
    middle = Middle.of(values)
    low, median, high = map(number, (middle.low, middle.median, middle.high))
    return median if low == high else f"{median} ({low}-{high})"


def number(value: float) -> str:
    """Three figures, and thousands set apart.

    >>> number(0.01234), number(12345.6), number(7)
    ('0.0123', '12,346', '7')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def record(file: Path, parts: Mapping[str, Sequence[Result]], rounds: int, profiles: Sequence[Path] = ()) -> list[Path]:
    """Keep what whole parts found, each with its machine and day; other parts stay as they were recorded.

    Args:
        file: JSON, a record a part: `when`, `machine`, `rounds`, `ratios` (rows of `ratios`).
        parts: results of each part that came to its end.
        profiles: texts to be laid beside it.

    Returns:
        The files that were written.
    """
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    when, named = datetime.now(UTC).isoformat(timespec="seconds"), machine()
    for name, results in parts.items():
        known[name] = {"when": when, "machine": named, "rounds": rounds, "ratios": ratios(results, rounds).rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [file, *(Path(shutil.copyfile(text, file.with_name(f"{file.stem}_{text.name}"))) for text in profiles)]


def picture(results: Sequence[Result], rounds: int) -> Figure:
    """A bar for each ratio with its spread, 1 as a line; what was not measured has its name and no bar."""
    found = [(result, *pair) for result in results for pair in result.pairs][::-1]
    figure, axes = plots.new(f"How many times as fast: medians of {rounds} rounds, measured in turn", "ratio "
                             "(no unit, logarithmic; 1 is as fast as the other)", "", 9.0, 1.2 + 0.34 * len(found))
    names = []
    for place, (result, way, against) in enumerate(found):
        gone = any(name in result.absent for name in (way, against))
        versus = f" / {against}" if against else ""
        names.append(f"{result.what}: {way}{versus}" + (f" ({ABSENT})" if gone else ""))
        if not gone:
            ratio = Middle.of(result.ratios(way, against))
            axes.barh(place, ratio.median - 1, left=1, height=0.6,
                      color=plots.COLOURS["blue" if ratio.median >= 1 else "orange"])
            axes.plot([ratio.low, ratio.high], [place, place], color=plots.COLOURS["grey"], linewidth=1.5)
            axes.annotate(f" {ratio.median:.2f}", (max(ratio.high, 1), place), va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.axvline(1, color=plots.COLOURS["grey"], linewidth=1)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [digit * 10**power for power in range(-3, 4) for digit in (1, 2, 5)]
    axes.set_xticks(ticks, map(number, ticks))
    axes.minorticks_off()
    axes.set_xlim(low, high)
    axes.grid(axis="x", alpha=0.3)
    axes.grid(axis="y", visible=False)
    return figure
