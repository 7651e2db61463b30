"""LoRA by hand: a frozen matrix W with a detour of two small ones beside it (Hu et al., 2021, section 4.1).

Only torch is used. The labs compare these with peft, and the exercises of lab 03 are checked against them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def detour_parameters(d_out: int, d_in: int, r: int) -> int:
    """Numbers in A (r, d_in) and B (d_out, r) together."""
    return r * d_in + d_out * r


def lora_forward(x: Tensor, W: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """h = W x + (alpha / r) B A x, for a batch.

    Args:
        x: (batch, d_in). W: (d_out, d_in). A: (r, d_in). B: (d_out, r).
        alpha: the scale.

    Returns:
        (batch, d_out).
    """
    return x @ W.T + (alpha / A.shape[0]) * (x @ A.T @ B.T)


def merged_weight(W: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """W + (alpha / r) B A, (d_out, d_in): the same layer without the detour."""
    return W + (alpha / A.shape[0]) * (B @ A)


def alpha_for(new_r: int, r: int, alpha: float, rule: str = "lora") -> float:
    """The alpha that gives rank `new_r` the scale that `alpha` gives rank `r`.

    Args:
        rule: "lora" scales by alpha / r, "rslora" by alpha / sqrt(r) (Kalajdzievski, 2023).
    """
    return alpha * (new_r / r if rule == "lora" else math.sqrt(new_r / r))


def effective_rank(A: Tensor, B: Tensor, share: float = 0.9) -> int:
    """How many singular values of B A it takes to hold `share` of their squared sum."""
    energy = torch.linalg.svdvals(B @ A) ** 2
    return int((energy.cumsum(0) / energy.sum() < share).sum()) + 1


def silent_modules(pairs: dict[str, tuple[Tensor, Tensor]]) -> list[str]:
    """Names of modules whose detour is zero whatever comes in; `pairs` has (A, B) by name."""
    return [name for name, (A, B) in pairs.items() if not (B @ A).any()]


class LoRALinear(nn.Module):
    """A linear layer, frozen, with a trainable detour that starts at zero.

    Args:
        linear: the layer to adapt; used as it is, not copied.
        r: rank of the detour.
        alpha: its scale.
    """

    def __init__(self, linear: nn.Linear, r: int, alpha: float):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        like = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.A = nn.Parameter(torch.empty(r, linear.in_features, **like))
        self.B = nn.Parameter(torch.zeros(linear.out_features, r, **like))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # as peft and the paper's code start A
        self.scale = alpha / r

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        return self.linear(x) + self.scale * (x @ self.A.T @ self.B.T)
