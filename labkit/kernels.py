"""Attention, norms and LoRA layers for a CPU, where the libraries' own are slow: to train in bfloat16, and to answer.

On rows as short as tickets, plain matrix products take a third of the time of PyTorch's flash kernel for CPUs; like
that kernel they keep no large (seq, seq) matrix from forward to backward, but compute it again. And a LoRA layer in one
function writes its detour into W x without passes of its own for the scale, the sum and each change of type, and draws
what dropout leaves out four numbers at a time. Norms and the turning of queries and keys have backward passes of a few
steps, where autograd goes through them operation by operation. A model that only answers needs no detour: one product
with W + scale B A gives the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

NAME = "labkit_products"  # under which transformers knows the attention
ALIKE = ("Llama", "Qwen2", "Mistral")  # whose norms, and whose way to turn queries and keys, are the same line by line
KEPT_SCORES = 1 << 21  # of a layer, up to which they are kept for the backward pass: 4 MB
MOST_SUMS = 1 << 30  # bytes of the weights that `joined` makes beside the model's own; above, it leaves them
MOST_SCORES = 1 << 24  # scores of a batch, all heads together, at 2 bytes each; above, PyTorch's kernel is taken


def by_products(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor | None,
                scale: float) -> torch.Tensor:
    """softmax(scale Q K^T) V by matrix products, with a backward pass that computes a large softmax again.

    Args:
        query: (batch, heads, n, width). key, value: (batch, key heads, seq, width); heads is a multiple of theirs.
        seen: True where a token may look, broadcast to (batch, heads, n, seq); None, where n is seq, is: at itself and
            before it.
        scale: of the scores.

    Returns:
        (batch, heads, n, width) in the type of the arguments.
    """
    return _products().apply(query, key, value, seen, scale)


@cache
def _products():
    """The autograd function; made at first use, since `import labkit` loads no torch."""
    import torch

    def probabilities(query, key, seen, scale):
        batch, heads, n, _ = query.shape
        seq = key.shape[2]
        scores = _grouped(query * scale, key) @ key.transpose(-1, -2)
        scores = scores.view(batch, heads, n, seq)
        if seen is None:
            seen = torch.ones(seq, seq, dtype=torch.bool, device=query.device).tril()
        # not -inf: a row that sees nothing, as padding on the left does, would become 0 / 0
        return scores.masked_fill_(~seen, torch.finfo(scores.dtype).min).softmax(-1)  # sums in float32 by itself

    class Products(torch.autograd.Function):
        @staticmethod
        def forward(ctx, query, key, value, seen, scale):
            shares = probabilities(query, key, seen, scale)
            ctx.save_for_backward(query, key, value, seen, shares if shares.numel() <= KEPT_SCORES else None)
            ctx.scale = scale
            return (_grouped(shares, key) @ value).view(query.shape)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, given):
            query, key, value, seen, shares = ctx.saved_tensors
            given = _grouped(given, key)
            shares = probabilities(query, key, seen, ctx.scale) if shares is None else shares
            to_shares = (given @ value.transpose(-1, -2)).view(shares.shape)
            to_scores = _grouped(torch._softmax_backward_data(to_shares, shares, -1, shares.dtype), key)
            shares = _grouped(shares, key)
            to_query = (to_scores @ key).view(query.shape) * ctx.scale
            to_key = to_scores.transpose(-1, -2) @ _grouped(query, key) * ctx.scale
            return to_query, to_key, shares.transpose(-1, -2) @ given, None, None

    return Products


def _grouped(tensor: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(batch, heads, n, last) as (batch, key heads, heads of one key * n, last): no key has to be copied."""
    batch, heads, n, last = tensor.shape
    return tensor.reshape(batch, key.shape[1], heads // key.shape[1] * n, last)


def with_detour(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor,
                scale: float, drop: float = 0.0) -> torch.Tensor:
    """W x + bias + scale B A dropout(x), computed in the type of W, which is frozen.

    Args:
        x: (..., d_in). weight: (d_out, d_in). bias: (d_out,). a: (r, d_in). b: (d_out, r).
        drop: the share of x that the detour does not see, to 1/65,536; other ones in each call.

    Returns:
        (..., d_out) in W's type. The gradients of x, a and b come in their own types.
    """
    return _detour().apply(x, weight, bias, a, b, scale / (1 - drop), drop)


@cache
def _detour():
    """As `_products`."""
    import torch

    class Detour(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias, a, b, scale, drop):
            rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
            low_a, low_b = a.to(weight.dtype), (b * scale).to(weight.dtype)
            said = torch.nn.functional.linear(rows, weight, bias)
            kept = kept_bits(rows, drop) if drop else None
            rows = rows if kept is None else _masked(rows, kept)
            inner = rows @ low_a.T
            said.addmm_(inner, low_b.T)
            ctx.save_for_backward(rows, weight, inner, low_a, low_b, kept)
            ctx.scale, ctx.types = scale, (x.dtype, a.dtype, b.dtype)
            return said.view(*x.shape[:-1], -1)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, given):
            rows, weight, inner, low_a, low_b, kept = ctx.saved_tensors
            of_x, of_a, of_b = ctx.types
            shape = given.shape[:-1]
            given = given.reshape(-1, given.shape[-1]).to(weight.dtype)
            to_inner, to_x = given @ low_b, None
            if ctx.needs_input_grad[0]:
                to_x = given @ weight
                to_x = to_x.addmm_(to_inner, low_a) if kept is None else to_x.add_(_masked(to_inner @ low_a, kept))
                to_x = to_x.view(*shape, -1).to(of_x)
            to_b = (inner.T @ given).T.to(of_b) * ctx.scale  # so, and not the other way round: half the time
            return to_x, None, None, (to_inner.T @ rows).to(of_a), to_b, None, None

    return Detour


def kept_bits(tensor: torch.Tensor, drop: float) -> torch.Tensor:
    """All bits of a number where it is kept and none where it is dropped: integers as wide as the tensor's numbers.

    16 bits a number, four numbers from each draw of PyTorch's generator: a sixth of the time of torch.dropout.
    """
    import torch

    words = torch.empty(-(-tensor.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    drawn, below = words.view(torch.int16)[: tensor.numel()].view(tensor.shape), round(drop * 2**16) - 2**15
    kept = drawn.clamp_(below - 1, below).neg_().add_(below - 1)  # -1, all bits, from `below` on; else 0
    return kept.to(_bits_of(tensor))


def _masked(tensor: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    return (tensor.view(kept.dtype) & kept).view(tensor.dtype)


def _bits_of(tensor: torch.Tensor) -> torch.dtype:
    import torch

    return {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """weight x / sqrt(mean(x²) + eps), over the last dimension; the weight is frozen.

    Args:
        x: (..., width). weight: (width,).
    """
    return _norm().apply(x, weight, eps)


@cache
def _norm():
    """As `_products`."""
    import torch

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, eps):
            size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            size = size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
            ctx.save_for_backward(x, weight, size)
            return (x * size).mul_(weight)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, given):
            x, weight, size = ctx.saved_tensors
            given = given * weight
            along = (given * x).sum(-1, keepdim=True).mul_(size**3).div_(-x.shape[-1])
            return given.mul_(size).addcmul_(x, along), None, None

    return Norm


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Queries or keys turned by their places (RoPE): x cos + (-second half of x, first half) sin.

    Args:
        x: (batch, heads, seq, width). cos, sin: broadcast to it.
    """
    return _turn().apply(x, cos, sin)


@cache
def _turn():
    """As `_products`."""
    import torch

    def crossed(x, cos, into_first, into_second):
        first, second = x.chunk(2, -1)
        out = x * cos
        one, other = out.chunk(2, -1)
        one.addcmul_(second, into_first)
        other.addcmul_(first, into_second)
        return out

    class Turn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, cos, sin):
            ctx.save_for_backward(cos, sin)
            first, second = sin.chunk(2, -1)
            return crossed(x.to(cos.dtype), cos, -first, second)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, given):
            cos, sin = ctx.saved_tensors
            first, second = sin.chunk(2, -1)
            return crossed(given.to(cos.dtype), cos, second, -first), None, None

    return Turn


@contextmanager
def quick(model: PreTrainedModel, adapter: bool = True) -> Iterator[None]:
    """While it is entered, a model on a CPU trains with these, wherever they give the same and are quicker.

    Args:
        model: the base, or a PeftModel.
        adapter: whether its LoRA layers and norms too. The former keep W in bfloat16 for the whole training: not where
            weights are split over processes, or where checkpointing shall keep little.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    here = model.device.type == "cpu"
    was = getattr(model.config, "_attn_implementation", None)
    fits = here and was == "sdpa" and getattr(model, "_supports_attention_backend", False)
    layers = [module for module in model.modules() if _plain(module)] if here and adapter else []
    norms = [module for name, module in model.named_modules() if _before_products(name, module)] if layers else []
    home = sys.modules[type(norms[0]).__module__] if norms else None
    turn = home and home.apply_rotary_pos_emb
    if fits:
        model.set_attn_implementation(NAME)
    for layer in layers:
        layer.forward = partial(_forward, layer, layer.forward, {})
    for norm in norms:
        norm.forward = partial(_normed, norm, norm.forward)
    if home:
        home.apply_rotary_pos_emb = partial(_turned, turn)
    try:
        yield
    finally:
        if fits:
            model.set_attn_implementation(was)
        if home:
            home.apply_rotary_pos_emb = turn
        for module in layers + norms:
            del module.forward


@contextmanager
def joined(model: PreTrainedModel) -> Iterator[None]:
    """While it is entered, the LoRA layers of a model in float32 on a CPU answer by one product with W + scale B A.

    The sums are made once, beside W, which stays as it is; with thin products left out, a tiny model answers in two
    thirds of the time. Answers differ by rounding. Rows with adapters of their own, and training, go peft's way.
    """
    import torch

    here = "peft" in sys.modules and next(model.parameters()).device.type == "cpu"  # a base alone never needs peft
    layers = [module for module in model.modules() if _single(module)] if here else []
    layers = [layer for layer in layers if layer.base_layer.weight.dtype == torch.float32]
    if sum(layer.base_layer.weight.nbytes for layer in layers) > MOST_SUMS:
        layers = []
    before = [vars(layer).get("forward") for layer in layers]  # of a training that looks at answers in between
    with torch.no_grad():
        for layer in layers:
            name = layer.active_adapters[0]
            weight = torch.addmm(layer.base_layer.weight, layer.lora_B[name].weight, layer.lora_A[name].weight,
                                 alpha=layer.scaling[name])
            layer.forward = partial(_answer, layer, layer.forward, weight)
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward


def _answer(layer, otherwise, weight: torch.Tensor, x, *args, **further):
    """A LoRA layer's call: one product where nothing is trained and the row has no adapter of its own."""
    import torch

    if args or further or layer.training or torch.is_grad_enabled():
        return otherwise(x, *args, **further)
    return torch.nn.functional.linear(x, weight, layer.base_layer.bias)


def _single(module) -> bool:
    """Whether it is a LoRA layer of peft's, with one adapter at work beside an nn.Linear, and no variant."""
    import torch
    from peft.tuners.lora import Linear

    if type(module) is not Linear or type(module.base_layer) is not torch.nn.Linear:
        return False
    names = module.active_adapters
    return (len(names) == 1 and names[0] in module.lora_A and names[0] not in module.lora_variant
            and module.lora_A[names[0]].bias is None and module.lora_B[names[0]].bias is None
            and not module.merged and not module.disable_adapters)


def _plain(module) -> bool:
    """Whether such a layer is also trained as peft does by default: W is frozen, and x is dropped or left."""
    import torch

    if not _single(module):
        return False
    base = module.base_layer
    return (not base.weight.requires_grad and (base.bias is None or not base.bias.requires_grad)
            and type(module.lora_dropout[module.active_adapters[0]]) in (torch.nn.Identity, torch.nn.Dropout))


def _before_products(name: str, module) -> bool:
    """Whether it is a frozen norm in front of a layer's matrices, which take 16 bits: not the last of a model."""
    kind = type(module).__name__.removesuffix("RMSNorm")
    return kind in ALIKE and name.endswith("_layernorm") and not module.weight.requires_grad


def _normed(norm, otherwise, x: torch.Tensor) -> torch.Tensor:
    """A norm's call: in one function in a training in bfloat16, otherwise transformers' own."""
    import torch

    if not (norm.training and _low() and torch.is_grad_enabled() and x.dtype == torch.float32):
        return otherwise(x)
    return normed(x, norm.weight, norm.variance_epsilon)


def _turned(otherwise, query, key, cos, sin, unsqueeze_dim: int = 1):
    """transformers' call for the queries and keys of a layer, in the same way."""
    import torch

    if not (_low() and torch.is_grad_enabled() and query.dtype == key.dtype == torch.bfloat16):
        return otherwise(query, key, cos, sin, unsqueeze_dim)
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    with torch.autocast("cpu", enabled=False):
        return tuple(turned(x, cos, sin) if x.numel() else x for x in (query, key))


def _low() -> bool:
    """Whether a training computes in bfloat16 here and now."""
    import torch

    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _forward(layer, otherwise, kept: dict, x, *args, **further):
    """A LoRA layer's call: in one function in a training in bfloat16, otherwise peft's own.

    `kept` holds W in bfloat16: autocast would make that copy anew in each pass, and keep it for the backward pass.
    """
    import torch

    if args or further or not (layer.training and _low() and torch.is_grad_enabled()):
        return otherwise(x, *args, **further)
    if "weight" not in kept:
        weight, bias = layer.base_layer.weight.detach().bfloat16(), layer.base_layer.bias
        kept |= {"weight": weight, "bias": bias if bias is None else bias.bfloat16()}
    name = layer.active_adapters[0]
    with torch.autocast("cpu", enabled=False):
        return with_detour(x, kept["weight"], kept["bias"], layer.lora_A[name].weight, layer.lora_B[name].weight,
                           layer.scaling[name], getattr(layer.lora_dropout[name], "p", 0.0))


def _attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **further):
    """transformers' call: by products where it can be, otherwise as without this module."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    batch, heads, n, width = query.shape
    seq = key.shape[2]
    plain = not dropout and not any(further.get(name) is not None for name in ("softcap", "position_bias", "s_aux"))
    causal = further.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    plain &= causal if attention_mask is None else attention_mask.dtype == torch.bool
    fits = n == seq or attention_mask is not None
    fits &= value.shape == key.shape and batch * heads * n * seq <= MOST_SCORES
    if not (plain and fits and _low() and query.requires_grad):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
                                      **further)
    with torch.autocast("cpu", enabled=False):
        said = by_products(*(t.bfloat16() for t in (query, key, value)), attention_mask,
                           width**-0.5 if scaling is None else scaling)
    return said.transpose(1, 2).contiguous(), None
