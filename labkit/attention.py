"""Attention for training on a CPU in bfloat16, where PyTorch's own kernel is slow backwards.

On rows as short as tickets, two plain matrix products take a third of the time of PyTorch's flash kernel for CPUs.
Like that kernel it keeps no (seq, seq) matrix from forward to backward: they are computed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

NAME = "labkit_products"  # under which transformers knows it
MOST_SCORES = 1 << 24  # scores of a batch, all heads together, at 4 bytes each; above, PyTorch's kernel is taken


def by_products(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor | None,
                scale: float) -> torch.Tensor:
    """softmax(scale Q K^T) V by matrix products, with a backward pass that computes the softmax again.

    Args:
        query: (batch, heads, seq, width). key, value: (batch, key heads, seq, width); heads is a multiple of theirs.
        seen: True where a token may look, broadcast to (batch, heads, seq, seq); None is: at itself and before it.
        scale: of the scores.

    Returns:
        (batch, heads, seq, width) in the type of the arguments.
    """
    return _function().apply(query, key, value, seen, scale)


@cache
def _function():
    """The autograd function; made at first use, since `import labkit` loads no torch."""
    import torch

    def probabilities(query, key, seen, scale):
        batch, heads, seq, _ = query.shape
        scores = _grouped(query * scale, key) @ key.transpose(-1, -2)
        scores = scores.view(batch, heads, seq, seq)
        if seen is None:
            seen = torch.ones(seq, seq, dtype=torch.bool, device=query.device).tril()
        # not -inf: a row that sees nothing, as padding on the left does, would become 0 / 0
        return scores.masked_fill_(~seen, torch.finfo(scores.dtype).min).softmax(-1)  # sums in float32 by itself

    class Products(torch.autograd.Function):
        @staticmethod
        def forward(ctx, query, key, value, seen, scale):
            ctx.save_for_backward(query, key, value, seen)
            ctx.scale = scale
            shares = probabilities(query, key, seen, scale)
            return (_grouped(shares, key) @ value).view(query.shape)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, given):
            query, key, value, seen = ctx.saved_tensors
            given = _grouped(given, key)
            shares = probabilities(query, key, seen, ctx.scale)
            to_shares = (given @ value.transpose(-1, -2)).view(shares.shape)
            to_scores = _grouped(torch._softmax_backward_data(to_shares, shares, -1, shares.dtype), key)
            shares = _grouped(shares, key)
            to_query = (to_scores @ key).view(query.shape) * ctx.scale
            to_key = to_scores.transpose(-1, -2) @ _grouped(query, key) * ctx.scale
            return to_query, to_key, shares.transpose(-1, -2) @ given, None, None

    return Products


def _grouped(tensor: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(batch, heads, seq, n) as (batch, key heads, heads of one key * seq, n): no key has to be copied."""
    batch, heads, seq, last = tensor.shape
    return tensor.reshape(batch, key.shape[1], heads // key.shape[1] * seq, last)


@contextmanager
def quick(model: PreTrainedModel) -> Iterator[None]:
    """While it is entered, a model on a CPU trains with `by_products` wherever that gives the same and is quicker."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    was = getattr(model.config, "_attn_implementation", None)
    fits = was == "sdpa" and model.device.type == "cpu" and getattr(model, "_supports_attention_backend", False)
    if fits:
        model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        if fits:
            model.set_attn_implementation(was)


def _attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **further):
    """transformers' call: by products where it can be, otherwise as without this module."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    batch, heads, seq, width = query.shape
    plain = not dropout and not any(further.get(name) is not None for name in ("softcap", "position_bias", "s_aux"))
    plain &= getattr(module, "is_causal", True) if attention_mask is None else attention_mask.dtype == torch.bool
    same = key.shape[2] == seq and value.shape == key.shape and batch * heads * seq**2 <= MOST_SCORES
    low = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if not (plain and same and low and query.requires_grad):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
                                      **further)
    with torch.autocast("cpu", enabled=False):
        said = by_products(*(t.bfloat16() for t in (query, key, value)), attention_mask,
                           width**-0.5 if scaling is None else scaling)
    return said.transpose(1, 2).contiguous(), None
