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


def pytest_configure(config: pytest.Config) -> None:
    """Workers (pytest-xdist) share the cores among them; they, and the kernels they start, inherit this."""
    if workers := getattr(config.option, "numprocesses", None):
        os.environ.setdefault(THREADS, str(max(1, (os.cpu_count() or 1) // workers)))


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
