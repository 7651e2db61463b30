"""Examines this machine for the course: what is there, what is amiss, one remedy for each thing.

Beside the command line, off the data's way: it changes nothing, and loads no model unless a class is asked for.
"""

from __future__ import annotations

import importlib.metadata
import json
import locale
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labkit import profiles
from labkit.errors import LabError
from labkit.models import first_line
from labkit.profiles import COURSE, PROFILES
from labkit.tables import Table

PYTHONS = ((3, 11), (3, 13))  # first and last that the libraries have wheels for
PATIENCE = 2.0  # seconds to wait for the hub
STEPS, SLOW = 10, 1.0  # of a training that is timed for a class; seconds a step above which labs become tedious
BESIDE = 2  # times the memory of `full` a GPU should have: a notebook holds other models beside, and trains all weights
FREE = 3e9  # bytes on disk: the real model while it is fetched, and some runs
MAIN = ("torch", "transformers", "peft", "datasets", "accelerate", "bitsandbytes", "jupyterlab")
INSTALL = "python -m pip install -c constraints.txt -e '.[all]'"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: its name, what was found, whether the course runs with it, and a remedy or "".

    A finding may be fine and still have a remedy: that is what could be better.
    """

    name: str
    value: str
    ok: bool = True
    mend: str = ""


def examine() -> list[Finding]:
    """Look at this machine; takes a few seconds, waits for no network, and never raises for what it finds.

    Returns:
        The findings in the order in which they should be read; the last one recommends a profile.
    """
    gpu, kernel, hub = map(_begin, (_gpu, _kernel, _hub))  # an import, a subprocess, a network: all at once
    quick = [_python(), _cores(), _memory(), _disk(), _path(), _encoding(), _libraries(), _writable(), _real_model()]
    found = [*quick[:3], gpu(None), *quick[3:7], kernel(None), *quick[7:]]
    # Never amiss: everything under tiny and small works without the hub.
    return [*found, Finding("hub", hub(PATIENCE) or "cannot be reached; tiny and small need none"), recommendation()]


def examine_class() -> list[Finding]:
    """What `examine` finds, and what a room full of learners needs besides; trains for some seconds.

    Returns:
        The findings; here the real model counts as amiss where it is missing.
    """
    remedy = "labkit fetch small, or install from a folder of `labkit pack`"
    found = [replace(finding, ok=False, mend=remedy) if finding.name == "real model" and finding.mend else finding
             for finding in examine()]
    return [*found, _notebooks(), _fresh(), _first_training()]


def _notebooks() -> Finding:
    """Whether every lab's notebook is there and as it was built."""
    from labkit.course import stale

    amiss = [text for text in stale() if text.startswith("notebooks/")]
    return Finding("notebooks", "all there, as they were built" if not amiss else "; ".join(amiss[:3]), not amiss,
                   "" if not amiss else "Copy the course anew, or: make course")


def _fresh() -> Finding:
    """Whether somebody's progress lies here already."""
    from labkit.exercises.progress import progress_file

    file = progress_file()
    return Finding("progress", "none yet", True) if not file.exists() else Finding(
        "progress", f"somebody's lies in {file}", False, f"Move it away before learners begin: {file.name}")


def _first_training() -> Finding:
    """How long a short training takes here, beside what the labs are planned for."""
    from labkit import data
    from labkit.training import finetune

    with tempfile.TemporaryDirectory(prefix="labkit-") as folder:
        started = time.perf_counter()
        finetune(data.ticket_task("tone", "tiny").train, model="tiny", steps=STEPS, out=folder)
        step = (time.perf_counter() - started) / STEPS
    slow = step > SLOW
    rows = PROFILES["tiny"].batch_size
    said = f"{step:.2f} s a step of {rows} tickets; the labs are planned for up to {SLOW:g} s"
    advice = "Close other programs, or let two learners share a faster laptop" if slow else ""
    return Finding("speed", said, not slow, advice)


def _begin(look: Callable[[], Any]) -> Callable[[float | None], Any]:
    """Start looking in a thread; what comes back waits for the answer, at most so many seconds, else it is None."""
    answer = []
    thread = threading.Thread(target=lambda: answer.append(look()), daemon=True)  # a name server may take minutes
    thread.start()

    def wait(seconds: float | None) -> Any:
        thread.join(seconds)
        return answer[0] if answer else None

    return wait


def show(findings: list[Finding]) -> str:
    """The findings as a table for the terminal, each remedy below its finding."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{'ok  ' if finding.ok else 'MEND'}  {finding.name.ljust(width)}  {finding.value}")
        if finding.mend:
            lines.append(f"{' ' * (width + 8)}-> {finding.mend}")
    amiss = [finding.name for finding in findings if not finding.ok]
    lines.append(f"\nTo be mended: {', '.join(amiss)}." if amiss else "\nThis machine is ready for the course.")
    return "\n".join(lines)


def table(findings: list[Finding]) -> Table:
    """The findings as a table for a notebook, with no folder of this machine spelt out."""
    def short(text: str) -> str:
        return text.replace(str(COURSE), "(the course)").replace(str(Path.home()), "~")

    rows = [{"": "ok" if finding.ok else "mend", "what": finding.name, "found": short(finding.value),
             "what to do": short(finding.mend)} for finding in findings]
    return Table(rows)


def _python() -> Finding:
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    good = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    return Finding("Python", f"{sys.version.split()[0]}, {sys.executable}", good,
                   "" if good else f"Install Python {first} to {last}, then: make lab PYTHON=/path/to/it")


def _cores() -> Finding:
    cores = profiles.cores()
    return Finding("cores", str(cores), True, "" if cores > 1 else "One core works; each time in the course doubles")


def _memory() -> Finding:
    total = profiles.memory_gb()
    if not total:
        return Finding("memory", "cannot be told")
    need = PROFILES["tiny"].memory + 1  # Python, torch and a browser want their part
    return Finding("memory", f"{total:.1f} GB", total >= need,
                   "" if total >= need else "Close other programs, or run the course on Colab")


def _gpu() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        return Finding("GPU", f"torch cannot be loaded ({first_line(error)})", False, f"In {COURSE}: {INSTALL}")
    if torch.cuda.is_available():
        name, memory = torch.cuda.get_device_name(0), _gpu_memory()
        dtypes = "float32, float16" + (", bfloat16" if profiles.bf16() else "; no bfloat16, it is from before Ampere")
        return Finding("GPU", f"{name}, {memory:.0f} GB, {dtypes}")
    bf16 = "faster in bfloat16" if profiles.bf16() else "float32"
    if shutil.which("nvidia-smi"):
        what = f"there is one, but torch {torch.__version__} cannot use it; the CPU works, {bf16}"
        return Finding("GPU", what, False, "Install torch for CUDA as its site says for this driver, or go on without")
    return Finding("GPU", f"none, and none is needed; the CPU works, {bf16}")


def _gpu_memory() -> float:
    try:
        import torch
    except (ImportError, OSError):
        return 0.0
    return torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else 0.0


def _disk() -> Finding:
    place = _existing(profiles.cache())
    free = shutil.disk_usage(place).free
    return Finding("disk", f"{free / 1e9:.1f} GB free for models in {place}", free >= FREE, "" if free >= FREE else
                   f"Free {FREE / 1e9:.0f} GB, or set LABKIT_CACHE to a folder on another disk")


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _path() -> Finding:
    text = str(COURSE)
    odd = ["spaces"] * (" " in text) + ["letters beyond ASCII"] * (not text.isascii())
    if os.name == "nt" and len(text) > 120:
        return Finding("path", f"{text} has {len(text)} characters", False,
                       "Move the course to a shorter path: Windows ends at 260")
    return Finding("path", f"{text}" + (f" ({' and '.join(odd)} in it, which is fine)" if odd else ""))


def _encoding() -> Finding:
    files, screen = locale.getpreferredencoding(False), getattr(sys.stdout, "encoding", "") or "unknown"
    good = files.lower().replace("-", "") == "utf8"
    return Finding("encoding", f"{files} for files, {screen} on the screen", good or os.name != "nt",
                   "" if good else "Set PYTHONUTF8=1, so that every program here reads and writes UTF-8")


def _libraries() -> Finding:
    """The installed versions beside those that the course was run on."""
    try:
        tried = pins()
    except OSError:
        return Finding("libraries", "constraints.txt is missing", False, "Fetch the course again")
    found = {name: here for name in tried if (here := installed(name))}
    missing = [name for name in MAIN if name in tried and name not in found]
    if missing:
        return Finding("libraries", f"{', '.join(missing)} missing", False, f"In {COURSE}: {INSTALL}")
    other = [f"{name} {here} (tried: {tried[name]})" for name, here in found.items() if here != tried[name]]
    other.sort(key=lambda text: text.split()[0] not in MAIN)
    if not other:
        return Finding("libraries", f"{len(found)}, all in the versions that the course was run on")
    shown = ", ".join(other[:3]) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
    return Finding("libraries", f"{len(found)}, of which {len(other)} in another version: {shown}", True,
                   f"Should something fail, in {COURSE}: {INSTALL}")


def pins() -> dict[str, str]:
    """The versions that the course was run on, by library, from constraints.txt."""
    lines = (COURSE / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def installed(name: str) -> str:
    """The version of a library here, or ""."""
    try:
        return importlib.metadata.version(name).partition("+")[0]  # without +cpu, +cu130
    except importlib.metadata.PackageNotFoundError:
        return ""


def _kernel() -> Finding:
    """Whether "python3", the kernel that the notebooks ask for, is this Python."""
    mend = f"{sys.executable} -m ipykernel install --sys-prefix --name python3"
    command = [sys.executable, "-m", "jupyter", "kernelspec", "list", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)
        spec = json.loads(done.stdout)["kernelspecs"]["python3"]["spec"]
        program = spec["argv"][0]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, IndexError):
        return Finding("Jupyter", "no kernel python3 is found, which the notebooks ask for", False, mend)
    other = shutil.which(program)
    if program not in ("python", "python3") and other and Path(other).resolve() != Path(sys.executable).resolve():
        return Finding("Jupyter", f"the kernel python3 is another Python, {program}", False, mend)
    return Finding("Jupyter", f"jupyterlab {installed('jupyterlab') or 'missing'}, kernel python3 is this Python")


def _writable() -> Finding:
    """Whether runs, and the learner's progress, can be kept."""
    places = [place for place in (COURSE / "notebooks", COURSE) if place.is_dir()][:1] + [_existing(profiles.cache())]
    for place in places:
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            return Finding("writing", f"{place} cannot be written ({error.strerror})", False,
                           "Copy the course to a folder of your own, or set LABKIT_CACHE to one")
    return Finding("writing", f"{places[0]} and {places[-1]} can be written")


def _real_model() -> Finding:
    from labkit.fetch import origin, problem
    from labkit.models import SMALL, small_home

    home = small_home()
    if not home.is_dir():
        what = f"{SMALL} is not here yet; the profile tiny needs none"
        return Finding("real model", what, True, "labkit fetch small")
    if amiss := problem(home):
        return Finding("real model", f"{SMALL} in {home} is damaged: {amiss}", False, "labkit fetch small")
    return Finding("real model", f"{SMALL} in {home}, from: {origin(home)['origin']}")


def _hub() -> str:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "not asked, since HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # no network, no name, a proxy: each an error of its own, by library version
        return ""
    return "can be reached"


def recommendation() -> Finding:
    """The profile in force, the largest that fits this machine, and why."""
    try:
        chosen = profiles.current()
    except LabError as error:
        return Finding("profile", str(error), False, "Set LABKIT_PROFILE to tiny, small or full, or leave it empty")
    gpu, memory, cores = _gpu_memory(), profiles.memory_gb(), profiles.cores()
    full, small = PROFILES["full"], PROFILES["small"]
    if gpu >= BESIDE * full.memory:
        best, why = full, f"the GPU's {gpu:.0f} GB hold {full.model}; begin with tiny all the same"
    elif gpu >= small.memory or (memory >= small.memory + 3 and cores > 1):
        where = f"the GPU's {gpu:.0f} GB" if gpu >= small.memory else f"{memory:.0f} GB and {cores} cores"
        best, why = small, f"with {where} a training takes minutes; begin with tiny, which takes seconds"
    else:
        best, why = PROFILES["tiny"], f"{memory:.0f} GB and {cores} cores are few for a real model"
    return Finding("profile", f"{chosen.name} is chosen; the largest that fits is {best.name}: {why}", True,
                   "" if best is chosen else f"To change: LABKIT_PROFILE={best.name}")
