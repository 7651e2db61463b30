"""Tripwires: named checks for the mistakes that print nothing, each with one sentence and what to do.

`finetune` runs them before and after training. A guard returns what it saw as a Finding, or raises a LabError with
its name where going on would waste the learner's day.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit.data.encode import IGNORED, encode_prompt, token_shares
from labkit.errors import LabError
from labkit.models import end_of_turn, in_float32, quiet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EXPLODED = 3  # times the lowest loss so far
BLIND = 1.25  # times the loss of a blind guess
STEP_BAND = ((5e-4, 0.3), (2e-5, 0.1))  # least and most that a step moves adapters, and whole models, by, of their size
UNMOVED = 1e-6  # an adapter that changed by a smaller share of its size trained nothing: about 32-bit rounding


@dataclass(frozen=True)
class Finding:
    """What a guard saw when it did not have to refuse."""

    guard: str
    saw: str


class Tripped(LabError):
    """A guard refused; `guard` is its name."""

    def __init__(self, guard: str, what: str, **more: str):
        super().__init__(what, where=f"tripwire {guard}", **more)
        self.guard = guard
        self.curve: list[dict] = []  # of the training that it stopped, as in Run, for `monitoring.diagnose`
        self.settings: dict = {}
        self.meter: dict[str, float] = {}


def loss_mask(rows: list[dict], tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Refuses rows in which no token counts in the loss, all do, or only the end of turn does."""
    shares, end = token_shares(rows), end_of_turn(tokenizer)
    for i, (row, share) in enumerate(zip(rows, shares, strict=True)):
        labels = row["labels"]
        if not share:
            raise Tripped(
                "loss_mask",
                f"row {i}: none of its {len(labels)} tokens counts in the loss, so it teaches nothing",
                todo="Leave the completion's labels unmasked",
            )
        if share == 1:
            raise Tripped(
                "loss_mask",
                f"row {i}: all of its {len(labels)} tokens count in the loss, the prompt too",
                todo="Set the labels over the prompt to -100; `labkit.data.encode` does",
            )
        if labels.count(IGNORED) + labels.count(end) == len(labels):
            raise Tripped(
                "loss_mask",
                f"row {i}: only the end of turn counts in the loss",
                expected="an answer before it",
                todo="Look for empty completions",
            )
    return Finding("loss_mask", f"{min(shares):.0%} to {max(shares):.0%} of a row's tokens count in the loss")


def end_of_turn_counts(batch: dict[str, torch.Tensor], tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Refuses a collated batch in which a row's last end of turn is masked or missing: the model would never stop.

    The usual cause: pad is the end of turn, and a collator masks every pad.
    """
    end = end_of_turn(tokenizer)
    ids, labels = batch["input_ids"], batch["labels"]
    if "position_ids" in batch:  # packed: padding is a row of one token, and no end of turn stands first
        real = batch["position_ids"] > 0
    else:
        real = batch["attention_mask"].bool() if "attention_mask" in batch else True
    ends = (ids == end) & real
    for row in range(len(ids)):
        places = ends[row].nonzero().flatten().tolist()
        if places and labels[row, places[-1]] == end:
            continue
        if places:
            cause = "; pad is the same token, and the collator masks it" if tokenizer.pad_token_id == end else ""
            what = f"the end of turn (id {end}) does not count in the loss{cause}"
            todo = "Mask the padding by length, as `labkit.data.encode.collate` does, or give pad a token of its own"
        else:
            what = f"there is no end of turn (id {end})"
            todo = "Put it behind every completion, as `labkit.data.encode.encode` does"
        raise Tripped("end_of_turn", f"row {row} of the batch: {what}", todo=todo)
    return Finding("end_of_turn", f"the end of turn (id {end}) counts in all {len(ids)} rows looked at")


def same_prompt(rows: list[dict], tokenizer: PreTrainedTokenizerBase, most: int = 10) -> Finding:
    """Refuses training rows that do not begin with the very tokens that serving will give the model."""
    for i, row in enumerate(rows[:most]):
        served = encode_prompt(tokenizer, row["prompt"])
        asked = next((n for n, label in enumerate(row["labels"]) if label != IGNORED), len(row["labels"]))
        trained = list(row["input_ids"][:asked])
        if trained != served:
            at = next(
                (n for n, (a, b) in enumerate(zip(trained, served, strict=False)) if a != b),
                min(len(trained), len(served)),
            )
            raise Tripped(
                "same_prompt",
                f"row {i}: training and serving prompts part at token {at}: "
                f"{_around(tokenizer, trained, at)} in training, {_around(tokenizer, served, at)} in serving",
                todo="Render both with `labkit.data.render`; look for a second BOS or a trailing space",
            )
    return Finding("same_prompt", f"{min(len(rows), most)} training prompts equal the serving prompts, token by token")


def _around(tokenizer, ids: list[int], at: int) -> str:
    return repr(tokenizer.decode(ids[max(0, at - 1) : at + 3])) if at < len(ids) else "the end"


def no_leak(train: Iterable[str], other: Iterable[str], name: str = "validation", near: float = 0.8) -> Finding:
    """Refuses a split that shares texts with the training rows, letter for letter or nearly (word 4-grams).

    What all texts begin with, such as a question before each ticket, does not count: it would make short texts alike.
    """
    train, other = list(train), list(other)
    same = len(os.path.commonprefix(train + other)) if len(set(train + other)) > 1 else 0
    train, other = [text[same:] for text in train], [text[same:] for text in other]
    seen: dict[tuple[str, ...], set[int]] = {}
    grams = [_grams(text) for text in train]
    for i, row in enumerate(grams):
        for gram in row:
            seen.setdefault(gram, set()).add(i)
    leaked = []
    for i, text in enumerate(other):
        mine = _grams(text)
        shared: dict[int, int] = {}
        for gram in mine:
            for j in seen.get(gram, ()):
                shared[j] = shared.get(j, 0) + 1
        best = max(shared, key=lambda j: shared[j] / len(mine | grams[j]), default=None)
        if best is not None and shared[best] / len(mine | grams[best]) >= near:
            leaked.append((i, best))
    if leaked:
        i, j = leaked[0]
        raise Tripped(
            "no_leak",
            f"{len(leaked)} of {len(other)} {name} rows stand in the training rows too: "
            f"{name} row {i} is training row {j}",
            todo="Split by group, or drop the doubles first",
        )
    return Finding("no_leak", f"none of {len(other)} {name} rows is a training row or nearly one")


def alike(texts: Sequence[str], also: Sequence | None = None, near: float = 0.8) -> list[int]:
    """A group number for each text; nearly equal ones (as `no_leak` has it) share it, so a split can keep them
    together.

    Args:
        texts: n texts.
        also: groups that are known already, one a text; they are joined with what is found.
        near: shared part of the word 4-grams (Jaccard) from which on two texts are nearly equal.

    Returns:
        n numbers. Only the rarest grams of a text are compared: two sets that share `near` of all must meet there
        (the prefix filter of Chaudhuri et al., 2006), so a long boilerplate costs nothing.
    """
    same = len(os.path.commonprefix(list(texts))) if len(set(texts)) > 1 else 0
    grams = [frozenset(_grams(text[same:])) for text in texts]
    often = Counter(gram for row in grams for gram in row)
    home = list(range(len(grams)))

    def root(i: int) -> int:
        while home[i] != i:
            home[i] = home[home[i]]
            i = home[i]
        return i

    def join(i: int, j: int) -> None:
        i, j = root(i), root(j)
        home[max(i, j)] = min(i, j)

    equal: dict[object, int] = {}
    index: dict[tuple[str, ...], list[int]] = {}
    for i, row in enumerate(grams):
        if also is not None:
            join(equal.setdefault(("group", also[i]), i), i)
        if (first := equal.setdefault(row, i)) != i:
            join(first, i)
            continue
        rare = sorted(row, key=lambda gram: (often[gram], gram))[: len(row) - math.ceil(near * len(row)) + 1]
        for j in {j for gram in rare for j in index.get(gram, ())}:
            if len(row & grams[j]) >= near * len(row | grams[j]):
                join(i, j)
        for gram in rare:
            index.setdefault(gram, []).append(i)
    return [root(i) for i in range(len(grams))]


def _grams(text: str, n: int = 4) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+|[^\w\s\x00-\x7f]", text.lower())  # an emoji tells rows apart, an exclamation mark does not
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def fingerprint(model: torch.nn.Module) -> dict[str, str]:
    """A hash of every frozen weight, to be compared after training."""
    return {name: _hash(p) for name, p in model.named_parameters() if not p.requires_grad}


def _hash(parameter: torch.Tensor) -> str:
    import torch

    flat = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(flat.numpy(), digest_size=16).hexdigest()


def frozen_stayed(model: torch.nn.Module, before: dict[str, str]) -> Finding:
    """Refuses when a weight moved that was frozen: then another adapter, or the base itself, is not what it was."""
    after = dict(model.named_parameters())
    moved = [name for name, value in before.items() if name not in after or _hash(after[name]) != value]
    if moved:
        raise Tripped(
            "frozen_stayed",
            f"{len(moved)} frozen weights moved, the first is {moved[0]}",
            todo="Look for code that sets requires_grad, or for a second optimizer",
        )
    return Finding("frozen_stayed", f"all {len(before)} frozen weights are bit for bit what they were")


def adapter_moved(model: torch.nn.Module, start: dict[str, torch.Tensor] | None = None) -> Finding:
    """Refuses an adapter that trained nothing, so that the model answers as its base.

    Args:
        model: with an adapter.
        start: the trainable weights by name before training. With it, what moved by less than a millionth of its size
            trained nothing; B alone would not tell, since PiSSA does not start it at zero, and a learning rate of
            1e-30 moves it by 1e-30. Without it, B must differ from zero.
    """
    from labkit.adapters import matrices

    if start is not None:
        now = dict(model.named_parameters())
        moved = math.sqrt(sum(float((now[name].detach() - old).double().square().sum()) for name, old in start.items()))
        size = math.sqrt(sum(float(old.double().square().sum()) for old in start.values()))
        share = moved / size if size else math.inf
        if not share >= UNMOVED:
            raise Tripped(
                "adapter_moved",
                f"training changed the weights by {share:.1g} of their size: it does nothing",
                expected=f"at least {UNMOVED:g}",
                todo="See that its parameters require gradients and that the learning rate is not next to 0",
            )
        return Finding("adapter_moved", f"training changed the weights by {share:.1%} of their size")
    pairs = matrices(model)
    still = [name for name, (_, b) in pairs.items() if not b.any()]
    if pairs and len(still) == len(pairs):
        raise Tripped(
            "adapter_moved",
            f"B is zero in all {len(pairs)} adapted modules: the adapter does nothing",
            todo="See that its parameters require gradients and that the learning rate is not 0",
        )
    return Finding("adapter_moved", f"B differs from zero in {len(pairs) - len(still)} of {len(pairs)} adapted modules")


def trainable(model: torch.nn.Module, most: int | None = None) -> dict[str, torch.Tensor]:
    """A copy of the trainable weights, or of the first `most`, for `adapter_moved` to compare with after training."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return {name: p.detach().clone() for name, p in named[:most]}


def reload_agrees(before: torch.Tensor, after: torch.Tensor, tolerance: float = 1e-3) -> Finding:
    """Refuses when logits after save and reload differ: the adapter was dropped, or its names did not match.

    Args:
        before, after: logits of the same rows, any equal shape, of the model in memory and of the one on disk.
    """
    gap = float((before.float() - after.float()).abs().max())
    if not gap <= tolerance:
        raise Tripped(
            "reload_agrees",
            f"the model read back from disk answers otherwise: logits differ by {gap:.3g}",
            expected=f"at most {tolerance:g}",
            todo="Load the adapter on the base it was trained on, and look for missing keys in its file",
        )
    return Finding("reload_agrees", f"read back from disk, logits differ by at most {gap:.1g}")


def batch_parity(
    score: Callable[[int], torch.Tensor], sizes: tuple[int, int] = (1, 8), tolerance: float = 1e-2
) -> Finding:
    """Refuses when a score depends on the batch it was computed in.

    Args:
        score: batch size to log-likelihoods, any shape; called once for each of `sizes`.
        sizes: two batch sizes.
        tolerance: in nats.
    """
    one, many = score(sizes[0]), score(sizes[1])
    gap = float((one - many).abs().max())
    if not gap <= tolerance:
        raise Tripped(
            "batch_parity",
            f"scores at batch {sizes[0]} and {sizes[1]} differ by {gap:.3g} nats",
            expected=f"at most {tolerance:g}",
            todo="Mask the padding, give positions that skip it, and turn dropout off",
        )
    return Finding("batch_parity", f"scores at batch {sizes[0]} and {sizes[1]} differ by at most {gap:.1g} nats")


def finite(step: int, loss: float, learning_rate: float, peak: float | None = None) -> None:
    """Refuses to go on after a loss that is not a number.

    Args:
        step: the optimizer step it was seen at. learning_rate: in that step. peak: of the schedule.
    """
    if not math.isfinite(loss):
        raise Tripped("finite_loss", f"step {step}: the loss is {loss} at {_rate(learning_rate, peak)}",
                      todo=_slower(peak or learning_rate))


def finite_weights(model: torch.nn.Module, step: int, learning_rate: float, peak: float | None = None) -> None:
    """Refuses trainable weights that are no numbers: the loss tells only in the step after. The rest as in `finite`."""
    for name, weight in model.named_parameters():
        if weight.requires_grad and not bool(weight.isfinite().all()):
            raise Tripped("finite_weights", f"step {step}: the weights of {name} are no numbers any more, after "
                          f"{_rate(learning_rate, peak)}", todo=_slower(peak or learning_rate))


def no_explosion(step: int, loss: float, lowest: float, learning_rate: float, peak: float | None = None,
                 vocabulary: int | None = None) -> None:
    """Refuses to go on where the loss has become a multiple of what it was, and worse than a blind guess.

    Args:
        loss: now, and `lowest` so far, in nats.
        vocabulary: tokens to choose from; guessing blindly among them costs ln(vocabulary). Without it nothing is said.
        The rest as in `finite`.
    """
    if vocabulary and loss > EXPLODED * lowest and loss > BLIND * math.log(vocabulary):
        raise Tripped("no_explosion", f"step {step}: the loss is {loss:.3g}, after {lowest:.3g} before, at "
                      f"{_rate(learning_rate, peak)}; guessing blindly among {vocabulary:,} tokens costs "
                      f"{math.log(vocabulary):.3g}", todo=_slower(peak or learning_rate))


def _rate(learning_rate: float, peak: float | None) -> str:
    return f"a learning rate of {learning_rate:.2g}" + (f" (its peak is {peak:.2g})" if peak else "")


def _slower(peak: float) -> str:
    return (f"Try a learning rate of {peak / 10:.1g}; if that fails too, a longer warm-up, max_grad_norm=1, "
            "bf16=False, or look at the rows of that step")


def same_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase,
                encode: Callable[[str], Sequence[int]]) -> Finding:
    """Refuses a runtime whose tokenizer makes other token ids of a text than the one that the model was trained with.

    Args:
        texts: as they will come; some with two spaces, accents and digits.
        encode: the runtime's, a text to its ids, without special tokens of its own.
    """
    for i, text in enumerate(texts):
        ours, theirs = tokenizer(text, add_special_tokens=False)["input_ids"], [int(token) for token in encode(text)]
        if ours != theirs:
            at = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
                      min(len(ours), len(theirs)))
            raise Tripped(
                "same_tokens",
                f"text {i}: the tokenizers part at token {at}: {_around(tokenizer, ours, at)} in training, "
                f"{_around(tokenizer, theirs, at)} in the runtime",
                todo="Export the tokenizer together with the model, and see that the runtime knows each of its parts",
            )
    return Finding("same_tokens", f"the runtime makes the same token ids of all {len(texts)} texts")


def step_size(move: float, full: bool) -> Finding:
    """Names an update-to-weight ratio outside its band: below nothing happens, above what was learnt is lost.

    Args:
        move: the longest step of a run, |change| / |weights| of the trainable weights (`monitoring.Meter.moves`).
        full: whether all weights are trained. An adapter starts small, so the same rate moves more of it.
    """
    low, high = STEP_BAND[full]
    said = f"the longest step moved the weights by {move:.1g} of their size"
    if move < low:
        said += f", below {low:g}: the learning rate is next to nothing here"
    if move > high:
        said += f", above {high:g}: the learning rate is likely too high here"
    return Finding("step_size", said)


def logits_of(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits (batch, seq, vocabulary) in evaluation mode, fp32, wherever the model lives."""
    import torch

    was = model.training
    model.eval()
    with torch.no_grad(), quiet(), in_float32(model):
        device = next(model.parameters()).device
        out = model(**{k: v.to(device) for k, v in batch.items() if k != "labels"}).logits.float().cpu()
    model.train(was)
    return out
