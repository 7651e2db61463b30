"""Short trials of one setting: train a little, score a little, and report both with what they cost.

Lab 03's rank explorer and lab 09's studies are made of these: `trial` brings a base of its own and leaves the tuned
model's score; a Bench loads the base once and lends it to one trial after another.
"""

from __future__ import annotations

import gc
import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from labkit import data, evaluation, models
from labkit.data.encode import collate, encode, pad_id
from labkit.errors import LabError
from labkit.losses import IGNORED, at_places
from labkit.profiles import current
from labkit.training import capped, finetune

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOOKS = 3  # times that a trial is looked at: after a third of its rows, after two thirds, at the end
FEW, MANY = 24, 96  # validation rows scored at the first looks, and at the last one
ROWS_A_STEP = 4  # rows of a trial are so many times the profile's `trial_steps`
_tried: dict[tuple, Trial] = {}  # what `quick_trial` has trained already


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
        run = finetune(train, steps=steps, out=folder, guard=False, group_by_length=True, **setting)
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
    """A trial on the shipped tickets in seconds: few steps of 8 rows, scored on validation tickets, spread over all.

    Never on test tickets: who tries twenty settings on the test set has chosen by it, and knows nothing new after.

    Args:
        task: "tone" or "intent".
        steps: optimizer steps; None is the current profile's `trial_steps`.
        setting: as for `trial`.

    The same setting gives the same adapter, so one that was tried in this process is not trained again.
    """
    found, profile = data.ticket_task(task), current()
    steps = capped(profile.trial_steps if steps is None else steps)
    held = data.spread(found.validation, MANY)
    asked = {"batch_size": 8, **setting}
    full = {"method": "lora", "targets": "all-linear", "rank": profile.rank, **asked}
    full = {"alpha": 2 * full["rank"], **full}
    key = task, len(held), models.identity(profile.model), steps, repr(sorted((k, _told(v)) for k, v in full.items()))
    kept = _tried.get(key) or trial(found.train, held, found.labels, steps=steps, **asked)
    if not any(callable(value) for value in setting.values()):  # what a function does, its name does not tell
        _tried[key] = kept
    return replace(kept, setting=asked)


def _told(value) -> str:
    """A setting as text, in which 16 and 16.0 are one."""
    return str(float(value)) if isinstance(value, int | float) else str(value)


class Bench:
    """A base model, loaded once, and the rows that one trial after another learns from and is scored on.

    Every trial sees the same number of rows, so that a batch of 32 gets a quarter of the steps of a batch of 8 and
    costs the same. Its adapter is thrown away at the end: the base is then as it was. Test rows are kept out of reach:
    `Study.open_test` is the way to them.

    Args:
        task: a ticket task by its name, or a Task with rows of your own.
        rows: that a trial learns from; None is 4 times the profile's `trial_steps`.
        model: profile, folder or hub id; None is the current profile.
    """

    def __init__(self, task: str | data.Task, *, rows: int | None = None, model: str | None = None):
        self.task = data.ticket_task(task) if isinstance(task, str) else task
        self.model = model
        self.profile = models.suiting(model)
        self.rows = ROWS_A_STEP * self.profile.trial_steps if rows is None else rows
        if self.rows < 1:
            raise LabError(f"{self.rows}", where="rows", expected="a whole number from 1 on")

    @cached_property
    def loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The base and its tokenizer, loaded at first use and then kept."""
        return models.load(self.model)

    @cached_property
    def _train(self) -> Dataset:
        return self.ready(self.task.train)

    @cached_property
    def _looked_at(self) -> tuple[Dataset, Dataset]:
        """Validation rows for the first looks, and for the last."""
        few, many = (self.ready(data.spread(self.task.validation, n)) for n in (FEW, MANY))
        return few, many

    def ready(self, examples: Dataset) -> Dataset:
        """The examples, encoded; those that are already stay as they are."""
        if {"input_ids", "labels"} <= set(examples.column_names):
            return examples
        return encode(examples, self.loaded[1], self.profile.max_length)

    @property
    def metric(self) -> str:
        """What a trial is judged by; more is better."""
        return "accuracy" if self.task.labels else "log-likelihood"

    @property
    def worst(self) -> float:
        """The figure of a trial whose loss broke before the first look."""
        return 0.0 if self.task.labels else -math.log(len(self.loaded[1]))

    def steps_of(self, batch_size: int) -> int:
        """Optimizer steps of a trial with this batch, at least one a look; LABKIT_STEPS caps them."""
        return capped(max(LOOKS, self.rows // batch_size))

    def values(self, model: PreTrainedModel, held: Dataset) -> list[float]:
        """One figure a row: 1 or 0 where there are labels, else the mean log-likelihood of the answer's tokens."""
        if self.task.labels:
            said = evaluation.classify(model, self.loaded[1], held["prompt"], self.task.labels)
            return [float(a == b) for a, b in zip(held["completion"], said, strict=True)]
        return _log_likelihoods(model, self.loaded[1], held)

    def score(self, model: PreTrainedModel, held: Dataset) -> evaluation.Score:
        """The mean of `values` with its interval, by family where rows come in families."""
        return self.score_of(self.values(model, held), held)

    def score_of(self, values: Sequence[float], held: Dataset) -> evaluation.Score:
        """The same of values that are known."""
        score = evaluation.mean_score(self.metric, values, evaluation.groups_of(held))
        return score if self.task.labels else replace(score, form=".3f")

    def __call__(self, look: Callable[[int, float], None] | None = None, seed: int = 0, **setting) -> Trial:
        """One trial: train on `rows` rows with these settings, look at the validation rows now and then.

        Args:
            look: called with 1, 2, ... and the figure that was seen; what it raises ends the trial.
            seed: of the start of A, and of which rows are learnt from, in which order.
            setting: what `finetune` takes; what is left out comes from the profile.

        Raises:
            LabError: a setting that `finetune` refuses, or a loss that broke.
            KeyboardInterrupt: somebody stopped it: a half trained adapter is no trial.
        """
        if setting.get("method") in ("pissa", "full"):
            raise LabError(f"{setting['method']} changes the base, which all trials share", where="method",
                           todo="Take lora, rslora or dora")
        batch_size = setting.get("batch_size", self.profile.batch_size)
        steps, seen, began = self.steps_of(batch_size), [], time.monotonic()

        few, many = self._looked_at
        needed = min(steps * batch_size, len(self._train))  # `finetune` looks at all that it gets, which takes longer
        rows = self._train.select(random.Random(seed).sample(range(len(self._train)), needed))

        def looked(number: int, model: PreTrainedModel) -> None:
            seen.append(self.score(model, many if number == LOOKS else few))
            if look:
                look(number, seen[-1].value)

        try:
            with tempfile.TemporaryDirectory() as folder:
                run = finetune(rows, model=self.loaded, steps=steps, seed=seed, out=folder,
                               guard=False, group_by_length=True, callbacks=[_looks(steps, looked)],
                               **{"rank": self.profile.rank, "learning_rate": self.profile.learning_rate, **setting,
                                  "batch_size": batch_size})
        finally:
            _bare(self.loaded[0])
            gc.collect()  # a Trainer and its model hold each other
        if not run.finished:
            raise KeyboardInterrupt
        last = [point["loss"] for point in run.curve if "loss" in point][-3:]
        return Trial(setting, run.trainable, run.share, sum(last) / len(last), seen[-1], time.monotonic() - began,
                     run.curve)


def _looks(steps: int, look: Callable[[int, PreTrainedModel], None]):
    """A callback that looks after each third of the steps."""
    from transformers import TrainerCallback

    points = {max(1, steps * (i + 1) // LOOKS): i + 1 for i in range(LOOKS)}  # of equal ones the last

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step in points:
                look(points[state.global_step], model)

    return Look()


def _bare(base: PreTrainedModel) -> None:
    """Take the adapter off again: each wrapped layer goes back to its place, however the trial ended."""
    for name, module in list(base.named_modules()):
        if hasattr(module, "base_layer"):
            parent, _, child = name.rpartition(".")
            setattr(base.get_submodule(parent), child, module.base_layer)
    vars(base).pop("peft_config", None)
    base.requires_grad_(True).eval()


def _log_likelihoods(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, held: Dataset,
                     batch_size: int = 16) -> list[float]:
    """Mean log-likelihood (nats) of the counted tokens of each encoded row."""
    import torch

    was, found, device = model.training, [], next(model.parameters()).device
    rows = held.select_columns(["input_ids", "labels"]).to_list()
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            batch = collate(rows[start : start + batch_size], pad_id(tokenizer))
            logits, labels = at_places(model, {name: value.to(device) for name, value in batch.items()})
            losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED,
                                                       reduction="none")  # (batch, places)
            found += (-losses.sum(-1) / (labels != IGNORED).sum(-1)).tolist()
    model.train(was)
    return found
