"""How a class stands: the learners' progress files read together, as a table, a heat map and a page.

It reads what `check`, `hint` and `solution` left in each learner's progress.json, and changes none of it.
"""

from __future__ import annotations

import html
import os
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from labkit import plots
from labkit.errors import LabError
from labkit.exercises import Exercise
from labkit.exercises.progress import EMPTY, read_progress
from labkit.exercises.registry import lab_modules, load_lab
from labkit.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = 5_000_000  # bytes of a progress file; a whole course takes about 30,000
STATES = ("not begun", "tried", "passed after the solution", "passed")
SHADES = ("#f2f2f2", "#D55E00", "#56B4E9", "#0072B2")  # light grey, then Okabe and Ito's; they differ in lightness too
NAMES = 3  # of the learners who are stopped, how many a line names


@dataclass(frozen=True)
class Roster:
    """The learners of a class, what each has done, and the files that could not be read."""

    learners: dict[str, dict[str, dict]]
    exercises: list[Exercise]
    skipped: dict[str, str] = field(default_factory=dict)

    def state(self, learner: str, exercise: str) -> int:
        """How far a learner is with an exercise: an index into `STATES`."""
        record = {**EMPTY, **self.learners[learner].get(exercise, {})}
        if record["passed"]:
            return 2 if record["solution"] else 3
        return 1 if record["attempts"] or record["hints"] or record["solution"] else 0

    def stopped(self, exercise: str) -> list[str]:
        """The learners who tried an exercise and have not passed it."""
        return [learner for learner in self.learners if self.state(learner, exercise) == 1]

    def table(self) -> Table:
        """One row an exercise: how many passed it, whom it stops, and what `check` told those last."""
        rows = []
        for item in self.exercises:
            states = Counter(self.state(learner, item.name) for learner in self.learners)
            records = [known[item.name] for known in self.learners.values() if item.name in known]
            stopped = self.stopped(item.name)
            said = Counter(self.learners[who].get(item.name, {}).get("last", "") for who in stopped)
            said.pop("", None)
            commonest, times = said.most_common(1)[0] if said else ("", 0)
            rows.append({
                "lab": item.lab,
                "exercise": item.name,
                "passed": states[2] + states[3],
                "of these, after the solution": states[2],
                "stopped": states[1],
                "not begun": states[0],
                "attempts (median)": median(record.get("attempts", 0) for record in records) if records else 0,
                "whom": _some(stopped),
                "said most often": f"{commonest} ({times} times)" if times > 1 else commonest,
            })
        return Table(rows, f"{len(self.learners)} learners, {len(self.exercises)} exercises")

    def people(self) -> Table:
        """One row a learner, the furthest first."""
        rows = []
        for learner in self.learners:
            states = Counter(self.state(learner, item.name) for item in self.exercises)
            rows.append({"learner": learner, "passed": states[2] + states[3], "stopped": states[1],
                         "not begun": states[0]})
        return Table(sorted(rows, key=lambda row: (-row["passed"], row["learner"])))

    def heatmap(self) -> Figure:
        """Learners down, exercises across, a shade for each state."""
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Patch

        order = [row["learner"] for row in self.people().rows]
        grid = [[self.state(learner, item.name) for item in self.exercises] for learner in order]
        hardest = max(self.exercises, key=lambda item: len(self.stopped(item.name)))
        most = len(self.stopped(hardest.name))
        title = (f"{hardest.name} stops {most} of {len(order)} learners" if most else "Nobody is stopped anywhere")
        width, height = 2.5 + 0.24 * len(self.exercises), 2.4 + min(0.2 * len(order), 12)
        figure, axes = plots.new(title, "exercise, by lab", "learner", width=max(width, 6), height=height)
        axes.imshow(grid, cmap=ListedColormap(SHADES), vmin=0, vmax=len(STATES) - 1, aspect="auto",
                    interpolation="nearest")
        axes.grid(visible=False)
        axes.set_xticks(range(len(self.exercises)), [f"{item.lab} {item.name}" for item in self.exercises],
                        rotation=90, fontsize=7)
        if len(order) <= 60:
            axes.set_yticks(range(len(order)), [_short(name) for name in order], fontsize=7, parse_math=False)
        else:
            axes.set_yticks([])
            axes.set_ylabel(f"{len(order)} learners, the furthest on top")
        axes.legend(handles=[Patch(facecolor=shade, edgecolor="#999999", label=state)
                             for shade, state in zip(SHADES, STATES, strict=True)],
                    loc="lower left", bbox_to_anchor=(0, -0.02), ncols=4, frameon=False, fontsize=8,
                    bbox_transform=figure.transFigure)
        return figure

    def page(self, file: str | Path) -> Path:
        """Write tables and heat map as one HTML page that needs nothing beside it; all text in it is escaped."""
        picture = b64encode(plots.png(self.heatmap())).decode()
        skipped = "".join(f"<li>{html.escape(name)}: {html.escape(why)}</li>" for name, why in self.skipped.items())
        body = (f"<h1>How the class stands</h1>{self.table()._repr_html_()}"
                f'<img alt="heat map: learners down, exercises across; the tables have the same figures" '
                f'src="data:image/png;base64,{picture}">{self.people()._repr_html_()}'
                + (f"<h2>Not read</h2><ul>{skipped}</ul>" if skipped else ""))
        return write_page(file, "How the class stands", body)


def read_roster(folder: str | Path) -> Roster:
    """Read the progress files of a class.

    Args:
        folder: holds NAME.json files, or a folder for each learner with a progress.json somewhere in it.

    Raises:
        LabError: there is no such folder, or no progress file in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise LabError("there is no such folder", where=str(folder), expected="the learners' progress files")
    learners: dict[str, dict[str, dict]] = {}
    skipped: dict[str, str] = {}
    for file in _files(root):
        name = file.relative_to(root).parts[0].removesuffix(".json")
        label = file.relative_to(root).as_posix()
        known, wrong = _read(file)
        if not wrong and name in learners:
            wrong = f"{name} has another progress file, which was read"
        if wrong:
            skipped[label] = wrong
        else:
            learners[name] = known
    if not learners:
        raise LabError("no progress file can be read here", where=str(folder),
                       expected="NAME.json or NAME/progress.json"
                                + (f"; {len(skipped)} could not be read" if skipped else ""))
    return Roster(learners, _exercises(learners), skipped)


def _files(root: Path) -> list[Path]:
    """Progress files below a folder, in the order of their names; links are not followed."""
    found = [path for path in root.glob("*.json")]
    for here, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in ("adapter", "model"))
        if "progress.json" in files and Path(here) != root:
            found.append(Path(here) / "progress.json")
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def _read(file: Path) -> tuple[dict[str, dict], str]:
    try:
        if file.stat().st_size > LARGEST:
            return {}, f"larger than {LARGEST / 1e6:.0f} MB"
        return read_progress(file)
    except OSError as error:
        return {}, error.strerror or "cannot be read"


def _exercises(learners: dict[str, dict[str, dict]]) -> list[Exercise]:
    """All exercises of the labs that anybody has begun, in the order of the course."""
    begun = {record.get("lab") for known in learners.values() for record in known.values()}
    labs = [module.removeprefix("lab") for module in lab_modules()]
    return [item for lab in labs if lab in begun or not begun for item in load_lab(lab)]


def _some(names: list[str]) -> str:
    shown = ", ".join(_short(name) for name in names[:NAMES])
    return shown + (f" and {len(names) - NAMES} more" if len(names) > NAMES else "")


def _short(name: str) -> str:
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= 24 else name[:23] + "…"


def write_page(file: str | Path, title: str, body: str) -> Path:
    """A whole HTML page from a body whose text is escaped already."""
    file = Path(file)
    style = ("body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#1a1a1a;background:#fff}img{max-width:100%}"
             "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .6rem;border-bottom:1px solid #ccc}")
    page = (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f"<style>{style}</style></head><body>{body}</body></html>\n")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
    return file
