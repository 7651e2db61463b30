"""Watching and mending by hand: speed and time to go, batches of like length, how far a step moves, one row encoded.

What lab 08 teaches; the meter of `labkit.monitoring` uses `update_ratio` as it stands here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

IGNORED = -100  # the label that PyTorch's cross-entropy leaves out


def throughput(seconds: list[float], tokens: list[int], steps: int) -> tuple[float, float]:
    """Tokens a second, and seconds to go; the first step warms up, and counts in neither.

    Args:
        seconds, tokens: of each step that is done, in order, two steps at least.
        steps: of the whole training.

    >>> throughput([9.0, 2.0, 2.0], [100, 100, 100], 10)
    (50.0, 14.0)
    """
    a_step = sum(seconds[1:]) / len(seconds[1:])
    return sum(tokens[1:]) / sum(seconds[1:]), a_step * (steps - len(seconds))


def by_length(lengths: list[int], size: int) -> list[list[int]]:
    """Rows put into batches of `size` so that each has rows of like length; the last may be smaller.

    Args:
        lengths: tokens of each row.

    Returns:
        Batches of row numbers, each row once.

    >>> by_length([9, 2, 8, 1, 5], 2)
    [[3, 1], [4, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    return [order[start : start + size] for start in range(0, len(order), size)]


def update_ratio(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """How far a step moved the weights, as a share of their size: |after - before| / |before|, of all tensors together.

    Args:
        before, after: the same tensors, in the same order.
    """
    moved = sum((a - b).float().square().sum() for a, b in zip(after, before, strict=True))
    size = sum(b.float().square().sum() for b in before)
    return math.sqrt(moved / size)


def to_row(tokenizer, prompt: str, completion: str) -> dict[str, list[int]]:
    """One training row as serving will ask: the chat template, the answer, the end of turn; only the answer counts.

    Args:
        tokenizer: with a chat template whose end of turn is `tokenizer.eos_token_id`.
    """
    asked = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                          tokenize=False)
    asked = tokenizer(asked, add_special_tokens=False)["input_ids"]
    answer = tokenizer(completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return {"input_ids": asked + answer, "labels": [IGNORED] * len(asked) + answer}
