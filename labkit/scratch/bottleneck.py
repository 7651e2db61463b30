"""Adapters by hand: the bottleneck (Houlsby et al., 2019), IA3's scaling (Liu et al., 2022), and a mix of detours.

Only torch is used. `labkit.adapters` builds on the bottleneck, and the exercises of lab 05 are checked against these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu


def bottleneck_forward(h: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """h + up gelu(down h), for a batch, without biases.

    Args:
        h: (batch, d). down: (width, d). up: (d, width).

    Returns:
        (batch, d).
    """
    return h + gelu(h @ down.T) @ up.T


def bottleneck_parameters(d: int, width: int, layers: int) -> int:
    """Numbers in one bottleneck a layer, the biases of both its matrices included.

    >>> bottleneck_parameters(192, 16, 1)
    6352
    """
    return layers * (2 * d * width + width + d)


class Bottleneck(nn.Module):
    """A small network with a residual around it; `up` starts at zero, so at first it passes everything through.

    Args:
        d: width of what comes in and goes out.
        width: of the narrow middle.
    """

    def __init__(self, d: int, width: int):
        super().__init__()
        self.down, self.up = nn.Linear(d, width), nn.Linear(width, d)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor) -> Tensor:
        """h of shape (..., d) plus its detour, of the same shape."""
        return h + self.up(gelu(self.down(h)))


def ia3_forward(x: Tensor, W: Tensor, scale: Tensor) -> Tensor:
    """(W x) with each output multiplied by a number that is learnt; it starts at one.

    Args:
        x: (batch, d_in). W: (d_out, d_in). scale: (d_out,).

    Returns:
        (batch, d_out).
    """
    return (x @ W.T) * scale


def mixed_batch(x: Tensor, W: Tensor, adapters: Mapping[str, tuple[Tensor, Tensor]], names: Sequence[str | None],
                alpha: float) -> Tensor:
    """Each row of x through W and through the adapter of its own name; None is the base alone.

    Args:
        x: (batch, d_in). W: (d_out, d_in).
        adapters: A (r, d_in) and B (d_out, r) by name. names: one a row. alpha: the same for all.

    Returns:
        (batch, d_out). W is used once for the whole batch, each adapter once for its rows.
    """
    h = x @ W.T
    for name in {n for n in names if n is not None}:
        A, B = adapters[name]
        rows = torch.tensor([n == name for n in names])
        h[rows] += (alpha / A.shape[0]) * (x[rows] @ A.T @ B.T)
    return h


def mixed_detour(pairs: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float]) -> Tensor:
    """The weighted sum of B A over several adapters, (d_out, d_in); summing A and B apart is something else."""
    return sum(w * (B @ A) for w, (A, B) in zip(weights, pairs, strict=True))


def constrained_choice(logits: Tensor, allowed: Sequence[int]) -> int:
    """The likeliest token among those that a grammar allows next.

    Args:
        logits: (vocabulary,). allowed: ids of tokens.
    """
    ids = torch.tensor(list(allowed))
    return int(ids[logits[ids].argmax()])


def route(shares: Mapping[str, float], routes: Mapping[str, str], least: float) -> str | None:
    """The adapter of the likeliest intent; None where that intent is less likely than `least`, or has no adapter.

    >>> route({"refund": 0.7, "delivery": 0.3}, {"refund": "reply"}, 0.5)
    'reply'
    """
    intent = max(shares, key=shares.get)
    return routes.get(intent) if shares[intent] >= least else None
