"""A small job in one process, which what trains in several is compared with."""

from __future__ import annotations

from pathlib import Path

from test_bad_input import cases, write_csv

from labkit.job import run_job
from labkit.training import Run

# In bfloat16 the order of a sum would show at once; in float32 roundings grow with the learning rate.
SETTINGS = {"model": "tiny", "steps": 45, "batch_size": 5, "learning_rate": 5e-4, "fp32": True}
NEAR = 1e-4


def few_rows(folder: Path) -> Path:
    return write_csv(folder / "rows.csv", cases(48))


def in_one_process(rows: Path) -> Path:
    """The folder of the job, beside its rows."""
    return run_job(rows, out=rows.with_name("alone"), progress=False, **SETTINGS).folder


def losses(folder: Path) -> list[float]:
    return [point["loss"] for point in Run.read(folder).curve]
