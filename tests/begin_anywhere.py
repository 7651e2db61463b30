"""Whether a learner may begin anywhere, in any order, and go on after an interruption: three ways through a lab.

    python tests/begin_anywhere.py 03 04                            # named labs; all of them where none is named
    python tests/begin_anywhere.py --shuffle 7 --interrupt 03 04    # these two ways in place of the first

The first takes each section alone in an emptied namespace, each of its cells twice. `--shuffle SEED` runs the cells in
an order that the seed draws, a third of them twice: a cell is right, or misses a name that another cell makes, or says
in a sentence what is amiss. `--interrupt` interrupts every cell that trains after its first step, runs it again and
goes on. All run the learner's copies with short trainings, a kernel a lab, and the code is 1 if anything else happens.
test_sections.py runs a lab in each way, `make order` every lab in the latter two.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from labkit.course import kernel_environment, names, offline
from labkit.profiles import COURSE
from labkit.sections import loose_names, sections

MISSES = re.compile(r"name '(\w+)' is not defined")
HALF_TRAINED = """
from labkit import Run as _Run
_runs = [run for name, value in list(globals().items()) if name != "cut"  # lab 02 cuts that one short itself
         for run in (value.values() if isinstance(value, dict) else [value])]
assert not [run.folder for run in _runs if isinstance(run, _Run) and not run.finished], "a run is half trained"
"""
# An optimizer steps in every training, by the Trainer or by hand. The kernel waits after the first step until it was
# interrupted, so that a fast training is not over by then. Nothing of this stands in the learner's namespace.
WAIT_TO_BE_INTERRUPTED = """
def _hook(armed, begun):
    import time
    from pathlib import Path
    from torch.optim.optimizer import register_optimizer_step_post_hook
    armed, begun = Path(armed), Path(begun)
    def waits(*_):
        if armed.exists():
            armed.rename(begun)
            while begun.exists():
                time.sleep(0.01)
    register_optimizer_step_post_hook(waits)
_hook({armed!r}, {begun!r})
"""


@dataclass(frozen=True)
class Stop:
    """A cell that failed: its lab, the heading above it, at which of its runs, and the error."""

    lab: str
    heading: str
    run: int | str
    source: str
    error: str

    def __str__(self) -> str:
        first = self.source.strip().splitlines()[0]
        return f"{self.lab}, under \"{self.heading}\", run {self.run} of the cell {first!r}: {self.error}"


@dataclass
class Walk:
    """What happened on one way through a lab: how many cells ended how, and the stops."""

    counts: dict[str, int] = field(default_factory=dict)
    stops: list[Stop] = field(default_factory=list)

    def count(self, ended: str) -> None:
        self.counts[ended] = self.counts.get(ended, 0) + 1

    def __str__(self) -> str:
        return ", ".join(f"{number} {ended}" for ended, number in self.counts.items())


class Kernel:
    """A kernel for one lab's learner's copy, with a scratch folder for its runs and progress."""

    def __init__(self, name: str, client: NotebookClient, scratch: Path):
        self.name, self.client, self.scratch = name, client, scratch

    def run(self, source: str) -> str:
        """Run a cell and give what it printed.

        Raises:
            CellExecutionError: the cell failed. DeadKernelError: and the kernel with it.
        """
        cell = nbformat.v4.new_code_cell(source)
        self.client.reset_execution_trackers()  # a display of an earlier run may still be updated, and has no place
        self.client.nb.cells[0] = cell  # here, where updates of this one's displays go
        return printed(self.client.execute_cell(cell, 0))

    def let_interrupt(self) -> None:
        """Make the kernel wait after the first step of a training that `interrupted` runs."""
        self.armed, self.begun = self.scratch / "armed", self.scratch / "begun"
        self.run(WAIT_TO_BE_INTERRUPTED.format(armed=str(self.armed), begun=str(self.begun)))

    def interrupted(self, source: str) -> tuple[bool, str, CellExecutionError | None]:
        """Run a cell and interrupt it once it trains: whether it did, what it printed, and how it failed."""
        self.armed.touch()
        over, did = threading.Event(), threading.Event()

        def watch() -> None:
            while not over.wait(0.02):
                if self.begun.exists():
                    asyncio.run(self.client.km.interrupt_kernel())
                    did.set()
                    time.sleep(0.1)
                    self.begun.unlink()
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        text, failed = "", None
        try:
            text = self.run(source)
        except CellExecutionError as error:
            failed = error
        finally:
            over.set()
            watcher.join()
            self.armed.unlink(missing_ok=True)
        return did.is_set(), text, failed


def printed(cell) -> str:
    """What a cell printed and showed as text, as one string."""
    return "".join(out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)


def read(name: str, folder: str = "notebooks"):
    return nbformat.read(COURSE / folder / f"{name}.ipynb", as_version=4)


@contextlib.contextmanager
def kernel(name: str) -> Iterator[Kernel]:
    """A new kernel for this lab, with short trainings, and without the real model, which takes minutes."""
    with tempfile.TemporaryDirectory(prefix="labkit-") as scratch:
        client = NotebookClient(read(name), kernel_name="python3", timeout=600, store_widget_state=False,
                                resources={"metadata": {"path": str(COURSE / "notebooks")}})
        settings = offline(name) | {"LABKIT_CACHE": str(Path(scratch) / "cache")}
        with client.setup_kernel(env=kernel_environment(Path(scratch), **settings)):
            yield Kernel(name, client, Path(scratch))


def parts(name: str) -> list[tuple[str, list[str]]]:
    return list(sections((cell.cell_type, cell.source) for cell in read(name).cells))


def begin_anywhere(name: str, times: int = 2) -> Walk:
    """Run every section of a lab's learner's copy by itself, each cell `times` times in a row."""
    walk = Walk()
    with kernel(name) as at:
        for heading, sources in parts(name):
            at.run("%reset -f")
            for source in sources:
                if stop := _run(at, source, times, heading):
                    walk.stops.append(stop)
                    break
                walk.count("right")
    return walk


def _run(at: Kernel, source: str, times: int, heading: str) -> Stop | None:
    for number in range(1, times + 1):
        try:
            at.run(source)
        except CellExecutionError as error:
            return Stop(at.name, heading, number, source, _said(error))
    return None


def in_any_order(name: str, seed: int) -> Walk:
    """Run the cells of a lab in an order that the seed draws, a third of them twice, in one kernel.

    A cell that always prints the same (tag `reproducible`) has to print that in this order too.
    """
    cells = [(heading, source) for heading, sources in parts(name) for source in sources]
    dice = random.Random(seed)
    order = cells + dice.sample(cells, len(cells) // 3)
    dice.shuffle(order)
    right = {cell.source: printed(cell) for cell in read(name, "solutions").cells
             if "reproducible" in cell.metadata.get("tags", [])}
    walk, runs = Walk(), {}
    with kernel(name) as at:
        for heading, source in order:
            runs[source] = runs.get(source, 0) + 1
            try:
                text = at.run(source)
            except CellExecutionError as error:
                if kind := clear(error, [other for _, other in cells if other != source]):
                    walk.count(kind)
                else:
                    walk.stops.append(Stop(name, heading, runs[source], source, _said(error)))
            except DeadKernelError:
                walk.stops.append(Stop(name, heading, runs[source], source, "the kernel died"))
                return walk
            else:
                walk.count("right")
                if text != right.get(source, text):
                    walk.stops.append(Stop(name, heading, runs[source], source, f"printed otherwise: {text!r}"))
    return walk


def clear(error: CellExecutionError, others: list[str]) -> str:
    """What kind of clear sentence this is: a name that another cell makes, or a LabError; empty if it is none."""
    if error.ename == "NameError":
        name = MISSES.search(error.evalue)
        return "missing a name" if name and any(makes(source, name.group(1)) for source in others) else ""
    bare = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).rstrip()
    return "refused" if bare.endswith(error.evalue.rstrip()) and "Traceback" not in bare else ""


def makes(source: str, name: str) -> bool:
    """Whether a cell binds this name."""
    return name not in loose_names([source, f"\n{name}"])


def interrupting(name: str) -> Walk:
    """Run a lab in its order; interrupt each cell that trains after its first step, then run it again and go on.

    An interruption ends the cell, or the cell says that its training was stopped. Afterwards no run in the namespace
    may be half trained.
    """
    walk = Walk()
    with kernel(name) as at:
        at.let_interrupt()
        for heading, sources in parts(name):
            for source in sources:
                try:
                    did, text, error = at.interrupted(source)
                    if did:
                        walk.count("interrupted")
                        if error and error.ename != "KeyboardInterrupt" and not clear(error, []):
                            walk.stops.append(Stop(name, heading, "interrupted", source, _said(error)))
                        if not error and "Stopped" not in text:
                            walk.stops.append(Stop(name, heading, "interrupted", source, "says nothing of it"))
                        at.run(source)
                        at.run(HALF_TRAINED)
                    elif error:
                        raise error
                    walk.count("right")
                except CellExecutionError as failed:
                    if failed.ename != "NameError" and (kind := clear(failed, [])):
                        walk.count(kind)
                    else:
                        walk.stops.append(Stop(name, heading, "after it", source, _said(failed)))
                except DeadKernelError:
                    walk.stops.append(Stop(name, heading, "interrupted", source, "the kernel died"))
                    return walk
    return walk


def _said(error: CellExecutionError) -> str:
    return f"{error.ename}: {error.evalue}"


def main(words: list[str]) -> int:
    """Print what stops; 1 if anything does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labs", nargs="*", metavar="LAB", help="name or number; all of them where none is named")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="run the cells in an order that SEED draws")
    parser.add_argument("--interrupt", action="store_true", help="interrupt the cells that train, and go on")
    chosen = parser.parse_args(words)
    amiss = 0
    for name in names(chosen.labs):
        walks = {}
        if chosen.shuffle is not None:
            walks[f"in the order of seed {chosen.shuffle}"] = partial(in_any_order, name, chosen.shuffle)
        if chosen.interrupt:
            walks["interrupted"] = partial(interrupting, name)
        for way, walk in (walks or {"each section alone": partial(begin_anywhere, name)}).items():
            walked = walk()
            amiss += len(walked.stops)
            print(f"{name}, {way}: {walked}", *walked.stops or ["nothing stops"], sep="\n  ", flush=True)
    return 1 if amiss else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
