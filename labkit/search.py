"""Short trials of one setting: train a little, score a little, and report both with what they cost.

Lab 03's rank explorer and lab 09's studies are made of these.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit import data, evaluation
from labkit.profiles import current
from labkit.training import finetune

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Trial:
    """One setting and what came of it. `loss` is the mean of the last logged losses, in nats."""

    setting: dict
    parameters: int
    share: float
    loss: float
    accuracy: evaluation.Score
    seconds: float
    curve: Sequence[dict]

    def row(self) -> dict:
        """For a table."""
        return {
            **{name: value for name, value in self.setting.items() if name != "batch_size"},
            "trainable": self.parameters,
            "share": f"{self.share:.1%}",
            "loss": self.loss,
            "accuracy": str(self.accuracy),
            "seconds": round(self.seconds, 1),
        }


def trial(train: Dataset, held: Dataset, labels: Sequence[str], *, steps: int, **setting) -> Trial:
    """Train with these settings for a few steps and score on held-out rows.

    Args:
        train: examples to learn from. held: examples to score, with `label`.
        labels: the answers to choose from.
        steps: optimizer steps; a trial shows a tendency, not the last word.
        setting: what `finetune` takes: rank, alpha, method, learning_rate, targets ...
    """
    with tempfile.TemporaryDirectory() as folder:
        run = finetune(train, steps=steps, out=folder, guard=False, **setting)
        if not run.finished:  # a half trained adapter is no trial
            raise KeyboardInterrupt
        model, tokenizer = run.loaded
        said = evaluation.classify(model, tokenizer, held["prompt"], labels)
        score = evaluation.accuracy(held["label"], said, evaluation.groups_of(held))
    last = [point["loss"] for point in run.curve if "loss" in point][-3:]
    return Trial(
        setting,
        run.trainable,
        run.share,
        sum(last) / len(last),
        score,
        run.seconds,
        run.curve,
    )


def quick_trial(task: str, *, steps: int | None = None, **setting) -> Trial:
    """A trial on the shipped tickets in seconds: few steps of 8 rows, scored on validation tickets.

    Never on test tickets: who tries twenty settings on the test set has chosen by it, and knows nothing new after.

    Args:
        task: "tone" or "intent".
        steps: optimizer steps; None is the current profile's `trial_steps`.
        setting: as for `trial`.
    """
    found = data.ticket_task(task)
    steps = current().trial_steps if steps is None else steps
    return trial(found.train, found.validation, found.labels, steps=steps, **{"batch_size": 8, **setting})
