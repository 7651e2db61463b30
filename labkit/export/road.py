"""The road to an int4 that holds: one fp32 export, put on one grid after another, each measured in the same way.

Over `build` and `measure`; lab 10 shows its table, and `quantize.INT4` is where it ends.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit import evaluation
from labkit.export import build, quantize
from labkit.export.measure import kl, speed
from labkit.export.model import OnnxModel
from labkit.tables import Table

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Step:
    """One recipe and what came of it. `kl` is in nats a token against fp32, `share` of fp32's whole folder."""

    name: str
    kl: float
    accuracy: evaluation.Score
    bytes: int
    share: float
    decode: float


def road(run_or_model: Any, fp32: OnnxModel, rows: Dataset, labels: Sequence[str],
         recipes: Mapping[str, quantize.Recipe] = quantize.ROAD, texts: int = 12) -> list[Step]:
    """Try recipes on one model.

    Args:
        run_or_model: what `fp32` was exported from.
        fp32: its export in full precision.
        rows: examples with `prompt`, `completion` and `label` to score; never the test split, since a recipe is chosen
            by them.
        labels: to choose among.
        texts: so many rows are also read as texts, for KL at every token of them.
    """
    every = rows.select(range(0, len(rows), max(1, len(rows) // texts)))
    read = [fp32.prompt_ids(p) + fp32.encode(c) for p, c in zip(every["prompt"], every["completion"], strict=True)]
    steps = []
    with tempfile.TemporaryDirectory(dir=fp32.folder.parent, prefix=".road-") as scratch:
        for name, recipe in recipes.items():
            folder = Path(scratch) / "int4"
            if recipe.builder:
                model = build.to_onnx(run_or_model, "int4", recipe=recipe, out=folder)
            else:
                model = build.quantised(fp32, recipe, folder)
            said = model.classify(rows["prompt"], labels)
            steps.append(Step(name, kl(fp32.logits, model.logits, read),
                              evaluation.accuracy(rows["label"], said, evaluation.groups_of(rows)), model.bytes,
                              model.bytes / fp32.bytes, speed(model, 64, 24).decode))
            del model
            shutil.rmtree(folder)
    return steps


def table(steps: Sequence[Step], caption: str = "") -> Table:
    """One row a recipe."""
    return Table([{"recipe": s.name, "KL, nats a token": float(f"{s.kl:.3g}"), "accuracy": str(s.accuracy),
                   "MB": round(s.bytes / 1e6, 2), "of fp32": f"{s.share:.0%}", "tokens/s": round(s.decode)}
                  for s in steps], caption)
