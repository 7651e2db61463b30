"""What goes into each matrix while a model reads some texts: the mean of x xᵀ, by which GPTQ weighs rounding errors.

Used by `quantize`; runs the fp32 graph in onnxruntime, so it knows every architecture that the builder knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.export import graph

if TYPE_CHECKING:
    import torch

ROOM = 5e8  # bytes of moments that are held at once
NAME = "calibrate.onnx"


def session(file: str | Path):
    """An onnxruntime session on the CPU that only tells of errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the cores alone
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def feed(opened, ids: Sequence[int]) -> dict:
    """Inputs of a decoder for one text that is read from its beginning, with an empty cache."""
    import numpy as np

    width = len(ids)
    known = {"input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, width), np.int64),
             "position_ids": np.arange(width, dtype=np.int64)[None]}
    given = {}
    for entry in opened.get_inputs():
        if entry.name in known:
            given[entry.name] = known[entry.name]
        elif entry.name.startswith("past_key_values"):
            _, heads, _, size = entry.shape
            given[entry.name] = np.zeros((1, heads, 0, size), np.float16 if "float16" in entry.type else np.float32)
    return given


def moments(folder: str | Path, widths: dict[str, int],
            texts: Sequence[Sequence[int]]) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, (d_in, d_in)) of inputs of matrices, in the order given; few are held at once.

    Args:
        widths: d_in of each value of the graph that is wanted.
        texts: token ids, read one text at a time.
    """
    import onnx
    import torch
    from onnx import TensorProto, helper

    watched = onnx.load(str(Path(folder) / graph.FILE), load_external_data=False)
    have = {output.name for output in watched.graph.output}
    for source in sorted(set(widths) - have):
        watched.graph.output.append(helper.make_tensor_value_info(source, TensorProto.FLOAT, None))
    file = Path(folder) / NAME  # beside the weights, since it names their file
    try:
        onnx.save(watched, str(file))
        opened = session(file)
    finally:
        file.unlink(missing_ok=True)
    for names in _parts(widths):
        sums, seen = {name: torch.zeros(widths[name], widths[name]) for name in names}, 0
        for ids in texts:
            for name, value in zip(names, opened.run(names, feed(opened, ids)), strict=True):
                x = torch.from_numpy(value[0])  # (seq, d_in)
                sums[name].addmm_(x.T, x)
            seen += len(ids)
        for name in names:
            yield name, sums.pop(name) / seen


def _parts(widths: dict[str, int]) -> Iterator[list[str]]:
    part, room = [], 0.0
    for name, width in widths.items():
        if part and room + 4 * width**2 > ROOM:
            yield part
            part, room = [], 0.0
        part.append(name)
        room += 4 * width**2
    if part:
        yield part
