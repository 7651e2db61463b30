"""How `make test` runs the notebooks: nbval takes them cell by cell, here they get the environment of their kernels.

Stands beside the three folders that pytest walks: tests/, solutions/ and notebooks/.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from labkit import course

THREADS = "OMP_NUM_THREADS"  # two processes that both use all cores are several times as slow as two that share them
spent: Counter[str] = Counter()  # seconds by file
SLOWEST = 30  # files that the summary names
# Those that take longest, as the summary named them. They begin before all others, so that at the end no worker is left
# with a long one; whether a file is named here changes nothing but the time.
FIRST = """
test_hub.py test_cluster.py solutions/11 solutions/09 notebooks/11 notebooks/09 solutions/12 solutions/08 solutions/05
solutions/06 notebooks/12 test_capstone.py test_tiny_base.py solutions/03 test_diagnosis.py test_search.py solutions/02
test_olive.py test_training.py solutions/07 test_bad_input.py notebooks/02 solutions/01 notebooks/08 solutions/10
notebooks/05 test_processes.py test_classroom.py notebooks/06 notebooks/00 notebooks/10 solutions/13 solutions/00
""".split()


def pytest_configure(config: pytest.Config) -> None:
    """Workers (pytest-xdist) share the cores among them; they, and the kernels they start, inherit this."""
    if workers := getattr(config.option, "numprocesses", None):
        os.environ.setdefault(THREADS, str(max(1, (os.cpu_count() or 1) // workers)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of FIRST in their order, then the others in theirs (Python sorts so that equals stay in place)."""
    items.sort(key=lambda item: place(f"{item.path.parent.name}/{item.path.name}"))


def place(file: str) -> int:
    """Of folder/name, among FIRST: a notebook is named by its folder and number, a test by its file."""
    return next((i for i, first in enumerate(FIRST) if file.removeprefix("tests/").startswith(first)), len(FIRST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item):
    """A notebook's kernel starts with its first cell; it gets the environment that `labkit course` would give it."""
    if item.path.suffix != ".ipynb":
        return (yield)
    folder = item.path.parent.name
    # runs of their own: a study or a training that the other copy left, with other steps, is nothing to go on from
    scratch = Path(item.config._tmp_path_factory.getbasetemp()) / folder
    scratch.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in course.kernel_environment(scratch, **course.offline(item.path.stem, folder)).items():
            patch.setenv(name, value)
        return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    spent[report.nodeid.split("::")[0]] += report.duration


def pytest_terminal_summary(terminalreporter) -> None:
    parts: Counter[str] = Counter()
    for file, seconds in spent.items():
        parts[file.split("/")[0]] += seconds
    terminalreporter.write_line("time: " + " · ".join(f"{part} {seconds:.0f} s" for part, seconds in parts.items()))
    for file, seconds in spent.most_common(SLOWEST):
        terminalreporter.write_line(f"  {seconds:4.0f} s  {file}")
