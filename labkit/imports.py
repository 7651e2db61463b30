"""Large libraries, imported in about two thirds of the time. `import labkit` switches this on; results do not change.

While half a million objects are being made that all stay, Python's garbage collector looks through them again and
again; it rests meanwhile. And bitsandbytes calls `torch.compile` on functions that most programs never call, which
loads a whole compiler; here that waits for the first call.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import wraps
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

LARGE = {"accelerate", "bitsandbytes", "datasets", "matplotlib", "olive", "onnx", "onnxruntime", "onnxruntime_genai",
         "optuna", "pandas", "peft", "pyarrow", "scipy", "sklearn", "sympy", "torch", "transformers", "trl"}
COMPILES = "bitsandbytes.backends.default.ops"  # decorates with torch.compile
MODELS = "transformers.modeling_utils"  # before it is there, there is no model that a cycle could hold


class Quick:
    """Finds what Python would find, and lets the collector rest while a large library runs its first lines."""

    def find_spec(self, name: str, path=None, target: ModuleType | None = None) -> ModuleSpec | None:
        first = gc.isenabled() and name.partition(".")[0] in LARGE  # what that imports in turn needs nothing more
        if not first and name != COMPILES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or not hasattr(spec.loader, "exec_module"):
            return None
        run = spec.loader.exec_module
        if name == COMPILES:
            run = _compiling_later(run)
        spec.loader.exec_module = _at_rest(run) if first else run
        return spec


def switch_on() -> None:
    """Once in a process; again does nothing."""
    if not any(isinstance(finder, Quick) for finder in sys.meta_path):
        sys.meta_path.insert(0, Quick())


def _at_rest(run: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def quick(module: ModuleType) -> None:
        early = MODELS not in sys.modules
        gc.disable()
        try:
            run(module)
        finally:
            if early:
                gc.freeze()  # it would look at all of them once more, now
            gc.enable()

    return quick


def _compiling_later(run: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def quick(module: ModuleType) -> None:
        import torch

        compiles, torch.compile = torch.compile, _later
        try:
            run(module)
        finally:
            torch.compile = compiles

    return quick


def _later(function: Callable | None = None, **settings) -> Callable:
    """`torch.compile`, of which the work begins at the first call."""
    if function is None:
        return lambda function: _later(function, **settings)
    compiled = []

    @wraps(function)
    def call(*args, **kwargs):
        if not compiled:
            import torch

            compiled.append(torch.compile(function, **settings))
        return compiled[0](*args, **kwargs)

    return call
