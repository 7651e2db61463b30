"""Examples in, token ids out: the prompt masked from the loss, the answer and its end of turn counted.

Third step of the way of the data: `encode` makes rows of `input_ids` and `labels`, `collate` makes batches of rows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.data.read import quiet
from labkit.data.template import render
from labkit.errors import LabError
from labkit.models import end_of_turn

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

BATCH = 1000  # rows that are encoded at a time
IGNORED = -100  # the label that PyTorch's cross-entropy leaves out
COLUMNS = ("input_ids", "labels", "position_ids")  # what a batch is made of; the last only where rows are packed


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str | list[dict]) -> list[int]:
    """The token ids that the model is given for a prompt, in training and in serving alike.

    The chat template writes all special tokens itself, so the tokenizer must add none (a second BOS, say).
    """
    return tokenizer(render(tokenizer, prompt), add_special_tokens=False)["input_ids"]


def encode_completion(tokenizer: PreTrainedTokenizerBase, completion: str) -> list[int]:
    """The token ids of an answer with the end of turn behind it, which the model must learn to say."""
    return [*tokenizer(completion, add_special_tokens=False)["input_ids"], end_of_turn(tokenizer)]


def encode(examples: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> Dataset:
    """Encode examples for training.

    Args:
        examples: columns `prompt` and `completion`; other columns are kept.
        tokenizer: with a chat template.
        max_length: the most tokens a row may have, prompt and completion together; None is no limit.

    Returns:
        The dataset with `input_ids` and `labels` added, both lists of the same length; `labels` is -100 over the
        prompt and equals `input_ids` over the completion and the end of turn.

    Raises:
        LabError: a row is longer than `max_length`; nothing is cut off silently.
    """
    import pyarrow as pa
    from datasets.fingerprint import generate_random_fingerprint

    end, tokens = end_of_turn(tokenizer), pa.list_(pa.int64())
    ids, labels, lengths = [], [], []  # Arrow arrays of a batch each: far smaller than lists of Python's numbers
    for batch in examples.with_format(None).select_columns(["prompt", "completion"]).iter(BATCH):
        prompts = [render(tokenizer, prompt) for prompt in batch["prompt"]]
        asked = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        answered = tokenizer(batch["completion"], add_special_tokens=False)["input_ids"]
        pairs = list(zip(asked, answered, strict=True))
        ids.append(pa.array([a + b + [end] for a, b in pairs], tokens))
        labels.append(pa.array([[IGNORED] * len(a) + b + [end] for a, b in pairs], tokens))
        lengths += [len(a) + len(b) + 1 for a, b in pairs]
    if max_length and (long := [i for i, length in enumerate(lengths) if length > max_length]):
        first = long[0]
        where = f"line {examples['line'][first]}" if "line" in examples.column_names else f"row {first}"
        raise LabError(
            f"prompt and completion have {lengths[first]} tokens",
            where=where,
            expected=f"at most {max_length} ({len(long)} of {len(lengths)} rows are longer)",
            todo="Shorten those rows, or raise the limit with --max-length if the model takes more",
        )
    keep = [name for name in examples.column_names if name not in ("input_ids", "labels")]
    encoded = examples.select_columns(keep)
    for name, arrays in (("input_ids", ids), ("labels", labels)):  # a fingerprint of all tokens would take minutes
        column = pa.chunked_array(arrays, tokens)
        with quiet():  # rows that were selected are brought in order first, with a progress bar
            encoded = encoded.add_column(name, column, new_fingerprint=generate_random_fingerprint())
    return encoded


def collate(rows: list[dict], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad rows on the right to one length.

    The attention mask comes from the lengths, never from the pad id: where pad is the end of turn (as in SmolLM2),
    masking by id would hide the end of turn and the model would never learn to stop.

    Args:
        rows: each with `input_ids` and `labels`.
        pad_id: what fills `input_ids` behind a row.

    Returns:
        `input_ids`, `attention_mask` and `labels`, each (batch, longest row).
    """
    import torch

    width = max(len(row["input_ids"]) for row in rows)
    batch = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        n, gap = len(row["input_ids"]), width - len(row["input_ids"])
        batch["input_ids"].append(list(row["input_ids"]) + [pad_id] * gap)
        batch["attention_mask"].append([1] * n + [0] * gap)
        batch["labels"].append(list(row["labels"]) + [IGNORED] * gap)
    return {name: torch.tensor(values) for name, values in batch.items()}


def pack(rows: Dataset, length: int) -> Dataset:
    """Put several encoded rows into one, so that a batch is full of tokens and not of padding.

    First-fit decreasing: the longest rows first, each into the first pack that has room.

    Args:
        rows: encoded; other columns than `input_ids` and `labels` are left behind.
        length: the most tokens of a pack.

    Returns:
        `input_ids`, `labels` and `position_ids` (which begin at 0 with each of the packed rows), to be collated by
        `collate_packed`. The label of each row's first token is masked: the token before it is another row's.

    Raises:
        LabError: a row is longer than a pack.
    """
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint

    table = rows.select_columns(["input_ids", "labels"]).with_format("arrow")[:]
    ids, labels = (table[name].combine_chunks() for name in ("input_ids", "labels"))
    lengths = ids.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    if len(lengths) and lengths.max() > length:
        raise LabError(f"row {lengths.argmax()} has {lengths.max()} tokens", where="length",
                       expected=f"at most {length}, the length of a pack", todo="Take longer packs")
    packs = _first_fit(lengths.tolist(), length)
    order = np.array([row for members in packs for row in members], np.int64)
    sizes = lengths[order]
    begins = np.cumsum(sizes) - sizes  # of each row, among the tokens of all packs
    places = np.arange(sizes.sum()) - np.repeat(begins, sizes)
    taken = np.repeat((np.cumsum(lengths) - lengths)[order], sizes) + places
    packed_labels = labels.flatten().to_numpy()[taken].astype(np.int64)
    packed_labels[begins] = IGNORED
    ends = np.cumsum([0, *(lengths[members].sum() for members in packs)], dtype=np.int32)
    columns = {"input_ids": ids.flatten().to_numpy()[taken].astype(np.int32), "labels": packed_labels,
               "position_ids": places.astype(np.int64)}
    lists = {name: pa.ListArray.from_arrays(ends, values) for name, values in columns.items()}
    return Dataset(pa.table(lists), fingerprint=generate_random_fingerprint())


def _first_fit(lengths: list[int], room: int) -> list[list[int]]:
    """The rows of each pack. A tree over all packs that may be needed, each node with the most room below it, finds
    the first one with room in a step a level: a search through all packs would take hours for a million rows."""
    leaves = 1 << max(len(lengths) - 1, 0).bit_length()
    free, packs = [room] * (2 * leaves), []
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        node = 1
        while node < leaves:
            node *= 2
            node += free[node] < lengths[row]
        if node - leaves == len(packs):
            packs.append([])
        packs[node - leaves].append(row)
        free[node] -= lengths[row]
        while node := node // 2:
            free[node] = max(free[2 * node], free[2 * node + 1])
    return packs


def collate_packed(rows: list[dict], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch of packs in which no row sees its neighbours.

    Args:
        rows: of `pack`. pad_id: as for `collate`.

    Returns:
        `input_ids`, `labels` and `position_ids`, each (batch, longest), and `attention_mask` (batch, 1, longest,
        longest), True where a token may look: at itself and what stands before it in its own row.
    """
    import torch

    batch = collate(rows, pad_id)
    width = batch["input_ids"].shape[1]
    places = torch.tensor([list(row["position_ids"]) + [0] * (width - len(row["position_ids"])) for row in rows])
    member = (places == 0).cumsum(-1)  # which row of its pack a token belongs to; each pad is a row of its own
    same = member[:, :, None] == member[:, None, :]
    batch |= {"position_ids": places, "attention_mask": (same & torch.ones(width, width).tril().bool())[:, None]}
    return batch


def token_efficiency(rows: Dataset, batch_size: int) -> float:
    """The share of the tokens in consecutive batches that are real and not padding, 0 to 1.

    Args:
        rows: encoded, or packed.
        batch_size: rows a batch; each batch is as wide as its longest row.
    """
    lengths = [len(ids) for ids in rows["input_ids"]]
    batches = [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    return sum(lengths) / max(1, sum(len(batch) * max(batch) for batch in batches))


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills a batch: the pad token, or any other that exists, since the mask hides it."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)


def start_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id from which the first token of a plain text is guessed: the start token, or else the end token.

    Raises:
        LabError: the tokenizer has neither.
    """
    start = next((t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id) if t is not None), None)
    if start is None:
        raise LabError("the tokenizer has neither a start nor an end token", where="tokenizer",
                       todo="Set tokenizer.bos_token")
    return start


def blind_guess(tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> float:
    """The loss, in nats a counted token, of whoever knows the form of the answer and guesses among the labels."""
    return math.log(len(labels)) / statistics.mean(len(encode_completion(tokenizer, label)) for label in labels)


def token_shares(rows: list[dict]) -> list[float]:
    """For each encoded row, the share of its tokens that count in the loss (0 to 1)."""
    return [(len(row["labels"]) - row["labels"].count(IGNORED)) / max(1, len(row["labels"])) for row in rows]
