"""A search by hand: draw by factors, stop what is behind, look where it was good, and know how much is luck.

What lab 09 teaches to write, each beside Optuna's own in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median, stdev


def log_uniform(u: float, low: float, high: float) -> float:
    """A number from `low` to `high` such that each factor is as likely as any other; `u` is even from 0 to 1.

    >>> round(log_uniform(0.5, 1e-6, 1e-2), 8)
    0.0001
    """
    return math.exp(math.log(low) + u * (math.log(high) - math.log(low)))


def should_stop(looks: Mapping[int, float], others: Sequence[Mapping[int, float]], startup: int = 5) -> bool:
    """The median rule (Golovin et al., 2017): stop a trial whose best figure so far is below the median of the others.

    Args:
        looks: figures of the trial so far by the number of the look; more is better.
        others: the same of the trials that came to their end.
        startup: as long as fewer came to their end, none is stopped.
    """
    last = max(looks)
    seen = [other[last] for other in others if last in other]
    return len(others) >= startup and bool(seen) and max(looks.values()) < median(seen)


def density(x: float, centres: Sequence[float], width: float) -> float:
    """Mean of normal densities of this width around the centres."""
    scale = width * math.sqrt(2 * math.pi)
    return sum(math.exp(-0.5 * ((x - c) / width) ** 2) / scale for c in centres) / len(centres)


def tpe_pick(candidates: Sequence[float], good: Sequence[float], bad: Sequence[float], width: float) -> float:
    """The candidate with the largest l(x) / g(x): likely where it was good, unlikely where it was bad.

    Bergstra et al. (2011), equation 2 and what follows it; on a log scale hand over logarithms.
    """
    return max(candidates, key=lambda x: density(x, good, width) / density(x, bad, width))


def place_in_range(value: float, low: float, high: float, log: bool = False) -> float:
    """Where a value stands between its bounds, 0 to 1, on the scale that it was drawn on."""
    if log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def luck(figures: Sequence[float]) -> float:
    """The difference of two single runs that luck exceeds once in twenty times: 2 x sqrt(2) x standard deviation.

    Args:
        figures: of one setting, a seed each; at least two.
    """
    return 2 * math.sqrt(2) * stdev(figures)
