"""Losses that `finetune(loss=...)` takes: each a plain function of (model, batch, items) to a scalar.

Settings are keywords, to be fixed with functools.partial. `items` is how many labels (or pairs) count in the whole
effective batch, so that four batches of 4 give the gradient of one of 16; None counts those of this batch. Where
nothing counts a loss is 0 with a gradient of 0, not NaN. All sums are taken in float32 or better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit import narrow
from labkit.data.encode import IGNORED, encode_completion
from labkit.errors import LabError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEEN = ("input_ids", "attention_mask", "position_ids")  # what a model gets of a batch
TINY = 1e-12  # added below a square root, whose slope at 0 is infinite


# Pooled embeddings: batches of `labkit.similarity.PairCollator`


def pool(hidden: torch.Tensor, mask: torch.Tensor, how: str = "mean") -> torch.Tensor:
    """One vector a row from its token states.

    Args:
        hidden: (rows, seq, width). mask: (rows, seq), 1 where a token is real.
        how: "mean" of the real tokens, or the state of the "last" real one.

    Returns:
        (rows, width), in float32 or better.

    Raises:
        LabError: `how` is neither.
    """
    import torch

    hidden = hidden if hidden.dtype == torch.float64 else hidden.float()
    if how == "mean":
        weight = mask.to(hidden.dtype)[:, :, None]
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
    if how == "last":
        places = torch.arange(mask.shape[1], device=mask.device)
        last = (places * (mask != 0)).argmax(-1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    raise LabError(f"there is no pooling {how!r}", where="how", expected="mean or last")


def embeddings(model: PreTrainedModel, batch: dict, *, layer: int = -1, how: str = "mean") -> torch.Tensor:
    """Pooled states of one layer, each of length 1: (rows, width). Layer -1 is the last, behind the final norm."""
    from torch.nn.functional import normalize

    given = {name: value for name, value in batch.items() if name in SEEN}
    states = model(**given, output_hidden_states=True, logits_to_keep=1, use_cache=False).hidden_states[layer]
    return normalize(pool(states, batch["attention_mask"], how), dim=-1)


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of each row of a and b, (n, width) -> (n,), with a gradient of 0 where they are equal."""
    return ((a - b).pow(2).sum(-1) + TINY).sqrt()


def contrastive_terms(a: torch.Tensor, b: torch.Tensor, y: torch.Tensor, margin: float = 1.0) -> torch.Tensor:
    """(1 - y) d² + y max(0, margin - d)² of each pair: (n, width), (n, width), (n,) -> (n,).

    Args:
        y: 1 for pairs that do not mean the same (Hadsell et al., 2006, "Dimensionality reduction by learning an
            invariant mapping", without its factor 1/2).
        margin: from which distance on a pair that does not mean the same is left alone; vectors of length 1 are at
            most 2 apart.
    """
    d, y = distance(a, b), y.to(a.dtype)
    return (1 - y) * d.pow(2) + y * (margin - d).clamp(min=0).pow(2)


def contrastive(
    model: PreTrainedModel, batch: dict, items=None, *, margin: float = 1.0, layer: int = -1, how: str = "mean"
) -> torch.Tensor:
    """Mean of `contrastive_terms` over pairs.

    Args:
        batch: of `PairCollator`: 2 n rows (all a, then all b) and `y` (n,).
        items: pairs in the whole effective batch.
    """
    a, b = embeddings(model, batch, layer=layer, how=how).chunk(2)
    return contrastive_terms(a, b, batch["y"], margin).sum() / _count(items, len(a))


def info_nce_terms(
    a: torch.Tensor, b: torch.Tensor, temperature: float = 0.1, group: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of finding one's own partner among all b of the batch: (n, width), (n, width) -> (n,), nats.

    Args:
        temperature: cosines are divided by it (van den Oord et al., 2018, "Representation learning with contrastive
            predictive coding"; in-batch negatives as in SimCSE, Gao et al., 2021).
        group: (n,); partners of pairs of one group mean the same and are no negatives of each other.
    """
    import torch

    logits = a @ b.T / temperature
    if group is not None:
        same = (group[:, None] == group[None]) & ~torch.eye(len(a), dtype=torch.bool, device=a.device)
        logits = logits.masked_fill(same, -torch.inf)
    return -logits.log_softmax(-1).diagonal()


def info_nce(
    model: PreTrainedModel, batch: dict, items=None, *, temperature: float = 0.1, layer: int = -1, how: str = "mean"
) -> torch.Tensor:
    """Mean of `info_nce_terms` over the pairs of y = 0, both ways; pairs of y = 1 are left out.

    The negatives are those of the batch that is in memory. With accumulation there are fewer of them, so that 4 x 4
    is *not* 1 x 16 here: that holds of every loss whose terms look at other rows.

    Args:
        batch: as for `contrastive`, with `group` (n,) where partners of one group are not to be pushed apart.
    """
    same = batch["y"] == 0
    a, b = (side[same] for side in embeddings(model, batch, layer=layer, how=how).chunk(2))
    group = batch["group"][same] if "group" in batch else None
    terms = info_nce_terms(a, b, temperature, group) + info_nce_terms(b, a, temperature, group)
    return terms.sum() / 2 / _count(items, int(same.sum()))


# Language modelling: encoded rows or packs


def at_places(model: PreTrainedModel, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (batch, places, vocabulary) and labels (batch, places) where labels count, and at few others.

    Each row has places of its own where `narrow` fits the model; with others, all have those of any row.

    Args:
        batch: input_ids, attention_mask and labels, each (batch, seq); packed rows bring position_ids (batch, seq)
            and a mask (batch, 1, seq, seq).
    """
    labels = batch["labels"][:, 1:]  # of the tokens before those that count
    given, seq = {name: value for name, value in batch.items() if name in SEEN}, batch["labels"].shape[1]
    if narrow.fits(model):
        places = narrow.places_of(labels != IGNORED)
        return narrow.logits_at(model, given, places - seq), labels.gather(1, places)
    places = (labels != IGNORED).any(0).nonzero().flatten()
    return model(**given, logits_to_keep=places - seq, use_cache=False).logits, labels[:, places]


def counted(model: PreTrainedModel, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (n, vocabulary) and targets (n,) of the n labels that count; the head works nowhere else."""
    import torch

    logits, labels = at_places(model, batch)
    keep = labels != IGNORED
    logits = logits[keep]
    return logits if logits.dtype == torch.float64 else logits.float(), labels[keep]


def _count(items, here: int):
    """What a sum is divided by: never 0."""
    return max(1, here) if items is None else max(1, int(items))


def _nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log p of each target: (n, vocabulary), (n,) -> (n,), nats."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, targets, reduction="none")


def masked(model: PreTrainedModel, batch: dict, items=None) -> torch.Tensor:
    """Plain cross-entropy over the labels that count: what the library computes, and `finetune` without a loss."""
    logits, targets = counted(model, batch)
    return _nll(logits, targets).sum() / _count(items, len(targets))


def label_weights(tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> dict[int, float]:
    """Token id to weight, for `class_weighted`: n / (classes x n of the class), so that every class weighs the same.

    Args:
        labels: the answers of the training rows, as often as they occur.

    Raises:
        LabError: two labels begin with the same token, which then cannot have two weights.
    """
    counts = Counter(labels)
    first = {label: encode_completion(tokenizer, label)[0] for label in counts}
    if len(set(first.values())) < len(first):
        raise LabError("two labels begin with the same token", where=", ".join(sorted(first)),
                       expected="labels that differ from their first token on", todo="Rename one of them")
    return {first[label]: len(labels) / (len(counts) * n) for label, n in counts.items()}


def class_weighted(model: PreTrainedModel, batch: dict, items=None, *, weights: dict[int, float]) -> torch.Tensor:
    """Cross-entropy in which a label's token counts `weights[token]` times, every other token once.

    Divided by the number of labels, not by the sum of weights as torch does: so it adds up over accumulated batches.
    """
    import torch

    logits, targets = counted(model, batch)
    weight = torch.ones(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    weight[list(weights)] = torch.tensor(list(weights.values()), dtype=logits.dtype, device=logits.device)
    return (weight[targets] * _nll(logits, targets)).sum() / _count(items, len(targets))


def focal(model: PreTrainedModel, batch: dict, items=None, *, gamma: float = 2.0,
          weights: dict[int, float] | None = None) -> torch.Tensor:
    """(1 - p)^gamma times the cross-entropy: what is known already counts little (Lin et al., 2017, eq. 4 and 5).

    Args:
        gamma: 0 is plain cross-entropy. weights: as for `class_weighted`, the paper's alpha.
    """
    logits, targets = counted(model, batch)
    nll = _nll(logits, targets)
    # 1 - p by expm1: exact near p = 1; held above 0, where the slope of a power below 1 is infinite
    terms = (-(-nll).expm1()).clamp(min=TINY).pow(gamma) * nll
    if weights:
        terms = terms * terms.new_tensor([weights.get(token, 1.0) for token in targets.tolist()])
    return terms.sum() / _count(items, len(targets))


def smoothed(model: PreTrainedModel, batch: dict, items=None, *, epsilon: float = 0.1) -> torch.Tensor:
    """Cross-entropy against 1 - epsilon on the label and epsilon spread over the whole vocabulary."""
    from torch.nn.functional import cross_entropy

    logits, targets = counted(model, batch)
    total = cross_entropy(logits, targets, reduction="sum", label_smoothing=epsilon)
    return total / _count(items, len(targets))


def distilled(model: PreTrainedModel, batch: dict, items=None, *, teacher: PreTrainedModel, temperature: float = 2.0,
              share: float = 0.9) -> torch.Tensor:
    """share x T² KL(teacher || student) + (1 - share) x cross-entropy (Hinton et al., 2015).

    Args:
        teacher: with the same vocabulary; put in evaluation mode for the time, no gradient flows into it.
        temperature: T, both sides' logits are divided by it; T² keeps the gradient's size.

    Raises:
        LabError: teacher and student have vocabularies of different sizes.
    """
    import torch

    logits, targets = counted(model, batch)
    was = teacher.training
    teacher.eval()
    with torch.no_grad():
        theirs, _ = counted(teacher, batch)
    teacher.train(was)
    if theirs.shape != logits.shape:
        raise LabError(f"a vocabulary of {theirs.shape[-1]:,} tokens", where="teacher",
                       expected=f"the student's {logits.shape[-1]:,}", todo="Take a teacher with the same tokenizer")
    log_p, log_q = (theirs / temperature).log_softmax(-1), (logits / temperature).log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    terms = share * temperature**2 * kl + (1 - share) * _nll(logits, targets)
    return terms.sum() / _count(items, len(targets))


def format_penalty(model: PreTrainedModel, batch: dict, items=None, *, allowed: Sequence[int],
                   weight: float = 1.0) -> torch.Tensor:
    """Cross-entropy plus `weight` times -log of the probability that the next token is an allowed one.

    An example of a domain loss: answers may be made of these tokens only, such as the labels and the end of turn.
    """
    import torch

    logits, targets = counted(model, batch)
    ids = torch.tensor(sorted(set(allowed)), device=logits.device)
    outside = logits.logsumexp(-1) - logits[:, ids].logsumexp(-1)
    return (_nll(logits, targets) + weight * outside).sum() / _count(items, len(targets))


def length_penalty(model: PreTrainedModel, batch: dict, items=None, *, end: int, limit: int,
                   weight: float = 1.0) -> torch.Tensor:
    """Cross-entropy plus `weight` times -log p(end of turn) at every counted place from the `limit`-th of its row on.

    For padded batches: in a pack the places of several rows run on.
    """
    import torch

    labels = batch["labels"][:, 1:]
    nth = (labels != IGNORED).cumsum(-1)[labels != IGNORED]  # the how manyth counted label of its row, from 1
    logits, targets = counted(model, batch)
    late = (nth > limit).to(logits.dtype)
    too_long = late * _nll(logits, torch.full_like(targets, end))
    return (_nll(logits, targets) + weight * too_long).sum() / _count(items, len(targets))
