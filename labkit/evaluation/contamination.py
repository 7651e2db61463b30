"""Test rows that the training has seen: found by the runs of words that they share.

Takes texts of training and test; gives, for each test text, the share of it that stands in one training text.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from labkit.errors import LabError


@dataclass(frozen=True)
class Overlap:
    """How much of a test text one training text holds: `share` of its runs of words (0 to 1), and which text it is."""

    share: float
    row: int | None


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation; digits stay, letters of any script."""
    return re.findall(r"\w+", text.lower())


def ngram_overlap(train: Sequence[str], test: Sequence[str], n: int = 8) -> list[Overlap]:
    """For each test text the training text that shares most of its runs of n words.

    A text shorter than n words is one run of its own length.

    Args:
        n: words in a run; 8 to 13 are usual (Brown et al., 2020, appendix C, took 13). Short runs find templates and
            idioms too, long ones miss what was reworded.

    Raises:
        LabError: n is no positive number.
    """
    if n < 1:
        raise LabError(f"runs of {n} words", where="n", expected="a whole number from 1 on")
    asked = [_runs(words(text), n) for text in test]
    wanted = {run for runs in asked for run in runs}
    holders: dict[tuple, list[int]] = defaultdict(list)
    lengths = {len(run) for run in wanted}
    for row, text in enumerate(train):
        its = words(text)
        for run in {run for length in lengths for run in _grams(its, length)} & wanted:
            holders[run].append(row)
    found = []
    for runs in asked:
        by_row = Counter(row for run in runs for row in holders.get(run, ()))
        row, hits = min(by_row.items(), key=lambda item: (-item[1], item[0]), default=(None, 0))
        found.append(Overlap(hits / len(runs) if runs else 0.0, row))
    return found


def _runs(its: list[str], n: int) -> set[tuple[str, ...]]:
    return _grams(its, min(n, len(its)))


def _grams(its: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(its[i : i + n]) for i in range(len(its) - n + 1)} if n else set()
