"""A model that another tool exported, put into the form that `OnnxModel` reads: its files, its adapters, a record.

Beside `build`, which makes such folders itself; here Olive, or the builder's own command line, has made the graph.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from labkit.errors import LabError
from labkit.export import graph
from labkit.export.build import _agreement, _record, _settle, refuse
from labkit.export.model import ADAPTERS, FACTS, OnnxModel, genai
from labkit.training import writable

LEFT = ("adapter_weights*", "model_config.json", "logs", FACTS)  # what generate-adapter leaves beside the model


def adopt(folder: str | Path, base: str | Path, out: str | Path, adapters: Mapping[str, str | Path] | None = None,
          precision: str = "fp32") -> OnnxModel:
    """Copy an exported model and its adapters into a folder of their own, and open it.

    Args:
        folder: with model.onnx and genai_config.json.
        base: the folder of the base model, whose tokenizer and end of turn count.
        out: where it goes; what an earlier call left there is replaced.
        adapters: name to .onnx_adapter file. A graph whose adapters are inputs without a default answers only while
            one of them is active: give it one of zeros as its "base".
        precision: of the weights, for the record.

    Raises:
        LabError: files are missing, a name is none, or genai cannot load it.
    """
    genai()
    folder, base, out = Path(folder), Path(base), Path(out)
    for name in (graph.FILE, "genai_config.json"):
        if not (folder / name).is_file():
            raise LabError(f"there is no {name}", where=str(folder),
                           expected="what the model builder wrote (--use_model_builder --use_ort_genai)")
    refuse(adapters or {}, out)
    for file in (adapters or {}).values():
        if not Path(file).is_file():
            raise LabError("no adapter file", where=str(file), expected="an .onnx_adapter file")
    writable(out.parent)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".onnx-") as scratch:
        made = Path(scratch) / "made"
        shutil.copytree(folder, made, ignore=shutil.ignore_patterns(*LEFT, ADAPTERS))
        _settle(base, made)
        facts = {"source": base.name, "precision": precision, "recipe": None, "made_of": None,
                 "adapters": {name: _rank(Path(file)) for name, file in (adapters or {}).items()},
                 **_agreement(base, made)}
        (made / ADAPTERS).mkdir()
        for name, file in (adapters or {}).items():
            shutil.copy(file, made / ADAPTERS / f"{name}.onnx_adapter")
        _record(made, facts)
        if out.exists():
            shutil.rmtree(out)
        os.replace(made, out)
    return OnnxModel(out)


def _rank(file: Path) -> int:
    """The largest rank in an .onnx_adapter file, whose A are (d_in, r)."""
    import onnxruntime

    weights = onnxruntime.AdapterFormat.read_adapter(str(file)).get_parameters()
    return max((value.shape()[1] for name, value in weights.items() if "lora_A" in name), default=0)
