"""A forward pass for a loss: the last layer works only where a label counts, and a common beginning is read once.

Other tokens need keys and values in the last layer and no more, since nobody looks at what it would make of them. And
where all rows of a batch begin with the same question, the keys and values of its tokens are the same in every layer.
Loss and gradients stay what they were, to rounding.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING

from labkit.kernels import NAME

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    Beginning = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values of each layer, (1, key heads, tokens, width)

CACHE = ("cache", "past_key_values")  # the same thing by its new and its old name (transformers 5)
KINDS = {"llama": "Llama", "qwen2": "Qwen2", "mistral": "Mistral"}  # whose layers are the same, line by line
MASKED = ("sdpa", "eager", NAME)  # attention that takes a mask with a row for each query
WORTH = 1.6e8  # products a layer that a pass of its own for a beginning must spare; on tiny-base some 360 tokens
_state = threading.local()


@contextmanager
def switched_off() -> Iterator[None]:
    """While it is entered, all tokens of all rows go through all layers."""
    was, _state.off = getattr(_state, "off", False), True
    try:
        yield
    finally:
        _state.off = was


def fits(model: PreTrainedModel) -> bool:
    """Whether the last layer of this model can be told where to work: it is of `KINDS`, and whole in this process."""
    return not getattr(_state, "off", False) and _last_layer(model) is not None


def places_of(counts: torch.Tensor) -> torch.Tensor:
    """Where something counts in each row: (batch, seq) of booleans -> (batch, n), n being the most of a row.

    Rows with fewer are filled up with places where nothing counts; where nothing counts anywhere, n is 1.
    """
    most = max(1, int(counts.sum(-1).max()))
    return counts.byte().argsort(dim=-1, descending=True, stable=True)[:, :most]


def logits_at(model: PreTrainedModel, given: dict, places: torch.Tensor) -> torch.Tensor:
    """The logits that a call of the model gives at some places of each row: (batch, n, vocabulary).

    Args:
        given: input_ids (batch, seq), and attention_mask, position_ids and a cache where the call has them.
        places: (batch, n), counted from the end, which is -1: whatever an adapter puts in front moves none.
    """
    import torch

    if not fits(model):
        kept, which = torch.unique(places, return_inverse=True)
        logits = model(**given, use_cache=cache_name() in given, logits_to_keep=kept).logits
        return logits[torch.arange(len(places), device=places.device)[:, None], which]
    if begun := _alike(model, given, places):
        cached = copies(read(model, given["input_ids"][:1, :begun]), len(places))
        given = {**given, "input_ids": given["input_ids"][:, begun:], **cached}
    with _only(model, places):
        return model(**given, use_cache=cache_name() in given).logits


def _alike(model: PreTrainedModel, given: dict, places: torch.Tensor) -> int:
    """How many tokens all rows begin with, as far as they are to be read once; 0 is: none."""
    import torch

    ids, mask = given["input_ids"], given.get("attention_mask")
    if ids.device.type != "cpu" or _shared_out(model):
        return 0  # a GPU waits longer for further calls, and DDP allows none
    if "position_ids" in given or (mask is not None and mask.ndim != 2):
        return 0  # packed
    if any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values()):
        return 0  # something stands in front of it
    layer = _last_layer(model)
    if layer.gradient_checkpointing and layer.training:
        return 0  # which lets no layer hand on its keys
    same = (ids == ids[:1]).all(0)
    if mask is not None:
        same &= (mask != 0).all(0)
    begun = min(int(same.cumprod(0).sum()), ids.shape[1] + int(places[:, 0].min()))
    products = sum(weight.numel() for weight in layer.parameters())  # a token
    if begun * (len(ids) - 1) * products < WORTH:
        return 0
    drops = model.training and any(module.p for module in model.modules() if type(module) is torch.nn.Dropout)
    return 0 if drops else begun  # each row drops others


def read(model: PreTrainedModel, ids: torch.Tensor) -> Beginning:
    """What each layer keeps of a beginning, (1, tokens): for `copies`."""
    import torch
    from transformers import DynamicCache

    kept = DynamicCache()  # one that the model made would, behind a sliding window, forget how it began
    given = {"input_ids": ids, "use_cache": True, cache_name(): kept}
    if fits(model):
        with _only(model, torch.full((1, 1), -1, device=ids.device)):
            model(**given)
    else:
        model(**given, logits_to_keep=1)
    return [(layer.keys, layer.values) for layer in kept.layers]


def copies(begun: Beginning | None, rows: int) -> dict:
    """What a call for so many rows that all begin so is given besides; nothing where there is no beginning."""
    if begun is None:
        return {}
    from transformers import DynamicCache

    made = DynamicCache()
    for i, (keys, values) in enumerate(begun):
        made.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), i)
    return {cache_name(): made}


@cache
def cache_name() -> str:
    """The name by which this version's models take a cache and give it back."""
    import inspect

    from transformers import LlamaForCausalLM

    return next(name for name in CACHE if name in inspect.signature(LlamaForCausalLM.forward).parameters)


def _shared_out(model) -> bool:
    return type(model).__name__ == "DistributedDataParallel"


def _last_layer(model: PreTrainedModel):
    """The last layer of a model of `KINDS`, alone or in a PeftModel or under DDP; None where it is anything else."""
    model = model.module if _shared_out(model) else model
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    home = sys.modules[type(base).__module__]  # transformers', wherever a model of it was made
    kind = home.__name__.rpartition("modeling_")[2]
    if kind not in KINDS or type(base) is not getattr(home, f"{KINDS[kind]}ForCausalLM", None):
        return None
    layer = base.model.layers[-1]
    plain = type(layer) is getattr(home, f"{KINDS[kind]}DecoderLayer") and "forward" not in vars(layer)
    return layer if plain and base.config._attn_implementation in MASKED else None


@contextmanager
def _only(model: PreTrainedModel, places: torch.Tensor) -> Iterator[None]:
    """While it is entered, the last layer gives these places of each row, (batch, n) from the end, and no others."""
    layer = _last_layer(model)
    layer.forward, was = partial(_forward, layer, places), layer.gradient_checkpointing
    layer.gradient_checkpointing = False  # that calls it once more in the backward pass, when it is its own again
    try:
        yield
    finally:
        del layer.forward
        layer.gradient_checkpointing = was


def _forward(layer, places: torch.Tensor, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None,
             position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None, **further) -> torch.Tensor:
    """The call of a decoder layer of `KINDS`, (batch, seq, width) -> (batch, n, width)."""
    import torch
    from transformers.models.llama.modeling_llama import ALL_ATTENTION_FUNCTIONS, eager_attention_forward

    home = sys.modules[type(layer).__module__]
    attention, (rows, n), seq = layer.self_attn, places.shape, hidden_states.shape[1]
    places = (places + seq).clamp(min=0)

    def heads(projected):
        return projected.view(rows, -1, projected.shape[-1] // attention.head_dim, attention.head_dim).transpose(1, 2)

    def turned(tensor, cos, sin):
        return home.apply_rotary_pos_emb(tensor, tensor[:, :0], cos, sin)[0]  # queries and keys have other places here

    normed, (cos, sin) = layer.input_layernorm(hidden_states), position_embeddings
    query = turned(heads(attention.q_proj(_at(normed, places))), _at(cos, places), _at(sin, places))
    key, value = turned(heads(attention.k_proj(normed)), cos, sin), heads(attention.v_proj(normed))
    if (before := further.get(cache_name())) is not None:
        key, value = before.update(key, value, attention.layer_idx)
    if attention_mask is None:
        seen = torch.arange(key.shape[2], device=key.device) <= (places + key.shape[2] - seq)[..., None]
    else:
        seen = _at(attention_mask[:, 0], places)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    said, _ = attend(attention, query, key, value, seen[:, None], scaling=attention.scaling,
                     dropout=attention.attention_dropout if attention.training else 0.0)
    said = attention.o_proj(said.reshape(rows, n, -1))
    hidden_states = _at(hidden_states, places) + said
    return hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states))


def _at(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(batch or 1, seq, width) at places (batch, n) of each row: (batch, n, width)."""
    import torch

    shift = torch.arange(len(tensor), device=tensor.device)[:, None] * tensor.shape[1]
    return tensor.flatten(0, 1).index_select(0, (places + shift).flatten()).view(*places.shape, -1)
