"""Tickets as points: pairs into batches, texts into embeddings, and how often the nearest one means the same.

Feeds the losses on pairs in `labkit.losses`, and scores what came of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labkit.data.encode import IGNORED, pad_id
from labkit.errors import LabError
from labkit.evaluation import Score, mean_score, padded
from labkit.evaluation.answering import batches
from labkit.kernels import joined
from labkit.losses import embeddings

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COLUMNS = ("a", "b", "y")


def encode_pairs(pairs: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Rows for `finetune` with a loss on pairs and `PairCollator`.

    Args:
        pairs: columns a, b, y (0 or 1), and matter_a where pairs of one matter shall not be each other's negatives.

    Returns:
        `input_ids` of a, `other_ids` of b, `y`, `group`, and `labels` (a row's last token, so that a row counts once).

    Raises:
        LabError: a column is missing, or y is not 0 or 1.
    """
    from datasets import Dataset

    if missing := [name for name in COLUMNS if name not in pairs.column_names]:
        raise LabError(f"no column {', '.join(missing)}", where="pairs", expected="a, b and y",
                       todo='Take data.read("pairs/train"), or name your columns so')
    y = pairs["y"][:]
    if wrong := [i for i, value in enumerate(y) if value not in (0, 1)]:
        raise LabError(f"y is {y[wrong[0]]!r}", where=f"row {wrong[0]}", expected="0 (the same) or 1 (not the same)")
    a, b = (tokenizer(pairs[side][:], add_special_tokens=False)["input_ids"] for side in "ab")
    rows = {"input_ids": a, "labels": [[IGNORED] * (len(ids) - 1) + ids[-1:] for ids in a], "other_ids": b, "y": y}
    if "matter_a" in pairs.column_names:
        numbers = {name: n for n, name in enumerate(sorted(set(pairs["matter_a"][:])))}
        rows["group"] = [numbers[name] for name in pairs["matter_a"][:]]
    return Dataset.from_dict(rows)


class PairCollator:
    """Batches of `encode_pairs`: `input_ids` and `attention_mask` (2 n, longest), all a and then all b; `y`, `group`.

    `labels` is (n, 2) with one label that counts a pair, from which the Trainer learns how many pairs there are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.pad_id = pad_id(tokenizer)

    def __call__(self, rows: list[dict]) -> dict:
        import torch

        sides = [row[name] for name in ("input_ids", "other_ids") for row in rows]
        ids, mask = padded(sides, self.pad_id, "right")
        more = {
            "labels": [[IGNORED, row["y"]] for row in rows],
            "y": [row["y"] for row in rows],
        }
        if "group" in rows[0]:
            more["group"] = [row["group"] for row in rows]
        return {"input_ids": ids, "attention_mask": mask} | {name: torch.tensor(v) for name, v in more.items()}


def embed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, layer: int = -1,
          how: str = "mean", batch_size: int = 64) -> np.ndarray:
    """(texts, width), each row of length 1; arguments as for `losses.embeddings`."""
    import torch

    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    found: list = [None] * len(ids)
    device, was = next(model.parameters()).device, model.training
    model.eval()
    with torch.inference_mode(), joined(model):
        for rows, filled, mask in batches(ids, pad_id(tokenizer), batch_size, device, "right"):
            batch = {"input_ids": filled, "attention_mask": mask}
            for i, vector in zip(rows, embeddings(model, batch, layer=layer, how=how).cpu().numpy(), strict=True):
                found[i] = vector
    model.train(was)
    return np.stack(found)


def tickets_of(pairs: Dataset) -> dict[str, list[str]]:
    """The different tickets in pairs: `text`, `matter` and `family`, in the order in which they come."""
    seen: dict[str, tuple[str, str]] = {}
    for row in pairs.to_list():
        for side in "ab":
            seen.setdefault(row[side], (row[f"matter_{side}"], row[f"family_{side}"]))
    return {"text": list(seen), "matter": [m for m, _ in seen.values()], "family": [f for _, f in seen.values()]}


def retrieval(vectors: np.ndarray, matter: Sequence[str], family: Sequence[str]) -> dict[str, Score]:
    """Recall@1, recall@5 and MRR where each ticket looks for its matter among the tickets of all other families.

    Args:
        vectors: (tickets, width), of length 1. matter: what each is about. family: the frame each came from.

    Returns:
        Scores by "recall@1", "recall@5" and "MRR", intervals by family. Tickets whose matter no other family has are
        not asked.

    Raises:
        LabError: no ticket has a partner.
    """
    matter, family = np.asarray(matter), np.asarray(family)
    closeness = vectors @ vectors.T
    closeness[family[:, None] == family[None]] = -np.inf
    good = (matter[:, None] == matter[None]) & (family[:, None] != family[None])
    asked = np.flatnonzero(good.any(1))
    if not len(asked):
        raise LabError("no two families have the same matter", where="matter", expected="pairs with y = 0 among them")
    ranked = np.take_along_axis(good, np.argsort(-closeness, axis=1, kind="stable"), axis=1)[asked]
    place = ranked.argmax(1) + 1  # of the first ticket that means the same
    values = {"recall@1": place <= 1, "recall@5": place <= 5, "MRR": 1 / place}
    groups = family[asked].tolist()
    return {name: mean_score(name, found.astype(float).tolist(), groups) for name, found in values.items()}


def flat(vectors: np.ndarray) -> np.ndarray:
    """The two directions in which points differ most (principal components): (points, width) -> (points, 2)."""
    centred = vectors - vectors.mean(0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
