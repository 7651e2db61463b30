"""How surprised a model is by text: log-likelihoods a token, in windows where the text is longer than the model.

Takes texts; gives, for each, the log-likelihoods of its tokens, from which `labkit.scratch.metrics` makes perplexity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from labkit.data.encode import pad_id, start_id
from labkit.errors import LabError
from labkit.evaluation.answering import batches, positions
from labkit.evaluation.scores import Score
from labkit.kernels import joined
from labkit.models import quiet
from labkit.scratch.metrics import windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def token_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    width: int | None = None,
    stride: int | None = None,
    batch_size: int = 16,
    padding_side: str = "left",
    tick: Callable[[int], None] | None = None,
) -> list[list[float]]:
    """The log-likelihood of every token of each text, given the tokens before it.

    A start token stands before each text, so that the first token counts too and figures a byte are exact.

    Args:
        width: tokens that are read at once; None is what the model takes, at most 1,024.
        stride: by how many tokens the window moves on; None is half the width. A small stride gives every token more
            context and costs more.
        batch_size, padding_side: windows read at once, and where they are filled up; neither changes the result.

    Returns:
        One list a text, in nats; empty for a text without tokens.
    """
    import torch

    width = width or min(1024, getattr(model.config, "max_position_embeddings", 1024))
    stride = stride or max(1, width // 2)
    if not 0 < stride < width:
        raise LabError(f"a stride of {stride}", where="stride", expected=f"less than the width, {width}")
    start = start_id(tokenizer)
    rows = [[start, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    cut = [(i, *window) for i, row in enumerate(rows) if len(row) > 1 for window in windows(len(row), width, stride)]
    found = [[0.0] * (len(row) - 1) for row in rows]
    device, was = next(model.parameters()).device, model.training
    model.eval()
    with torch.inference_mode(), quiet(), joined(model):
        pieces = [rows[i][begin:end] for i, begin, end, _ in cut]
        for members, ids, mask in batches(pieces, pad_id(tokenizer), batch_size, device, padding_side):
            logits = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False).logits
            said = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1).cpu()
            for values, real, member in zip(said, mask.bool().cpu(), members, strict=True):
                i, begin, end, first = cut[member]
                own = values[(real[1:] & real[:-1])].tolist()  # of the tokens begin + 1 .. end - 1
                for place in range(max(first, begin + 1), end):
                    found[i][place - 1] = own[place - begin - 1]
            if tick:
                tick(len(members))
    model.train(was)
    return found


def ratio_interval(losses: Sequence[float], sizes: Sequence[float], groups: Sequence | None = None,
                   draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of sum(losses) / sum(sizes) by a bootstrap over rows, or over groups."""
    keys = np.arange(len(losses)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    x, n = np.bincount(keys, np.asarray(losses, float)), np.bincount(keys, np.asarray(sizes, float))
    drawn = np.random.default_rng(seed).integers(0, len(x), (draws, len(x)))
    low, high = np.quantile(x[drawn].sum(1) / np.maximum(n[drawn].sum(1), 1e-12), [0.025, 0.975])
    return float(low), float(high)


def perplexity_scores(texts: Sequence[str], values: Sequence[Sequence[float]],
                      groups: Sequence | None = None) -> list[Score]:
    """Perplexity a token, perplexity a byte and bits a byte over all texts together, each with its interval.

    Args:
        values: of `token_log_likelihoods` on these texts.

    Raises:
        LabError: there is no token in any of them.
    """
    losses = [-sum(row) for row in values]
    scores = []
    for name, sizes, turn, form in (
        ("perplexity", [len(row) for row in values], np.exp, ".2f"),
        ("byte perplexity", [len(text.encode()) for text in texts], np.exp, ".3f"),
        ("bits per byte", [len(text.encode()) for text in texts], lambda x: x / np.log(2), ".3f"),
    ):
        if not sum(sizes):
            raise LabError("no text to score", expected="at least one token")
        low, high = ratio_interval(losses, sizes, groups)
        scores.append(Score(name, float(turn(sum(losses) / sum(sizes))), float(turn(low)), float(turn(high)),
                            len(values), form))
    return scores
