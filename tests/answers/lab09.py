"""Right and wrong answers to lab 09's exercises."""

import math
import statistics

from labkit.scratch import search
from labkit.scratch.search import density


def too_narrow(value, low, high, log, margin, scale=None, names=("lower", "higher", "fits")):
    log = log if scale is None else scale(low)
    spot = search.place_in_range(value, low, high, log)
    return names[0] if spot < margin else names[1] if spot > 1 - margin else names[2]


REFERENCES = {
    "log_uniform": search.log_uniform,
    "too_narrow": too_narrow,
    "should_stop": search.should_stop,
    "tpe_pick": search.tpe_pick,
    "luck": search.luck,
}


def stop(looks, others, startup=5, own=lambda looks: max(looks.values()), at=max, middle=statistics.median,
         strict=True, wait=True, missing=None, turned=False):
    """The median rule with one thing wrong with it."""
    last = at(looks)
    seen = [other[last] if missing is None else other.get(last, missing) for other in others
            if missing is not None or last in other]
    if wait is not False and len(others) < (startup if wait is True else wait):
        return turned
    mine = own(looks)
    return bool(mine < middle(seen) if strict else mine <= middle(seen)) != turned


WRONG = {
    "log_uniform": [
        lambda u, low, high: low + u * (high - low),
        lambda u, low, high: high * (low / high) ** u,
        lambda u, low, high: math.log10(low) + u * math.log10(high / low),
        lambda u, low, high: math.log(low) + u * math.log(high / low),
        lambda u, low, high: math.exp(math.log10(low) + u * math.log10(high / low)),
        lambda u, low, high: (high / low) ** u,
        lambda u, low, high: low**u * high,
        lambda u, low, high: None,
    ],
    "too_narrow": [
        lambda *a: too_narrow(*a, scale=lambda low: False),
        lambda *a: too_narrow(*a, scale=lambda low: low > 0),
        lambda *a: too_narrow(*a, names=("higher", "lower", "fits")),
        lambda *a: "fits",
        lambda value, low, high, log, margin: too_narrow(value, low, high, log, 2 * margin),
        lambda *a: {"lower": "fits"}.get(too_narrow(*a), too_narrow(*a)),
        lambda *a: {"higher": "fits"}.get(too_narrow(*a), too_narrow(*a)),
        lambda *a: too_narrow(*a) == "fits",
        lambda *a: too_narrow(*a, names=("low", "high", "fits")),
    ],
    "should_stop": [
        lambda looks, others, startup=5: stop(looks, others, startup, turned=True),
        lambda looks, others, startup=5: stop(looks, others, startup, wait=False),
        lambda looks, others, startup=5: stop(looks, others, startup, wait=5),
        lambda looks, others, startup=5: stop(looks, others, startup, middle=statistics.mean),
        lambda looks, others, startup=5: stop(looks, others, startup, strict=False),
        lambda looks, others, startup=5: stop(looks, others, startup, own=lambda looks: looks[max(looks)]),
        lambda looks, others, startup=5: stop(looks, others, startup, at=min),
        lambda looks, others, startup=5: len(others) >= startup and max(looks.values()) < statistics.median(
            other[max(other)] for other in others),
        lambda looks, others, startup=5: len(others) >= startup and max(looks.values()) < statistics.median(
            other[max(looks)] for other in others),
        lambda looks, others, startup=5: False,
        lambda looks, others, startup=5: None,
        lambda looks, others, startup=5: statistics.median(other.get(1, 0) for other in others),
    ],
    "tpe_pick": [
        lambda c, good, bad, w: min(c, key=lambda x: density(x, good, w) / density(x, bad, w)),
        lambda c, good, bad, w: max(c, key=lambda x: density(x, good, w)),
        lambda c, good, bad, w: min(c, key=lambda x: density(x, bad, w)),
        lambda c, good, bad, w: max(c, key=lambda x: density(x, good, w) - density(x, bad, w)),
        lambda c, good, bad, w: max(density(x, good, w) / density(x, bad, w) for x in c),
        lambda c, good, bad, w: sorted(c, key=lambda x: density(x, good, w) / density(x, bad, w)),
        lambda c, good, bad, w: statistics.mean(good),
        lambda c, good, bad, w: None,
    ],
    "luck": [
        lambda figures: 2 * 2**0.5 * statistics.pstdev(figures),
        lambda figures: 2 * statistics.stdev(figures),
        lambda figures: 2**0.5 * statistics.stdev(figures),
        lambda figures: statistics.stdev(figures),
        lambda figures: 2 * statistics.stdev(figures) / len(figures) ** 0.5,
        lambda figures: 2 * 2**0.5 * statistics.variance(figures),
        lambda figures: max(figures) - min(figures),
        lambda figures: 4 * statistics.stdev(figures),
        lambda figures: None,
    ],
}
