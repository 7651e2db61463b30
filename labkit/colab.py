"""The course on Colab and Kaggle: install what is missing and nothing else, keep what was made, say what was done.

The set-up cell of every notebook calls `set_up` before anything imports torch; all it imports is packaging.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

KEPT = ("torch", "torchvision", "torchaudio", "numpy")  # Colab's own; others would not fit its GPU, or need a restart
KAGGLE = "KAGGLE_KERNEL_RUN_TYPE"  # set in every kernel there, to Interactive or Batch
NO_GPU = 'no GPU: the labs run without one; for a GPU choose "Runtime > Change runtime type > T4 GPU"'
NO_ACCELERATOR = "no GPU: the labs run without one; for a GPU choose T4 as accelerator in the notebook's settings"


def set_up(home: str, drive: bool = False, extras: Sequence[str] = ()) -> None:
    """Make the course ready in this runtime; safe to call again.

    Args:
        home: where the course was cloned to.
        drive: keep progress and runs on the learner's Google Drive; Kaggle has none, and keeps what lies in `home`.
        extras: of pyproject.toml, that this lab needs.
    """
    started = time.monotonic()
    wanted, before = missing(Path(home), extras), _versions()
    if wanted:
        print(f"installing {len(wanted)} packages: {', '.join(sorted(_name(text) for text in wanted))}", flush=True)
        _install(wanted)
    if not _is_here(Path(home)):
        _pip("--no-deps", "-e", home)
    importlib.invalidate_caches()
    if KAGGLE in os.environ:
        print(f"progress and runs lie in {home}; Kaggle keeps them with a version that you save")
    elif drive:
        _keep_on_drive(Path(home))
    stale = replaced(before, _versions())
    if stale:
        how = 'in the menu "Run" restart the session' if KAGGLE in os.environ else '"Runtime > Restart session"'
        print(f'restart needed: yes ({", ".join(stale)}): {how}, then run this cell again')
    else:
        print("restart needed: no")
    print(_gpu())
    os.chdir(Path(home) / "notebooks")
    print(f"ready in {time.monotonic() - started:.0f} s")


def missing(home: Path, extras: Sequence[str] = ()) -> list[str]:
    """The requirements of the course that this runtime doesn't meet, torch and numpy apart if any version is there."""
    requirement = _requirement_class()
    project = tomllib.loads((home / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = project["dependencies"] + [t for extra in extras for t in project["optional-dependencies"][extra]]
    here, wanted = _versions(), []
    for text in texts:
        asked = requirement(text)
        name = _canonical(asked.name)
        if asked.marker and not asked.marker.evaluate() or name in KEPT and name in here:
            continue
        if name not in here or not asked.specifier.contains(here[name], prereleases=True):
            wanted.append(f"{asked.name}{asked.specifier}")
    return wanted


def replaced(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Distributions that changed their version although the running Python has imported the old one."""
    changed = {name for name, version in before.items() if after.get(name) != version}
    loaded = {module.partition(".")[0] for module in list(sys.modules)}
    owners = importlib.metadata.packages_distributions()
    mine = {_canonical(owner) for module in loaded for owner in owners.get(module, ())}
    return sorted(changed & mine)


def _install(wanted: list[str]) -> None:
    here = _versions()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as kept:
        kept.write("".join(f"{name}=={here[name]}\n" for name in KEPT if name in here))
        kept.flush()
        _pip("-c", kept.name, *wanted)


def _pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *words], capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-3:]
        todo = ("Turn the internet on in the notebook's settings, then run this cell again." if KAGGLE in os.environ
                else "Run this cell again; if it stays, restart the session first.")
        raise SystemExit("\n".join(["pip could not install what the course needs:", *last, todo]))


def _keep_on_drive(home: Path) -> None:
    place = home.parent / "drive"
    importlib.import_module("google.colab").drive.mount(str(place))
    kept = place / "MyDrive" / "labkit"
    (kept / "runs").mkdir(parents=True, exist_ok=True)
    os.environ["LABKIT_RUNS"], os.environ["LABKIT_PROGRESS"] = str(kept / "runs"), str(kept / "progress.json")
    print("progress and runs are kept in MyDrive/labkit")


def _gpu() -> str:
    none = NO_ACCELERATOR if KAGGLE in os.environ else NO_GPU
    if not shutil.which("nvidia-smi"):
        return none
    asked = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True)
    found = done.stdout.strip().splitlines() if done.returncode == 0 else []
    return f"GPU: {found[0]}" + f", the first of {len(found)}" * (len(found) > 1) if found else none


def _is_here(home: Path) -> bool:
    try:
        files = importlib.metadata.distribution("labkit").read_text("direct_url.json") or ""
    except importlib.metadata.PackageNotFoundError:
        return False
    return str(home) in files


def _versions() -> dict[str, str]:
    return {_canonical(d.metadata["Name"]): d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _name(requirement: str) -> str:
    return _requirement_class()(requirement).name


def _requirement_class():
    try:
        from packaging.requirements import Requirement
    except ImportError:
        _pip("packaging")
        importlib.invalidate_caches()
        from packaging.requirements import Requirement
    return Requirement
