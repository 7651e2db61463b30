"""The course's notebooks: built from solutions/NN_name.py, stamped with their source, and run without a browser.

Stands at the top, beside the command line: it reads the labs' scripts and writes both folders of notebooks.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from labkit import profiles, stamps
from labkit.blanks import learner_source, solved_source
from labkit.errors import LabError
from labkit.profiles import COURSE, LIMITS, python_path

WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_TEXT = "(A widget: run this cell to move it.)"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}


# How the shipped outputs were made: no cell asks a hub, no training is cut short.
OFFLINE = {"LABKIT_PROFILE": "tiny", "HF_HUB_OFFLINE": "1", **dict.fromkeys(LIMITS, "")}

# To what the tests cut a lab. Answers are empty in a learner's copy: a training there only has to run, not to learn.
# Solved labs were run whole when they were built, and tests/ reads what they printed; there the code has to run, and
# the cells marked reproducible have to print the same, none of which depends on a training. A model that has hardly
# been trained does not know where to stop, so it writes a few tokens only, and is scored on a few rows. A search of a
# few trials runs all of its code.
CUT = {
    "notebooks": {"LABKIT_STEPS": "3", "LABKIT_TRIALS": "3", "LABKIT_TOKENS": "8", "LABKIT_ROWS": "48"},
    "solutions": {"LABKIT_STEPS": "12", "LABKIT_TRIALS": "6", "LABKIT_TOKENS": "16", "LABKIT_ROWS": "96"},
}
NEED = {
    ("notebooks", "02"): {"LABKIT_STEPS": "8"},  # its early stopping has something to stop after so many
    ("notebooks", "09"): {"LABKIT_TRIALS": "5"},  # the best four, and others to set beside them
    ("solutions", "00"): {"LABKIT_STEPS": "3"},  # some of them on the real model
    ("solutions", "03"): dict.fromkeys(LIMITS, ""),  # the first lab runs in full
    ("solutions", "07"): {"LABKIT_ROWS": ""},  # its metrics, marked reproducible, are of all test rows
    ("solutions", "09"): {"LABKIT_STEPS": "3"},  # of many short trials: a look after each third is all they have to get
}

# From the longest lab to the shortest: so begun where several run side by side, none is left over alone at the end.
LONGEST_FIRST = "09 11 05 08 01 06 10 02 12 04 03 13 07 00"


@dataclass(frozen=True)
class Result:
    """How one notebook went: where it stopped, counting code cells from 1, or `cell` None when it ran to the end."""

    name: str
    seconds: float
    cell: int | None = None
    heading: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.cell is None

    def __str__(self) -> str:
        if self.ok:
            return f"{self.name} ran to the end in {self.seconds:.0f} s"
        under = f', under "{self.heading}"' if self.heading else ""
        return f"{self.name} stopped at code cell {self.cell}{under}, after {self.seconds:.0f} s: {self.error}"


def kernel_environment(scratch: Path, **settings: str) -> dict[str, str]:
    """The environment of a notebook's kernel: this checkout's labkit, and not the learner's own progress and runs."""
    own = {"LABKIT_PROGRESS": str(scratch / "progress.json"), "LABKIT_RUNS": str(scratch / "runs")}
    return {**os.environ, "PYTHONPATH": python_path(), **own, **settings}


def offline(name: str, folder: str = "notebooks") -> dict[str, str]:
    """Settings for running a lab's notebook as the tests do: `tiny`, no hub, its trainings cut short."""
    return OFFLINE | CUT[folder] | NEED.get((folder, name[:2]), {})


def names(chosen: list[str] | None = None, root: Path = COURSE) -> list[str]:
    """The labs that have a source, in order: all of them, or those chosen by name or number.

    Args:
        chosen: names or numbers, "03_lora" or "03" or "3"; None or nothing means all.
        root: the checkout.

    Raises:
        LabError: no lab has that name.
    """
    every = sorted(path.stem for path in (root / "solutions").glob("[0-9][0-9]_*.py"))
    by_word = {word: name for name in every for word in (name, name[:2], name[:2].lstrip("0"))}
    for word in chosen or []:
        if word not in by_word:
            near = difflib.get_close_matches(word, every, n=3, cutoff=0.3) or every
            raise LabError(f"no lab is called {word!r}", where=str(root / "solutions"),
                           expected=" or ".join(near) if near else "a lab, but there is none yet")
    return sorted({by_word[word] for word in chosen}) if chosen else every


def build(chosen: list[str] | None = None, execute: bool = True, progress: bool = True,
          root: Path = COURSE) -> list[Path]:
    """Make the notebooks of these labs from their sources.

    Args:
        chosen: labs by name or number; None means all.
        execute: make and run the solved notebook too (profile `tiny`, hub offline); without it only the learner's copy.
        progress: show a bar.
        root: the checkout.

    Returns:
        The files written.

    Raises:
        LabError: a source is broken, a solved lab stops with an error, or a notebook was edited by hand.
    """
    labs = [(name, *_both(name, root)) for name in names(chosen, root)]
    for name, _, _ in labs:
        _refuse_if_edited(_path(root, "notebooks", name))
        if execute:
            _refuse_if_edited(_path(root, "solutions", name))
    written = []
    with _bar(progress) as step:
        for name, solved, learner in labs:
            if execute:
                result = _execute(solved, name, root / "solutions", step, **OFFLINE)
                if not result.ok:
                    raise LabError(str(result), where=f"solutions/{name}.py",
                                   todo="Mend the source; the notebooks were left as they are")
                written.append(_write(_tidy(solved), _path(root, "solutions", name)))
            written.append(_write(learner, _path(root, "notebooks", name)))
    return written


def reword(chosen: list[str] | None = None, root: Path = COURSE) -> list[Path]:
    """Make the notebooks of labs whose text alone was changed: the solved one keeps its outputs and is not run.

    Args:
        chosen: labs by name or number; None means all.
        root: the checkout.

    Returns:
        The files written.

    Raises:
        LabError: a code cell was changed, so that its outputs may be others, or a notebook was edited by hand.
    """
    import nbformat

    labs = [(name, *_both(name, root)) for name in names(chosen, root)]
    for name, solved, _ in labs:
        path = _path(root, "solutions", name)
        _refuse_if_edited(path)
        _refuse_if_edited(_path(root, "notebooks", name))
        ran = [cell for cell in nbformat.read(path, as_version=4).cells if _runs(cell)] if path.is_file() else []
        now = [cell for cell in solved.cells if _runs(cell)]
        for old, new in zip_longest(ran, now):
            if old is None or new is None or _cell(old) != _cell(new):
                raise LabError("a code cell is another than the one that was run: "
                               + repr((new or old).source.strip().splitlines()[0]), where=f"solutions/{name}.py",
                               todo=f"Run it: labkit course --build {name[:2]}")
            new.outputs, new.execution_count = old.outputs, old.execution_count
    return [_write(book, _path(root, folder, name)) for name, *books in labs
            for folder, book in zip(("solutions", "notebooks"), books, strict=True)]


def restamp(repository: str, root: Path = COURSE) -> list[Path]:
    """Put another address on README, badges and set-up cells: of a fork, say. Solved notebooks carry none.

    Args:
        repository: owner/name on GitHub.
        root: the checkout.

    Returns:
        The files written.

    Raises:
        LabError: this is no owner/name, or a notebook was edited by hand; then nothing has changed.
    """
    for name in names(root=root):
        _refuse_if_edited(_path(root, "notebooks", name))
    return stamps.move(repository, root) + build(execute=False, progress=False, root=root)


def run(chosen: list[str] | None = None, folder: str = "notebooks", progress: bool = True,
        root: Path = COURSE, at_once: int | None = None) -> list[Result]:
    """Run notebooks from top to bottom, each in a kernel of its own, and change none of them.

    The profile is the caller's (`LABKIT_PROFILE`); the learner's own progress file is left alone.

    Args:
        chosen: labs by name or number; None means all.
        folder: `notebooks` (the learner's copies) or `solutions`.
        progress: show a bar.
        root: the checkout.
        at_once: how many run side by side, each with its share of the cores; None is two where there are two cores
            and the model is the tiny one, whose products are too small to use a second core well. Three were slower.

    Returns:
        One result a lab; `str(result)` says how it went.

    Raises:
        LabError: a lab has no notebook in this folder.
    """
    import nbformat

    labs = names(chosen, root)
    for name in labs:
        built(name, folder, root)
    if at_once is None:
        at_once = 2 if len(labs) > 1 and profiles.cores() > 1 and profiles.current().name == "tiny" else 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, profiles.cores() // at_once))
    share, kernels = {"OMP_NUM_THREADS": threads} if at_once > 1 else {}, Kernels()

    def one(name: str) -> Result:
        book = nbformat.read(_path(root, folder, name), as_version=4)
        return _execute(book, name, root / folder, step, kernels, **share)

    with _bar(progress) as step, ThreadPoolExecutor(at_once) as pool:
        order = sorted(labs, key=lambda name: LONGEST_FIRST.find(name[:2])) if at_once > 1 else labs
        begun = {name: pool.submit(one, name) for name in order}
        try:
            return [begun[name].result() for name in labs]
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            kernels.stop()
            raise


class Kernels:
    """The kernels that run just now, so that Ctrl-C, which reaches the main thread alone, can end them all."""

    def __init__(self):
        self.stopped, self._running = False, []

    @contextmanager
    def having(self, client) -> Iterator[None]:
        self._running.append(client)
        try:
            yield
        finally:
            self._running.remove(client)

    def stop(self) -> None:
        self.stopped = True
        for client in list(self._running):
            client.km.provisioner.process.kill()


def built(name: str, folder: str = "solutions", root: Path = COURSE) -> Path:
    """The notebook of a lab.

    Raises:
        LabError: it is not there.
    """
    path = _path(root, folder, name)
    if not path.is_file():
        raise LabError(f"{folder}/{name}.ipynb is missing", where=str(root), todo="Build it: make course")
    return path


def real(chosen: list[str] | None = None, progress: bool = True, root: Path = COURSE) -> list[Result]:
    """Run the solved labs on the real model (profile `small`) and keep what they measured in data/measured/.

    A lab notes its figures through `labkit.measured`; where it fails later on, the record from before is put back.

    Args:
        chosen: labs by name or number; None means all.
        progress: show a bar.
        root: the checkout.

    Returns:
        One result a lab; `str(result)` says how it went.

    Raises:
        LabError: a source is broken.
    """
    results = []
    with _bar(progress) as step:
        for name in names(chosen, root):
            record = root / "data" / "measured" / f"{name}.json"
            before = record.read_bytes() if record.is_file() else None
            settings = {"LABKIT_PROFILE": "small", "LABKIT_RECORD": str(record), **dict.fromkeys(LIMITS, "")}
            finished = False
            try:
                results.append(_execute(_both(name, root)[0], name, root / "solutions", step, **settings))
                finished = results[-1].ok
            finally:  # Ctrl-C comes by here too
                if not finished:
                    record.unlink(missing_ok=True)
                    if before is not None:
                        record.write_bytes(before)
    return results


def stale(root: Path = COURSE) -> list[str]:
    """What is wrong with the built notebooks, a sentence each: missing, older than its source, edited, not executed."""
    import nbformat

    found = []
    for name in names(root=root):
        for folder, fresh in zip(("solutions", "notebooks"), _both(name, root), strict=True):
            path, label = _path(root, folder, name), f"{folder}/{name}.ipynb"
            if not path.is_file():
                found.append(f"{label} is missing")
                continue
            book = nbformat.read(path, as_version=4)
            ran = [cell.execution_count is not None or bool(cell.outputs) for cell in book.cells if _runs(cell)]
            if book.metadata.get("labkit", {}).get("source") != fresh.metadata.labkit.source:
                found.append(f"{label} is older than solutions/{name}.py")
            elif _content(book) != _content(fresh):
                found.append(f"{label} was edited by hand, or built by another version of labkit/course.py")
            elif folder == "solutions" and not all(ran):
                found.append(f"{label} was not executed")
            elif folder == "notebooks" and any(ran):
                found.append(f"{label} has outputs")
    for folder in ("solutions", "notebooks"):
        for path in sorted((root / folder).glob("[0-9][0-9]_*.ipynb")):
            if not (root / "solutions" / f"{path.stem}.py").is_file():
                found.append(f"{folder}/{path.name} has no source in solutions/")
    return found


def _both(name: str, root: Path) -> tuple:
    """The two notebooks of a lab as its source has them now: solved (not executed) and learner's."""
    import jupytext
    import nbformat

    path = root / "solutions" / f"{name}.py"
    text = path.read_text(encoding="utf-8")
    stamp = hashlib.sha256(text.encode()).hexdigest()
    number, where = name[:2], f"solutions/{name}.py"
    solved, learner = [], []
    for position, cell in enumerate(jupytext.reads(text, fmt="py:percent").cells, 1):
        tags = cell.metadata.get("tags", [])
        kept = {"tags": tags} if tags else {}
        cell = nbformat.from_dict({**cell, "id": f"lab{number}-{position:03d}", "metadata": kept})
        blank = nbformat.from_dict(cell)
        if cell.cell_type == "code":
            blank.source = learner_source(cell.source, where)
            cell.source = solved_source(cell.source)
            if "reproducible" in tags:  # in the learner's copy there is no output to compare with
                cell.metadata.tags = [*tags, "nbval-check-output"]
        solved.append(cell)
        learner.append(blank)
    setup = nbformat.v4.new_code_cell(stamps.setup(name, root), id=f"lab{number}-setup")
    setup.metadata = {"tags": ["setup"], "cellView": "form", "jupyter": {"source_hidden": True}}
    first_code = next((i for i, cell in enumerate(learner) if cell.cell_type == "code"), len(learner))
    learner.insert(first_code, setup)  # the title comes first, not machinery
    learner.insert(0, nbformat.v4.new_markdown_cell(stamps.badge(name, root), id=f"lab{number}-badge"))
    return _book(solved, stamp), _book(learner, stamp)


def _book(cells: list, stamp: str):
    import nbformat

    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata = nbformat.from_dict({
        "kernelspec": KERNEL, "language_info": LANGUAGE, "labkit": {"source": stamp, "cells": _digest(book)},
    })
    return book


def _content(book) -> list:
    """What a hand edit would change: kinds, texts and tags of the cells, in order."""
    return [_cell(cell) for cell in book.cells]


def _cell(cell) -> list:
    return [cell.cell_type, cell.source, list(cell.metadata.get("tags", []))]


def _digest(book) -> str:
    return hashlib.sha256(json.dumps(_content(book)).encode()).hexdigest()


def _runs(cell) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip())


def _refuse_if_edited(path: Path) -> None:
    """A learner's answers, or an author's edit in the wrong place, are not to be built over."""
    import nbformat

    if path.is_file():
        book = nbformat.read(path, as_version=4)
        if book.metadata.get("labkit", {}).get("cells") != _digest(book):
            raise LabError("was edited since it was built, and building would overwrite that",
                           where=f"{path.parent.name}/{path.name}",
                           todo="Rename it to keep your answers, or delete it, then build again; "
                                f"a change to the lab itself belongs into solutions/{path.stem}.py")


def _execute(book, name: str, folder: Path, step: Callable[[str, int, int], None], kernels: Kernels | None = None,
             **settings: str) -> Result:
    """Run a notebook's cells in a fresh kernel; outputs go into `book`."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    started, number, heading, kernels = time.perf_counter(), 0, "", kernels or Kernels()
    total = sum(_runs(cell) for cell in book.cells)
    step(name, 0, total)

    def stopped(error: str) -> Result:
        return Result(name, time.perf_counter() - started, number, heading, textwrap.shorten(error, 300))

    with tempfile.TemporaryDirectory(prefix="labkit-") as scratch:
        env = kernel_environment(Path(scratch), **settings)
        client = NotebookClient(book, kernel_name="python3", resources={"metadata": {"path": str(folder)}},
                                timeout=None, record_timing=False, store_widget_state=False, coalesce_streams=True,
                                extra_arguments=["--IPKernelApp.log_level=ERROR"])  # no notes on its sockets
        try:
            # cell by cell, since client.execute() takes Ctrl-C for a dead kernel and would go on to the next lab
            with client.setup_kernel(env=env), kernels.having(client):
                for index, cell in enumerate(book.cells):
                    if cell.cell_type == "markdown":
                        heading = _heading(cell.source) or heading
                    elif kernels.stopped:
                        return stopped("stopped")
                    elif _runs(cell):
                        number += 1
                        client.execute_cell(cell, index)
                        step(name, number, total)
        except CellExecutionError as error:
            return stopped(f"{error.ename}: {error.evalue}")
        except DeadKernelError:
            return stopped("the kernel died; often the memory did not suffice")
    return Result(name, time.perf_counter() - started)


def _heading(markdown: str) -> str:
    """The last heading of a text cell, without its marks."""
    found = re.findall(r"^#+\s+(.+)$", markdown, flags=re.MULTILINE)
    return found[-1].strip() if found else ""


def _tidy(book):
    """An executed notebook without what belongs to the run alone: lines that said how far a training was, and widget
    views, which need a kernel that is gone by then."""
    for cell in book.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("data", {}).get("text/html") != ""]
        for output in cell.get("outputs", []):
            if output.get("data", {}).pop(WIDGET, None) is not None and set(output["data"]) <= {"text/plain"}:
                output["data"]["text/plain"] = WIDGET_TEXT
    book.metadata.language_info = LANGUAGE  # the kernel's own names the Python of this machine
    return book


def _write(book, path: Path) -> Path:
    """Write whole or not at all: a reader never meets half a notebook."""
    import nbformat

    nbformat.validate(book)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".ipynb.part")
    part.write_text(nbformat.writes(book) + "\n", encoding="utf-8", newline="\n")
    os.replace(part, path)
    return path


def _path(root: Path, folder: str, name: str) -> Path:
    return root / folder / f"{name}.ipynb"


@contextmanager
def _bar(show: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A line a lab, moved on by `step(name, done, total)` in code cells."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("cells")]
    with Progress(*columns, TimeElapsedColumn(), disable=not show) as bar:
        tasks: dict[str, int] = {}

        def step(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)

        yield step
