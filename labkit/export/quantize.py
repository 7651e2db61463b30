"""Put the matrices of an exported fp32 model on a grid of 16 or 256 levels a block: recipes, rounding, packing.

Used by `build` behind the builder: it reads a graph with MatMul nodes and leaves one with MatMulNBits nodes, whose
embedding is the quantised head, if the two were one matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import LabError
from labkit.export import calibrate, graph

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch

SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # of a block's range, tried for each block
DAMP = 0.01  # of the mean of H's diagonal, added to it


@dataclass(frozen=True)
class Recipe:
    """How weights become codes: w ≈ (code - zero) × scale, with one scale (and zero) a block of weights of a row.

    `rounding` is "nearest" (range of the block, nearest level), "shrunk" (the range that rounds with the least squared
    error) or "gptq" (Frantar et al., 2022: each column's error is made good by the columns that are not rounded yet).
    `eight` names the matrices that keep 8 bits, by the end of their name; the head stands for itself and the embedding.
    `accuracy` 4 multiplies with activations of 8 bits, 1 with fp32. `builder` holds options of onnxruntime-genai's own
    quantiser, which then does all of it.
    """

    bits: int = 4
    block: int = 32
    symmetric: bool = False
    rounding: str = "shrunk"
    eight: tuple[str, ...] = ("lm_head",)
    accuracy: int = 4
    builder: dict[str, object] = field(default_factory=dict)

    def bits_of(self, name: str) -> int:
        """Bits of the matrix of this name."""
        return 8 if any(name.removesuffix("/MatMul").endswith(end) for end in self.eight) else self.bits

    def facts(self) -> dict:
        """For the folder's record."""
        return asdict(self)


ROAD = {  # from what the builder does by itself to what to_onnx takes
    "builder, default": Recipe(builder={"int4_algo_config": "default"}),
    "builder, rtn_last": Recipe(builder={"int4_algo_config": "rtn_last"}),
    "builder, k_quant_last, asymmetric": Recipe(builder={"int4_algo_config": "k_quant_last",
                                                         "int4_is_symmetric": False}),
    "nearest, symmetric": Recipe(rounding="nearest", symmetric=True),
    "nearest": Recipe(rounding="nearest"),
    "shrunk": Recipe(),
    "gptq": Recipe(rounding="gptq"),
    "gptq, block 16": Recipe(rounding="gptq", block=16),
    "gptq, 8 bits for down_proj": Recipe(rounding="gptq", eight=("lm_head", "down_proj")),
    "gptq, 8 bits for v, o and down_proj": Recipe(rounding="gptq", eight=("lm_head", "v_proj", "o_proj", "down_proj")),
}
INT4 = ROAD["gptq, 8 bits for v, o and down_proj"]
INT8 = Recipe(bits=8, rounding="nearest", symmetric=True)


def quantise(folder: str | Path, recipe: Recipe, texts: Sequence[Sequence[int]] = ()) -> None:
    """Quantise the fp32 model in a folder, in place.

    Args:
        texts: token ids of texts to calibrate on; only "gptq" wants them.

    Raises:
        LabError: a recipe that there is not, or nothing to calibrate on.
    """
    import numpy as np

    check(recipe)
    model = graph.read(folder)
    if recipe.rounding == "gptq" and not texts:
        raise LabError("nothing to calibrate on", where="texts", expected="token ids of some texts",
                       todo="Give texts, or take the rounding 'shrunk'")
    changed, arrays, gone = {}, {}, set()
    for together, moment in _groups(folder, model, recipe, texts):
        bits = recipe.bits_of(together[0].name)
        symmetric = recipe.symmetric or bits == 8
        stacked = np.concatenate([linear.weight for linear in together])  # rows are rounded each by itself
        grid = rounded(stacked, bits, recipe.block, symmetric, "nearest" if bits == 8 else recipe.rounding, moment)
        ends = np.cumsum([len(linear.weight) for linear in together])[:-1]
        for linear, codes, scales, zeros in zip(together, *(np.split(part, ends) for part in grid), strict=True):
            place = linear.initializer.removesuffix(".weight")
            arrays[f"{place}.codes"], arrays[f"{place}.scales"] = packed(codes, bits, recipe.block), scales
            if not symmetric:
                arrays[f"{place}.zeros"] = packed_zeros(zeros, bits)
            changed[linear.name] = [_node(model, linear, place, bits, recipe, symmetric)]
            gone.add(linear.initializer)
    embedding = _embedding(model, arrays, recipe)
    changed |= embedding
    graph.replace_nodes(model, changed)
    graph.replace_initializers(model, gone if embedding or not _tied(model) else gone - {_tied(model)}, arrays)
    if not any(opset.domain == "com.microsoft" for opset in model.opset_import):
        from onnx import helper

        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    graph.write(model, folder)


def _groups(folder, model, recipe: Recipe, texts) -> Iterator[tuple[list[graph.Linear], torch.Tensor | None]]:
    """Matrices of one input and one number of bits together, with the moment of that input where GPTQ wants it."""
    groups: dict[tuple[str, int], list[graph.Linear]] = {}
    for linear in graph.linears(model):
        groups.setdefault((linear.source, recipe.bits_of(linear.name)), []).append(linear)
    wanted = {group[0].source: group[0].weight.shape[1] for (_, bits), group in groups.items() if bits == 4}
    seen = calibrate.moments(folder, wanted, texts) if recipe.rounding == "gptq" else None
    for (_, bits), group in groups.items():
        yield group, next(seen)[1] if seen and bits == 4 else None  # one at a time: they are large


def halve(folder: str | Path) -> None:
    """Store the weights of an fp32 model in 16 bits, in place; the runtime widens them when it loads, and computes in
    fp32, since few CPUs multiply in 16 bits (the builder's own fp16 graph is for GPUs)."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    model = graph.read(folder)
    large = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer
             if t.data_type == TensorProto.FLOAT and np.prod(t.dims) >= 1024}
    graph.replace_initializers(model, set(large), {f"{n}.half": array.astype(np.float16) for n, array in large.items()})
    casts = [helper.make_node("Cast", [f"{n}.half"], [n], f"/half/{n}", to=TensorProto.FLOAT) for n in large]
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    graph.write(model, folder)


def check(recipe: Recipe) -> None:
    """Refuse a recipe that no kernel can run.

    Raises:
        LabError: naming the field.
    """
    for name, allowed in (("bits", (4, 8)), ("block", (16, 32, 64, 128, 256)), ("accuracy", (0, 1, 4)),
                          ("rounding", ("nearest", "shrunk", "gptq"))):
        if getattr(recipe, name) not in allowed:
            raise LabError(f"{getattr(recipe, name)!r}", where=f"recipe, {name}",
                           expected=" or ".join(map(str, allowed)))


def rounded(weight: np.ndarray, bits: int, block: int, symmetric: bool, rounding: str = "shrunk",
            moment: torch.Tensor | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and zeros of a matrix.

    Args:
        weight: (d_out, d_in); rows are padded with zeros to whole blocks.
        moment: (d_in, d_in), the mean of x xᵀ over the inputs x that were seen; what "gptq" weighs errors by.

    Returns:
        codes (d_out, blocks × block) and zeros (d_out, blocks) as uint8, scales (d_out, blocks) as float32.
    """
    import torch

    d_out, d_in = weight.shape
    blocks = -(-d_in // block)
    W = torch.zeros(d_out, blocks * block)
    W[:, :d_in] = torch.from_numpy(weight.astype("float32"))
    if rounding == "gptq" and moment is not None:
        codes, scales, zeros = _gptq(W, bits, block, symmetric, moment)
    else:
        rows = W.view(d_out * blocks, block)
        scales, zeros = _grid(rows, bits, symmetric, SHRINK if rounding == "shrunk" else (1.0,))
        codes = _codes(rows, scales[:, None], zeros[:, None], bits)
    return (codes.reshape(d_out, -1).to(torch.uint8).numpy(), scales.reshape(d_out, blocks).numpy(),
            zeros.reshape(d_out, blocks).to(torch.uint8).numpy())


def restored(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """The weights that the codes stand for, (d_out, blocks × block)."""
    block = codes.shape[1] // scales.shape[1]
    wide = codes.reshape(*scales.shape, block).astype("float32") - zeros[..., None]
    return (wide * scales[..., None]).reshape(codes.shape)


def _codes(rows: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, bits: int) -> torch.Tensor:
    return (rows / scales + zeros).round().clamp(0, 2**bits - 1)


def _grid(rows: torch.Tensor, bits: int, symmetric: bool, shrink: Sequence[float],
          importance: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero of each row: the candidate range that rounds with the least squared error."""
    import torch

    top, half = 2**bits - 1, 2 ** (bits - 1)
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    largest = torch.maximum(-low, high)
    best = torch.full_like(low, float("inf"))
    scales, zeros = torch.ones_like(low), torch.full_like(low, float(half))
    for factor in shrink:
        if symmetric:
            scale, zero = factor * largest / (half - 0.5), torch.full_like(low, float(half))
        else:
            scale = factor * (high - low) / top
            zero = (-factor * low / scale.clamp(min=1e-12)).round().clamp(0, top)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        error = (_codes(rows, scale[:, None], zero[:, None], bits) - zero[:, None]) * scale[:, None] - rows
        error = (error**2 if importance is None else error**2 * importance).sum(1)
        better = error < best
        best = torch.where(better, error, best)
        scales, zeros = torch.where(better, scale, scales), torch.where(better, zero, zeros)
    return scales, zeros


def _gptq(W: torch.Tensor, bits: int, block: int, symmetric: bool, moment: torch.Tensor):
    """Round column by column; what a column lost is taken from the columns behind it, by the inverse of H."""
    import torch

    d_out, width = W.shape
    H = torch.eye(width)
    H[: len(moment), : len(moment)] = moment
    H += DAMP * moment.diagonal().mean().clamp(min=1e-8) * torch.eye(width)
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    codes, scales, zeros = torch.empty_like(W), [], []
    for start in range(0, width, block):
        end = start + block
        diagonal = H.diagonal()[start:end]
        scale, zero = _grid(W[:, start:end], bits, symmetric, SHRINK, diagonal / diagonal.mean())
        part, lost = W[:, start:end].T.contiguous(), torch.empty(block, d_out)  # a column of W is a row here
        for j in range(block):
            code = _codes(part[j], scale, zero, bits)
            codes[:, start + j] = code
            lost[j] = (part[j] - (code - zero) * scale) / U[start + j, start + j]
            part[j + 1 :].addr_(U[start + j, start + j + 1 : end], lost[j], alpha=-1)
        W[:, end:] -= lost.T @ U[start:end, end:]
        scales.append(scale)
        zeros.append(zero)
    return codes, torch.stack(scales, 1), torch.stack(zeros, 1)


def packed(codes: np.ndarray, bits: int, block: int) -> np.ndarray:
    """(d_out, blocks, bytes) as MatMulNBits wants them: of two 4-bit codes the first is the lower half of a byte."""
    import numpy as np

    d_out = len(codes)
    if bits == 4:
        codes = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return np.ascontiguousarray(codes.reshape(d_out, -1, block * bits // 8))


def packed_zeros(zeros: np.ndarray, bits: int) -> np.ndarray:
    """The zeros of each row behind one another, two a byte at 4 bits; a row that ends in half a byte is filled up."""
    import numpy as np

    if bits == 8:
        return zeros
    if zeros.shape[1] % 2:
        zeros = np.pad(zeros, ((0, 0), (0, 1)))
    return zeros[:, 0::2] | (zeros[:, 1::2] << 4)


def _node(model: onnx.ModelProto, linear: graph.Linear, place: str, bits: int, recipe: Recipe, symmetric: bool):
    from onnx import helper

    old = next(node for node in model.graph.node if node.name == linear.name)
    inputs = [linear.source, f"{place}.codes", f"{place}.scales", *([] if symmetric else [f"{place}.zeros"])]
    d_out, d_in = linear.weight.shape
    return helper.make_node("MatMulNBits", inputs, list(old.output), linear.name, domain="com.microsoft", K=d_in,
                            N=d_out, bits=bits, block_size=recipe.block, accuracy_level=recipe.accuracy)


def _tied(model: onnx.ModelProto) -> str | None:
    """The name of the weight that head and embedding share, if they do."""
    transposed = next((n for n in model.graph.node if n.name == "/model/embed_tokens/Transpose"), None)
    return transposed.input[0] if transposed is not None else None


def _embedding(model: onnx.ModelProto, arrays: dict[str, np.ndarray], recipe: Recipe) -> dict[str, list]:
    """Nodes that look a token up in codes: in the head's own where the two are one matrix, else in codes of its own."""
    import numpy as np
    from onnx import helper, numpy_helper

    gather = next((n for n in model.graph.node if n.name == "/model/embed_tokens/Gather"), None)
    if gather is None:
        return {}
    nodes, place, bits = [], "lm_head.MatMul", recipe.bits_of(graph.HEAD)
    tied = _tied(model)
    if tied is None:
        table = next(t for t in model.graph.initializer if t.name == gather.input[0])
        codes, scales, _ = rounded(numpy_helper.to_array(table), 8, recipe.block, True, "nearest")
        place, bits = "model.embed_tokens", 8
        arrays |= {f"{place}.codes": packed(codes, 8, recipe.block), f"{place}.scales": scales}
        graph.replace_initializers(model, {gather.input[0]}, {})  # the fp32 table goes with the node that reads it
    rows, blocks, each = arrays[f"{place}.codes"].shape
    arrays["embedding.shape"] = np.array([rows, blocks * each], np.int64)
    nodes.append(helper.make_node("Reshape", [f"{place}.codes", "embedding.shape"], ["embedding.codes"],
                                  "/model/embed_tokens/Reshape"))
    inputs = ["embedding.codes", gather.input[1], f"{place}.scales"]
    if f"{place}.zeros" in arrays:
        inputs.append(f"{place}.zeros")
    nodes.append(helper.make_node("GatherBlockQuantized", inputs, list(gather.output), gather.name,
                                  domain="com.microsoft", bits=bits, block_size=recipe.block, gather_axis=0,
                                  quantize_axis=1))
    return {gather.name: nodes} | ({"/model/embed_tokens/Transpose": []} if tied else {})
