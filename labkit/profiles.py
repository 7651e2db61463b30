"""Profiles: the one setting that moves the whole course from a tiny model to a real one, and what this machine can do.

Everything that loads a model or trains one asks here first for its name, dtype, batch and steps.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from labkit.errors import LabError

COURSE = Path(__file__).resolve().parent.parent  # the checkout: notebooks/, data/, solutions/ lie here


@dataclass(frozen=True)
class Profile:
    """A base model and the training settings that suit it; `parameters` is its size.

    `learning_rate` is for LoRA; `full_learning_rate` for all weights. `max_length` is in tokens. A lab scores every
    `test_every`-th row of the shipped test set, since a real model reads slower, and trains `trial_steps` in a trial.
    `revision` pins what a hub would serve. Where `memory` is not there, choose a smaller one: GB, what `models.memory`
    predicts for LoRA on the widest batch of tickets, rounded up.
    """

    name: str
    model: str
    origin: str
    licence: str
    parameters: float
    batch_size: int
    steps: int
    learning_rate: float
    full_learning_rate: float
    rank: int
    max_length: int
    memory: float
    trial_steps: int
    revision: str | None = None
    test_every: int = 1


PROFILES = {
    "tiny": Profile(
        name="tiny",
        model="tiny-base",
        origin="the repository",
        licence="CC0-1.0",
        parameters=2.2e6,
        batch_size=16,
        steps=100,
        learning_rate=2e-3,
        full_learning_rate=5e-4,
        rank=8,
        max_length=256,
        memory=1,
        trial_steps=25,
    ),
    "small": Profile(
        name="small",
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        origin="the hub or the package index",
        licence="Apache-2.0",
        parameters=135e6,
        batch_size=4,
        steps=160,
        learning_rate=1e-3,
        full_learning_rate=5e-5,
        rank=8,
        max_length=512,
        memory=3,
        trial_steps=12,
        test_every=3,
        revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
    ),
    "full": Profile(
        name="full",
        model="Qwen/Qwen2.5-0.5B-Instruct",
        origin="the hub",
        licence="Apache-2.0",
        parameters=494e6,
        batch_size=16,
        steps=200,
        learning_rate=2e-4,
        full_learning_rate=1e-5,
        rank=16,
        max_length=1024,
        memory=14,
        trial_steps=30,
        revision="7ae557604adf67be50417f59c2c2f167def9a775",
    ),
}

# Read by `limited`: what a headless run trains, writes, tries and scores at most. Empty, or not there: no limit.
LIMITS = ("LABKIT_STEPS", "LABKIT_TOKENS", "LABKIT_TRIALS", "LABKIT_ROWS")

_chosen: str | None = None


def use(name: str) -> Profile:
    """Choose a profile for the rest of this process, as `LABKIT_PROFILE` does from outside.

    Raises:
        LabError: the name is not one of `tiny`, `small`, `full`.
    """
    global _chosen
    profile = _find(name, "profile")
    _chosen = name
    return profile


def current() -> Profile:
    """The profile in force: `use(...)` before `LABKIT_PROFILE` before `tiny`."""
    if _chosen:
        return PROFILES[_chosen]
    return _find(os.environ.get("LABKIT_PROFILE") or "tiny", "LABKIT_PROFILE")


def named(profile: str | Profile | None) -> Profile:
    """A profile from its name, from itself, or the current one from None."""
    if profile is None:
        return current()
    return profile if isinstance(profile, Profile) else _find(profile, "profile")


def runs(name: str) -> Path:
    """The folder for a run of this name under the current profile: below `LABKIT_RUNS`, or runs/ in the course."""
    home = Path(os.environ.get("LABKIT_RUNS") or COURSE / "runs")
    return home / current().name / name


def limited(number: int, variable: str, things: str) -> int:
    """A number of steps, tokens, trials or rows, or what this variable of the environment allows where that is less.

    Raises:
        LabError: the variable holds no whole number from 1 on.
    """
    limit = os.environ.get(variable)
    if limit and not (limit.isdecimal() and int(limit)):
        raise LabError(f"{limit!r} is no number of {things}", where=variable, expected="a whole number from 1 on")
    return min(number, int(limit)) if limit else number


def _find(name: str, where: str) -> Profile:
    if name not in PROFILES:
        raise LabError(
            f"no profile is called {name!r}",
            where=where,
            expected="tiny, small or full",
            todo="Set LABKIT_PROFILE to one of them, or leave it empty",
        )
    return PROFILES[name]


def python_path() -> str:
    """PYTHONPATH for a process of its own: this checkout first."""
    return os.pathsep.join(filter(None, [str(COURSE), os.environ.get("PYTHONPATH")]))


def cache() -> Path:
    """The folder for fetched models: `LABKIT_CACHE`, or the user's own cache folder."""
    if chosen := os.environ.get("LABKIT_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "labkit"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/labkit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labkit"


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute_threads() -> int:
    """Threads that a library should compute with, as PyTorch chooses them: OMP_NUM_THREADS, else the cores that this
    process may use, those that share one (hyper-threads) counted once."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if asked.isdigit() and int(asked):
        return int(asked)
    import psutil

    return min(cores(), psutil.cpu_count(logical=False) or cores())


def machine() -> dict[str, str]:
    """System, processor, cores, memory and GPU in words, for records of what was measured where."""
    import torch  # heavy: only where a record is written

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(cores()),
        "memory": f"{memory_gb():.0f} GB",
        "gpu": gpu,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def memory_gb() -> float:
    """Memory of this machine in GB (10^9 bytes); 0 where it cannot be told."""
    try:
        import psutil
    except ImportError:
        return 0.0
    return psutil.virtual_memory().total / 1e9


def device() -> str:
    """Where models run: "cuda" where PyTorch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def bf16() -> bool:
    """Whether training in bfloat16 is worth it here: a GPU from Ampere on, or a CPU with bf16 instructions."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_capability(0)[0] >= 8
    return bool(torch.cpu._is_avx512_bf16_supported()) or bool(torch.cpu._is_amx_tile_supported())


def compute_dtype() -> str:
    """What to multiply in on this machine: bfloat16 where it has it, float16 on an older GPU such as a T4, or float32.

    The one place where that is chosen. Training in float16 would need its losses scaled, so `finetune` takes bfloat16
    or float32; the 4-bit matrices of a T4 are brought back to float16.
    """
    return "bfloat16" if bf16() else "float16" if device() == "cuda" else "float32"
