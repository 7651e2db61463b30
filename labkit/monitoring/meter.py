"""The meter of a training: tokens a second, padding, waiting for data, CPU, GPU and memory, and how far a step moves.

It looks on from the Trainer's events and changes nothing; the line, the live plot and `diagnose` read it.
"""

from __future__ import annotations

import functools
import statistics
import time
from typing import TYPE_CHECKING

from labkit.models import quiet
from labkit.profiles import cores
from labkit.scratch.watching import update_ratio

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback

RECENT = 20  # steps that the present speed is taken from
SAMPLED = 8  # trainable tensors whose moves are measured
LOOKS = 10  # steps of a run in which they are measured, about


class Meter:
    """What a training costs and gives, step by step.

    The first step warms up (threads, caches, a GPU's kernels), so it counts in no speed. `spent` has the seconds that
    watching itself took.

    Args:
        look: False keeps the time and nothing else, to measure what looking costs.
    """

    def __init__(self, look: bool = True):
        self.look = look
        self.step = self.steps = 0
        self.loss: float | None = None
        self.work: list[float] = []  # seconds from the beginning to the end of each step
        self.wait: list[float] = []  # seconds before each step in which nothing came from the loader
        self.tokens: list[int] = []  # that are no padding, in each step
        self.places: list[int] = []  # with the padding
        self.moves: list[float] = []  # how far a step changed the weights, as a share of their size
        self.spent = self.begun = self.ended = 0.0
        self.cpu = self.memory = 0.0

    # ---------------------------------------------------------------- what can be read

    @property
    def seconds_a_step(self) -> float | None:
        """Median seconds of a step with its waiting, over the last steps; None before the second step is done."""
        whole = [w + s for w, s in zip(self.wait, self.work, strict=False)][1:][-RECENT:]  # a step may have broken off
        return statistics.median(whole) if whole else None

    @property
    def tokens_per_second(self) -> float | None:
        """Real tokens, no padding, by the time of the steps and of the waiting between them."""
        seconds = sum(self.work[1:]) + sum(self.wait[1:])
        return sum(self.tokens[1:]) / seconds if seconds else None

    @property
    def waiting(self) -> float:
        """Share of the time in which the model waited for the data loader, 0 to 1."""
        seconds = sum(self.work[1:]) + sum(self.wait[1:])
        return sum(self.wait[1:]) / seconds if seconds else 0.0

    @property
    def padding(self) -> float:
        """Share of the tokens in the batches that are padding, 0 to 1."""
        return 1 - sum(self.tokens) / sum(self.places) if sum(self.places) else 0.0

    @property
    def left(self) -> float | None:
        """Seconds to go, at the present speed."""
        return None if self.seconds_a_step is None else self.seconds_a_step * (self.steps - self.step)

    def machine(self) -> dict[str, float]:
        """How busy the processor is (1 is one core), this process's memory in GB, and of a GPU the same."""
        import torch

        process = _process()
        found = {"cpu": process.cpu_percent() / 100, "memory_gb": process.memory_info().rss / 1e9}
        if torch.cuda.is_available():
            found["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
            try:
                found["gpu"] = torch.cuda.utilization() / 100
            except Exception:  # without NVIDIA's library for it, only memory can be told
                pass
        self.cpu, self.memory = max(self.cpu, found["cpu"]), max(self.memory, found["memory_gb"])
        return found

    def words(self) -> str:
        """One line: how far, loss, speed, machine, time to go."""
        parts = [f"step {self.step:,} of {self.steps:,}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if (speed := self.tokens_per_second) is not None:
            parts.append(f"{speed:,.0f} tokens/s")
        return " · ".join([*parts, machine_words(self.machine()), *(
            [] if self.left is None else [f"about {self.left:.0f} s to go"])])

    def facts(self) -> dict[str, float]:
        """What is kept of it in a Run; shares are 0 to 1, `watching` is the share of the time that it took itself."""
        if self.look:
            self.machine()
        seconds = (self.ended or time.monotonic()) - self.begun
        found = {"steps": len(self.work), "seconds": seconds, "seconds_a_step": self.seconds_a_step,
                 "tokens_per_second": self.tokens_per_second, "waiting": self.waiting, "padding": self.padding,
                 "move": max(self.moves, default=None), "cpu": self.cpu, "memory_gb": self.memory,
                 "watching": self.spent / max(1e-9, seconds)}
        return {name: float(f"{value:.4g}") for name, value in found.items() if value is not None}

    # ---------------------------------------------------------------- how it looks on

    def callback(self) -> TrainerCallback:
        """For the Trainer. A subclass that shows something overrides `show` and reads `meter`; what it takes is
        counted in `meter.spent`."""
        return meter_callback()(self)

    def _seen(self, module, args, kwargs) -> None:
        if not module.training:
            return
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if ids is None:
            return
        self._places += ids.numel()
        # A sum on a GPU is not waited for here: it is read when the step has ended, and the GPU has done all of it.
        self._real.append(mask.sum() if mask is not None and mask.dim() == 2 else ids.numel())

    def begin(self, state, model: torch.nn.Module) -> None:
        self.step, self.steps, self.begun = state.global_step, state.max_steps, time.monotonic()
        self._places, self._real, self._idle = 0, [], self.begun
        self._watched, self._hook = [], None
        if self.look:
            self._watched = [p for p in model.parameters() if p.requires_grad][:SAMPLED]
            self._hook = model.register_forward_pre_hook(self._seen, with_kwargs=True)
            _process().cpu_percent()  # counts from here

    def begin_step(self) -> None:
        self._began = time.monotonic()
        self.wait.append(self._began - self._idle)

    def before_move(self, state) -> None:
        # The first move is of a rate of 0 where there is a warm-up.
        if state.global_step == 1 or (state.global_step and state.global_step % max(1, self.steps // LOOKS) == 0):
            self._old = [p.detach().clone() for p in self._watched]

    def after_move(self) -> None:
        if old := self.__dict__.pop("_old", None):
            self.moves.append(update_ratio(old, [p.detach() for p in self._watched]))

    def end_step(self, state) -> None:
        self.step = state.global_step
        self.work.append(time.monotonic() - self._began)
        self.tokens.append(int(sum(int(n) for n in self._real)))
        self.places.append(self._places)
        self._places, self._real = 0, []

    def idle(self) -> None:
        """From here on the loader is waited for."""
        self._idle = time.monotonic()

    def end(self) -> None:
        self.ended = time.monotonic()
        if self._hook is not None:
            self._hook.remove()


def machine_words(found: dict[str, float]) -> str:
    """`Meter.machine` in words."""
    parts = [f"CPU {found['cpu']:.1f} of {cores()} cores", f"{found['memory_gb']:.1f} GB"]
    if "gpu" in found:
        parts.append(f"GPU {found['gpu']:.0%}")
    if "gpu_memory_gb" in found:
        parts.append(f"{found['gpu_memory_gb']:.1f} GB on the GPU")
    return " · ".join(parts)


def gpu_done() -> None:
    """Wait until a GPU has done what it was told. It works behind Python: the clock would stop before a step has ended,
    and who then reads a number would seem to take the rest of that time for watching."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


@functools.lru_cache(maxsize=1)
def _process():
    import psutil

    return psutil.Process()


@functools.lru_cache(maxsize=1)
def meter_callback() -> type:
    """The class of `Meter.callback`, for those that show what it measures; made at first use: transformers is big."""
    with quiet():
        from transformers import TrainerCallback

    class Metered(TrainerCallback):
        def __init__(self, meter: Meter):
            self.meter = meter

        def _timed(self, look, *args) -> None:
            started = time.monotonic()
            look(*args)
            self.meter.spent += time.monotonic() - started

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            self.meter.begin(state, model)

        def on_step_begin(self, args, state, control, **kwargs):
            self._timed(self.meter.begin_step)

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            self._timed(self.meter.before_move, state)

        def on_optimizer_step(self, args, state, control, **kwargs):
            gpu_done()
            self._timed(self.meter.after_move)

        def on_step_end(self, args, state, control, **kwargs):
            gpu_done()
            self._timed(self.meter.end_step, state)
            self._timed(self.show, state)
            self.meter.idle()

        def on_log(self, args, state, control, logs=None, **kwargs):
            if logs and "loss" in logs:
                self.meter.loss = float(logs["loss"])
            self.meter.idle()

        def on_evaluate(self, args, state, control, **kwargs):
            self.meter.idle()

        def on_save(self, args, state, control, **kwargs):
            self.meter.idle()

        def on_train_end(self, args, state, control, **kwargs):
            self.meter.end()

        def show(self, state) -> None:
            """What is shown after a step; nothing here."""

    return Metered
