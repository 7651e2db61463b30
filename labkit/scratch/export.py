"""By hand, from lab 10: the loop that writes, the grid of a block, bytes of codes, and how far answers moved.

Each is what onnxruntime-genai does in C++; the tests compare them with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def kv_cache_bytes(layers: int, kv_heads: int, head_size: int, tokens: int, bytes_each: int = 4) -> int:
    """Bytes of the keys and values of one text of so many tokens.

    >>> kv_cache_bytes(30, 3, 64, 1)
    46080
    """
    return 2 * layers * kv_heads * head_size * tokens * bytes_each


def greedy(step: Callable[[list[int]], Sequence[float]], prompt: list[int], end: int, most: int) -> list[int]:
    """The likeliest token each time, up to the one that ends (left out) or `most` tokens.

    Args:
        step: from all token ids so far to the scores of every next token.
    """
    said: list[int] = []
    while len(said) < most:
        scores = step(prompt + said)
        token = max(range(len(scores)), key=lambda i: scores[i])
        if token == end:
            break
        said.append(token)
    return said


def block_codes(block, bits: int = 4):
    """(codes, scale, zero) of one block of weights: w ≈ (code - zero) × scale, all three of codes and zero whole.

    The range is stretched to hold 0, so that 0 is a level.
    """
    import numpy as np

    top = 2**bits - 1
    low, high = min(0.0, float(block.min())), max(0.0, float(block.max()))
    scale = (high - low) / top or 1.0
    zero = round(-low / scale)
    return np.clip(np.round(block / scale) + zero, 0, top).astype(np.uint8), scale, zero


def pack_codes(codes):
    """Codes of 4 bits (d_out, d_in) as bytes (d_out, d_in / 2): the first of a pair in the lower half of its byte."""
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def mean_kl(p, q) -> float:
    """Mean KL(p‖q) in nats a row, from logits (rows, vocabulary) as tensors."""
    import torch

    p, q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def detour_inputs(A, B, alpha: float, rank: int):
    """A (r, d_in) and B (d_out, r) as a graph takes them: (d_in, rank) and (rank, d_out), the scale in the second.

    Zeros fill them up to `rank`; the scale is alpha / r of the r that was trained.
    """
    import torch

    r = A.shape[0]
    wide, tall = torch.zeros(A.shape[1], rank), torch.zeros(rank, B.shape[0])
    wide[:, :r], tall[:r] = A.T, B.T * (alpha / r)
    return wide, tall
