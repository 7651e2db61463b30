"""Grades what learners made: their adapters are scored again, their predictions compared, copies found; no code is run.

A hand-in is a folder NAME/ with progress.json and, for each piece of work, NAME/WORK/ with the adapter (config and
safetensors), run.json and evaluation.json, as `labkit handin` writes it. Only JSON and safetensors are read of it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit import data, evaluation, models
from labkit.classroom.roster import STATES, Roster, read_roster, write_page
from labkit.errors import LabError
from labkit.evaluation import Evaluation, Score
from labkit.evaluation.runner import KINDS
from labkit.exercises.progress import progress_file
from labkit.tables import Table
from labkit.training import Run
from labkit.wording import ticket_task_of

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
LARGEST = {"adapter_model.safetensors": 500_000_000, "": 20_000_000}  # bytes of a file; "" is any other
RANK = 256  # the largest rank that is loaded
BASES = ("tiny", "small")
# The main figure that gives all points; the base's own gives none.
GOALS = {"tone": 0.90, "intent": 0.90, "entities": 0.85, "summary": 0.60, "reply": 0.60}
CREDIT = {"passed": 1.0, "passed after the solution": 0.5, "tried": 0.25, "not begun": 0.0}
TOLERANCE = 0.02  # share of rows whose answer may differ: another machine rounds otherwise
ALIKE = 0.999  # cosine of two adapters' weights above which they are the same work
TASKS = {kind: task for task, kind in KINDS.items() if task not in data.LABELS}  # what each kind of free text is


@dataclass
class Work:
    """One piece of work: what was claimed for it, what scoring it again gave, and what is to be looked at."""

    learner: str
    name: str
    task: str = ""
    claimed: float | None = None
    score: Score | None = None
    points: float = 0.0
    remarks: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    weights: np.ndarray | None = None
    answers: str = ""


@dataclass(frozen=True)
class Grade:
    """What a class handed in: the roster of its progress files, and every piece of work."""

    roster: Roster
    works: list[Work]

    def table(self) -> Table:
        """One row a learner: points for exercises and for work, 0 to 1, and remarks."""
        rows = []
        for learner in sorted({*self.roster.learners, *(work.learner for work in self.works)}):
            mine = [work for work in self.works if work.learner == learner]
            best: dict[str, float] = {}
            for work in mine:
                best[work.task] = max(best.get(work.task, 0.0), work.points)
            best.pop("", None)
            rows.append({
                "learner": learner,
                "exercises": round(self.exercises(learner), 3),
                "work": round(sum(best.values()) / len(best), 3) if best else 0.0,
                "tasks": ", ".join(f"{task} {points:.2f}" for task, points in best.items()) or "none",
                "to be looked at": "; ".join(f"{work.name}: {remark}" for work in mine for remark in work.remarks),
            })
        return Table(rows, f"{len(rows)} learners, {len(self.works)} pieces of work")

    def exercises(self, learner: str) -> float:
        """Mean credit over the exercises of the labs that the class has begun, 0 to 1 (`CREDIT`)."""
        credits = [self.credit(learner, item.name) for item in self.roster.exercises]
        return sum(credits) / len(credits) if credits else 0.0

    def credit(self, learner: str, exercise: str) -> float:
        """What an exercise gives, 0 to 1 (`CREDIT`)."""
        known = learner in self.roster.learners
        return CREDIT[STATES[self.roster.state(learner, exercise)]] if known else 0.0

    def details(self) -> Table:
        """One row a piece of work: claimed, scored again with its interval, points, remarks."""
        return Table([{"learner": work.learner, "work": work.name, "task": work.task or "?",
                       "claimed": None if work.claimed is None else f"{work.claimed:.1%}",
                       "scored again": None if work.score is None else str(work.score),
                       "points": round(work.points, 3), "remarks": "; ".join(work.remarks)} for work in self.works])

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """Write grades.csv, with the credit of every exercise, and grades.html.

        A cell of the CSV that a spreadsheet would take for a formula gets an apostrophe in front.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = [item.name for item in self.roster.exercises]
        table = self.table()
        with open(folder / "grades.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*table.head, *names])
            for row in table.rows:
                credits = [self.credit(row["learner"], name) for name in names]
                writer.writerow([_harmless(value) for value in [*row.values(), *credits]])
        body = (f"<h1>Grades</h1><p>Work is what was scored again here. Exercises are what each learner's own machine "
                f"noted; nothing vouches for that file.</p>{table._repr_html_()}<h2>Work</h2>"
                f"{self.details()._repr_html_()}<h2>Exercises</h2>{self.roster.table()._repr_html_()}")
        return folder / "grades.csv", write_page(folder / "grades.html", "Grades", body)


def handin(name: str, runs: list[str | Path], to: str | Path, task: str | None = None) -> Path:
    """Put together what a learner hands in: progress, and of each run the adapter, its settings and its predictions.

    Args:
        name: the learner's; becomes a folder's name.
        runs: folders that `labkit finetune` or a lab wrote; the shipped test tickets are answered where that was not
            done yet.
        to: the folder that NAME/ is written into.
        task: that the runs are scored on where they were not yet; the one whose words a run asks in by default.

    Returns:
        The hand-in's folder.

    Raises:
        LabError: the name is no folder's name, there is a hand-in of that name, or a run has no adapter or no task.
    """
    if not name or name != Path(name).name or name.startswith("."):
        raise LabError(f"{name!r} cannot be a folder's name", where="name", expected="letters, digits, spaces")
    folder = Path(to) / name
    if folder.exists():
        raise LabError("there is a hand-in of that name", where=str(folder), todo="Delete it, or take another name")
    loaded = [(Path(run), Run.read(run)) for run in runs]
    for path, run in loaded:
        if not all((path / "adapter" / part).is_file() for part in ADAPTER):
            raise LabError("this run has no adapter", where=str(path), expected="a LoRA run")
        if not (path / "evaluation.json").is_file():
            asked = task or ticket_task_of(run)
            if asked not in GOALS:
                raise LabError("which of the tickets' tasks was this run for", where=str(path),
                               expected=", ".join(GOALS), todo="Name it with --task")
            evaluation.evaluate_model(run, data.ticket_task(asked), asked).save(path)
    folder.mkdir(parents=True)
    for number, (path, _) in enumerate(loaded, 1):
        place = folder / f"{number:02d}_{path.name}"
        (place / "adapter").mkdir(parents=True)
        for part in ADAPTER:
            shutil.copyfile(path / "adapter" / part, place / "adapter" / part)
        for part in ("run.json", "evaluation.json"):
            shutil.copyfile(path / part, place / part)
    if progress_file().is_file():
        shutil.copyfile(progress_file(), folder / "progress.json")
    return folder


def grade(folder: str | Path, progress: bool = True) -> Grade:
    """Score a class's work again and compare it with what was claimed.

    Args:
        folder: holds a hand-in (`handin`) a learner.
        progress: show a bar.

    Raises:
        LabError: there is no such folder, or nothing in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise LabError("there is no such folder", where=str(folder), expected="a hand-in a learner")
    places = sorted(path for path in root.glob("*/*") if path.is_dir() and not path.is_symlink()
                    and not path.parent.is_symlink() and (path / "adapter").is_dir())
    try:
        roster = read_roster(root)
    except LabError:
        if not places:
            raise
        roster = Roster({path.parent.name: {} for path in places}, [])
    from rich.progress import track

    works = [_work(place) for place in track(places, "scoring again", disable=not progress)]
    _copies(works)
    return Grade(roster, works)


def _work(place: Path) -> Work:
    """One piece of work, scored again; whatever is wrong with it becomes a remark."""
    work = Work(place.parent.name, place.name)
    try:
        claimed = Evaluation.read(_checked(place / "evaluation.json"))
        work.task, work.claimed = _task(claimed), claimed.main.value
        work.answers = hashlib.sha256(json.dumps(claimed.answers).encode()).hexdigest()
        work.settings = _settings(_checked(place / "run.json"))
        adapter = _adapter(place / "adapter")
        work.weights = _flat(adapter / ADAPTER[1])
        again = _again(work.settings.get("model"), adapter, work.task)
        work.score = again.main
        base = _base_score(work.settings["model"], work.task)
        goal = GOALS[work.task]
        work.points = max(0.0, min(1.0, (again.main.value - base) / (goal - base)))
        said = dict(zip(claimed.prompts, claimed.answers, strict=False))
        differ = sum(said.get(p) != a for p, a in zip(again.prompts, again.answers, strict=True))
        if differ > TOLERANCE * len(again.answers):
            work.remarks.append(f"{differ} of {len(again.answers)} predictions are not what the adapter gives")
        if work.claimed - again.main.value > TOLERANCE:
            work.remarks.append(f"claimed {work.claimed:.1%}, scored again {again.main.value:.1%}")
    except LabError as error:
        work.remarks.append(str(error))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        work.remarks.append(f"cannot be read ({type(error).__name__})")
    return work


def _checked(file: Path) -> Path:
    """The file, if it is one that may be read: a plain file of reasonable size."""
    if file.is_symlink() or file.parent.is_symlink():
        raise LabError("a link is not followed", where=file.name)
    if not file.is_file():
        raise LabError("is missing", where=file.name)
    if file.stat().st_size > LARGEST.get(file.name, LARGEST[""]):
        raise LabError(f"is {file.stat().st_size / 1e6:.0f} MB", where=file.name, expected="a smaller file")
    return file


def _settings(file: Path) -> dict[str, Any]:
    settings = json.loads(file.read_text(encoding="utf-8"))["settings"]
    if not isinstance(settings, dict) or settings.get("model") not in BASES:
        raise LabError("trained on a base that is not the course's", where="run.json", expected=" or ".join(BASES))
    return settings


def _adapter(folder: Path) -> Path:
    """The adapter's folder, if its configuration asks for nothing but a LoRA of reasonable size."""
    config = json.loads(_checked(folder / ADAPTER[0]).read_text(encoding="utf-8"))
    _checked(folder / ADAPTER[1])
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if config.get("peft_type") != "LORA" or not all(isinstance(r, int) and 0 < r <= RANK for r in ranks):
        raise LabError("is no LoRA adapter that can be loaded", where=ADAPTER[0],
                       expected=f"peft_type LORA, a rank from 1 to {RANK}")
    if config.get("auto_mapping") or config.get("modules_to_save"):
        raise LabError("asks for more than LoRA matrices", where=ADAPTER[0])
    return folder


def _task(claimed: Evaluation) -> str:
    for task, labels in data.LABELS.items():
        if claimed.task == "classification" and set(claimed.labels) == set(labels):
            return task
    if claimed.task in TASKS:
        return TASKS[claimed.task]
    raise LabError("is none of the tickets' tasks", where="evaluation.json", expected=", ".join(GOALS))


_bases: dict[tuple[str, str], float] = {}


def _base_score(model: str, task: str) -> float:
    if (model, task) not in _bases:
        rows = data.ticket_task(task)
        _bases[model, task] = evaluation.evaluate_model(model, rows, task, progress=False).main.value
    return _bases[model, task]


def _again(model: str, adapter: Path, task: str) -> Evaluation:
    from labkit import adapters

    base, tokenizer = models.load(model)
    rows: Dataset = data.ticket_task(task)
    return evaluation.evaluate_model((adapters.load(base, adapter), tokenizer), rows, task, name="again",
                                     progress=False)


def _flat(file: Path) -> np.ndarray:
    """All weights of an adapter in the order of their names, as one vector."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise LabError("the weights are damaged", where=file.name) from error
    return np.concatenate([tensors[name].float().flatten().numpy() for name in sorted(tensors)])


def _copies(works: list[Work]) -> None:
    """Remarks on adapters that are the same, or nearly, though they come from different learners."""
    import numpy as np

    unit = [None if w.weights is None else w.weights / (np.linalg.norm(w.weights) or 1.0) for w in works]
    for i, one in enumerate(works):
        for j in range(i):
            other = works[j]
            if one.learner == other.learner or unit[i] is None or unit[j] is None or unit[i].shape != unit[j].shape:
                continue
            if float(unit[i] @ unit[j]) > ALIKE:
                same = all(one.settings.get(key) == other.settings.get(key) for key in {*one.settings, *other.settings}
                           - {"out"})
                why = ("and so are settings and seed, by which two honest runs agree" if same
                       else "though settings or seed are said to differ")
                one.remarks.append(f"the same adapter as {other.learner}'s {other.name}, {why}")
                other.remarks.append(f"the same adapter as {one.learner}'s {one.name}, {why}")


def _harmless(value: Any) -> Any:
    """A cell for a CSV: text that a spreadsheet would run as a formula is marked as text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value
