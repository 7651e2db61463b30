"""The losses of lab 06 by hand, on plain tensors; `labkit.losses` holds those that train a model.

The references of the lab's exercises, each tested against torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def safe_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of each pair of rows, (n, width) -> (n,), whose gradient is 0, not NaN, where a equals b."""
    return (((a - b) ** 2).sum(-1) + 1e-12).sqrt()


def contrastive_loss(a: torch.Tensor, b: torch.Tensor, y: torch.Tensor, margin: float) -> torch.Tensor:
    """mean((1 - y) d² + y max(0, margin - d)²); y (n,) is 1 for pairs that do not mean the same."""
    d = safe_distance(a, b)
    return ((1 - y) * d**2 + y * (margin - d).clamp(min=0) ** 2).mean()


def slope_by_steps(f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, h: float = 1e-5) -> torch.Tensor:
    """The gradient of f at x by central differences, one number of x after the other; x in double precision."""
    import torch

    slope = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros_like(x)
        step.view(-1)[i] = h
        slope.view(-1)[i] = (f(x + step) - f(x - step)) / (2 * h)
    return slope


def info_nce_loss(a: torch.Tensor, b: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean cross-entropy of picking row i of b for row i of a, by cosine / temperature: (n, width) twice -> scalar."""
    a, b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
    logits = a @ b.T / temperature
    return -logits.log_softmax(-1).diagonal().mean()


def masked_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of -log p over the labels that count: logits (batch, seq, vocabulary), labels (batch, seq) with -100.

    Logits at place t speak of the label at t + 1. Where nothing counts the loss is 0.
    """
    logits, labels = logits[:, :-1], labels[:, 1:]
    counts = labels != -100
    log_p = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    return -(log_p * counts).sum() / counts.sum().clamp(min=1)


def focal_loss(logits: torch.Tensor, targets: torch.Tensor, gamma: float) -> torch.Tensor:
    """Mean of (1 - p)^gamma (-log p) of each target: (n, classes), (n,) -> scalar."""
    log_p = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    return ((1 - log_p.exp()) ** gamma * -log_p).mean()


def smoothed_loss(logits: torch.Tensor, targets: torch.Tensor, epsilon: float) -> torch.Tensor:
    """(1 - epsilon) times the cross-entropy, and epsilon times the mean of -log p over all classes."""
    log_p = logits.log_softmax(-1)
    hit = -log_p.gather(-1, targets[:, None]).squeeze(-1)
    return ((1 - epsilon) * hit - epsilon * log_p.mean(-1)).mean()


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² times the mean KL(teacher || student) of softened logits, (n, classes) twice; no gradient to the teacher."""
    log_p, log_q = (teacher.detach() / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
