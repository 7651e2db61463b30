"""How much memory a model takes in a process of its own, libraries and all: `python -m labkit.export.weigh SPEC`.

Beside `measure`: a notebook's own process has everything in it already, so it cannot tell.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from labkit.errors import LabError
from labkit.profiles import python_path


def process_memory(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Bytes of a new process that loads a model on the CPU and gives one short answer, for each name.

    Args:
        specs: {"onnx": folder}, or {"run": folder, "dtype": "float32" or "bfloat16", "merge": bool} for PyTorch.

    Raises:
        LabError: a process failed.
    """
    env = {**os.environ, "PYTHONPATH": python_path(), "CUDA_VISIBLE_DEVICES": ""}  # what lies on a GPU is not counted

    def weigh(spec: Mapping[str, Any]) -> int:
        words = [sys.executable, "-m", "labkit.export.weigh", json.dumps(dict(spec), default=str)]
        done = subprocess.run(words, capture_output=True, text=True, env=env)
        if done.returncode:
            raise LabError(f"the process ended early ({done.stderr.strip().splitlines()[-1:]})", where=str(spec))
        return int(done.stdout.split()[-1])

    with ThreadPoolExecutor(2) as pool:  # memory does not depend on who else is at work
        return dict(zip(specs, pool.map(weigh, specs.values()), strict=True))


def main(spec: dict[str, Any]) -> int:
    """Load, answer, and give this process's resident bytes."""
    import psutil

    question = "Where is my parcel?"
    if "onnx" in spec:
        from labkit.export.model import OnnxModel

        model = OnnxModel(spec["onnx"])
        model.generate(question, 8)
    else:
        from labkit import adapters, evaluation
        from labkit.training import Run

        model, tokenizer = Run.read(spec["run"]).loaded
        model = adapters.merge(model) if spec.get("merge") else model
        if spec.get("dtype") == "bfloat16":
            model = model.bfloat16()
        evaluation.generate(model, tokenizer, [question], 8)
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    print(main(json.loads(sys.argv[1])))
