"""Adapters over a frozen base: low-rank ones through peft, bottlenecks, banks of several, and a router between them.

Stands between `models` (which gives a base) and `training` (which moves what is attached here).
"""

from importlib import import_module

from labkit.adapters.bank import Bank
from labkit.adapters.lora import NUDGE, VARIANTS, attach_lora, folder_of, load, matrices, merge, save
from labkit.adapters.router import Router

__all__ = [
    "NUDGE",
    "VARIANTS",
    "Bank",
    "Router",
    "attach_bottleneck",
    "attach_lora",
    "detach_bottleneck",
    "folder_of",
    "load",
    "load_bottleneck",
    "matrices",
    "merge",
    "save",
    "save_bottleneck",
]


def __getattr__(name: str):
    """The bottlenecks are torch modules: they are imported when they are asked for, since torch takes seconds."""
    if name in __all__:
        return getattr(import_module("labkit.adapters.bottleneck"), name)
    raise AttributeError(f"module 'labkit.adapters' has no attribute {name!r}")
