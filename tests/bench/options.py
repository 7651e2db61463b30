"""What the bench was told, for all its parts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bench.turns import Job, absent
from labkit import models
from labkit.profiles import LIMITS, python_path


@dataclass(frozen=True)
class Options:
    """`models` are profiles, `task` one of the tickets', `rows` the largest number of part data, `scratch` a folder
    that is thrown away, `gguf` a file of the real model for llama.cpp, `steps` those of a
    lesson of part train, None as many as suit the model. `whole` has what part start runs besides: course, tests."""

    models: tuple[str, ...]
    task: str
    rows: int
    scratch: Path
    gguf: Path | None = None
    steps: int | None = None
    whole: tuple[str, ...] = ()


def environment() -> dict[str, str]:
    """Of the processes: this checkout first, no network, nothing that shortens a training or an answer."""
    kept = {name: value for name, value in os.environ.items() if name not in LIMITS}
    return {**kept, "PYTHONPATH": python_path(), "HF_HUB_OFFLINE": "1"}


def missing(part: str, model: str) -> Job | None:
    """A job that says why a profile's model cannot be measured; None where it is on this machine."""
    if models.here(model):
        return None
    return absent(part, model, "this model is not on this machine; `labkit fetch small` gets the small one")
