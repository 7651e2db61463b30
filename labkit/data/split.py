"""Splits records or examples into train, validation and test so that the test stays honest.

Between `template` and `encode` on the data's way; works on records as well. Near-duplicates are `inspect`'s business.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from labkit.data.read import PAIRS, quiet
from labkit.errors import LabError

if TYPE_CHECKING:
    from datasets import Dataset

NAMES = ("train", "validation", "test")


def split(
    dataset: Dataset,
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    *,
    by: str | None = None,
    stratify: str | None = None,
    seed: int = 0,
) -> dict[str, Dataset]:
    """Train, validation and test; the same rows from the same seed, in the order of the dataset.

    Rows with the same prompt, but for case and spaces, always land in one split, and so do rows of one group: such
    rows make a *bundle*. Bundles are dealt out largest first, each to a split that has room for it and lacks its
    labels most. So every split has its share of rows to within the largest bundle (to the row, where no two rows
    belong together), unless it would be empty; and with `stratify` about its share of every label.

    Args:
        dataset: records or examples; the prompt is `prompt`, `messages` or the first column of a pair that
            `recognise` knows, else the whole row.
        shares: of train, validation and test; above 0, together 1.
        by: a column that names each row's group, such as `family`.
        stratify: a column of labels.
        seed: of the shuffle.

    Returns:
        {"train": ..., "validation": ..., "test": ...}, together all rows.

    Raises:
        LabError: shares that are none, a column that is not there, a row without group or label, or fewer bundles
            than splits, over all or for a label.
    """
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise LabError(f"the shares are {', '.join(map(str, shares))}",
                       expected="three shares above 0 that make 1, such as 0.8, 0.1, 0.1")
    bundles = _bundles(dataset, by)
    if len(bundles) < 3:
        kinds = f"groups of {by}" if by else "different prompts"
        raise LabError(f"{dataset.num_rows:,} rows make {len(bundles)} {kinds}", expected="at least 3, one a split",
                       todo="Add rows" + (" or split without the group" if by else ""))
    labels = _column(dataset, stratify) if stratify else [""] * dataset.num_rows
    counts = [Counter(labels[row] for row in bundle) for bundle in bundles]
    bearers = Counter(label for count in counts for label in count)
    if stratify and (label := min(bearers, key=lambda name: (bearers[name], name))) and bearers[label] < 3:
        raise LabError(f"the {stratify} {label!r} is in {bearers[label]} {'groups' if by else 'different prompts'}",
                       expected="at least 3, one a split", todo="Add rows of it, or leave it out")

    shuffled = random.Random(seed).sample(range(len(bundles)), len(bundles))
    order = sorted(shuffled, key=lambda i: (-len(bundles[i]), min(bearers[label] for label in counts[i])))
    home = _deal([len(bundles[i]) for i in order], [counts[i] for i in order], shares)
    parts: list[list[int]] = [[], [], []]
    for index, part in zip(order, home, strict=True):
        parts[part].extend(bundles[index])
    with quiet():
        return {name: dataset.select(sorted(rows)) for name, rows in zip(NAMES, parts, strict=True)}


def spread(dataset: Dataset, most: int) -> Dataset:
    """At most so many rows, evenly over all, so that a group whose rows stand together is there if it can be."""
    n = len(dataset)
    return dataset.select([i * n // most for i in range(most)]) if n > most else dataset


def label_shares(splits: Mapping[str, Dataset], column: str) -> list[dict[str, str | float]]:
    """The share of each label in each split, for comparison.

    Args:
        splits: name to dataset, as `split` returns them.
        column: the column of labels.

    Returns:
        A row a label, in order: {"label": ..., "train": 0.25, ...}, shares from 0 to 1.
    """
    counts = {name: Counter(_column(part, column)) for name, part in splits.items()}
    labels = sorted({label for count in counts.values() for label in count})
    return [{"label": label} | {name: count[label] / count.total() for name, count in counts.items()}
            for label in labels]


def _deal(sizes: list[int], counts: list[Counter], shares: Sequence[float]) -> list[int]:
    """The split (0, 1, 2) of each bundle: sizes in falling order, `counts` its rows per label."""
    total: Counter = Counter()
    for count in counts:
        total.update(count)
    room, taken, home = _targets(sum(sizes), shares), [0, 0, 0], []
    have = {label: [0, 0, 0] for label in total}
    for number, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        choices = [part for part in range(3) if room[part] >= size] or [room.index(max(room))]
        if len(sizes) - number == taken.count(0):  # the last bundles go where there is none yet
            choices = [part for part in range(3) if not taken[part]]

        def lack(part: int, count: Counter = count) -> float:
            """How much of its share of these labels a split still lacks, from 1 (all of it) down."""
            return sum(rows * (1 - have[label][part] / (shares[part] * total[label])) for label, rows in count.items())

        part = max(choices, key=lambda part: (round(lack(part), 9), shares[part]))
        home.append(part)
        room[part] -= size
        taken[part] += 1
        for label, rows in count.items():
            have[label][part] += rows
    return home


def _targets(rows: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers of rows by shares: rounded down, the rest to the largest remainders."""
    exact = [share * rows for share in shares]
    whole = [int(value + 1e-9) for value in exact]
    for index in sorted(range(3), key=lambda i: whole[i] - exact[i])[: rows - sum(whole)]:
        whole[index] += 1
    return whole


def _bundles(dataset: Dataset, by: str | None) -> list[list[int]]:
    """Row numbers that must stay together, in order of their first rows (union-find over prompts and groups)."""
    parent = list(range(dataset.num_rows))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    keys = [_prompts(dataset)] + ([iter(_column(dataset, by))] if by else [])
    for column in keys:
        first: dict[str, int] = {}
        for row, key in enumerate(column):
            one, other = root(first.setdefault(key, row)), root(row)
            parent[max(one, other)] = min(one, other)
    bundles: dict[int, list[int]] = {}
    for row in range(dataset.num_rows):
        bundles.setdefault(root(row), []).append(row)
    return list(bundles.values())


def _prompts(dataset: Dataset) -> Iterator[str]:
    """Each row's prompt, alike in case and spaces."""
    known = ("prompt", "messages", *(pair[0] for pair in PAIRS))
    name = next((name for name in known if name in dataset.column_names), None)
    names = [name] if name else [name for name in dataset.column_names if name != "line"]
    for batch in dataset.with_format(None).select_columns(names).iter(1000):
        for values in zip(*batch.values(), strict=True):
            if name == "messages":
                values = values[0][:-1]
            yield " ".join(str(values if name in (None, "messages") else values[0]).casefold().split())


def _column(dataset: Dataset, name: str) -> list[str]:
    if name not in dataset.column_names:
        raise LabError(f"there is no column {name!r}", expected=", ".join(dataset.column_names),
                       todo="Name one of these")
    values = dataset[name][:]
    if None in values:
        raise LabError(f"the row has no {name}", where=f"row {values.index(None) + 1}",
                       todo="Fill it in, or leave the row out")
    return [str(value) for value in values]
