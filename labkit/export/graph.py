"""Read, look into and write the ONNX graph of an exported model: nodes with weights, by name.

Below everything else of the export: `quantize` and `adapters` change graphs that `build` lets the builder make.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import LabError

if TYPE_CHECKING:
    import numpy as np
    import onnx

FILE, DATA = "model.onnx", "model.onnx.data"
HEAD = "/lm_head/MatMul"


@dataclass(frozen=True)
class Linear:
    """One matrix product with a stored weight: `weight` is (d_out, d_in), as PyTorch has it; `source` its input."""

    name: str
    source: str
    initializer: str
    weight: np.ndarray


def read(folder: str | Path) -> onnx.ModelProto:
    """The graph with its weights.

    Raises:
        LabError: there is none, or it is damaged.
    """
    import onnx

    file = Path(folder) / FILE
    if not file.is_file():
        raise LabError("no ONNX model", where=str(folder), expected=f"a folder with {FILE}, as to_onnx writes it")
    try:
        return onnx.load(str(file))
    except Exception as error:  # protobuf's and onnx's own classes, by version
        raise LabError("the ONNX model is damaged", where=str(file), todo="Export it again") from error


def write(model: onnx.ModelProto, folder: str | Path) -> None:
    """Write the graph, and beside it all its weights in one file."""
    import onnx

    folder = Path(folder)
    (folder / DATA).unlink(missing_ok=True)
    onnx.save(model, str(folder / FILE), save_as_external_data=True, all_tensors_to_one_file=True, location=DATA,
              size_threshold=256)


def linears(model: onnx.ModelProto) -> Iterator[Linear]:
    """Every MatMul with a stored two-dimensional weight, in the order of the graph."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored and len(stored[node.input[1]].dims) == 2:
            weight = numpy_helper.to_array(stored[node.input[1]])  # (d_in, d_out) in the graph
            yield Linear(node.name, node.input[0], node.input[1], weight.T)


def replace_nodes(model: onnx.ModelProto, changed: dict[str, list]) -> None:
    """Put other nodes in the place of those that are named."""
    nodes = [new for node in model.graph.node for new in changed.get(node.name, [node])]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def replace_initializers(model: onnx.ModelProto, gone: set[str], arrays: dict[str, np.ndarray]) -> None:
    """Take weights out of the graph and put others in."""
    from onnx import numpy_helper

    kept = [tensor for tensor in model.graph.initializer if tensor.name not in gone]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
