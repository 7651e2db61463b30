"""The weights of adapters that an ONNX model takes as inputs: `.onnx_adapter` files, read and written.

Behind `command`: Olive makes such files; what it cannot make (new names, an adapter of zeros) is made of them here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import LabError

if TYPE_CHECKING:
    import numpy as np


def read_adapter(file: str | Path) -> dict[str, np.ndarray]:
    """The weights of an .onnx_adapter file by the names of the inputs that they go into.

    Raises:
        LabError: there is no such file, or it is damaged.
    """
    import onnxruntime

    file = Path(file)
    if not file.is_file():
        raise LabError("no adapter file", where=str(file), expected="what generate-adapter or convert-adapters wrote")
    try:
        opened = onnxruntime.AdapterFormat.read_adapter(str(file))
        # Copies: what numpy() gives is memory of the opened file, which goes with it.
        return {name: value.numpy().copy() for name, value in opened.get_parameters().items()}
    except Exception as error:  # onnxruntime's own classes, by version
        raise LabError("the adapter file is damaged", where=str(file), todo="Make it again") from error


def write_adapter(weights: dict[str, np.ndarray], file: str | Path) -> Path:
    """Write weights as an .onnx_adapter file.

    Raises:
        LabError: there are none.
    """
    from labkit.export.adapters import write

    if not weights:
        raise LabError("no weights to write", where=str(file))
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    write(weights, file)
    return file
