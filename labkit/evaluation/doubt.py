"""How much a difference is worth: two models on the same rows, how many rows it takes, many comparisons at once.

Takes one figure a row for each of two models, right or wrong or any number; gives differences with intervals and p.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labkit.errors import LabError


@dataclass(frozen=True)
class Difference:
    """The mean of b minus that of a on the same rows, its 95 % interval, and p for "there is none"."""

    value: float
    low: float
    high: float
    p: float
    rows: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{100 * self.value:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], groups: Sequence | None = None, draws: int = 4000, seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """How much better b is than a, where both answered the same rows: rows (or groups) are drawn, pairs stay together.

    What makes a row hard for both models falls out of the difference, so it is known far better than either score.

    Args:
        a, b: one figure a row, in the same order.
        groups: of each row, as in `interval`: whole groups are drawn.
        level: of the interval.

    Returns:
        The Difference; `p` is two-sided, twice the share of draws on the far side of zero, and never below 1/draws.
        Where no row differs, the interval is zero wide and p is 1: these rows cannot tell the two apart.

    Raises:
        LabError: unequal lengths, or no rows.
    """
    x, y = np.asarray(a, float), np.asarray(b, float)
    if x.shape != y.shape or not len(x):
        raise LabError(f"{len(x)} and {len(y)} figures", where="a, b", expected="one each for the same rows",
                       todo="Score both models on the same dataset, in the same order")
    d = y - x
    keys = np.arange(len(d)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    sums, sizes = np.bincount(keys, d), np.bincount(keys)
    rng, means = np.random.default_rng(seed), np.empty(draws)
    for start in range(0, draws, 500):  # in parts: 4,000 draws of 10,000 rows at once would be 640 MB
        drawn = rng.integers(0, len(sums), (min(500, draws - start), len(sums)))
        means[start : start + len(drawn)] = sums[drawn].sum(1) / sizes[drawn].sum(1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    p = min(1.0, 2 * max(min((means <= 0).mean(), (means >= 0).mean()), 0.5 / draws))
    return Difference(float(d.mean()), float(low), float(high), float(p), len(d))


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> tuple[int, int, float]:
    """McNemar's exact test (1947): only rows that one model has right and the other wrong say anything.

    Args:
        a, b: whether each row was right. Rows must be independent: of a family take one, or use `paired_bootstrap`.

    Returns:
        How many rows a alone has right, how many b alone, and the two-sided p of such a split by a fair coin.
    """
    from scipy.stats import binomtest

    only_a = sum(bool(x) and not y for x, y in zip(a, b, strict=True))
    only_b = sum(bool(y) and not x for x, y in zip(a, b, strict=True))
    differ = only_a + only_b
    return only_a, only_b, float(binomtest(only_a, differ, 0.5).pvalue) if differ else 1.0


def rows_needed(
    difference: float, share: float, differ: float | None = None, power: float = 0.8, alpha: float = 0.05
) -> int:
    """How many independent test rows show a difference of two accuracies, most of the time.

    Args:
        difference: between the two accuracies, 0.02 for two points.
        share: the lower accuracy.
        differ: the share of rows on which exactly one of the two is right. With it the models answer the same rows
            (Connor, 1987, for McNemar's test); without it, two sets of rows.
        power: how often it is to be seen. alpha: how often chance may look like it.

    Raises:
        LabError: a share out of range, or `differ` smaller than the difference.
    """
    from scipy.stats import norm

    if not 0 < difference < 1 or not 0 <= share <= 1 - difference:
        raise LabError(f"a difference of {difference:g} above {share:g}", where="rows_needed",
                       expected="shares between 0 and 1 whose sum is at most 1")
    z_alpha, z_power = norm.ppf(1 - alpha / 2), norm.ppf(power)
    if differ is not None:
        if differ < difference:
            raise LabError(f"the models differ on {differ:g} of the rows, less than the difference of {difference:g}",
                           where="differ", expected=f"at least {difference:g}")
        n = (z_alpha * math.sqrt(differ) + z_power * math.sqrt(differ - difference**2)) ** 2 / difference**2
        return math.ceil(n)
    other = share + difference
    middle = (share + other) / 2
    n = (z_alpha * math.sqrt(2 * middle * (1 - middle))
         + z_power * math.sqrt(share * (1 - share) + other * (1 - other))) ** 2 / difference**2
    return math.ceil(n)


def holm(p: Mapping[str, float] | Sequence[float]):
    """p values made good for having looked several times (Holm, 1979): compare them with 0.05 as if there were one.

    Args:
        p: by name, or in a row.

    Returns:
        The same form, each at least as large as before.

    >>> [round(q, 3) for q in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    if isinstance(p, Mapping):
        return dict(zip(p, holm(list(p.values())), strict=True))
    adjusted, so_far = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        so_far = max(so_far, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = so_far
    return adjusted
