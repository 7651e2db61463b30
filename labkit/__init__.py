"""labkit: the helper package of the course on fine-tuning small language models.

`import labkit` loads nothing heavy; each name below is imported from its module when it is first used. Large libraries
that are imported after it come in less time (`imports`).
"""

from __future__ import annotations

from labkit import imports

imports.switch_on()
__version__ = "0.1.0"

_HOMES = {
    "LabError": "labkit.errors",
    "use": "labkit.profiles",
    "current": "labkit.profiles",
    "runs": "labkit.profiles",
    "check": "labkit.exercises",
    "hint": "labkit.exercises",
    "solution": "labkit.exercises",
    "progress": "labkit.exercises",
    "course_map": "labkit.exercises.atlas",
    "finetune": "labkit.training",
    "Run": "labkit.training",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str):
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'labkit' has no attribute {name!r}")
