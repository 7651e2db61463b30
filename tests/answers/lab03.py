"""Right and wrong answers to lab 03's exercises."""

import math

import torch
from torch import nn

from labkit.scratch import lora

REFERENCES = {
    "detour_parameters": lora.detour_parameters,
    "lora_forward": lora.lora_forward,
    "lora_linear": lora.LoRALinear,
    "rank_for_budget": lambda shapes, total, share: int(share * total // sum(a + b for a, b in shapes)),
    "merged_weight": lora.merged_weight,
    "alpha_for": lora.alpha_for,
    "effective_rank": lora.effective_rank,
    "silent_modules": lora.silent_modules,
}


def layer(
    freeze=True,
    a="random",
    b="zero",
    scale=lambda alpha, r: alpha / r,
    plain=False,
    names=("A", "B"),
    swap=False,
    bias=True,
):
    """A LoRA layer with one thing wrong with it."""

    class Layer(nn.Module):
        def __init__(self, linear, r, alpha):
            super().__init__()
            self.linear = linear.requires_grad_(not freeze)
            start = {"random": torch.randn, "zero": torch.zeros}
            A = start[a](*((linear.in_features, r) if swap else (r, linear.in_features)))
            B = start[b](linear.out_features, r)
            for name, value in zip(names, (A, B), strict=True):
                setattr(self, name, value if plain else nn.Parameter(value))
            self.scale = scale(alpha, r)

        def forward(self, x):
            A, B = (getattr(self, name) for name in names)
            straight = self.linear(x) if bias else x @ self.linear.weight.T
            return straight + self.scale * (x @ (A if swap else A.T) @ B.T)

    return Layer


def energy(A, B, share, square=2, of=lambda A, B: B @ A, more=1):
    e = torch.linalg.svdvals(of(A, B)) ** square
    return int((e.cumsum(0) / e.sum() < share - 1e-6).sum()) + more


WRONG = {
    "detour_parameters": [
        lambda o, i, r: r * i,
        lambda o, i, r: r * o,
        lambda o, i, r: o * i,
        lambda o, i, r: r * i * o * r,
        lambda o, i, r: o * i + r * (o + i),
        lambda o, i, r: r * o * i,
        lambda o, i, r: None,
        lambda o, i, r: "many",
    ],
    "lora_forward": [
        lambda x, W, A, B, alpha: W @ x,
        lambda x, W, A, B, alpha: None,
        lambda x, W, A, B, alpha: x @ W.T + alpha * (x @ A.T @ B.T),
        lambda x, W, A, B, alpha: x @ W.T + x @ A.T @ B.T,
        lambda x, W, A, B, alpha: alpha / A.shape[0] * (x @ A.T @ B.T),
        lambda x, W, A, B, alpha: x @ W.T + A.shape[0] / alpha * (x @ A.T @ B.T),
        lambda x, W, A, B, alpha: x @ W.T - alpha / A.shape[0] * (x @ A.T @ B.T),
        lambda x, W, A, B, alpha: (x @ W.T + alpha / A.shape[0] * (x @ A.T @ B.T)).T,
        lambda x, W, A, B, alpha: x @ W.T + alpha / 2 * (x @ A.T @ B.T),
        lambda x, W, A, B, alpha: x @ W.T + alpha / math.sqrt(A.shape[0]) * (x @ A.T @ B.T),
    ],
    "lora_linear": [
        layer(freeze=False),
        layer(a="random", b="random"),
        layer(a="zero", b="zero"),
        layer(a="zero", b="random"),
        layer(plain=True),
        layer(scale=lambda alpha, r: alpha),
        layer(scale=lambda alpha, r: 1.0),
        layer(swap=True),
        layer(bias=False),
        layer(names=("down", "up")),
    ],
    "rank_for_budget": [
        lambda s, t, share: share * t / sum(a + b for a, b in s),
        lambda s, t, share: int(share * t // sum(a + b for a, b in s)) + 1,
        lambda s, t, share: int(share * t // (s[0][0] + s[0][1])),
        lambda s, t, share: int(share * t // sum(a * b for a, b in s)),
        lambda s, t, share: int(100 * share * t // sum(a + b for a, b in s)),
        lambda s, t, share: None,
    ],
    "merged_weight": [
        lambda W, A, B, alpha: W + alpha / A.shape[0] * (A @ B),
        lambda W, A, B, alpha: alpha / A.shape[0] * (B @ A),
        lambda W, A, B, alpha: W + B @ A,
        lambda W, A, B, alpha: W + alpha * (B @ A),
        lambda W, A, B, alpha: W - alpha / A.shape[0] * (B @ A),
        lambda W, A, B, alpha: (W + alpha / A.shape[0] * (B @ A)).T,
        lambda W, A, B, alpha: W.add_(alpha / A.shape[0] * (B @ A)),
        lambda W, A, B, alpha: (W + alpha / A.shape[0] * (B @ A)).half(),
    ],
    "alpha_for": [
        lambda n, r, alpha, rule="lora": alpha,
        lambda n, r, alpha, rule="lora": alpha * r / n,
        lambda n, r, alpha, rule="lora": alpha * n / r,
        lambda n, r, alpha, rule="lora": alpha * math.sqrt(n / r),
        lambda n, r, alpha, rule="lora": 2.0 * n,
        lambda n, r, alpha, rule="lora": n / r,
        lambda n, r, alpha, rule="lora": None,
    ],
    "effective_rank": [
        lambda A, B, share=0.9: energy(A, B, share, more=0),
        lambda A, B, share=0.9: energy(A, B, share, square=1),
        lambda A, B, share=0.9: A.shape[0],
        lambda A, B, share=0.9: energy(A, B, share, of=lambda A, B: A),
        lambda A, B, share=0.9: energy(A, B, share, of=lambda A, B: B),
        lambda A, B, share=0.9: len(torch.linalg.svdvals(B @ A)),
        lambda A, B, share=0.9: torch.linalg.svdvals(A @ B),
        lambda A, B, share=0.9: None,
    ],
    "silent_modules": [
        lambda pairs: [n for n, (A, B) in pairs.items() if (B @ A).any()],
        lambda pairs: [n for n, (A, B) in pairs.items() if not B.any()],
        lambda pairs: [n for n, (A, B) in pairs.items() if not A.any()],
        lambda pairs: [n for n, (A, B) in pairs.items() if (B @ A).abs().max() < 1e-3],
        lambda pairs: [n for n, (A, B) in pairs.items() if B.sum() == 0 or not A.any()],
        lambda pairs: list(pairs),
        lambda pairs: len(pairs),
        lambda pairs: None,
        lambda pairs: [(A, B) for A, B in pairs.values() if not B.any()],
    ],
}
