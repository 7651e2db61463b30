"""One training in several processes: which of them this is, who writes, who gets which rows, what if one is gone.

`torchrun` and `accelerate launch` set RANK and WORLD_SIZE and start the same program several times; `training` asks
here. In a program that was started once, everything below does nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit import profiles
from labkit.errors import LabError

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader
    from transformers import TrainingArguments

PATIENCE = 600  # seconds that one process waits for the others; LABKIT_PEER_TIMEOUT sets it from outside
forked = False  # whether this process is one of `parallel.side_by_side`, which shows nothing of its own
LOST = ("closed by peer", "Connection reset", "Timed out", "timed out", "Broken pipe", "Connection refused", "gloo",
        "NCCL", "Socket Timeout", "no longer reachable")  # how the libraries say that another process is gone


class Gone(LabError):
    """Another process of the same training is gone, or this one was told to end; nothing more can be trained."""


def count() -> int:
    """How many processes train together; 1 where nothing started several."""
    return max(1, _number("WORLD_SIZE", 1))


def rank() -> int:
    """The number of this process, from 0 on."""
    return _number("RANK", 0) if count() > 1 else 0


def first() -> bool:
    """Whether this is process 0, the one that writes and that talks."""
    return rank() == 0


def patience() -> int:
    """Seconds after which a process that waits for another takes it for gone."""
    return max(1, _number("LABKIT_PEER_TIMEOUT", PATIENCE))


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name) or str(otherwise)
    if not text.isdecimal():
        raise LabError(f"{text!r} is no number", where=name, expected="a whole number",
                       todo="Unset it, or start the program with torchrun, which sets it")
    return int(text)


def join() -> None:
    """Meet the other processes: gloo between CPUs, nccl between GPUs, one GPU a process."""
    if count() == 1:
        return
    from accelerate import PartialState

    cpu = profiles.device() == "cpu"
    PartialState(cpu=cpu, backend="gloo" if cpu else None, timeout=timedelta(seconds=patience()))


def once(function: Callable, *args: Any) -> Any:
    """Call it in process 0 alone; all processes get what it gave, or raise the LabError that it raised."""
    if count() == 1:
        return function(*args)
    from torch import distributed

    join()
    box: list = [None, None]
    if first():
        try:
            box[0] = function(*args)
        except LabError as error:
            box[1] = error
    distributed.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    return box[0]


def agree(flag: bool) -> bool:
    """True in all processes if it is true in any: so they stop after the same step."""
    if count() == 1:
        return flag
    import torch
    from torch import distributed

    vote = torch.tensor(float(flag), device=profiles.device())
    distributed.all_reduce(vote, op=distributed.ReduceOp.MAX)
    return bool(vote)


def divide(batch: list, processes: int, process: int) -> list:
    """The rows of a batch that one process gets: in order, as even as can be, each row exactly once.

    >>> [divide([7, 1, 4, 9, 2], 2, rank) for rank in range(2)]
    [[7, 1, 4], [9, 2]]
    """
    size, more = divmod(len(batch), processes)
    begin = process * size + min(process, more)
    return batch[begin : begin + size + (process < more)]


class Shares:
    """Batches as one process would draw them, and of each this process's share.

    accelerate would hand whole batches round, so that a step saw other rows than one process sees, and would fill up a
    short last batch with rows from the start. Here a step has the same rows, whatever the number of processes.
    """

    def __init__(self, batches, processes: int, process: int):
        self.batches, self.processes, self.process = batches, processes, process

    @property
    def sampler(self):
        """The order of rows."""
        return self.batches.sampler

    def set_epoch(self, epoch: int) -> None:
        """The number of the round through the rows, which its order hangs on."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield divide(batch, self.processes, self.process)


def shared(loader: DataLoader) -> DataLoader:
    """A loader that accelerate prepared, made to give this process its share of each batch."""
    if count() > 1:
        sharder = loader.batch_sampler
        sharder.batch_sampler = shares = Shares(sharder.batch_sampler, count(), rank())
        sharder.set_epoch = shares.set_epoch  # a resumed training looks for it here
        # From here on it only passes on what it gets, short batches too.
        sharder.num_processes, sharder.process_index = 1, 0
        sharder.split_batches, sharder.even_batches, sharder.batch_size = False, False, None
    return loader


def asked_to_split() -> bool:
    """Whether `accelerate launch` was told to split the weights over the processes (FSDP)."""
    return count() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def one_card(arguments: TrainingArguments) -> None:
    """One process, one GPU: of several the Trainer would take all, by DataParallel, and many times the rows a step."""
    if arguments.n_gpu > 1:  # only ever in a single process
        arguments._n_gpu = 1


def let_split(arguments: TrainingArguments) -> None:
    """Have the weights split on CPUs too: there, accelerate keeps them whole and does not say so."""
    if asked_to_split() and profiles.device() == "cpu":
        from accelerate.utils import DistributedType

        arguments.distributed_state.distributed_type = DistributedType.MULTI_GPU


def held_share(model: torch.nn.Module) -> float:
    """The share of a model's weights that this process holds, 0 to 1: 1 / p where FSDP has split them over p."""
    sizes = [(getattr(p, "to_local", lambda p=p: p)().numel(), p.numel()) for p in model.parameters()]
    return sum(mine for mine, _ in sizes) / sum(every for _, every in sizes)


def refuse_small(batch_size: int, rows: int) -> None:
    """See that each process has a row in every step.

    Raises:
        LabError: a batch, or the last one of a round through the rows, has fewer rows than there are processes.
    """
    last = rows % batch_size or batch_size
    if (least := min(batch_size, last)) < count():
        raise LabError(f"{count()} processes share a batch of {least}" + (" (the last of a round through the rows)"
                       if least < batch_size else ""), where="batch_size", expected="a row for each process",
                       todo="Take another batch size, or fewer processes")


@contextmanager
def told(kept: Callable[[], Path | None]) -> Iterator[None]:
    """While it is entered, a process that is gone, or a SIGTERM, ends the training with a sentence.

    Args:
        kept: gives the last whole checkpoint, or None.

    Raises:
        Gone: what happened, and how to go on.
    """
    if count() == 1:
        yield
        return

    def gone(what: str) -> Gone:
        last = kept()
        rest = (f"{last.name} is whole: the same with resume goes on from there, in one process or in several" if last
                else "There is no whole checkpoint yet: begin anew")
        return Gone(what, where=f"process {rank()} of {count()}", todo=rest)

    def ended(number, frame):
        raise gone("told to end (SIGTERM), as torchrun does when another process is gone")

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, ended) if main else None
    try:
        yield
    except LabError:
        raise
    except Exception as error:
        if not any(sign in str(error) for sign in LOST):
            raise
        raise gone(f"another process is gone, or did not answer for {patience()} s") from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
