"""Whether a learner may begin anywhere: each section of a lab alone in an empty namespace, each of its cells twice.

    python tests/begin_anywhere.py 03 04       # named labs; all of them where none is named

It runs the learner's copies with short trainings, one kernel a lab, the namespace emptied before each section, and ends
with code 1 if a section needs something that it does not load itself. test_sections.py runs one lab of it.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from labkit.course import kernel_environment, names
from labkit.profiles import COURSE
from labkit.sections import sections

SETTINGS = {"LABKIT_PROFILE": "tiny", "HF_HUB_OFFLINE": "1", "LABKIT_STEPS": "3"}


@dataclass(frozen=True)
class Stop:
    """A cell that failed: its lab, the heading above it, whether at its first or second run, and the error."""

    lab: str
    heading: str
    run: int
    source: str
    error: str

    def __str__(self) -> str:
        first = self.source.strip().splitlines()[0]
        return f"{self.lab}, under \"{self.heading}\", run {self.run} of the cell {first!r}: {self.error}"


def begin_anywhere(name: str, times: int = 2) -> list[Stop]:
    """Run every section of a lab's learner's copy by itself, each cell `times` times in a row."""
    book = nbformat.read(COURSE / "notebooks" / f"{name}.ipynb", as_version=4)
    stops = []
    with tempfile.TemporaryDirectory(prefix="labkit-") as scratch:
        client = NotebookClient(book, kernel_name="python3", timeout=600, store_widget_state=False,
                                resources={"metadata": {"path": str(COURSE / "notebooks")}})
        # without the real model, which takes minutes
        settings = SETTINGS | {"LABKIT_CACHE": str(Path(scratch) / "cache")}
        with client.setup_kernel(env=kernel_environment(Path(scratch), **settings)):
            for heading, sources in sections((cell.cell_type, cell.source) for cell in book.cells):
                client.execute_cell(nbformat.v4.new_code_cell("%reset -f"), 0)
                for source in sources:
                    if stop := _run(client, source, times, name, heading):
                        stops.append(stop)
                        break
    return stops


def _run(client: NotebookClient, source: str, times: int, name: str, heading: str) -> Stop | None:
    for number in range(1, times + 1):
        client.reset_execution_trackers()      # a display of an earlier run may still be updated, and has no place here
        try:
            client.execute_cell(nbformat.v4.new_code_cell(source), 0)
        except CellExecutionError as error:
            return Stop(name, heading, number, source, f"{error.ename}: {error.evalue}")
    return None


def main(words: list[str]) -> int:
    """Print what stops; 1 if anything does."""
    amiss = 0
    for name in names(words):
        stops = begin_anywhere(name)
        amiss += len(stops)
        print(name, "each section stands alone" if not stops else "", *stops, sep="\n  ", flush=True)
    return 1 if amiss else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
