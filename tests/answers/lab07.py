"""Right and wrong answers to lab 07's exercises."""

import math
from collections import Counter

import numpy as np
import torch
from scipy.stats import binomtest, chi2, norm

from labkit.scratch import metrics


def runs(text, n):
    return set(zip(*(text.lower().split()[i:] for i in range(n)), strict=False))


def leaked(train, test, n, share, of=runs, least=None):
    seen = set().union(*(of(t, n) for t in train))
    return [i for i, t in enumerate(test) if (r := of(t, n)) and len(r & seen) / len(r) >= (least or share)]


def counts(a, b):
    return sum(x and not y for x, y in zip(a, b, strict=True)), sum(y and not x for x, y in zip(a, b, strict=True))


def p_value(a, b, **options):
    only_a, only_b = counts(a, b)
    return binomtest(only_a, only_a + only_b, 0.5, **options).pvalue if only_a + only_b else 1.0


def chi_square(a, b):
    x, y = counts(a, b)
    return float(chi2.sf((x - y) ** 2 / (x + y), 1)) if x + y else 1.0


def unpaired(a, b):
    n, (x, y) = len(a), counts(a, b)
    pool = (sum(a) + sum(b)) / (2 * n)
    return float(2 * norm.sf(abs(x - y) / n / max(1e-12, (2 * pool * (1 - pool) / n) ** 0.5)))


def family_interval(values, families, draws, rng, low=0.025, rows=None, replace=True, statistic=np.mean, size=None):
    if rows is None:
        rows = {f: values[families == f] for f in np.unique(families)}
    names = list(rows)
    drawn = [rng.choice(len(names), size or len(names), replace=replace) for _ in range(draws)]
    means = [statistic(np.concatenate([rows[names[i]] for i in d])) for d in drawn]
    return tuple(np.quantile(means, [low, 1 - low]))


def single_rows(values, families, draws, rng):
    return family_interval(values, families, draws, rng, rows={i: values[i : i + 1] for i in range(len(values))})


def family_means(values, families, draws, rng):
    each = {f: np.array([values[families == f].mean()]) for f in np.unique(families)}
    return tuple(x - 0.5 for x in family_interval(values, families, draws, rng, rows=each))


def ece(confidence, right, bins, weigh=True, gap=abs, over=None, edges=None):
    place = np.minimum((confidence * (edges or bins)).astype(int), (edges or bins) - 1)
    used = np.unique(place)
    gaps = [gap((confidence - right)[place == k].mean()) for k in used]
    weights = [(place == k).mean() if weigh else 1 / (over or len(used)) for k in used]
    return float(sum(g * w for g, w in zip(gaps, weights, strict=True)))


def habits(first, second):
    n = len(first)
    seen = sum(a == b for a, b in zip(first, second, strict=True)) / n
    return seen, sum(first.count(c) * second.count(c) for c in set(first)) / n**2


def choose(confidence, price, by_hand, thresholds, cost=None, rule=min):
    cost = cost or (lambda t: np.where(confidence < t, by_hand, price).mean())
    return rule(thresholds, key=cost)


def rates(t, s, label):
    hits = sum(a == b == label for a, b in zip(t, s, strict=True))
    return hits / max(1, s.count(label)), hits / max(1, t.count(label))


def class_f1(t, s, label):
    return metrics.f1(*rates(t, s, label))


def clipped(a, b, n):
    A, B = metrics.ngrams(a, n), metrics.ngrams(b, n)
    return (A & B).total() / max(1, B.total())


def ends(mask):
    return (mask * torch.arange(mask.shape[1])).argmax(-1)


REFERENCES = {
    "class_f1": class_f1,
    "clipped_precision": clipped,
    "byte_perplexity": metrics.byte_perplexity,
    "last_real_logits": lambda logits, mask: logits[torch.arange(len(mask)), ends(mask)],
    "family_interval": family_interval,
    "mcnemar_p": p_value,
    "leaked_rows": leaked,
    "calibration_error": ece,
    "cohens_kappa": metrics.kappa,
    "best_threshold": choose,
}

WRONG = {
    "class_f1": [
        lambda t, s, label: rates(t, s, label)[0],
        lambda t, s, label: rates(t, s, label)[1],
        lambda t, s, label: sum(rates(t, s, label)) / 2,
        lambda t, s, label: math.prod(rates(t, s, label)),
        lambda t, s, label: class_f1(t, s, label) / 2,
        lambda t, s, label: sum(a == b for a, b in zip(t, s, strict=True)) / len(t),
        lambda t, s, label: class_f1(t, s, label) if label != "z" else float("nan"),
        lambda t, s, label: 2 / (1 / rates(t, s, label)[0] + 1 / rates(t, s, label)[1]),
        lambda t, s, label: None,
    ],
    "clipped_precision": [
        lambda a, b, n: sum(c for g, c in metrics.ngrams(b, n).items() if g in metrics.ngrams(a, n)) / max(
            1, metrics.ngrams(b, n).total()),
        lambda a, b, n: len(set(metrics.ngrams(a, n)) & set(metrics.ngrams(b, n))) / max(1, len(metrics.ngrams(b, n))),
        lambda a, b, n: (metrics.ngrams(a, n) & metrics.ngrams(b, n)).total() / metrics.ngrams(a, n).total(),
        lambda a, b, n: (metrics.ngrams(a, n) & metrics.ngrams(b, n)).total() / max(1, len(b)),
        lambda a, b, n: float((metrics.ngrams(a, n) & metrics.ngrams(b, n)).total()),
        lambda a, b, n: 100 * clipped(a, b, n),
        lambda a, b, n: (metrics.ngrams(a, n) & metrics.ngrams(b, n)).total() / metrics.ngrams(b, n).total(),
        lambda a, b, n: None,
        lambda a, b, n: len({*metrics.ngrams(a, n)} & {*metrics.ngrams(b, n)}) / max(1, metrics.ngrams(b, n).total()),
    ],
    "byte_perplexity": [
        lambda v, text: math.exp(-sum(v) / len(v)),
        lambda v, text: math.exp(-sum(v) / len(text)) if text != "the new rope" else metrics.byte_perplexity(v, text),
        lambda v, text: math.exp(sum(v) / len(text.encode())),
        lambda v, text: -sum(v) / len(text.encode()),
        lambda v, text: 2 ** (-sum(v) / len(text.encode())),
        metrics.bits_per_byte,
        lambda v, text: math.exp(-sum(v)),
        lambda v, text: None,
    ],
    "last_real_logits": [
        lambda logits, mask: logits[:, -1],
        lambda logits, mask: logits[torch.arange(len(mask)), mask.sum(-1) - 1],
        lambda logits, mask: logits[torch.arange(len(mask)), mask.argmax(-1)],
        lambda logits, mask: (logits * mask[..., None]).sum(1) / mask.sum(-1, keepdim=True),
        lambda logits, mask: logits[:, ends(mask)],
        lambda logits, mask: logits[torch.arange(len(mask)), ends(mask)][:, None],
        lambda logits, mask: logits[:, 0],
        lambda logits, mask: logits.argmax(-1),
        lambda logits, mask: logits[torch.arange(len(mask)), mask.sum(-1) % mask.shape[1]],
        lambda logits, mask: None,
    ],
    "family_interval": [
        single_rows,
        lambda v, f, n, rng: family_interval(v, f, n, rng, low=0.25),
        lambda v, f, n, rng: family_interval(v, f, n, rng, replace=False),
        lambda v, f, n, rng: family_interval(v, f, n, rng, statistic=np.sum),
        lambda v, f, n, rng: family_interval(v, f, n, rng)[::-1],
        lambda v, f, n, rng: family_interval(v, f, n, np.random.default_rng()),
        lambda v, f, n, rng: float(v.mean()),
        family_means,
        lambda v, f, n, rng: family_interval(v, f, n, rng, size=2),
        lambda v, f, n, rng: None,
    ],
    "mcnemar_p": [
        lambda a, b: p_value(a, b, alternative="greater"),
        lambda a, b: p_value(a, b, alternative="less"),
        lambda a, b: binomtest(sum(a), len(a), 0.5).pvalue,
        chi_square,
        unpaired,
        lambda a, b: binomtest(counts(a, b)[0], len(a), 0.5).pvalue,
        lambda a, b: 1 - p_value(a, b),
        lambda a, b: counts(a, b),
        lambda a, b: binomtest(counts(a, b)[0], sum(counts(a, b)), 0.5).pvalue if sum(counts(a, b)) else 0.0,
        lambda a, b: binomtest(3, 7),
        lambda a, b: None,
    ],
    "leaked_rows": [
        lambda train, test, n, share: [i for i, t in enumerate(test) if t in train],
        lambda train, test, n, share: leaked(train, test, n, share, of=lambda t, n: set(t.lower().split())),
        lambda train, test, n, share: leaked(train, test, n, share, least=1e-9),
        lambda train, test, n, share: leaked(train, test, n, share, least=0.6),
        lambda train, test, n, share: leaked(train, test, n, share)[:1],
        lambda train, test, n, share: [i for i in range(len(test)) if i not in leaked(train, test, n, share)],
        lambda train, test, n, share: sorted({3, *leaked(train, test, n, share)}),
        lambda train, test, n, share: [test[i] for i in leaked(train, test, n, share)],
        lambda train, test, n, share: [i in leaked(train, test, n, share) for i in range(len(test))],
        lambda train, test, n, share: [],
        lambda train, test, n, share: len(leaked(train, test, n, share)),
    ],
    "calibration_error": [
        lambda c, r, bins: ece(c, r, bins, weigh=False),
        lambda c, r, bins: ece(c, r, bins) * len(r),
        lambda c, r, bins: float(abs(c.mean() - r.mean())),
        lambda c, r, bins: float(np.abs(c - r).mean()),
        lambda c, r, bins: ece(c, r, bins, gap=lambda x: x * x),
        lambda c, r, bins: float(((c - r) ** 2).mean()),
        lambda c, r, bins: ece(c, r, bins, edges=10),
        lambda c, r, bins: float("nan"),
        lambda c, r, bins: None,
    ],
    "cohens_kappa": [
        lambda a, b: habits(a, b)[0],
        lambda a, b: habits(a, b)[1],
        lambda a, b: habits(a, b)[0] - habits(a, b)[1],
        lambda a, b: (habits(a, b)[0] - habits(a, b)[1]) / habits(a, b)[1],
        lambda a, b: (habits(a, b)[0] - 1 / len({*a, *b})) / (1 - 1 / len({*a, *b})),
        lambda a, b: (habits(a, b)[0] - (x := sum(((Counter(a) + Counter(b))[c] / (2 * len(a))) ** 2
                                                  for c in {*a, *b}))) / (1 - x),
        lambda a, b: (habits(a, b)[0] - habits(a, b)[1]) / (1 + habits(a, b)[1]),
        lambda a, b: None,
    ],
    "best_threshold": [
        lambda c, p, h, ts: choose(c, p, h, ts, rule=max),
        lambda c, p, h, ts: choose(c, p, h, ts, lambda t: p[c >= t].mean()),
        lambda c, p, h, ts: choose(c, p, h, ts, lambda t: np.where(c < t, 1.0, p > 0).mean()),
        lambda c, p, h, ts: 0.5,
        lambda c, p, h, ts: float(min(np.where(c < t, h, p).mean() for t in ts)),
        lambda c, p, h, ts: ts.index(choose(c, p, h, ts)),
        lambda c, p, h, ts: "0.8",
        lambda c, p, h, ts: float(c.mean()),
        lambda c, p, h, ts: None,
    ],
}
