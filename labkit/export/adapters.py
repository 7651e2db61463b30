"""Adapters that an ONNX model takes at run time: their places in the graph, and each one as an .onnx_adapter file.

Used by `build`. The weights of a LoRA are inputs of the graph, with a rank that is left open: adapters of different
rank fit the same model, and with none the product over a rank of zero is zero, so the base answers alone.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import LabError
from labkit.export import graph

if TYPE_CHECKING:
    import numpy as np
    import onnx

RANK = "lora_rank"
PLAIN = {"bias": "none", "use_dora": False}  # what a LoRA must be to be a product beside W, and nothing more


def place(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Put a detour beside every matrix but the head, its two factors inputs of the graph.

    A is (d_in, r) and B (r, d_out) there: the transposes of peft's, with alpha / r put into B.

    Returns:
        (d_out, d_in) for the name of each place, such as "layers.0.attn.q_proj".
    """
    import numpy as np
    from onnx import TensorProto, helper

    shapes, changed, none = {}, {}, {}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "MatMulNBits") or "/layers." not in node.name:
            continue
        name = place_of(node.name)
        d_out, d_in = _shape(model, node)
        shapes[name] = (d_out, d_in)
        inner, outer, straight = f"{name}/lora/inner", f"{name}/lora/outer", f"{name}/lora/straight"
        kept = type(node)()
        kept.CopyFrom(node)
        kept.output[0] = straight
        changed[node.name] = [
            kept,
            helper.make_node("MatMul", [node.input[0], f"{name}.lora_A"], [inner], f"/{name}/lora_A"),
            helper.make_node("MatMul", [inner, f"{name}.lora_B"], [outer], f"/{name}/lora_B"),
            helper.make_node("Add", [straight, outer], [node.output[0]], f"/{name}/lora_add"),
        ]
        for factor, dims in (("lora_A", [d_in, RANK]), ("lora_B", [RANK, d_out])):
            model.graph.input.append(helper.make_tensor_value_info(f"{name}.{factor}", TensorProto.FLOAT, dims))
            none[f"{name}.{factor}"] = np.zeros([0 if d == RANK else d for d in dims], np.float32)
    graph.replace_nodes(model, changed)
    graph.replace_initializers(model, set(), none)  # an input with a stored value: what holds while no adapter does
    return shapes


def place_of(name: str) -> str:
    """The common name of a matrix, from the graph's ("/model/layers.0/attn/q_proj/MatMul") or from peft's
    ("base_model.model.model.layers.0.self_attn.q_proj").

    >>> place_of("base_model.model.model.layers.0.self_attn.q_proj") == place_of("/model/layers.0/attn/q_proj/MatMul")
    True
    """
    name = name.replace("/", ".").replace(".self_attn.", ".attn.")
    name = name[name.index("layers.") :] if "layers." in name else name.lstrip(".")
    return re.sub(r"\.MatMul(_\w+)?$", "", name)  # the builder's own quantiser adds its bits behind the name


def _shape(model: onnx.ModelProto, node) -> tuple[int, int]:
    """(d_out, d_in) of a node's weight."""
    if node.op_type == "MatMulNBits":
        known = {attribute.name: attribute.i for attribute in node.attribute}
        return known["N"], known["K"]
    d_in, d_out = next(tensor.dims for tensor in model.graph.initializer if tensor.name == node.input[1])
    return d_out, d_in


def convert(adapter: str | Path, shapes: dict[str, tuple[int, int]], file: Path) -> int:
    """Write one peft adapter as an .onnx_adapter file.

    Args:
        adapter: the folder that peft saved.
        shapes: (d_out, d_in) of each place, as `place` gives them.

    Returns:
        The largest rank in it.

    Raises:
        LabError: no adapter, one of another kind than LoRA, or one that does not fit this model.
    """
    import numpy as np

    factors = read_peft(adapter)
    if unknown := sorted(set(factors) - set(shapes)):
        raise LabError(f"the adapter changes {unknown[0]}, and the exported model has no place there",
                       where=str(adapter), expected="LoRA on layers of attention and MLP",
                       todo="Merge it: to_onnx(run)")
    rank = max(len(A) for A, _ in factors.values())
    values = {}
    for name, (d_out, d_in) in shapes.items():
        A, B = factors.get(name, (np.zeros((1, d_in)), np.zeros((d_out, 1))))
        if (B.shape[0], A.shape[1]) != (d_out, d_in):
            raise LabError(f"{name} is {B.shape[0]} × {A.shape[1]} in the adapter and {d_out} × {d_in} in the model",
                           where=str(adapter), todo="Take the base that the adapter was trained on")
        more = rank - len(A)  # zeros up to the largest rank: genai wants one rank in all places of an adapter
        A, B = np.pad(A, ((0, more), (0, 0))), np.pad(B, ((0, 0), (0, more)))
        values |= {f"{name}.lora_A": A.T.astype(np.float32), f"{name}.lora_B": B.T.astype(np.float32)}
    write(values, file)
    return rank


def write(values: dict[str, np.ndarray], file: Path) -> None:
    """Write arrays by name as an .onnx_adapter file."""
    import numpy as np
    import onnxruntime

    form = onnxruntime.AdapterFormat()
    form.set_adapter_version(1)
    form.set_model_version(1)
    kept = {name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
            for name, value in values.items()}
    form.set_parameters(kept)  # holds no reference: without a name of ours the arrays would be gone before the export
    form.export_adapter(str(file))


def read_peft(adapter: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A (r, d_in) and B (d_out, r) of each place of a saved LoRA, the scale already in B.

    Raises:
        LabError: no adapter, a damaged one, or one that is more than a product beside W.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(adapter)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise LabError("no LoRA adapter, or a damaged one", where=str(adapter),
                       expected="adapter_config.json and adapter_model.safetensors, as peft saves them") from error
    odd = [key for key, plain in PLAIN.items() if config.get(key, plain) != plain]
    odd += [key for key in ("modules_to_save", "trainable_token_indices") if config.get(key)]
    if config.get("peft_type") != "LORA" or odd:
        what = f"it has {odd[0]}" if config.get("peft_type") == "LORA" else f"it is {config.get('peft_type')}"
        raise LabError(f"only a plain LoRA can be switched at run time, and {what}", where=str(folder),
                       todo="Merge it: to_onnx(run)")
    found = {}
    for key in weights:
        if not key.endswith(".lora_A.weight"):
            continue
        module = key.removesuffix(".lora_A.weight")
        A, B = (weights[f"{module}.{factor}.weight"].float().numpy() for factor in ("lora_A", "lora_B"))
        alpha = _for_module(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
        r = len(A)
        found[place_of(module)] = (A, B * (alpha / (math.sqrt(r) if config.get("use_rslora") else r)))
    if not found:
        raise LabError("the adapter holds no LoRA factors", where=str(folder))
    return found


def _for_module(pattern: dict[str, float], module: str, default: float) -> float:
    from peft.utils.other import get_pattern_key

    key = get_pattern_key(pattern.keys(), module) if pattern else None
    return pattern.get(key, default)
