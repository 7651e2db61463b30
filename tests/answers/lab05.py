"""Right and wrong answers to lab 05's exercises."""

import torch
from torch.nn.functional import gelu, relu

from labkit.scratch import bottleneck as by_hand

REFERENCES = {
    "bottleneck_forward": by_hand.bottleneck_forward,
    "bottleneck_parameters": by_hand.bottleneck_parameters,
    "ia3_forward": by_hand.ia3_forward,
    "mixed_batch": by_hand.mixed_batch,
    "mixed_detour": by_hand.mixed_detour,
    "route": by_hand.route,
    "constrained_choice": by_hand.constrained_choice,
}


def batch(scale=lambda alpha, r: alpha / r, none=None, base=True, pick=lambda name, names: name, every=False,
          order=False):
    """A mixed batch with one thing wrong with it."""

    def answer(x, W, adapters, names, alpha):
        h = x @ W.T if base else torch.zeros(len(x), len(W))
        for i, name in enumerate(names):
            name = pick(name, names) or none
            for one in adapters if every else [name]:
                if one is not None:
                    A, B = adapters[one]
                    h[i] += scale(alpha, A.shape[0]) * (x[i] @ A.T @ B.T)
        return h[sorted(range(len(names)), key=lambda i: str(names[i]))] if order else h

    return answer


def in_place(x, W, adapters, names, alpha):
    x += 1
    return x @ W.T


def summed_apart(pairs, weights, power=1.0):
    A = sum(w * a for w, (a, _) in zip(weights, pairs, strict=True))
    B = sum(w * b for w, (_, b) in zip(weights, pairs, strict=True))
    return B @ A


def total(pairs, weights, of=lambda w: w):
    return sum(of(w) * (B @ A) for w, (A, B) in zip(weights, pairs, strict=True))


def best(shares):
    return max(shares, key=shares.get)


WRONG = {
    "bottleneck_forward": [
        lambda h, down, up: gelu(h @ down.T) @ up.T,
        lambda h, down, up: h + h @ down.T @ up.T,
        lambda h, down, up: h + gelu(h @ down.T @ up.T),
        lambda h, down, up: h + gelu(h) @ down.T @ up.T,
        lambda h, down, up: h + relu(h @ down.T) @ up.T,
        lambda h, down, up: h - gelu(h @ down.T) @ up.T,
        lambda h, down, up: 2 * h + gelu(h @ down.T) @ up.T,
        lambda h, down, up: h + gelu(down @ h) @ up.T,
        lambda h, down, up: (h + gelu(h @ down.T) @ up.T).T,
        lambda h, down, up: None,
    ],
    "bottleneck_parameters": [
        lambda d, w, n: n * 2 * d * w,
        lambda d, w, n: n * (d * w + w),
        lambda d, w, n: n * (d * w + d),
        lambda d, w, n: n * (2 * d * w + 2 * d),
        lambda d, w, n: n * (2 * d * w + 2 * w),
        lambda d, w, n: 2 * d * w + w + d,
        lambda d, w, n: 2 * n * (2 * d * w + w + d),
        lambda d, w, n: n * d * d,
        lambda d, w, n: "many",
        lambda d, w, n: None,
    ],
    "ia3_forward": [
        lambda x, W, scale: x @ W.T,
        lambda x, W, scale: x @ W.T + scale,
        lambda x, W, scale: x @ W.T * (1 + scale),
        lambda x, W, scale: x @ W.T / scale,
        lambda x, W, scale: x @ W.T * scale.mean(),
        lambda x, W, scale: x @ W.T * scale**2,
        lambda x, W, scale: (x * scale) @ W.T,
        lambda x, W, scale: x @ W * scale,
        lambda x, W, scale: None,
    ],
    "mixed_batch": [
        lambda x, W, adapters, names, alpha: x @ W.T,
        batch(base=False),
        batch(every=True),
        batch(pick=lambda name, names: names[0]),
        batch(none="reply"),
        batch(pick=lambda name, names: {"tone": "reply", "reply": "tone"}.get(name)),
        batch(scale=lambda alpha, r: alpha),
        batch(scale=lambda alpha, r: 1.0),
        batch(scale=lambda alpha, r: 1 / r),
        batch(scale=lambda alpha, r: alpha / 2),
        batch(order=True),
        in_place,
        lambda x, W, adapters, names, alpha: None,
    ],
    "mixed_detour": [
        summed_apart,
        lambda p, w: total(p, w, lambda _: 1.0),
        lambda p, w: w[0] * (p[0][1] @ p[0][0]),
        lambda p, w: w[1] * (p[1][1] @ p[1][0]),
        lambda p, w: total(p, w[::-1]),
        lambda p, w: total(p, w) / 2,
        lambda p, w: total(p, w, lambda v: v**2),
        lambda p, w: summed_apart(p, [v**0.5 for v in w]),
        lambda p, w: total(p, w).T,
        lambda p, w: None,
    ],
    "route": [
        lambda shares, routes, least: best(shares),
        lambda shares, routes, least: routes.get(best(shares)),
        lambda shares, routes, least: routes.get(best(shares)) if shares[best(shares)] > least else None,
        lambda shares, routes, least: routes.get(min(shares, key=shares.get)),
        lambda shares, routes, least: routes.get(best(shares), "reply") if shares[best(shares)] >= least else None,
        lambda shares, routes, least: routes[next(iter(shares))],
        lambda shares, routes, least: None,
        lambda shares, routes, least: 1,
        lambda shares, routes, least: routes[best(shares)] if shares[best(shares)] >= least else None,
    ],
    "constrained_choice": [
        lambda logits, allowed: int(logits.argmax()),
        lambda logits, allowed: int(logits[torch.tensor(allowed)].argmax()),
        lambda logits, allowed: float(logits[torch.tensor(allowed)].max()),
        lambda logits, allowed: min(allowed, key=lambda i: logits[i]),
        lambda logits, allowed: int(torch.zeros(7).scatter(0, torch.tensor(allowed), logits[allowed]).argmax()),
        lambda logits, allowed: allowed[0],
        lambda logits, allowed: "five",
        lambda logits, allowed: None,
    ],
}
