"""The shipped tickets as one task with its three splits, ready to learn from and to be scored on.

Over `read` and `template` on the data's way: every lab that trains on the tickets begins here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.data.read import find, read_file
from labkit.data.split import spread
from labkit.data.template import LABELS, PROMPTS, ticket_examples
from labkit.errors import LabError
from labkit.profiles import limited, named

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Task:
    """A task: what is asked, what may be answered, and examples of it.

    Learn from `train`, choose settings on `validation`, and open `test` when everything is chosen. `labels` is empty
    where the answer is free text. Examples have prompt, completion, text, family, id, and label where there are labels.
    """

    name: str
    template: str
    labels: tuple[str, ...]
    train: Dataset
    validation: Dataset
    test: Dataset


def ticket_task(name: str, profile: str | None = None) -> Task:
    """One of the tasks on the shipped tickets.

    Args:
        name: "tone", "intent", "entities", "summary" or "reply".
        profile: None is the current one; a slow model is scored on every n-th row (`Profile.test_every`).
            LABKIT_ROWS caps the rows of validation and test from outside.

    Raises:
        LabError: there is no such task.
    """
    every = named(profile).test_every
    splits = {split: _examples(name, *_file(split)) for split in ("train", "validation", "test")}
    for split in ("validation", "test"):
        splits[split] = to_score(splits[split], every)
    return Task(name, PROMPTS[name], LABELS.get(name, ()), **splits)


def _file(split: str) -> tuple[Path, str, int]:
    """Path and name of a split's file, and when it was last written."""
    path, where = find(f"tickets/{split}")
    return path, where, path.stat().st_mtime_ns


@lru_cache(maxsize=16)
def _examples(name: str, path: Path, where: str, written: int) -> Dataset:
    """A split of a task; kept, since labs ask for the same one many times and nobody writes to it."""
    return ticket_examples(read_file(path, where), name)


def to_score(rows: Dataset, every: int = 1) -> Dataset:
    """Every n-th row, and of these at most as many as LABKIT_ROWS allows, evenly over all."""
    rows = rows.select(range(0, len(rows), every))
    return spread(rows, limited(len(rows), "LABKIT_ROWS", "rows"))


def with_rare(examples: Dataset, label: str, keep: int) -> Dataset:
    """The examples without all but the first `keep` of one label: a slice in which it is rare.

    Raises:
        LabError: fewer than `keep` examples have the label.
    """
    from datasets import Dataset

    places = [i for i, found in enumerate(examples["label"]) if found == label]
    if not 0 < keep <= len(places):
        raise LabError(f"{len(places)} examples are labelled {label!r}", where="keep",
                       expected=f"a number from 1 to {len(places)}, not {keep}" if places else "a label that occurs")
    drop = set(places[keep:])
    return Dataset.from_list([row for i, row in enumerate(examples.to_list()) if i not in drop])
