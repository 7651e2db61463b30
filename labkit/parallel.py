"""Several small pieces of work at once, each in a process with a core of its own: `map` for trainings of a tiny model.

The products of a tiny model are too small to be shared out well: two cores train it about a third faster than one
does, and two trainings side by side take little longer than one on its core.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext, redirect_stderr, redirect_stdout
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from labkit import processes, profiles
from labkit.errors import LabError
from labkit.monitoring import in_notebook, passing_line


def side_by_side(function: Callable[[Any], Any], items: Iterable[Any]) -> list:
    """What `function` gives for each item, in their order; several are worked on at once where that is quicker.

    Each item gets a copy (a fork) of this process as it is now, models and settings with it, and computes on one core.
    What it does to them is gone afterwards; what it writes to disk stays, and what it prints is printed when all are
    done. Where there is one core, a GPU, a larger model, too little memory, or a system other than Linux, the items
    are worked on here, one after the other: then changes stay, and random numbers go on from item to item. So seed
    where you draw, and hand back what you need.

    Args:
        function: of one item; its value must be one that can be pickled.
        items: anything.

    Raises:
        LabError: one of the processes ended without an answer, as when memory ran out. What `function` raises comes
            through as it is; the others are then ended.
    """
    items = list(items)
    if (at_once := min(room(), len(items))) < 2:
        return [function(item) for item in items]
    told: dict[int, tuple[Any, str]] = {}
    line = passing_line() if in_notebook() else nullcontext(lambda text: None)
    with line as say, closing(_forks(function, items, at_once)) as answers:
        for place, answer in answers:
            told[place] = answer
            say(f"{len(told)} of {len(items)} done, {at_once} at once")
    for place in range(len(items)):
        print(told[place][1], end="")
    return [told[place][0] for place in range(len(items))]


def _forks(function: Callable, items: list, at_once: int) -> Iterator[tuple[int, tuple[Any, str]]]:
    """Places and answers, as they come in."""
    context, running = get_context("fork"), {}
    left = list(enumerate(items))[::-1]
    sys.stdout.flush()
    try:
        while left or running:
            while left and len(running) < at_once:
                place, item = left.pop()
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(sender, function, item))
                with warnings.catch_warnings():  # of forking beside a kernel's own threads; see `_work`
                    warnings.simplefilter("ignore", DeprecationWarning)
                    process.start()
                sender.close()
                running[receiver] = place, process
            for receiver in wait(list(running)):
                place, process = running.pop(receiver)
                yield place, _answer(receiver, process, f"item {place + 1} of {len(items)}")
    finally:  # Ctrl-C comes by here too
        for _, process in running.values():
            process.kill()
            process.join()


def room() -> int:
    """How many are worked on at once: as many as there are cores, if each has the memory that the profile asks for."""
    profile = profiles.current()
    if (processes.forked or processes.count() > 1 or sys.platform != "linux" or profile.name != "tiny"
            or profiles.device() != "cpu"):
        return 1
    import psutil

    return max(1, min(profiles.compute_threads(), int(psutil.virtual_memory().available / 1e9 / profile.memory)))


def _work(sender: Connection, function: Callable, item: Any) -> None:
    """In the fork: answer with what came of one item, and what it printed."""
    processes.forked = True
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a notebook's stop button reaches it too
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if "torch" in sys.modules:  # the threads of its pool were not copied; PyTorch's own DataLoader does the same
        sys.modules["torch"].set_num_threads(1)
    with redirect_stdout(io.StringIO()) as text, redirect_stderr(text):
        try:
            answer = (True, function(item), "")
        except BaseException as error:  # noqa: BLE001 raised again where it was asked for
            answer = (False, _sent(error), traceback.format_exc())
    try:  # by value: torch's own way to send a tensor needs this process to live on
        message = pickle.dumps((*answer, text.getvalue()))
    except Exception as error:  # noqa: BLE001
        error = LabError(f"{error}", where="side_by_side", expected="a value that can be pickled")
        message = pickle.dumps((False, error, "", text.getvalue()))
    sender.send_bytes(message)


def _sent(error: BaseException) -> BaseException:
    """The error, or its words where it is of a kind that cannot be made again in another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _answer(receiver: Connection, process: Any, where: str) -> tuple[Any, str]:
    """What a fork answered, with what it printed; its error is raised."""
    with receiver:
        try:
            well, what, trace, text = pickle.loads(receiver.recv_bytes())
        except (EOFError, OSError):  # nothing, or half an answer
            process.join()
            raise LabError(f"its process ended without an answer (exit code {process.exitcode})", where=where,
                           todo="Look whether memory ran out; OMP_NUM_THREADS=1 has them worked on one by "
                           "one") from None
    process.join()
    if well:
        return what, text
    print(text, end="")
    raise what from (None if isinstance(what, LabError) else RuntimeError(trace))
