"""Short trials of every kind of adapter on one task: parameters, accuracy, seconds and bytes on disk, side by side.

Over `adapters.family`, with a loop of its own: `finetune` trains LoRA and its variants, and no other kind.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit import data, evaluation, models
from labkit.adapters import family
from labkit.data.encode import collate, encode, encode_prompt, pad_id
from labkit.errors import LabError
from labkit.evaluation.answering import batches
from labkit.kernels import joined, quick
from labkit.losses import masked
from labkit.narrow import logits_at
from labkit.profiles import bf16, current
from labkit.scratch import loop
from labkit.training import capped

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# times the profile's rate for LoRA; see `family_trial`
RATES = {"bottleneck": 2.0, "ia3": 30.0, "prompt": 60.0, "prefix": 20.0}


@dataclass(frozen=True)
class Relative:
    """One kind of adapter, and what a short training of it gave."""

    kind: str
    parameters: int
    accuracy: evaluation.Score
    seconds: float
    bytes: int
    losses: Sequence[float]

    def row(self) -> dict:
        """For a table; `seconds` are those of the training alone."""
        return {"": self.kind, "trainable": self.parameters, "accuracy": str(self.accuracy),
                "seconds": round(self.seconds, 1), "bytes on disk": self.bytes}


def family_trial(kind: str, task: str | data.Task = "intent", *, steps: int | None = None, batch_size: int = 8,
                 learning_rate: float | None = None, seed: int = 0, every: int = 1) -> Relative:
    """Train one kind of adapter a little on the shipped tickets, and score it on validation tickets.

    Args:
        kind: of `family.KINDS`.
        task: "tone" or "intent", or one that was read already.
        steps: of `batch_size` rows; None is the current profile's `trial_steps`.
        learning_rate: peak; None is the profile's for LoRA, times what `RATES` says: the best of a few that were
            tried on validation tickets, 20 steps on tiny-base (for prefix, which is at chance by then, the lowest
            loss).
        every: score every n-th validation ticket.
    """
    task = data.ticket_task(task) if isinstance(task, str) else task
    steps = capped(current().trial_steps if steps is None else steps)
    rate = current().learning_rate * RATES.get(kind, 1.0) if learning_rate is None else learning_rate
    base, tokenizer = models.load()
    model = family.attach(base, kind, seed=seed)
    started = time.perf_counter()
    losses = train(model, tokenizer, task.train, steps=steps, batch_size=batch_size, learning_rate=rate, seed=seed)
    seconds = time.perf_counter() - started
    held = task.validation.select(range(0, len(task.validation), every))
    said = pick(model, tokenizer, held["prompt"], task.labels)
    score = evaluation.accuracy(held["label"], said, evaluation.groups_of(held))
    with tempfile.TemporaryDirectory() as folder:
        size = family.save(model, folder)
    return Relative(kind, models.count_parameters(model).trainable, score, seconds, size, losses)


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, *, steps: int,
          batch_size: int, learning_rate: float, seed: int = 0) -> list[float]:
    """Train what is not frozen by AdamW, with a warm-up and half a cosine; gives each step's loss, nats a token.

    In bfloat16 where the machine does that well, as `finetune`.

    Raises:
        LabError: all of it is frozen.
    """
    import torch

    picked = loop.batch_rows(len(examples), batch_size, steps, seed)
    used = sorted({i for batch in picked for i in batch})
    rows = dict(zip(used, encode(examples.select(used), tokenizer, current().max_length).to_list(), strict=True))
    moving = [p for p in model.parameters() if p.requires_grad]
    if not moving:
        raise LabError("every parameter of this model is frozen, so there is nothing to train", where="model",
                       todo="Attach an adapter to it first, or load it anew")
    optimizer, device, losses = torch.optim.AdamW(moving, weight_decay=0.0), moving[0].device, []
    low = torch.autocast(device.type, torch.bfloat16, enabled=bf16())
    torch.manual_seed(seed)
    model.train()
    with quick(model):
        for step, batch in enumerate(picked):
            for group in optimizer.param_groups:
                group["lr"] = loop.learning_rate_at(step + 1, steps + 1, max(1, steps // 20), learning_rate)
            given = {k: v.to(device) for k, v in collate([rows[i] for i in batch], pad_id(tokenizer)).items()}
            with models.quiet(), low:
                loss = masked(model, given)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(moving, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    model.eval()
    return losses


def pick(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence, labels: Sequence[str],
         batch_size: int = 32) -> list[str]:
    """The label whose first token is the likeliest next one: works with whatever stands in front of the prompt.

    Raises:
        LabError: two labels begin with the same token.
    """
    import torch

    first = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in labels]
    if len(set(first)) < len(first):
        raise LabError("two labels begin with the same token", where="labels",
                       todo="Take evaluation.classify, which reads them whole")
    asked, said = [encode_prompt(tokenizer, prompt) for prompt in prompts], {}
    device = next(model.parameters()).device
    with torch.inference_mode(), models.quiet(), joined(model):
        for rows, ids, mask in batches(asked, pad_id(tokenizer), batch_size, device, side="right"):
            ends = mask.sum(-1, keepdim=True) - 1 - ids.shape[1]
            last = logits_at(model, {"input_ids": ids, "attention_mask": mask}, ends)[:, 0, first]
            said |= {i: labels[best] for i, best in zip(rows, last.argmax(-1).tolist(), strict=True)}
    return [said[i] for i in range(len(asked))]
