"""A training loop by hand: the loss, the optimizer, the schedule, and the figures that one watches beside them.

Only torch is used. Lab 02 compares these with torch and transformers, and its exercises are checked against them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, nats, over the labels that count; the logits at place i guess the label at place i + 1.

    Args:
        logits: (batch, seq, vocab). labels: (batch, seq), -100 where nothing counts.
    """
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())  # leaves out -100


def adamw_step(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, lr: float, beta1: float = 0.9, beta2: float = 0.999,
               eps: float = 1e-8, weight_decay: float = 0.01) -> tuple[Tensor, Tensor, Tensor]:
    """One step of AdamW (Loshchilov and Hutter, 2019, algorithm 2) for one tensor.

    Args:
        w, g, m, v: the weights, their gradient, the running means of g and of g squared; one shape.
        t: the number of this step, from 1.

    Returns:
        The new w, m and v.
    """
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    step = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
    return w - lr * weight_decay * w - lr * step, m, v


def learning_rate_at(step: int, steps: int, warmup: int, peak: float) -> float:
    """A straight line from 0 up to `peak` at step `warmup`, then half a cosine down to 0 at step `steps`."""
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def clip_by_norm(grads: Sequence[Tensor], max_norm: float) -> tuple[list[Tensor], Tensor]:
    """All gradients scaled by one factor, so that their common norm is `max_norm` at most; and that norm before."""
    norm = torch.sqrt(sum((g**2).sum() for g in grads))
    factor = max_norm / norm if norm > max_norm else 1.0
    return [g * factor for g in grads], norm


def accumulated_loss(losses: Sequence[float], counts: Sequence[int]) -> float:
    """The mean over all labels of a large batch, from the mean of each micro-batch and how many labels it is over."""
    return sum(loss * n for loss, n in zip(losses, counts, strict=True) if n) / sum(counts)


def perplexity(losses: Sequence[float], counts: Sequence[int]) -> float:
    """exp of the mean loss (nats) over all labels: between so many equally likely tokens a model is unsure."""
    return math.exp(accumulated_loss(losses, counts))


def early_stopping(losses: Sequence[float], patience: int, min_delta: float = 0.0) -> tuple[int, int]:
    """Where a training stops, and which evaluation was the best by then.

    Args:
        losses: of validation, one an evaluation.
        patience: evaluations without a new best after which it stops.
        min_delta: a new best lies below the old by more than this.

    Returns:
        (best, stop), indices; stop is the last where it never stops.
    """
    best = 0
    for i, loss in enumerate(losses):
        if loss < losses[best] - min_delta:
            best = i
        elif i - best >= patience:
            return best, i
    return best, len(losses) - 1


def batch_rows(rows: int, batch_size: int, steps: int, seed: int = 0) -> list[list[int]]:
    """The row numbers of each step's batch, as transformers' Trainer draws them: every epoch shuffled anew.

    The last batch of an epoch may be smaller. Epoch e is shuffled by seed + e (accelerate's SeedableRandomSampler).
    """
    found, epoch = [], 0
    while len(found) < steps:
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        found += [order[i : i + batch_size] for i in range(0, rows, batch_size)]
        epoch += 1
    return found[:steps]
