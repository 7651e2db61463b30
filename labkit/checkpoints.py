"""Checkpoints that can be trusted: sealed once they are whole, looked through before they are used, set aside if not.

Beside the Trainer, which writes their files; `training` asks here where a run that was stopped can go on.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path

from labkit.errors import LabError
from labkit.guards import Finding

SEAL = "seal.json"  # written last: a checkpoint without it was never whole
ASIDE = "damaged-"  # no name that the Trainer takes for a checkpoint of its own
STATE = "trainer_state.json"
CHUNK = 1 << 20  # bytes read at a time
NO_MATTER = ("save_", "logging_", "eval_", "report_to", "disable_tqdm")  # arguments that change no weight


def seal(checkpoint: Path, settings: dict) -> None:
    """Say that a checkpoint is whole, with a checksum of every file and the settings of its run."""
    files = {file.name: [file.stat().st_size, _checksum(file)] for file in sorted(checkpoint.iterdir())}
    part = checkpoint / f"{SEAL}.part"
    part.write_text(json.dumps({"files": files, "settings": _plain(settings)}, indent=1), encoding="utf-8")
    os.replace(part, checkpoint / SEAL)


def unseal(checkpoint: Path) -> None:
    """Take the seal away before anything in a checkpoint is written anew."""
    (checkpoint / SEAL).unlink(missing_ok=True)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None where every file is as it was written."""
    try:
        files = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))["files"]
        for name, (size, checksum) in files.items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if (there := (checkpoint / name).stat().st_size) != size:
                return f"{name} has {there:,} bytes of {size:,}"
            if _checksum(checkpoint / name) != checksum:
                return f"{name} is not what was written"
    except FileNotFoundError:
        return "it was not finished"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{SEAL} cannot be read"
    return None


def last(folder: Path) -> Path | None:
    """The last whole checkpoint below a run's folder; nothing is touched."""
    return next((place for place in _newest_first(folder) if damage(place) is None), None)


def recover(folder: Path) -> tuple[Path | None, list[Finding]]:
    """The last whole checkpoint below a run's folder; what lies behind it is set aside, or removed if never finished.

    Returns:
        The checkpoint, None where there is no whole one; a Finding for each that was passed over.
    """
    found = []
    for place in _newest_first(folder):
        wrong = damage(place)
        if wrong is None:
            return place, found
        if (place / SEAL).exists():
            aside = place.with_name(ASIDE + place.name)
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(place, aside)
            found.append(Finding("whole_checkpoint", f"{place.name} is damaged ({wrong}): set aside as {aside.name}"))
        else:
            shutil.rmtree(place)
            found.append(Finding("whole_checkpoint", f"the run was cut off while {place.name} was written: left out"))
    return None, found


def refuse_others(checkpoint: Path, settings: dict) -> None:
    """See that a checkpoint is of a run with these settings.

    Raises:
        LabError: it is not; with the first setting that differs.
    """
    old, new = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))["settings"], _plain(settings)
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            raise LabError(f"{name} is {new.get(name)!r} now, and was {old.get(name)!r} when the training began",
                           where=str(checkpoint), expected="the settings of the run that is to go on",
                           todo="Give them as they were, or leave resume out to begin anew")


def state(checkpoint: Path) -> dict:
    """What the Trainer noted in a checkpoint: `global_step`, `best_metric`, `stateful_callbacks` and more."""
    return json.loads((checkpoint / STATE).read_text(encoding="utf-8"))


def drop(folder: Path) -> None:
    """Remove all checkpoints below a run's folder; a kill in the middle leaves none that is half there."""
    place, gone = folder / "checkpoints", folder / "checkpoints.gone"
    shutil.rmtree(gone, ignore_errors=True)
    if place.exists():
        os.replace(place, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _newest_first(folder: Path) -> list[Path]:
    found = [place for place in (folder / "checkpoints").glob("checkpoint-*") if place.name.split("-")[1].isdecimal()]
    return sorted(found, key=lambda place: -int(place.name.split("-")[1]))


def _plain(settings: dict) -> dict:
    """Settings as JSON gives them back, without those that only say when to look and when to save."""
    plain = json.loads(json.dumps(settings, default=str))
    if "arguments" in plain:
        plain["arguments"] = {key: value for key, value in plain["arguments"].items() if not key.startswith(NO_MATTER)}
    return plain


def _checksum(file: Path) -> int:
    """CRC-32 of a file: it tells damage, and keeps up with a disk."""
    value = 0
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value
