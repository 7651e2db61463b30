"""Figures that were really measured: a lab notes what it found, `make real` keeps it, the lab shows it as a table.

No such number is typed by hand. A record says on which machine, with which versions and which weights.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from labkit import profiles
from labkit.errors import LabError
from labkit.tables import Table

FOLDER = profiles.COURSE / "data" / "measured"
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "onnxruntime-genai")


def note(lab: str, **figures) -> None:
    """Remember figures of a lab beside its runs: numbers, strings, or Scores. LABKIT_RECORD names a record to write."""
    mine = {**noted(lab), **{name: _plain(value) for name, value in figures.items()}}
    file = _notes(lab)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")
    if target := os.environ.get("LABKIT_RECORD"):
        _write(Path(target), mine)


def noted(lab: str) -> dict:
    """What was noted of a lab under the current profile, in this kernel or an earlier one."""
    try:
        return json.loads(_notes(lab).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _notes(lab: str) -> Path:
    return profiles.runs("notes") / f"{lab}.json"


def _plain(value):
    if isinstance(value, float):
        return round(value, 4)
    return value if isinstance(value, int | str | None) else str(value)  # a Score prints itself with its interval


def _write(path: Path, figures: dict) -> None:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    record = {
        "figures": figures,
        "profile": profiles.current().name,
        "model": profiles.current().model,
        "origin": origin(),
        "machine": profiles.machine(),
        "versions": versions,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def origin() -> str:
    """Where the current profile's weights come from, in words."""
    if profiles.current().name != "small":
        return profiles.current().origin
    from labkit import fetch, models

    return str((fetch.origin(models.small_home()) or {}).get("origin", "unknown"))


def record(lab: str) -> dict:
    """What `make real` measured for a lab.

    Raises:
        LabError: nothing was recorded yet.
    """
    file = FOLDER / f"{lab}.json"
    if not file.is_file():
        raise LabError(
            "no figures on the real model were recorded yet",
            where=f"data/measured/{lab}.json",
            todo="Run `make real` once; it takes some minutes",
        )
    return json.loads(file.read_text(encoding="utf-8"))


def beside(lab: str) -> Table:
    """The learner's own figures of this lab beside the recorded ones of the real model, if there is a record yet."""
    here, mine = f"here ({profiles.current().name})", noted(lab)
    try:
        kept = record(lab)
    except LabError as missing:
        return Table([{"figure": name.replace("_", " "), here: value} for name, value in mine.items()], str(missing))
    there, machine = f"{kept['model'].split('/')[-1]} (recorded)", kept["machine"]
    names = dict.fromkeys([*kept["figures"], *mine])
    caption = (
        f"Recorded on {machine['cores']} cores of {machine['processor']}, {machine['memory']}, GPU: {machine['gpu']}; "
        f"torch {kept['versions']['torch']}; weights: {kept['origin']}"
    )
    rows = [{"figure": n.replace("_", " "), here: mine.get(n), there: kept["figures"].get(n)} for n in names]
    return Table(rows, caption)


def seen(name: str, by: str) -> Table:
    """What a script saw that few machines can run; `by` is the script, named where nothing was recorded."""
    file = FOLDER / f"{name}.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"nothing recorded yet": f"run {by}"}
    return Table([{"what": what, "seen": value} for what, value in found.items()])
