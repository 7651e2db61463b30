"""The learner's progress: a small JSON file beside the course, and the table that `progress()` prints from it.

`check`, `hint` and `solution` leave a line here after every use. Several notebooks may write at once.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit import profiles
from labkit.errors import LabError
from labkit.exercises.registry import REGISTRY, lab_modules, load_lab
from labkit.exercises.words import say

PATIENCE = 5.0  # seconds to wait for another notebook to finish writing; a write takes a millisecond
EMPTY = {"lab": "", "attempts": 0, "passed": None, "hints": 0, "solution": False, "last": ""}

_unsaved: dict[Path, dict[str, dict]] = {}  # what could not be written yet, by file and exercise
_said: set[Path] = set()  # files of which it was said that they cannot be written
_one_thread = threading.Lock()  # the two above belong to one thread at a time


def progress_file() -> Path:
    """`LABKIT_PROGRESS`, or notebooks/progress.json in the course, or the user's cache where there is no course."""
    if chosen := os.environ.get("LABKIT_PROGRESS"):
        return Path(chosen).expanduser().absolute()
    notebooks = profiles.COURSE / "notebooks"
    return (notebooks if notebooks.is_dir() else profiles.cache()) / "progress.json"


def record(name: str, lab: str, **change: Any) -> list[str]:
    """Add what happened to an exercise to the file.

    Args:
        name: the exercise.
        lab: its lab, two digits.
        change: `attempts` is added, `hints` is the level reached, `passed` a time (the first one stays),
            `solution` whether it was shown, `last` the sentence last printed.

    Returns:
        Sentences that the learner should see: a broken file set aside; once a process, that nothing can be saved.
    """
    path = progress_file()
    with _one_thread:
        waiting = _unsaved.setdefault(path, {})
        waiting[name] = _merge(waiting.get(name), {"lab": lab, **change})
        return _exchange(path, waiting)[1]


def records() -> tuple[dict[str, dict], list[str]]:
    """All records by exercise, with what could not be saved; and sentences as `record` gives them."""
    path = progress_file()
    with _one_thread:
        return _exchange(path, _unsaved.setdefault(path, {}))


def now() -> str:
    """The time of a pass, in UTC: 2026-01-31T12:00:00+00:00."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _exchange(path: Path, waiting: dict[str, dict]) -> tuple[dict[str, dict], list[str]]:
    """Read the file, add what waits, write it back; all under the lock, so that two notebooks lose nothing."""
    from filelock import FileLock  # its Timeout is an OSError

    known: dict[str, dict] = {}
    notes: list[str] = []
    try:
        path = Path(os.path.realpath(path))  # a link is followed, not replaced
        path.parent.mkdir(parents=True, exist_ok=True)
        # Who was told once that nothing can be saved does not wait again at every check.
        with FileLock(f"{path}.lock", timeout=0.1 if path in _said else PATIENCE):
            known, broken = read_progress(path)
            if broken:
                notes.append(_set_aside(path, broken))
            if waiting:
                both = {**known, **{name: _merge(known.get(name), change) for name, change in waiting.items()}}
                _write(path, both)
                waiting.clear()
                known = both
    except (OSError, NotImplementedError) as error:
        if not known:
            known = _read_anyway(path)
        known |= {name: _merge(known.get(name), change) for name, change in waiting.items()}
        if waiting and path not in _said:
            _said.add(path)
            notes.append(
                f"note: your progress cannot be saved in {path} ({_reason(error)}). "
                "Everything else works; LABKIT_PROGRESS can name another file."
            )
    return known, notes


def _reason(error: OSError | NotImplementedError) -> str:
    if isinstance(error, FileExistsError):
        return "a file stands where its folder should be"
    if isinstance(error, NotImplementedError):
        return "its disk knows no locks"
    return error.strerror or "another program holds it"


def _merge(old: dict | None, change: dict) -> dict:
    """A record with a change added; what another version of labkit wrote beside it is kept."""
    new = {**EMPTY, **(old or {})}
    for key, value in change.items():
        if key == "attempts":
            new[key] += value
        elif key == "hints":
            new[key] = max(new[key], value)
        elif key in ("passed", "solution"):
            new[key] = new[key] or value
        elif value:
            new[key] = value
    return new


def read_progress(path: Path) -> tuple[dict[str, dict], str]:
    """The records in a progress file by exercise, and what is wrong with it, or ""."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}, ""
    except (ValueError, RecursionError):
        return {}, "is not whole JSON"
    found = content.get("exercises") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not all(map(_sound, found.values())):
        return {}, "is not a progress file of this course"
    return found, ""


def _read_anyway(path: Path) -> dict[str, dict]:
    """The records of a file that can be read but not locked, such as one in a read-only course folder."""
    try:
        return read_progress(path)[0]
    except OSError:
        return {}


def _sound(record: Any) -> bool:
    return isinstance(record, dict) and all(
        isinstance(record.get(key, default), type(default) if default is not None else str | None)
        for key, default in EMPTY.items()
    )


def _set_aside(path: Path, broken: str) -> str:
    number = 1
    while (aside := path.with_name(f"{path.name}.broken-{number}")).exists():
        number += 1
    os.replace(path, aside)
    return f"note: {path.name} {broken}. It is kept as {aside.name}, and a new one begins."


def _write(path: Path, records: dict[str, dict]) -> None:
    """Write to a file beside it, then swap: a reader sees the old file or the new one, never half of one."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump({"version": 1, "exercises": records}, file, indent=1)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


# ------------------------------------------------------------------ the table


def progress_table(lab: str | None = None) -> list[dict]:
    """One row an exercise: lab, exercise, title, difficulty, minutes, state, attempts, hints, hints_total, solution,
    passed, last.

    Args:
        lab: two digits; without it, the labs that were begun, or all of them before the first one is.

    Returns:
        Rows in the order of the course. `state` is "passed", "tried" or "not begun"; `passed` a UTC time or None.

    Raises:
        LabError: the exercises of a lab cannot be loaded.
    """
    return _table(records()[0], lab)


def _table(known: dict[str, dict], lab: str | None) -> list[dict]:
    if lab is None:
        begun = {record["lab"] for record in known.values() if record.get("lab")}
        labs = begun or {module.removeprefix("lab") for module in lab_modules()}
        labs |= {item.lab for item in REGISTRY.values()}
    else:
        labs = {lab}
    rows = []
    for number in sorted(labs):
        for item in load_lab(number):
            record = {**EMPTY, **known.get(item.name, {})}
            touched = record["attempts"] or record["hints"] or record["solution"]
            rows.append(
                {
                    "lab": item.lab,
                    "exercise": item.name,
                    "title": item.title,
                    "difficulty": item.difficulty,
                    "minutes": item.minutes,
                    "state": "passed" if record["passed"] else "tried" if touched else "not begun",
                    "attempts": record["attempts"],
                    "hints": min(record["hints"], len(item.hints)),
                    "hints_total": len(item.hints),
                    "solution": record["solution"],
                    "passed": record["passed"],
                    "last": record["last"],
                }
            )
    return rows


def progress(lab: str | None = None) -> None:
    """Print how far you are: a bar a lab, a line an exercise.

    Args:
        lab: two digits, such as "03"; without it, the labs that you have begun.
    """
    known, notes = records()
    try:
        rows = _table(known, lab)
    except LabError as error:
        say(str(error))
        return
    say("\n\n".join(_lab_text(rows, number) for number in dict.fromkeys(row["lab"] for row in rows)) or
        (f"there are no exercises in lab {lab}" if lab else "no exercises yet"), wrap=False)  # fmt: skip
    for note in notes:
        say(note)


def _lab_text(rows: list[dict], lab: str) -> str:
    rows = [row for row in rows if row["lab"] == lab]
    done = sum(row["state"] == "passed" for row in rows)
    filled = round(20 * done / len(rows))
    lines = [f"lab {lab}  [{'#' * filled}{'.' * (20 - filled)}]  {done} of {len(rows)} passed"]
    table = [("exercise", "difficulty", "minutes", "state", "attempts", "hints")]
    for row in rows:
        state = row["state"] + (", solution seen" if row["solution"] else "")
        hints = f"{row['hints']} of {row['hints_total']}"
        table.append((row["exercise"], str(row["difficulty"]), str(row["minutes"]), state, str(row["attempts"]), hints))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
              for row in table]  # fmt: skip
    return "\n".join(lines)
