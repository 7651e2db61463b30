"""A budget of memory: a training that wants more stops as on a full GPU, and says what would help.

Tensors are counted by `livebytes`, on a GPU too: torch's allocator could be given a limit there, but it takes memory in
pieces of 2 and 20 MB, and in its sum is what other cells hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from labkit.errors import LabError
from labkit.guards import Tripped
from labkit.livebytes import moments, peak_bytes
from labkit.models import quiet

if TYPE_CHECKING:
    from transformers import TrainerCallback

WATCHED = 3  # steps that are counted: Adam's moments are there from the second on


class Budget:
    """At most `bytes` for weights, gradients, moments and activations, while it is entered.

        with Budget(60e6) as budget:
            run = finetune(rows, callbacks=[budget.callback()])

    `peak` is what was held at most over the first steps, in bytes.

    Raises:
        LabError: fewer than 1 byte.
    """

    def __init__(self, bytes: float):
        if bytes < 1:
            raise LabError(f"a budget of {bytes:g} bytes", where="Budget", expected="a number from 1 on")
        self.bytes, self.peak, self._step = int(bytes), 0, ExitStack()

    def __enter__(self) -> Budget:
        return self

    def __exit__(self, *_) -> None:
        self._step.close()  # a step that broke off never came to its end

    def callback(self) -> TrainerCallback:
        with quiet():
            from transformers import TrainerCallback

        outer = self

        class Count(TrainerCallback):
            def on_step_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
                if state.global_step >= WATCHED:
                    return
                self.seen = outer._step.enter_context(peak_bytes(model, moments(optimizer), outer.bytes))

            def on_step_end(self, args, state, control, **kwargs):
                outer._step.close()
                if seen := self.__dict__.pop("seen", None):
                    outer.peak = max(outer.peak, seen.bytes)

        return Count()


@contextmanager
def memory_told() -> Iterator[None]:
    """A tripwire's sentence in place of torch's error where the memory does not do."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise Tripped(
            "fits_memory",
            "the training does not fit into memory: " + str(error).split("GPU 0 has")[0].split("See doc")[0].strip(),
            todo="Take fewer rows a step and accumulate them, switch checkpointing on, or keep the base in 4 bits; "
                 "`labkit.models.memory` says beforehand what each would take",
        ) from error
