"""From a trained model to one that runs without PyTorch: ONNX through onnxruntime-genai, measured against its source.

Takes a Run or a model; gives an OnnxModel, in full precision or quantised, with adapters that are switched by name.
"""

from labkit.export.build import PRECISIONS, to_onnx
from labkit.export.model import OnnxModel, Piece, folder_bytes
from labkit.export.quantize import INT4, INT8, ROAD, Recipe
from labkit.export.tokens import STRINGS, gaps

__all__ = ["folder_bytes", "gaps", "INT4", "INT8", "OnnxModel", "Piece", "PRECISIONS", "Recipe", "ROAD", "STRINGS",
           "to_onnx"]
