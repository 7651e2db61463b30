"""What the bench was told, for all its parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.turns import Job, absent
from labkit import models


@dataclass(frozen=True)
class Options:
    """`models` are profiles, `task` one of the tickets', `rows` the largest number of part data, `scratch` a folder
    that is thrown away, `gguf` a file of the real model for llama.cpp, `steps` those of a
    lesson of part train, None as many as suit the model. With `whole` part start runs the course and its tests too."""

    models: tuple[str, ...]
    task: str
    rows: int
    scratch: Path
    gguf: Path | None = None
    steps: int | None = None
    whole: bool = False


def missing(part: str, model: str) -> Job | None:
    """A job that says why a profile's model cannot be measured; None where it is on this machine."""
    if models.here(model):
        return None
    return absent(part, model, "this model is not on this machine; `labkit fetch small` gets the small one")
