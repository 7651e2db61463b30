"""Figures with their doubt: a Score is a number, its 95 % interval, and the rows behind it.

Takes truth and answers, one of each a row; the intervals know that rows come in groups (tickets of one family).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labkit.errors import LabError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Score:
    """A figure, its 95 % interval, and the number of rows behind it; a share between 0 and 1 unless `form` says."""

    metric: str
    value: float
    low: float
    high: float
    rows: int
    form: str = ".1%"  # how the three figures are written

    def above(self, other: Score) -> bool:
        """Whether the intervals do not touch, so that "better than" may be said."""
        return self.low > other.high

    def __str__(self) -> str:
        return f"{self.value:{self.form}} [{self.low:{self.form}}, {self.high:{self.form}}]"


def wilson(share: float, rows: int) -> tuple[float, float]:
    """95 % interval of a share of independent yes/no rows (Wilson, 1927).

    >>> "%.4f %.4f" % wilson(0.5, 10)
    '0.2366 0.7634'
    """
    z = 1.959964
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return max(0.0, middle - half), min(1.0, middle + half)


def interval(
    values: Sequence[float], groups: Sequence | None = None, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a mean: Wilson's for yes/no rows, a bootstrap over groups where rows come in groups.

    Tickets of one family are nearly the same ticket: six right answers on one frame are one piece of evidence, so
    whole groups are drawn, not rows. Where all rows are right, or all wrong, every draw is alike and a bootstrap would
    claim certainty: then it is Wilson's interval with one vote a group.

    Args:
        values: one number a row, 0 to 1.
        groups: the group of each row; None when rows are independent.
    """
    x = np.asarray(values, float)
    if not len(x):
        raise LabError("no rows to score", expected="at least one")
    keys = np.arange(len(x)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if (groups is None and set(np.unique(x)) <= {0.0, 1.0}) or x.mean() in (0.0, 1.0):
        return wilson(float(x.mean()), int(keys.max()) + 1)
    sums, sizes = np.bincount(keys, x), np.bincount(keys)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def mean_score(metric: str, values: Sequence[float], groups: Sequence | None = None) -> Score:
    """The mean of one figure a row, with its interval."""
    low, high = interval(values, groups)
    return Score(metric, float(np.mean(values)), low, high, len(values))


def accuracy(truth: Sequence[str], said: Sequence[str], groups: Sequence | None = None) -> Score:
    """Share of rows whose answer is the right one."""
    return mean_score("accuracy", [float(a == b) for a, b in zip(truth, said, strict=True)], groups)


def macro_f1(
    truth: Sequence[str], said: Sequence[str], groups: Sequence | None = None, draws: int = 500, seed: int = 0
) -> Score:
    """Mean F1 over the classes of `truth`, with a bootstrap interval over rows, or over groups."""
    names = sorted(set(truth))
    t = np.array([names.index(x) for x in truth])
    s = np.array([names.index(x) if x in names else len(names) for x in said])
    keys = np.arange(len(t)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = keys.max() + 1
    hit, asked, answered = (
        np.zeros((count, len(names))),
        np.zeros((count, len(names))),
        np.zeros((count, len(names) + 1)),
    )
    np.add.at(hit, (keys[t == s], t[t == s]), 1)
    np.add.at(asked, (keys, t), 1)
    np.add.at(answered, (keys, s), 1)

    def f1(weights: np.ndarray) -> np.ndarray:
        true = weights @ asked
        both = true + weights @ answered[:, :-1]
        each = 2 * (weights @ hit) / np.maximum(both, 1)
        drawn = true > 0  # a class that a draw leaves out has no F1 there
        return np.where(drawn, each, 0).sum(-1) / np.maximum(drawn.sum(-1), 1)

    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)
    value = float(f1(np.ones(count)))
    # All right or all wrong: every draw is alike, see `interval`.
    low, high = wilson(value, int(count)) if value in (0.0, 1.0) else np.quantile(f1(weights), [0.025, 0.975])
    return Score("macro-F1", value, float(low), float(high), len(t))


def per_class(truth: Sequence[str], said: Sequence[str]) -> list[dict]:
    """Precision, recall and F1 of each class, and how many rows it has."""
    from sklearn.metrics import precision_recall_fscore_support

    names = sorted(set(truth))
    figures = precision_recall_fscore_support(truth, said, labels=names, zero_division=0)
    return [
        {"class": name, "precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
        for name, p, r, f, n in zip(names, *figures, strict=True)
    ]


def rouge_l(truth: Sequence[str], said: Sequence[str], groups: Sequence | None = None) -> Score:
    """Mean ROUGE-L F1 (Lin, 2004) of answers against references, by the package rouge-score."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    return mean_score(
        "ROUGE-L", [scorer.score(a, b)["rougeL"].fmeasure for a, b in zip(truth, said, strict=True)], groups
    )


def bleu(truth: Sequence[str], said: Sequence[str], groups: Sequence | None = None, draws: int = 500,
         seed: int = 0) -> Score:
    """Corpus BLEU as a share (sacrebleu's figure / 100), with a bootstrap interval over rows, or over groups.

    BLEU adds up counts over all rows before it divides, so the counts of each row are drawn, not a figure a row.
    """
    from labkit.scratch.metrics import bleu_counts, bleu_of

    if not len(truth):
        raise LabError("no rows to score", expected="at least one")
    counts = np.array([bleu_counts(a, b) for a, b in zip(truth, said, strict=True)], float)
    keys = np.arange(len(counts)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    sums = np.zeros((keys.max() + 1, counts.shape[1]))
    np.add.at(sums, keys, counts)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    low, high = np.quantile([bleu_of(sums[d].sum(0)) / 100 for d in drawn], [0.025, 0.975])
    return Score("BLEU", bleu_of(counts.sum(0)) / 100, float(low), float(high), len(truth))


def json_object(text: str) -> dict | None:
    """The JSON object that a text is, or None."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _fields_f1(want: dict, got: dict) -> float:
    """F1 of one row: twice the hits over what was asked and what was answered."""
    asked = sum(value is not None for value in want.values())
    answered = sum(value is not None for value in got.values())
    hits = sum(value is not None and got.get(key) == value for key, value in want.items())
    return 2 * hits / (asked + answered) if asked + answered else 1.0


def entity_row_f1(truth: Sequence[str], said: Sequence[str]) -> list[float]:
    """F1 over the fields of each row; truth and answers are JSON objects as text, as in `entity_scores`."""
    return [_fields_f1(json.loads(a), json_object(b) or {}) for a, b in zip(truth, said, strict=True)]


def entity_scores(truth: Sequence[str], said: Sequence[str], groups: Sequence | None = None) -> list[Score]:
    """Extraction as JSON: whether it parses, F1 over all fields, and the share of exact values of each field.

    Args:
        truth: JSON objects as text; a field that is null is not there.
        said: what the model wrote; what is no JSON object counts as empty.
        groups: the group of each row.

    Returns:
        "parses", "entity F1" and one "exact ..." for each field that any row has.
    """
    wanted, read = [json.loads(text) for text in truth], [json_object(text) for text in said]
    parses, found = [float(value is not None) for value in read], [value or {} for value in read]
    keys = list(dict.fromkeys(key for row in wanted for key in row))
    f1 = [_fields_f1(want, got) for want, got in zip(wanted, found, strict=True)]
    scores = [mean_score("parses", parses, groups), mean_score("entity F1", f1, groups)]
    for key in keys:
        rows = [i for i, want in enumerate(wanted) if want.get(key) is not None]
        if not rows:
            continue
        exact = [float(found[i].get(key) == wanted[i][key]) for i in rows]
        scores.append(mean_score(f"exact {key}", exact, None if groups is None else [groups[i] for i in rows]))
    return scores


def groups_of(examples: Dataset) -> list[str] | None:
    """The `family` of each row where there is one, for intervals that know that rows come in groups."""
    return list(examples["family"]) if "family" in examples.column_names else None


def class_f1(
    truth: Sequence[str], said: Sequence[str], name: str, groups: Sequence | None = None,
    before: Sequence[str] | None = None, draws: int = 1000, seed: int = 0,
) -> Score:
    """F1 of one class, or with `before` (other answers to the same rows) by how much `said` is above them.

    The interval is a bootstrap over rows, or over groups; a gain is drawn in pairs, and is real where it excludes 0.
    """
    keys = np.arange(len(truth)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    true, count = np.asarray(truth) == name, keys.max() + 1

    def f1(answers: Sequence[str], weights: np.ndarray) -> np.ndarray:
        given = np.asarray(answers) == name
        hit, both = (np.bincount(keys, v, count) for v in (true & given, true.astype(int) + given))
        return 2 * (weights @ hit) / np.maximum(weights @ both, 1)

    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    values = f1(said, drawn) - (0 if before is None else f1(before, drawn))
    ones = np.ones((1, count))
    value = float((f1(said, ones) - (0 if before is None else f1(before, ones)))[0])
    low, high = np.quantile(values, [0.025, 0.975])
    return Score("F1" if before is None else "gain in F1", value, float(low), float(high), len(true))
