"""What is wrong with labels: missing, misspelt, rare; and whether the splits of a dataset have them in equal shares.

Used by `inspect`, which says it in sentences, and by `clean`, which writes labels anew.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labkit.data._tables import said
from labkit.data.read import LONGEST_LABEL, MOST_LABELS
from labkit.errors import LabError

if TYPE_CHECKING:
    from datasets import Dataset

BLANK = ("", "-", "?", "n/a", "nan", "null")  # what exports write where there is nothing
SELDOM = 10  # a misspelling is at least so many times rarer than what it stands for, and so is a rare label
COVERED = 0.8  # share of the rows that the most frequent values hold, where a column holds labels


@dataclass(frozen=True)
class Labels:
    """The labels of a dataset as they are meant: `known` in order, and what each other value probably stands for."""

    known: tuple[str, ...] = ()
    meant: Mapping[str, str | None] = field(default_factory=dict)

    def resolve(self, value: str | None) -> str | None:
        """The label that a cell means; itself where nothing better is known."""
        return None if value is None else self.meant.get(value) or value


def label_texts(dataset: Dataset, column: str, known: Sequence[str] | None, where: str) -> list[str | None]:
    """A column of labels as texts, None where there is none.

    Raises:
        LabError: a cell holds a fraction, a list or an object.
    """
    feature = dataset.features[column]
    blank = set(BLANK) - {fold(name) for name in known or ()}
    names, texts = getattr(feature, "names", None), []
    for row, value in enumerate(dataset.with_format(None)[column][:]):
        if names and isinstance(value, int):
            value = names[value] if value >= 0 else None
        if isinstance(value, float):
            if math.isnan(value):
                value = None
            elif value.is_integer():
                value = int(value)  # pandas writes 1 as 1.0 where a cell of the column is empty
            else:
                raise LabError(f"{column} holds fractions, such as {value}", where=f"{where}, row {row}",
                               expected="names of labels", todo="Name another column of labels")
        if value is not None and not isinstance(value, str | int):
            raise LabError(f"{column} holds {said(value)}", where=f"{where}, row {row}", expected="names of labels",
                           todo="Name another column of labels")
        texts.append(None if value is None or fold(str(value)) in blank else str(value))
    return texts


def fold(value: str) -> str:
    """A label but for case and spaces."""
    return " ".join(value.casefold().split())


def are_labels(values: Sequence[str | None], sure: bool) -> bool:
    """Whether a column holds labels, not free text: few short values, each again and again.

    Args:
        values: the column; None where a row has none.
        sure: it is called "label" or was named as such, so that few rows are no reason to doubt.
    """
    counts = Counter(value for value in values if value is not None)
    often = counts.most_common(MOST_LABELS)
    if any(len(value) > LONGEST_LABEL or "\n" in value for value, _ in often):
        return False
    return sum(count for _, count in often) >= COVERED * counts.total() and (sure or counts.total() >= 2 * len(counts))


def understand_labels(values: Sequence[str | None], known: Sequence[str] | None) -> Labels:
    """Which labels there are, and what misspelt ones mean.

    A value is misspelt where it differs from a label in case or spaces only, or else looks like one label and no
    other. Without a list, labels are what occurs; what looks like another label must then be ten times rarer.

    Args:
        values: all cells; None where a row has none.
        known: the right labels, or None.
    """
    counts = Counter(value for value in values if value is not None)
    if known is not None:
        folded = {fold(label): label for label in reversed(known)}
        right = set(known)
        return Labels(tuple(dict.fromkeys(known)),
                      {value: _nearest(value, folded) for value in counts if value not in right})
    folded, often, waiting = {}, {}, deque()  # folded label: label; often: those frequent enough to be meant
    meant: dict[str, str | None] = {}
    for value in sorted(counts, key=lambda value: (-counts[value], value)):
        while waiting and counts[waiting[0]] >= SELDOM * counts[value]:
            label = waiting.popleft()
            often[fold(label)] = label
        if guess := folded.get(fold(value)) or _nearest(value, often):
            meant[value] = guess
        else:
            folded[fold(value)] = value
            waiting.append(value)
    return Labels(tuple(sorted(folded.values())), meant)


def _nearest(value: str, folded: Mapping[str, str]) -> str | None:
    """The one known label that a value is a slip away from; None where there is none, or two are as near.

    A slip is a letter too many, too few, another, or two that changed places: one in a short label, two in a long one.

    Args:
        value: a cell. folded: known labels by what they are but for case and spaces.
    """
    short = fold(value)
    if short in folded or len(short) < 3 or not folded:
        return folded.get(short)
    from rapidfuzz.distance import OSA
    from rapidfuzz.process import extract

    near = extract(short, folded.keys(), scorer=OSA.distance, score_cutoff=1 if len(short) < 6 else 2, limit=None)
    near = [(folded[text], distance) for text, distance, _ in near if _digits(text) == _digits(short)]
    if not near or (len(near) > 1 and near[0][1] == near[1][1]):
        return None
    return near[0][0]


def _digits(value: str) -> str:
    return "".join(sign for sign in value if sign.isdigit())


def rare(values: Sequence[str | None], labels: Labels) -> dict[str, int]:
    """Known labels with one row, or less than a tenth of an even share: label to rows; those without a row as well."""
    counts = Counter(labels.resolve(value) for value in values if value is not None)
    even = sum(counts[label] for label in labels.known) / max(1, len(labels.known))
    return {label: counts[label] for label in labels.known if counts[label] < max(2, even / SELDOM) and even >= 2}


def compare(counts: Mapping[str, Counter], known: Sequence[str]) -> tuple[tuple[dict[str, Any], ...], str]:
    """The share of each label in each split, and a sentence that says whether they differ.

    Args:
        counts: split to rows per label.
        known: the labels to compare.

    Returns:
        A row a label, {"label": "joy", "train": 0.17, "test": 0.2}; and the sentence, "" with a single split. The
        test is Pearson's chi-square on the table of counts, at the level of 5 %.
    """
    totals = {split: sum(count[label] for label in known) for split, count in counts.items()}
    shares = tuple({"label": label} | {split: count[label] / max(1, totals[split]) for split, count in counts.items()}
                   for label in known)
    used = [split for split in counts if totals[split]]
    present = [label for label in known if any(counts[split][label] for split in used)]
    if len(used) < 2 or len(present) < 2:
        return shares, ""
    from scipy.stats import chi2_contingency

    test = chi2_contingency([[counts[split][label] for label in present] for split in used], correction=False)
    which = " and ".join(used) if len(used) == 2 else f"{', '.join(used[:-1])} and {used[-1]}"
    if test.expected_freq.min() < 5:
        return shares, (f"There are too few rows to say whether the label shares of {which} differ: by chance alone a "
                        "label would have less than 5 rows in a split.")
    figures = f"chi-square {test.statistic:.1f}, {test.dof} degrees of freedom, p {_p(test.pvalue)}"
    if test.pvalue >= 0.05:
        return shares, f"The label shares of {which} do not differ by more than chance allows ({figures})."
    gap = max(shares, key=lambda row: max(row[split] for split in used) - min(row[split] for split in used))
    low, high = (pick(used, key=lambda split: gap[split]) for pick in (min, max))
    return shares, (f"The label shares of {which} differ by more than chance allows ({figures}); the widest gap is "
                    f"{gap['label']}: {gap[low]:.1%} in {low}, {gap[high]:.1%} in {high}.")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
