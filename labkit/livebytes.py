"""What a computation holds in memory at its worst moment, in bytes: counted tensor by tensor, or told by the GPU.

Stands beside `memory`, whose predictions are held against it.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass
class Peak:
    """`bytes` is the most that was held at once so far; `start` what was held when counting began."""

    bytes: int = 0
    start: int = 0


def tensors_of(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Parameters, buffers, gradients, and the scales and code books that bitsandbytes keeps beside packed weights."""
    for parameter in model.parameters():
        yield parameter
        if parameter.grad is not None:
            yield parameter.grad
        for name in ("SCB", "CB"):  # LLM.int8 keeps its scales on the parameter
            if hasattr(getattr(parameter, name, None), "untyped_storage"):
                yield getattr(parameter, name)
        state = getattr(parameter, "quant_state", None)
        while state is not None:  # with double quantisation a state has a state: that of its scales
            yield from (t for t in (state.absmax, state.code, state.offset) if hasattr(t, "untyped_storage"))
            state = getattr(state, "state2", None)  # none is left where bitsandbytes has packed them for the CPU
    yield from model.buffers()


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of a model's weights as they lie in memory: packed codes, scales, code books, whatever stayed in full.

    Tied weights count once, and so does a code book that layers share. Gradients are left out.
    """
    gradients = {id(parameter.grad) for parameter in model.parameters() if parameter.grad is not None}
    storages = [tensor.untyped_storage() for tensor in tensors_of(model) if id(tensor) not in gradients]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def moments(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """What an optimizer keeps of each weight; nothing before its first step."""
    return [t for kept in optimizer.state.values() for t in kept.values() if hasattr(t, "untyped_storage")]


@contextmanager
def peak_bytes(model: torch.nn.Module | None = None, more: Iterable[torch.Tensor] = (),
               limit: int | None = None) -> Iterator[Peak]:
    """Count the bytes that tensors hold while the block runs, and keep the largest sum.

    On a GPU it is torch.cuda.max_memory_allocated, less what was held there before by others than `model` and `more`.
    On a CPU nobody keeps such a count, so each operation's results are watched (a TorchDispatchMode): a storage counts
    from the operation that makes it until it is freed, whoever holds it, autograd's saved tensors included. Not seen:
    what a kernel takes for itself and gives back before it returns, the allocator's rounding, and Python. With a limit
    a GPU's tensors are counted in that way, too.

    Args:
        model: its weights, gradients and buffers are held from the start.
        more: other tensors that are, such as an optimizer's moments.
        limit: bytes; whoever wants more gets the error that a full GPU gives.

    Raises:
        torch.OutOfMemoryError: the limit was passed.
    """
    import torch

    peak = Peak()
    if limit is None and torch.cuda.is_available():
        gc.collect()  # what nobody can reach any more is not to go while it is counted
        _warm_up()
        own = [t.untyped_storage() for t in [*(tensors_of(model) if model is not None else ()), *more]]
        peak.start = sum({storage._cdata: storage.nbytes() for storage in own}.values())
        others = torch.cuda.memory_allocated() - peak.start  # other models of the notebook, cuBLAS
        torch.cuda.reset_peak_memory_stats()
        try:
            yield peak
        finally:
            peak.bytes = torch.cuda.max_memory_allocated() - others
        return
    with _Counting(peak, limit) as counting:
        for tensor in [*(tensors_of(model) if model is not None else ()), *more]:
            counting.hold(tensor)
        peak.start = counting.now
        yield peak


def _warm_up() -> None:
    """Have cuBLAS take its workspace on the GPU now, for products forwards and backwards: it keeps it."""
    import torch

    x = torch.ones(8, 8, device="cuda", requires_grad=True)
    with torch.enable_grad():
        torch.nn.functional.linear(x, x, x[0]).sum().backward()


def _Counting(peak: Peak, limit: int | None):
    from torch import OutOfMemoryError, Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Counting(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.now, self.held = 0, {}

        def hold(self, tensor: Tensor) -> None:
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self.held or not size:
                return
            self.held[key] = weakref.ref(storage, lambda _: self.free(key, size))
            self.now += size
            peak.bytes = max(peak.bytes, self.now)
            if limit is not None and self.now > limit:
                raise OutOfMemoryError(f"{self.now / 1e6:,.1f} MB would be held with another {size / 1e6:,.1f}, and "
                                       f"the budget is {limit / 1e6:,.1f} MB.")

        def free(self, key: int, size: int) -> None:
            self.held.pop(key, None)
            self.now -= size

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            results = function(*args, **(kwargs or {}))
            for leaf in tree_leaves(results):
                if isinstance(leaf, Tensor):
                    self.hold(leaf)
            return results

    return Counting()


def watch_peak(steps: int = 3):
    """A callback for the Trainer that counts `peak_bytes` over a few steps, the first left out: its `peak` tells.

    The first step has no moments of Adam yet. Counting makes a step about twice as slow on a CPU.

    Args:
        steps: how many are watched.
    """
    from contextlib import ExitStack

    from transformers import TrainerCallback

    class WatchPeak(TrainerCallback):
        peak, inside = None, None

        def on_step_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
            if self.peak is not None or not state.global_step:
                return
            self.inside, self.until = ExitStack(), state.global_step + steps
            self.peak = self.inside.enter_context(peak_bytes(model, moments(optimizer)))

        def on_step_end(self, args, state, control, **kwargs):
            if self.inside is not None and state.global_step >= self.until:
                self.on_train_end(args, state, control)

        def on_train_end(self, args, state, control, **kwargs):
            if self.inside is not None:
                self.inside.close()
                self.inside = None

    return WatchPeak()
