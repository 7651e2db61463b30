"""The map of the course: its labs with their titles and minutes, and how far this learner is in each.

Beside `progress`: it reads the notebooks' first lines, and the same file of progress.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from labkit.exercises.progress import progress_table
from labkit.exercises.registry import load_lab
from labkit.profiles import COURSE
from labkit.tables import Table


@dataclass(frozen=True)
class Lab:
    """What the first lines of a lab's notebook say of it."""

    name: str
    number: str
    title: str
    goal: str
    minutes: int


def labs(folder: Path = COURSE / "notebooks") -> list[Lab]:
    """The labs of the course in their order, from their notebooks' title cells."""
    found = []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        text = next((text for text in texts if text.startswith("# ")), "# ")
        minutes = re.search(r"(\d+)\+? minutes", text)
        goal = re.search(r"\*\*You will\*\* (.+?)(?:\n\n|$)", text, re.DOTALL)
        found.append(Lab(
            name=path.stem,
            number=path.stem[:2],
            title=text.split("\n", 1)[0].removeprefix("# ").partition(" · ")[2] or path.stem,
            goal=" ".join(goal.group(1).split()) if goal else "",
            minutes=int(minutes.group(1)) if minutes else 0,
        ))
    return found


def course_map(folder: Path = COURSE / "notebooks") -> Table:
    """A table of the labs: number, title, minutes, and how many of its exercises you have passed."""
    rows = []
    for lab in labs(folder):
        known = progress_table(lab.number) if load_lab(lab.number) else []
        passed = sum(row["state"] == "passed" for row in known)
        rows.append({"lab": lab.number, "title": lab.title, "minutes": lab.minutes,
                     "exercises passed": f"{passed} of {len(known)}" if known else "-"})
    return Table(rows, "The course, and how far you are")
