"""How much memory a fine-tuning takes, in bytes, worked out from a model's config before anything is loaded.

Stands beside `models`, which gives `memory` its name there; `livebytes` measures what this predicts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import profiles
from labkit.errors import LabError
from labkit.profiles import PROFILES, Profile

if TYPE_CHECKING:
    from transformers import PretrainedConfig

METHODS = ("full", "lora", "qlora")
OPTIMIZERS = ("adamw", "adamw8bit")
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ADAPTED = {"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"}
LOSS = 12  # bytes for each logit while the loss is differentiated: log-softmax, its gradient, that of the logits
SPARE = 0.1  # share of a GPU that is not planned for: CUDA itself, and what the allocator cannot use
GPUS = {"T4": (16, False), "L4": (24, True), "RTX 4090": (24, True), "A100": (80, True), "H100": (80, True)}  # GB, bf16
CODES = 4 * (16 + 256)  # bitsandbytes keeps the two code books, of weights and of scales, once for each matrix


@dataclass(frozen=True)
class Shape:
    """What a decoder of the Llama family is made of; `fused` has q, k, v in one matrix, gate and up in another."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head: int  # width of one head
    tied: bool  # the output head is the embedding
    bias: bool = False  # on q, k and v
    fused: bool = False

    def matrices(self) -> dict[str, tuple[int, int]]:
        """(d_out, d_in) of the linear layers of one block, by name."""
        q, kv = self.heads * self.head, self.kv_heads * self.head
        if self.fused:
            first = {"qkv_proj": (q + 2 * kv, self.width), "gate_up_proj": (2 * self.inner, self.width)}
        else:
            first = dict.fromkeys(("gate_proj", "up_proj"), (self.inner, self.width))
            first |= {"q_proj": (q, self.width), "k_proj": (kv, self.width), "v_proj": (kv, self.width)}
        return first | {"o_proj": (self.width, q), "down_proj": (self.width, self.inner)}

    @property
    def linear(self) -> int:
        """Weights in the linear layers of all blocks."""
        return self.layers * sum(out * into for out, into in self.matrices().values())

    @property
    def rest(self) -> int:
        """Weights beside those: norms and biases."""
        bias = (self.heads + 2 * self.kv_heads) * self.head if self.bias else 0
        return self.layers * (2 * self.width + bias) + self.width

    @property
    def embedding(self) -> int:
        """Weights in the embedding and, where it is a matrix of its own, the output head."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.linear + self.rest + self.embedding


# Of models that a learner may want to compare and need not download, from the config.json of each.
KNOWN = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape(49152, 576, 1536, 30, 9, 3, 64, True),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": Shape(49152, 2048, 8192, 24, 32, 32, 64, True),
    "Qwen/Qwen2.5-0.5B-Instruct": Shape(151936, 896, 4864, 24, 14, 2, 64, True, bias=True),
    "Qwen/Qwen2.5-1.5B-Instruct": Shape(151936, 1536, 8960, 28, 12, 2, 128, True, bias=True),
    "Qwen/Qwen2.5-7B-Instruct": Shape(152064, 3584, 18944, 28, 28, 4, 128, False, bias=True),
    "meta-llama/Llama-3.2-1B-Instruct": Shape(128256, 2048, 8192, 16, 32, 8, 64, True),
    "meta-llama/Llama-3.1-8B-Instruct": Shape(128256, 4096, 14336, 32, 32, 8, 128, False),
    "microsoft/Phi-4-mini-instruct": Shape(200064, 3072, 8192, 32, 24, 8, 128, True, fused=True),
}


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step takes, by what they are for.

    They are not all there at once: gradients come as activations go. `live` has those that are held at the worst
    moment, which `moment` names; their sum is `peak`.
    """

    weights: int  # of the base and of the adapter
    gradients: int
    optimizer: int
    activations: int  # what the forward pass keeps for the backward pass
    logits: int
    live: dict[str, int]
    moment: str

    @property
    def peak(self) -> int:
        return sum(self.live.values())

    def row(self) -> dict[str, str]:
        """The parts and the peak in MB (10^6 bytes), for a table."""
        parts = {name: getattr(self, name) for name in ("weights", "gradients", "optimizer", "activations", "logits")}
        return {**{name: f"{size / 1e6:,.1f}" for name, size in parts.items()}, "peak": f"{self.peak / 1e6:,.1f}",
                "worst moment": self.moment}


def memory(
    model: str | Path | Profile | PretrainedConfig | Shape | None = None,
    method: str = "lora",
    *,
    batch: int,
    length: int,
    counted: int | None = None,
    rank: int = 8,
    targets: str | list[str] = "all-linear",
    dtype: str = "float32",
    bf16: bool | None = None,
    checkpointing: bool = False,
    accumulation: int = 1,
    optimizer: str = "adamw",
    device: str | None = None,
) -> Memory:
    """Predict the memory of a training step as `finetune` makes it, from the model's config alone.

    Reckoned for a decoder of the Llama family (Llama, SmolLM2, Qwen2, Phi-3), attention that never writes its
    (seq, seq) scores down (sdpa), padded rows, no dropout. Not in it: the process and its libraries, a GPU's CUDA
    context (0.3 to 0.6 GB), and the gaps that an allocator leaves.

    Args:
        model: a profile, a hub id of `KNOWN`, a folder with a config.json, a config, or a Shape.
        method: "full", "lora", or "qlora": LoRA over a base in NF4 with double quantisation.
        batch: rows a step. length: tokens in a row, the padding included.
        counted: places of a row where labels count, the most of any row: there, and nowhere else, are logits made and
            does the last block do all its work. None is all.
        rank, targets: of the adapter.
        dtype: of the weights that are not quantised.
        bf16: whether it computes in bfloat16 (autocast); None asks the machine.
        checkpointing: keep each block's input only, and compute the rest of it again in the backward pass.
        accumulation: the batch goes through in so many parts; gradients then wait from one part to the next.
        optimizer: "adamw", two fp32 moments; or "adamw8bit", two of 8 bits with a scale for each 256.
        device: "cpu" or "cuda"; None is this machine's. A GPU's AdamW makes temporaries for all weights at once.

    Raises:
        LabError: the method, optimizer or dtype is unknown, or there is no such config.
    """
    for what, value, known in (("method", method, METHODS), ("optimizer", optimizer, OPTIMIZERS),
                               ("dtype", dtype, tuple(BYTES))):
        if value not in known:
            raise LabError(f"there is no {what} {value!r}", where=what, expected=", ".join(known))
    for where, number in (("batch", batch), ("length", length), ("rank", rank), ("accumulation", accumulation)):
        if number < 1 or number != int(number):
            raise LabError(f"{number}", where=where, expected="a whole number from 1 on")
    if batch % accumulation:
        raise LabError(f"{accumulation} parts of a batch of {batch} rows", where="accumulation",
                       expected="a number that divides the batch")
    shape, full, size = shape_of(model), method == "full", BYTES[dtype]
    bf16 = (profiles.bf16() if bf16 is None else bf16) or size == 2  # 16-bit weights compute in 16 bits
    rows, places = batch // accumulation, length if counted is None else counted
    tokens, made = rows * length, rows * places  # of one part of the batch; logits of it
    adapted = {} if full else _adapted(shape, targets)

    trained = _full_tensors(shape) if full else [rank * side for pair in adapted.values() for side in pair]
    repeat = 1 if full else shape.layers  # of what is listed, the adapters of one block
    trainable = repeat * sum(trained)
    weights = _base_bytes(shape, method, size) + (0 if full else 4 * trainable)
    gradients = trainable * (size if full else 4)
    moments = repeat * sum(_moment_bytes(n, optimizer, size if full else 4) for n in trained)
    # Under autocast fp32 weights are copied to bf16, and the copies wait for the backward pass.
    copies = 2 if bf16 and size == 4 else 0
    block = tokens * _kept(shape, method, bf16, size, rank, adapted, length)
    block_copies = 0 if method == "qlora" else copies * shape.linear // shape.layers
    residual = tokens * shape.width * size
    narrow = not shape.fused  # `labkit.narrow`: the last block works where labels count, and is not computed again
    asked = made if narrow else tokens
    last = asked * shape.width * 4 * (2 if full else 1)  # of the final norm
    last += copies * shape.vocabulary * shape.width + (made * shape.width * (2 if bf16 else 4) if full else 0)
    stored = residual if checkpointing else block + block_copies  # what one block leaves for the backward pass
    last_stored = stored
    if narrow:
        everywhere = _kept_everywhere(shape, method, bf16, size, rank, adapted)
        last_stored = block + block_copies + (made - tokens) * (block / tokens - everywhere)
    activations = (shape.layers - 1) * stored + last_stored + last
    logits = LOSS * made * shape.vocabulary

    work, again = tokens * shape.inner * (2 if bf16 else 4) * 2, block + block_copies if checkpointing else 0
    matrix = max(o * i for o, i in shape.matrices().values()) * (size + (2 if bf16 and size == 4 else 0))
    matrix *= method == "qlora"  # one at a time is brought back to full precision
    last_work = work * asked / tokens + matrix + (0 if narrow else again)
    work += matrix + again
    head = shape.vocabulary * shape.width * size if full else 0  # the gradient that the output head leaves first
    of_block = (gradients - head) / shape.layers if full else gradients / shape.layers
    waiting = gradients if accumulation > 1 else 0
    moments_of = [("the loss", waiting, activations, logits, 0),
                  ("the output head's gradient", waiting, activations, logits // 3, head)]
    moments_of.append(("the backward pass", max(waiting, head), activations - last, 0, last_work))
    moments_of += [("the backward pass", max(waiting, head + done * of_block), (shape.layers - done) * stored, 0, work)
                   for done in range(1, shape.layers)]
    moments_of.append(("the embedding's gradient", gradients, 0, 0, head))
    at_once = gradients if (device or profiles.device()) == "cuda" else min(gradients, 2 * max(trained) * 4)
    moments_of.append(("the optimizer's step", gradients, 0, 0, at_once))
    moment, grads, kept, scored, working = max(moments_of, key=lambda m: sum(m[1:]))
    live = {"weights": weights, "gradients": grads, "optimizer": moments, "activations": kept, "logits": scored,
            "working space": working}
    return Memory(weights, gradients, moments, activations, logits, {k: int(v) for k, v in live.items()}, moment)


def shape_of(model: str | Path | Profile | PretrainedConfig | Shape | None = None) -> Shape:
    """The Shape of a model: of a profile, a hub id of `KNOWN`, a folder, or a config.

    Raises:
        LabError: there is no config.json, or it is of another family.
    """
    if isinstance(model, Shape):
        return model
    if model is None or isinstance(model, Profile) or (isinstance(model, str) and model in PROFILES):
        model = profiles.named(model).model
    if isinstance(model, str) and model in KNOWN:
        return KNOWN[model]
    if hasattr(model, "to_dict"):
        facts, where = model.to_dict(), "config"
    else:
        folder = profiles.COURSE / "data" / model if model == PROFILES["tiny"].model else Path(model).expanduser()
        where = str(folder / "config.json")
        try:
            facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise LabError("there is no config.json to read", where=where,
                           expected=f"a folder of a model, a profile, or one of {', '.join(KNOWN)}") from error
    kind = facts.get("model_type")
    if kind not in ("llama", "qwen2", "phi3"):
        raise LabError(f"nobody has reckoned the memory of a {kind!r} model yet", where=where,
                       expected="model_type llama, qwen2 or phi3")
    heads = facts["num_attention_heads"]
    return Shape(facts["vocab_size"], facts["hidden_size"], facts["intermediate_size"], facts["num_hidden_layers"],
                 heads, facts.get("num_key_value_heads") or heads,
                 facts.get("head_dim") or facts["hidden_size"] // heads, bool(facts.get("tie_word_embeddings")),
                 bias=kind == "qwen2", fused=kind == "phi3")


def _adapted(shape: Shape, targets: str | list[str]) -> dict[str, tuple[int, int]]:
    matrices = shape.matrices()
    if targets == "all-linear":
        return matrices
    wanted = [targets] if isinstance(targets, str) else list(targets)
    if unknown := sorted(set(wanted) - set(matrices)):
        raise LabError(f"no linear layer of this model is called {', '.join(unknown)}", where="targets",
                       expected=f"all-linear, or some of {', '.join(matrices)}")
    return {name: matrices[name] for name in wanted}


def _full_tensors(shape: Shape) -> list[int]:
    """The sizes of all weights, tensor by tensor."""
    blocks = [out * into for out, into in shape.matrices().values()] * shape.layers
    return [*blocks, *[shape.vocabulary * shape.width] * (1 if shape.tied else 2), shape.rest]


def _base_bytes(shape: Shape, method: str, size: int) -> int:
    if method != "qlora":
        return shape.parameters * size
    return sum(_nf4_bytes(out * into) for out, into in shape.matrices().values()) * shape.layers + (
        shape.rest + shape.embedding) * size


def _nf4_bytes(weights: int, block: int = 64, block2: int = 256) -> int:
    """A matrix as bitsandbytes keeps it: 4-bit codes, 8-bit scales, 32-bit scales of those, their mean, code books."""
    scales = -(-weights // block)
    return -(-weights // 2) + scales + 4 * -(-scales // block2) + 4 + CODES


def _moment_bytes(n: int, optimizer: str, size: int) -> int:
    """Adam's two moments of a tensor with n weights; bitsandbytes leaves tensors below 4,096 weights in fp32."""
    if optimizer == "adamw" or n < 4096:
        return 2 * n * (size if optimizer == "adamw" else 4)
    return 2 * (n + 4 * -(-n // 256))


def _kept(shape: Shape, method: str, bf16: bool, size: int, rank: int, adapted: dict, length: int) -> float:
    """Bytes that one block keeps for the backward pass, for each token.

    What is kept is what the derivative of each operation needs: of a norm its input (and its output before the
    weight, where the weight is trained), of attention q, k, v and its answer, of gate and up their products, of
    a LoRA module its input and A x. A frozen matrix needs no input. In fp32 modules share one input; under autocast
    each has a bf16 copy of its own, while norms stay in fp32, and bitsandbytes answers in the dtype of its input.
    """
    full, wide, attended, number = method == "full", shape.width, shape.heads * shape.head, 2 if bf16 else 4
    answer = 4 if method == "qlora" and size == 4 else number
    norms = 2 * wide * 4 * (2 if full else 1)
    attention = 4 * attended * number + shape.heads * 4 + length * number  # and the mask, a row of it for each token
    gates = shape.inner * answer * 3  # gate, its silu, up
    product = shape.inner * number if full or "down_proj" in adapted else 0
    into = [name for name in (shape.matrices() if full else adapted) if name not in ("o_proj", "down_proj")]
    if bf16:
        inputs = len(into) * wide * 2 + (attended * 2 if "o_proj" in adapted else 0)
    else:
        first, second = (any(name in into for name in group) for group in
                         (("q_proj", "k_proj", "v_proj", "qkv_proj"), ("gate_proj", "up_proj", "gate_up_proj")))
        inputs = (first + second) * wide * 4
    return norms + attention + gates + product + inputs + len(adapted) * rank * number + 8


def _kept_everywhere(shape: Shape, method: str, bf16: bool, size: int, rank: int, adapted: dict) -> float:
    """As `_kept`, of what the last block keeps for a token of which no logit is asked: its input, and its k and v."""
    full, wide, attended, number = method == "full", shape.width, shape.heads * shape.head, 2 if bf16 else 4
    into = [name for name in (shape.matrices() if full else adapted) if name in ("q_proj", "k_proj", "v_proj")]
    both = [name for name in into if name != "q_proj"]
    inputs = len(both) * wide * 2 if bf16 else bool(into) * wide * 4
    return wide * 4 * (2 if full else 1) + 2 * attended * number + inputs + (0 if full else len(both) * rank * number)


@dataclass(frozen=True)
class Fit:
    """A training on a GPU: what it takes there, of how many bytes; `fits` leaves a tenth for CUDA and for gaps."""

    gpu: str
    needs: Memory
    has: int

    @property
    def share(self) -> float:
        """Of the GPU's memory, 0 on; above 1 it cannot be."""
        return self.needs.peak / self.has

    @property
    def fits(self) -> bool:
        return self.share <= 1 - SPARE

    def __str__(self) -> str:
        verdict = "fits" if self.fits else "does not fit"
        return f"{self.gpu}: {self.needs.peak / 1e9:.1f} of {self.has / 1e9:.0f} GB, {verdict}"


def fits(model, method: str = "lora", **settings) -> list[Fit]:
    """The same training on each GPU of `GPUS`, in bfloat16 where the GPU has it.

    Args:
        model, method, settings: as for `memory`, but for bf16 and device.
    """
    return [Fit(gpu, memory(model, method, bf16=has_bf16, device="cuda", **settings), int(size * 1e9))
            for gpu, (size, has_bf16) in GPUS.items()]
