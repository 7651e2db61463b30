"""A learning-rate range test: train a few steps while the rate grows, and see where the loss falls and where it breaks.

Over `trainer` (the same loss and batches as a training); lab 02 draws what it finds, lab 09 searches from there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import adapters, models
from labkit.data.encode import collate, encode, pad_id
from labkit.errors import LabError
from labkit.scratch.loop import batch_rows
from labkit.trainer import sparse_loss

if TYPE_CHECKING:
    from datasets import Dataset

SMOOTH = 0.8  # share of the old mean that stays in the running mean of the loss
BROKEN = 2  # a smoothed loss so many times the lowest ends the test


@dataclass(frozen=True)
class RateTest:
    """What a range test saw: the rate of each step, its loss (nats), and the running mean of the losses."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    broke: bool

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss was lowest: from there on it no longer falls."""
        return self.rates[self.smoothed.index(min(self.smoothed))]

    @property
    def suggested(self) -> float:
        """A third of that rate, as a peak to begin with: the loss still fell there, and there is room above."""
        return self.lowest / 3


def rate_test(examples: Dataset, *, method: str = "full", model: str | Path | None = None, low: float = 1e-6,
              high: float = 1.0, steps: int = 40, batch_size: int = 8, rank: int = 8, seed: int = 0) -> RateTest:
    """Train a copy of a base model while the learning rate grows from `low` to `high` (Smith, 2017, section 3.3).

    Args:
        examples: columns prompt and completion, or encoded rows.
        method: "full", or a variant of LoRA with this rank.
        low, high: rates of the first and the last step; between them it grows by one factor a step.
        steps: optimizer steps at most; the test ends where the loss breaks.
        batch_size: rows a step.
        seed: of the order of rows, and of A.

    Raises:
        LabError: the rates are not in order, or there are fewer than two steps.
    """
    import torch

    if not 0 < low < high or steps < 2:
        raise LabError(f"from {low:g} to {high:g} in {steps} steps", where="rate_test",
                       expected="a low rate above 0, a higher one, and at least 2 steps")
    tuned, tokenizer = models.load(model)
    rows = examples if "input_ids" in examples.column_names else encode(examples, tokenizer)
    rows = rows.select_columns(["input_ids", "labels"])
    if method != "full":
        tuned = adapters.attach_lora(tuned, rank, variant=method, seed=seed)
    weights, device = [p for p in tuned.parameters() if p.requires_grad], next(tuned.parameters()).device
    optimizer = torch.optim.AdamW(weights, weight_decay=0.0)
    tuned.train()
    rates, losses, smoothed, mean = [], [], [], 0.0
    for step, chosen in enumerate(batch_rows(len(rows), batch_size, steps, seed)):
        rate = low * (high / low) ** (step / (steps - 1))
        batch = collate(rows.select(chosen).to_list(), pad_id(tokenizer))
        loss = sparse_loss(tuned, {name: value.to(device) for name, value in batch.items()})
        mean = SMOOTH * mean + (1 - SMOOTH) * loss.item()
        rates, losses = [*rates, rate], [*losses, loss.item()]
        smoothed.append(mean / (1 - SMOOTH ** (step + 1)))  # the mean began at 0: the same correction as Adam's
        if not math.isfinite(loss.item()) or smoothed[-1] > BROKEN * min(smoothed):
            keep = len(rates) if math.isfinite(smoothed[-1]) else -1
            return RateTest(rates[:keep], losses[:keep], smoothed[:keep], True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    return RateTest(rates, losses, smoothed, False)
