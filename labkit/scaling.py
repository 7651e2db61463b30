"""What limits a training, and what it costs: the laws of a step's time, each with a way to measure it here.

Reckons with numbers alone, and measures with matrices and sleeping rows; nothing here trains a model.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit import plots
from labkit.errors import LabError
from labkit.memory import Memory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Dense 16-bit FLOP/s that the makers' data sheets promise, without sparsity; on the T4 it is float16.
PEAK = {"T4": 65e12, "L4": 121e12, "RTX 4090": 165e12, "A100": 312e12, "H100": 989e12}
# FLOPs for each parameter and token: 2 forward, 2 for the gradients of activations, 2 for those of weights.
FLOPS = {"full": 6, "lora": 4, "qlora": 4}
SQUARE = {"cpu": 1024, "cuda": 8192}  # width of the matrix whose products are measured
TOKENS = {"cpu": (1, 4, 16, 64), "cuda": (1, 4, 16, 64, 256, 1024)}  # rows of them
STAGES = {1: ("optimizer",), 2: ("optimizer", "gradients"), 3: ("optimizer", "gradients", "weights")}


# -- money ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A training and its bill. `seconds` is by the clock; `hours` is what is paid for, over all GPUs."""

    gpu: str
    gpus: int
    flops: float
    seconds: float
    price: float

    @property
    def hours(self) -> float:
        """GPU-hours."""
        return self.gpus * self.seconds / 3600

    @property
    def money(self) -> float:
        """In the currency of the price."""
        return self.hours * self.price

    def row(self) -> dict:
        """For a table."""
        return {"GPU": self.gpu, "how many": self.gpus, "FLOPs": f"{self.flops:.1e}",
                "by the clock (h)": f"{self.seconds / 3600:.2f}", "GPU-hours": f"{self.hours:.2f}",
                "at a price of": f"{self.price:.2f}", "costs": f"{self.money:.2f}"}


def plan(tokens: float, parameters: float, gpu: str | float, *, price: float, method: str = "lora", gpus: int = 1,
         utilisation: float = 0.3) -> Plan:
    """Hours and money of a training: seconds = k N D / (gpus x utilisation x FLOP/s).

    k is 6 where all weights train (Kaplan et al., 2020) and 4 where the base is frozen, which saves the gradients of
    its weights. N is the base's parameters, D the tokens that go through, padding included, all epochs together.

    Args:
        gpu: a name of `PEAK`, or the FLOP/s of something else.
        price: of one GPU for one hour, in any currency; look it up, for prices move.
        method: "full", "lora" or "qlora".
        utilisation: share of the peak that is reached, 0 to 1; measure it, or take 0.2 to 0.4.

    Raises:
        LabError: a number cannot be, or the GPU or the method is unknown.
    """
    if method not in FLOPS:
        raise LabError(f"there is no method {method!r}", where="method", expected=", ".join(FLOPS))
    if isinstance(gpu, str) and gpu not in PEAK:
        raise LabError(f"there is no GPU {gpu!r} in the list", where="gpu", expected=", ".join(PEAK),
                       todo="Or give its FLOP/s as a number")
    peak = PEAK[gpu] if isinstance(gpu, str) else gpu
    for where, number in (("tokens", tokens), ("parameters", parameters), ("gpu", peak), ("gpus", gpus)):
        if not number > 0:
            raise LabError(f"{number}", where=where, expected="a number above 0")
    if not 0 < utilisation <= 1:
        raise LabError(f"{utilisation}", where="utilisation", expected="a share above 0, up to 1")
    if price < 0:
        raise LabError(f"{price}", where="price", expected="a price from 0 on")
    flops = FLOPS[method] * parameters * tokens
    name = gpu if isinstance(gpu, str) else f"{gpu:.2g} FLOP/s"
    return Plan(name, gpus, flops, flops / (gpus * utilisation * peak), price)


# -- several processes ---------------------------------------------------------------------------------------------


def all_reduce_bytes(size: float, processes: int) -> float:
    """Bytes that each process sends in a ring all-reduce of `size` bytes: 2 (p - 1) / p x size.

    >>> all_reduce_bytes(100, 2), all_reduce_bytes(100, 4)
    (100.0, 150.0)
    """
    return 2 * (processes - 1) / processes * size


def step_seconds(compute: float, processes: int, size: float, bandwidth: float) -> float:
    """A data-parallel step: compute / p, then the all-reduce of the gradients, as if the two never overlapped.

    Args:
        compute: seconds that one process takes for the whole batch.
        size: of the gradients that are exchanged, in bytes. bandwidth: between two processes, bytes a second.
    """
    return compute / processes + all_reduce_bytes(size, processes) / bandwidth


def sharded(needs: Memory, processes: int, stage: int) -> int:
    """Bytes a GPU holds when FSDP or ZeRO splits what a step takes over `processes` GPUs.

    The state (weights, gradients, moments) is there at the end of the backward pass, beside it either activations and
    logits, which are not split, or what the optimizer's step needs for its part of the weights. The one layer that is
    gathered at a time is left out.

    Args:
        needs: what one GPU would hold alone, by `labkit.models.memory`.
        stage: 1 splits the optimizer's moments, 2 the gradients too, 3 the weights too (FSDP's full shard). 0: nothing.

    Raises:
        LabError: there is no such stage.
    """
    if stage and stage not in STAGES:
        raise LabError(f"there is no stage {stage}", where="stage", expected="0, 1, 2 or 3")
    if processes < 1:
        raise LabError(f"{processes}", where="processes", expected="a whole number from 1 on")
    if not stage or processes == 1:
        return needs.peak
    state = sum(getattr(needs, part) / (processes if part in STAGES[stage] else 1) for part in STAGES[3])
    return int(min(needs.peak, state + max(needs.activations + needs.logits, needs.gradients / processes)))


# -- measured here -------------------------------------------------------------------------------------------------


def timed(work: Callable[[], object], seconds: float = 0.1, least: int = 3) -> float:
    """Seconds that a call takes: the shortest of those that fit into `seconds`, for what disturbs only makes it longer.

    A first call warms up, and is the answer only where it alone takes ten times as long as there is time.
    """
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < least or time.perf_counter() < begun + seconds:
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
        if found[0] > 10 * seconds:
            break
    return min(found)


@dataclass(frozen=True)
class Roof:
    """What a machine does at best: `peak` in FLOP/s, `bandwidth` in bytes a second; and what was measured under it.

    `points` are (rows, FLOP/s) of products (rows, width) x (width, width), in `dtype`.
    """

    dtype: str
    width: int
    size: int  # bytes of a number
    points: tuple[tuple[int, float], ...]

    @property
    def peak(self) -> float:
        return max(speed for _, speed in self.points)

    @property
    def bandwidth(self) -> float:
        """By the product of fewest rows, which waits for W and for nothing else."""
        rows, speed = self.points[0]
        return speed / self.intensity(rows)

    def intensity(self, rows: int) -> float:
        """FLOPs for each byte that is moved: 2 m d^2 / (bytes x (d^2 + 2 m d))."""
        return 2 * rows * self.width**2 / (self.size * (self.width**2 + 2 * rows * self.width))

    def law(self, rows: int) -> float:
        """The roofline (Williams, Waterman and Patterson, 2009): min(peak, intensity x bandwidth), in FLOP/s."""
        return min(self.peak, self.intensity(rows) * self.bandwidth)


def roof(dtype: str = "float32", width: int | None = None, rows: Sequence[int] | None = None) -> Roof:
    """Measure products of `rows` tokens with a square matrix on this machine's device.

    Args:
        dtype: "float32" or "bfloat16".
        width: of the matrix; None is 1,024, or 8,192 on a GPU, where starting a smaller product takes the longest.
        rows: from few to many, until one takes a second; None is 1 to 64, or 1 to 1,024 on a GPU.
    """
    import torch

    from labkit import profiles

    device = profiles.device()
    width = width or SQUARE[device]
    rows = TOKENS[device] if rows is None else rows
    kind = getattr(torch, dtype)
    weights = torch.randn(width, width, device=device).to(kind)
    points = []
    for m in rows:
        x = torch.randn(m, width, device=device).to(kind)

        def product(x=x):
            y = x @ weights
            return y.flatten()[0].item() if device == "cuda" else y  # reading a number waits for the GPU

        took = timed(product)
        points.append((m, 2 * m * width**2 / took))
        if took > 1:  # arithmetic that is imitated: larger products would take minutes
            break
    return Roof(dtype, width, kind.itemsize, tuple(points))


@dataclass(frozen=True)
class SlowRows:
    """A dataset whose every row takes so long to come, as from a far store; it waits, and needs no core to wait."""

    seconds: float
    rows: int = 10_000

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> int:
        time.sleep(self.seconds)
        return index


def loading(workers: Sequence[int] = (0, 1, 2, 4), *, compute: float = 0.03, row: float = 0.004, batch: int = 16,
            steps: int = 8) -> list[dict]:
    """Seconds of a step with so many data-loader workers, measured, and by the law.

    The law: without workers, load + compute; with w of them, max(compute, load / w), where load = batch x row.

    Args:
        compute: seconds that the model takes for a step (slept). row: seconds that a row takes to come.
        steps: that are timed, after the workers have started and filled their queue.
    """
    from torch.utils.data import DataLoader

    found = []
    for count in workers:
        more = {"prefetch_factor": 2} if count else {}
        with warnings.catch_warnings():  # more workers than cores are no harm here: they sleep
            warnings.simplefilter("ignore")
            loader = DataLoader(SlowRows(row), batch_size=batch, num_workers=count, **more)
            batches, warm = iter(loader), 2 * count + 1
        for step in range(warm + steps):
            if step == warm:
                started = time.perf_counter()
            next(batches)
            time.sleep(compute)
        measured = (time.perf_counter() - started) / steps
        del batches
        load = batch * row
        law = max(compute, load / count) if count else compute + load
        found.append({"workers": count, "measured": measured, "law": law,
                      "waits for": "rows" if not count or load / count > compute else "the model"})
    return found


def draw_roofs(roofs: Sequence[Roof], title: str) -> Figure:
    """Measured speed of products over the tokens in a batch, as dots, and the roofline as a line, for each dtype."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = plots.new(title, "tokens in the batch (rows of x)", "speed (GFLOP/s)")
    for item, (colour, mark) in zip(roofs, (("blue", "o"), ("orange", "s")), strict=False):
        rows = [m for m, _ in item.points]
        axes.plot(rows, [item.law(m) / 1e9 for m in rows], "-", color=plots.COLOURS[colour], alpha=0.6,
                  label=f"{item.dtype}, law")
        axes.plot(rows, [speed / 1e9 for _, speed in item.points], mark, color=plots.COLOURS[colour],
                  label=f"{item.dtype}, measured")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    every = [m for m, _ in max(roofs, key=lambda item: len(item.points)).points]
    axes.set_xticks(every, [str(m) for m in every])
    axes.legend(frameon=False, fontsize=9)
    return figure


def draw_loading(rows: Sequence[dict], title: str) -> Figure:
    """Milliseconds of a step over data-loader workers: measured as dots, the law as a line."""
    figure, axes = plots.new(title, "data-loader workers", "a step (ms)")
    count = [row["workers"] for row in rows]
    axes.plot(count, [1e3 * row["law"] for row in rows], "-", color=plots.COLOURS["grey"], label="law")
    axes.plot(count, [1e3 * row["measured"] for row in rows], "o", color=plots.COLOURS["blue"], label="measured")
    axes.set_xticks(count)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure
