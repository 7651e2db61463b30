"""Right and wrong answers to lab 10's exercises."""

import numpy as np
import torch

from labkit.scratch import export

REFERENCES = {
    "kv_cache_bytes": export.kv_cache_bytes,
    "greedy": export.greedy,
    "block_codes": export.block_codes,
    "pack_codes": export.pack_codes,
    "mean_kl": export.mean_kl,
    "detour_inputs": export.detour_inputs,
}


def loop(put_prompt=False, keep_end=False, stop=True, more=0, blind=False, best=max):
    """A greedy loop with one thing wrong with it."""

    def answer(step, prompt, end, most):
        said = []
        while len(said) < most + more:
            scores = step(prompt if blind else prompt + said)
            token = best(range(len(scores)), key=lambda i: scores[i])
            if token == end and stop:
                if keep_end:
                    said.append(token)
                break
            said.append(token)
        return prompt + said if put_prompt else said

    return answer


def in_place(step, prompt, end, most):
    start = len(prompt)
    while len(prompt) - start < most:
        scores = step(prompt)
        token = max(range(len(scores)), key=lambda i: scores[i])
        if token == end:
            break
        prompt.append(token)
    return prompt[start:]


def endless(step, prompt, end, most):
    said = []
    while True:
        step(prompt + said)


def codes(zero_in=True, steps=15, whole=True, clip=True, round_by=np.round, sign=1, symmetric=False, upside=False):
    """A block's codes with one thing wrong with them."""

    def answer(block, bits=4):
        low, high = float(block.min()), float(block.max())
        if zero_in:
            low, high = min(0.0, low), max(0.0, high)
        scale = float(abs(block).max()) / 7.5 if symmetric else (high - low) / steps
        zero = -low / scale
        zero = sign * (round(zero) if whole else zero + 0.3)
        out = round_by(block / scale) + abs(round(zero))
        out = np.clip(out, 0, 15) if clip else out + 3
        return out, 1 / scale if upside else scale, zero

    return answer


def inputs(a=lambda A: A.T, scale=lambda alpha, r, rank: alpha / r, fill=0.0, pad=True, both=False):
    """The inputs of a detour with one thing wrong with them."""

    def answer(A, B, alpha, rank):
        r = A.shape[0]
        rank = rank if pad else r
        wide, tall = torch.full((A.shape[1], rank), fill), torch.full((rank, B.shape[0]), fill)
        s = scale(alpha, r, rank)
        wide[:, :r], tall[:r] = A.T * (s if both else 1), B.T * s
        return wide, tall

    return answer


def log(x):
    return torch.log_softmax(x, -1)


WRONG = {
    "kv_cache_bytes": [
        lambda la, h, s, t, b=4: la * h * s * t * b,
        lambda la, h, s, t, b=4: 2 * la * h * s * t,
        lambda la, h, s, t, b=4: 2 * h * s * t * b,
        lambda la, h, s, t, b=4: 2 * la * s * t * b,
        lambda la, h, s, t, b=4: 2 * la * h * s * b,
        lambda la, h, s, t, b=4: 2 * la * h * s * t * t * b,
        lambda la, h, s, t, b=4: None,
    ],
    "greedy": [
        loop(put_prompt=True), loop(keep_end=True), loop(stop=False), loop(more=1), loop(more=-1), loop(blind=True),
        loop(best=min), in_place, endless, lambda step, prompt, end, most: None,
    ],
    "block_codes": [
        codes(zero_in=False), codes(steps=16), codes(whole=False), codes(clip=False), codes(round_by=np.floor),
        codes(sign=-1), codes(symmetric=True), codes(upside=True), lambda block: block, lambda block: None,
    ],
    "pack_codes": [
        lambda c: c[:, 1::2] | (c[:, 0::2] << 4),
        lambda c: c[:, 0::2] + c[:, 1::2],
        lambda c: c[:, 0::2] | c[:, 1::2],
        lambda c: c[:, :4] | (c[:, 4:] << 4),
        lambda c: c[:, 0::2],
        lambda c: c,
        lambda c: c[:, 0::2].astype(np.int64) | (c[:, 1::2].astype(np.int64) << 4),
        lambda c: None,
    ],
    "mean_kl": [
        lambda p, q: float((log(q).exp() * (log(q) - log(p))).sum(-1).mean()),
        lambda p, q: float((log(p).exp() * (log(p) - log(q))).sum()),
        lambda p, q: float((log(p).exp() * (log(p) - log(q))).mean()),
        lambda p, q: float((log(p).exp() * (p - q)).sum(-1).mean()),
        lambda p, q: float((log(p).exp() * (log(q) - log(p))).sum(-1).mean()),
        lambda p, q: (log(p).exp() * (log(p) - log(q))).sum(-1),
        lambda p, q: float((-log(p).exp() * log(q)).sum(-1).mean()),
        lambda p, q: None,
    ],
    "detour_inputs": [
        lambda A, B, alpha, rank: (A, B),
        inputs(pad=False),
        inputs(scale=lambda alpha, r, rank: 1.0),
        inputs(scale=lambda alpha, r, rank: alpha),
        inputs(scale=lambda alpha, r, rank: alpha / rank),
        inputs(scale=lambda alpha, r, rank: r / alpha),
        inputs(both=True),
        inputs(fill=0.1),
        lambda A, B, alpha, rank: A.T,
        lambda A, B, alpha, rank: None,
    ],
}
