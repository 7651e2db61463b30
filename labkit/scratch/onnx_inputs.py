"""By hand, what Olive does between rows and an adapter file: joining and chopping, and weights as inputs of a graph.

Lab 11 teaches these; the tests compare them with what Olive itself writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def join_and_chop(rows: Sequence[Sequence[int]], joiner: Sequence[int], length: int) -> list[list[int]]:
    """One long sequence of all rows, the joiner behind each, cut into pieces of `length` tokens.

    What is left over at the end is dropped; where nothing would be left over, the last piece is (Olive's own habit).

    >>> join_and_chop([[1, 2], [3, 4, 5]], [0], 3)
    [[1, 2, 0], [3, 4, 5]]
    >>> join_and_chop([[1, 2], [3, 4]], [0], 3)
    [[1, 2, 0]]
    """
    joined = [token for row in rows for token in [*row, *joiner]]
    return [joined[start : start + length] for start in range(0, len(joined) - length, length)]


def to_inputs(weights: Mapping[str, np.ndarray], r: int, alpha: float) -> dict[str, np.ndarray]:
    """peft's weights as the graph wants them: the builder's names, transposed, alpha / r put into B.

    Args:
        weights: A (r, d_in) and B (d_out, r) by peft's names, such as
            base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight.
        r, alpha: of the adapter.

    Returns:
        A (d_in, r) and B (r, d_out), such as model.layers.0.attn.q_proj.lora_A.MatMul.weight.
    """
    return {input_name(name.removeprefix("base_model.model.")): value.T * (alpha / r if "lora_B" in name else 1)
            for name, value in weights.items()}


def input_name(name: str) -> str:
    """The name that the model builder's graph has for a weight which convert-adapters names as peft does.

    >>> input_name("model.layers.0.self_attn.q_proj.lora_A.weight")
    'model.layers.0.attn.q_proj.lora_A.MatMul.weight'
    """
    return name.replace(".self_attn.", ".attn.").removesuffix(".weight") + ".MatMul.weight"


def zeros(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An adapter of the same names and shapes that changes nothing: the base, where an adapter must be active."""
    return {name: value * 0 for name, value in weights.items()}
