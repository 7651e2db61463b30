"""Plain text in place of prompt and answer: rows in which every token counts, and perplexity before and after.

Beside `evaluation`, which scores answers; what a model has learnt of a domain, or forgotten, is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labkit.data.encode import IGNORED, collate, encode, pad_id, start_id
from labkit.errors import LabError
from labkit.evaluation.perplexity import ratio_interval, token_log_likelihoods
from labkit.guards import logits_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean loss over all tokens of some texts, its 95 % interval (bootstrap over texts), and the tokens."""

    value: float
    low: float
    high: float
    tokens: int

    def change(self, before: Perplexity) -> float:
        """By what share it rose since `before`; below 0 where it fell."""
        return self.value / before.value - 1

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def text_rows(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int = 256) -> Dataset:
    """Texts as encoded rows to train on; a text that is too long becomes several, and nothing is left out.

    Args:
        max_length: tokens of a row, the start token that each begins with included.

    Returns:
        `input_ids` and `labels`: every token counts but the start token. `finetune` takes them with
        skip=["end_of_turn"], since plain text has no turns.

    Raises:
        LabError: the tokenizer has no token that a text could begin with, or there is no text.
    """
    from datasets import Dataset

    start = start_id(tokenizer)
    rows = [[start, *ids[i : i + max_length - 1]]
            for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]
            for i in range(0, len(ids), max_length - 1)]
    if not rows:
        raise LabError("there is no text", where="texts", expected="at least one token")
    return Dataset.from_dict({"input_ids": rows, "labels": [[IGNORED, *row[1:]] for row in rows]})


def text_losses(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str],
                max_length: int = 256, batch_size: int = 16) -> tuple[list[float], list[int]]:
    """The mean loss of each text in nats, and over how many tokens; the first token is guessed from a start token.

    A text that is longer than `max_length` is read in windows that overlap by half (`token_log_likelihoods`).

    Raises:
        LabError: a text has no token.
    """
    each = token_log_likelihoods(model, tokenizer, texts, max_length, batch_size=batch_size)
    if not all(each):
        raise LabError("there is a text without a token", where=f"text {each.index([])}", expected="at least one token")
    return [-sum(values) / len(values) for values in each], [len(values) for values in each]


def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str],
               max_length: int = 256, draws: int = 2000, seed: int = 0) -> Perplexity:
    """Perplexity of a model on texts: as unsure as between so many equally likely tokens.

    Comparable only between models with the same tokenizer.

    Args:
        texts: each at least one token.
        max_length: tokens that are read at once.
        draws, seed: of the bootstrap over texts.
    """
    means, counts = text_losses(model, tokenizer, texts, max_length)
    return _with_interval(np.asarray(means) * counts, np.asarray(counts, float), draws, seed)


def answer_perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset,
                      draws: int = 2000, seed: int = 0) -> Perplexity:
    """Perplexity of the completions, given their prompts, end of turn included.

    Args:
        examples: columns prompt and completion.
        draws, seed: of the bootstrap over rows.
    """
    rows = encode(examples, tokenizer).select_columns(["input_ids", "labels"]).to_list()
    losses, counts = np.array(_sums(model, tokenizer, rows)).T
    return _with_interval(losses, counts, draws, seed)


def _sums(model, tokenizer, rows: list[dict], batch_size: int = 16) -> list[tuple[float, int]]:
    """For each encoded row the sum of its losses in nats, and over how many labels."""
    from torch.nn.functional import cross_entropy

    found: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))  # alike in length: little padding
    for at in range(0, len(order), batch_size):
        members = order[at : at + batch_size]
        batch = collate([rows[i] for i in members], pad_id(tokenizer))
        logits, labels = logits_of(model, batch)[:, :-1], batch["labels"][:, 1:]
        losses = cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none").sum(-1)
        for i, loss, count in zip(members, losses.tolist(), (labels != IGNORED).sum(-1).tolist(), strict=True):
            found[i] = (loss, count)
    return found


def _with_interval(losses: np.ndarray, sizes: np.ndarray, draws: int, seed: int) -> Perplexity:
    """exp of sum(losses) / sum(sizes), with a bootstrap over rows."""
    low, high = ratio_interval(losses, sizes, draws=draws, seed=seed)
    return Perplexity(math.exp(losses.sum() / sizes.sum()), math.exp(low), math.exp(high), int(sizes.sum()))
