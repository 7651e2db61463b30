"""From a trained model to one that runs without PyTorch: ONNX through onnxruntime-genai, measured against its source.

Takes a Run or a model; gives an OnnxModel, in full precision or quantised, with adapters that are switched by name.
Names are imported at first use, so that whoever only runs a model does not wait for what trains one.
"""

from __future__ import annotations

_HOMES = {
    "to_onnx": "build", "quantised": "build", "PRECISIONS": "build",
    "OnnxModel": "model", "Piece": "model", "folder_bytes": "model",
    "Recipe": "quantize", "ROAD": "quantize", "INT4": "quantize", "INT8": "quantize",
    "STRINGS": "tokens", "gaps": "tokens",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f"labkit.export.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'labkit.export' has no attribute {name!r}")
