"""A model's answers to prompts: labels picked by likelihood, free text written greedily; the batch never shows.

Takes a model, its tokenizer and prompts; gives log-likelihoods, labels or texts, which `scores` turns into figures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING

from labkit import narrow
from labkit.data.encode import encode_completion, encode_prompt, pad_id
from labkit.errors import LabError
from labkit.evaluation.room import roomy_cache
from labkit.kernels import joined
from labkit.models import end_of_turn, quiet
from labkit.profiles import limited

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def padded(prompts: Sequence[list[int]], pad: int, side: str = "left") -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, both (batch, longest), with the padding on that side.

    Raises:
        LabError: the side is neither "left" nor "right".
    """
    import torch

    if side not in ("left", "right"):
        raise LabError(f"{side!r} is no side to pad on", where="padding_side", expected="left or right")
    width, left = max(map(len, prompts)), side == "left"

    def fill(row: list[int], what: int) -> list[int]:
        gap = [what] * (width - len(row))
        return gap + list(row) if left else list(row) + gap

    return torch.tensor([fill(p, pad) for p in prompts]), torch.tensor([fill([1] * len(p), 0) for p in prompts])


def left_padded(prompts: Sequence[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, both (batch, longest), with the padding in front so that all prompts end together."""
    return padded(prompts, pad, "left")


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position ids (batch, seq) that count from the first real token, whatever the padding."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def batches(
    asked: list[list[int]], pad: int, size: int, device, side: str = "left"
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Row numbers, ids and mask of each batch; rows of a length together, so that there is little padding."""
    order = sorted(range(len(asked)), key=lambda i: len(asked[i]))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        ids, mask = padded([asked[i] for i in rows], pad, side)
        yield rows, ids.to(device), mask.to(device)


def score_labels(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence,
    labels: Sequence[str],
    batch_size: int = 16,
    padding_side: str = "left",
    tick: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Log-likelihood of each label as the whole answer to each prompt, end of turn included.

    What all prompts begin with is read once. Behind each prompt stand all labels at once, and a mask lets each of
    them see the prompt and itself alone; so a prompt is read once, however many labels there are.

    Args:
        prompts: n prompts, strings or lists of turns.
        labels: m possible answers.
        batch_size: prompts read at once; the result does not depend on it.
        padding_side: "left" or "right"; the result does not depend on it either.
        tick: called with the number of rows of each batch that is done.

    Returns:
        (n, m) log-likelihoods in nats, on the CPU.
    """
    import torch

    answers = [encode_completion(tokenizer, label) for label in labels]
    asked = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    scores = torch.empty(len(asked), len(labels))
    if not asked:
        return scores
    device, was = next(model.parameters()).device, model.training
    tree = _Tree(answers, device)
    shared = min(len(os.path.commonprefix(asked)), min(map(len, asked)) - 1) if len(asked) > 1 else 0
    model.eval()
    with torch.inference_mode(), quiet(), joined(model):
        begun = narrow.read(model, torch.tensor([asked[0][:shared]], device=device)) if shared else None
        for rows, ids, mask in batches([a[shared:] for a in asked], pad_id(tokenizer), batch_size, device,
                                        padding_side):
            said = tree.read(model, ids, mask.bool(), shared, narrow.copies(begun, len(rows)))
            scores[rows] = said.cpu()
            if tick:
                tick(len(rows))
    model.train(was)
    return scores


class _Tree:
    """All labels behind one prompt: their tokens in a row, each label blind to the others.

    `answers` are token ids with the end of turn; their last token is only predicted, never read.
    """

    def __init__(self, answers: list[list[int]], device):
        import torch

        self.answers = answers
        owner = torch.tensor([j for j, a in enumerate(answers) for _ in a[:-1]], device=device)
        depth = [i for a in answers for i in range(len(a) - 1)]
        self.depth = torch.tensor(depth, device=device)
        self.tokens = torch.tensor([token for a in answers for token in a[:-1]], device=device)
        self.sees = (owner[:, None] == owner) & (self.depth[:, None] >= self.depth)  # (tokens, tokens)

    def read(self, model, ids: torch.Tensor, real: torch.Tensor, shared: int, cache: dict) -> torch.Tensor:
        """(batch, labels) log-likelihoods; `ids` and `real` are (batch, width), behind `shared` tokens in the cache."""
        import torch

        (n, width), more = ids.shape, len(self.tokens)
        mask = torch.zeros(n, width + more, shared + width + more, dtype=torch.bool, device=ids.device)
        mask[:, :, :shared] = True
        mask[:, :width, shared : shared + width] = torch.ones_like(mask[0, :width, :width]).tril() & real[:, None]
        mask[:, width:, shared : shared + width] = real[:, None]
        mask[:, width:, shared + width :] = self.sees
        lengths = real.sum(-1, keepdim=True)
        places = torch.cat([positions(real.long()), lengths + self.depth], 1) + shared
        given = {"input_ids": torch.cat([ids, self.tokens.expand(n, -1)], 1), "position_ids": places,
                 "attention_mask": _for_attention(mask, model), **cache}
        ends = (real.long() * torch.arange(width, device=ids.device)).argmax(-1)  # where each prompt ends
        behind = torch.arange(-more, 0, device=ids.device)
        at = torch.cat([ends[:, None] - width - more, behind.expand(n, -1)], 1)
        logits = narrow.logits_at(model, given, at).float().log_softmax(-1)  # (batch, 1 + tokens, vocabulary)
        first, later = logits[:, 0], logits[:, 1:]
        columns, place = [], 0
        for answer in self.answers:
            value = first[:, answer[0]]
            for token in answer[1:]:
                value = value + later[:, place, token]
                place += 1
            columns.append(value)
        return torch.stack(columns, -1)


def _for_attention(mask: torch.Tensor, model) -> torch.Tensor:
    """(batch, 1, query, key) as the model's attention takes it: True where it may look, or something to add."""
    import torch

    mask = mask[:, None]
    if getattr(model.config, "_attn_implementation", "sdpa") != "eager":
        return mask
    nothing = torch.zeros(mask.shape, dtype=model.dtype, device=mask.device)
    return nothing.masked_fill(~mask, torch.finfo(model.dtype).min)


def classify(model, tokenizer, prompts: Sequence, labels: Sequence[str], batch_size: int = 16) -> list[str]:
    """The likeliest label for each prompt; arguments as in `score_labels`."""
    return [labels[i] for i in score_labels(model, tokenizer, prompts, labels, batch_size).argmax(-1).tolist()]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence,
    max_new_tokens: int = 96,
    batch_size: int = 32,
    tick: Callable[[int], None] | None = None,
    adapter_names: Sequence[str] | None = None,
    allowed: Callable[[Sequence[int]], Sequence[int]] | None = None,
) -> list[str]:
    """Greedy answers to prompts, up to the end of turn or `max_new_tokens`; `tick` as in `score_labels`.

    LABKIT_TOKENS caps `max_new_tokens` from outside.

    Padding is on the left: a model that goes on writing must have its last real token at the end.

    Args:
        adapter_names: one a prompt, as `adapters.Bank.each` gives them: each row is answered by its own adapter.
        allowed: gives the tokens that may follow those said so far, as `constrained.OneOf` and `JsonObject` do.

    Raises:
        LabError: a prompt fills the model's context; reading it would take hours, and the answer would be noise.
    """
    import torch
    from transformers import GenerationConfig

    with quiet():  # the tokenizer says of a long prompt that it is long
        asked, end, answers = [encode_prompt(tokenizer, prompt) for prompt in prompts], end_of_turn(tokenizer), {}
    _leave_room(asked, getattr(model.config, "max_position_embeddings", None))
    # Spelt out, since what is left out comes from the model's own settings: with a penalty it is no longer greedy.
    most = limited(max_new_tokens, "LABKIT_TOKENS", "tokens")
    greedy = GenerationConfig(max_new_tokens=most, do_sample=False, num_beams=1, repetition_penalty=1.0,
                              no_repeat_ngram_size=0, temperature=1.0, top_p=1.0, top_k=50, eos_token_id=end,
                              pad_token_id=pad_id(tokenizer))
    device, was = next(model.parameters()).device, model.training
    model.eval()
    with torch.inference_mode(), quiet(), joined(model):
        for rows, ids, mask in batches(asked, pad_id(tokenizer), batch_size, device):
            own = {"adapter_names": [adapter_names[i] for i in rows]} if adapter_names else {}
            if allowed:
                own["prefix_allowed_tokens_fn"] = partial(_next_of, allowed, ids.shape[1])
            for place, answer in _written(model, ids, mask, greedy, own):
                answer = answer[: answer.index(end)] if end in answer else answer
                answers[rows[place]] = tokenizer.decode(answer, skip_special_tokens=True).strip()
            if tick:
                tick(len(rows))
    model.train(was)
    return [answers[i] for i in range(len(asked))]


def _written(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, greedy: GenerationConfig, own: dict,
             ) -> Iterator[tuple[int, list[int]]]:
    """(row, tokens of its answer) for each row of a batch, in the order in which they come to their end.

    As soon as half of the rows have come to their end, the others go on without them: else the longest answer, often
    one that finds no end, takes the time of all.
    """
    from torch.nn.functional import pad

    asked, end, rows, room = ids.shape[1], greedy.eos_token_id, list(range(len(ids))), roomy_cache(model)
    while rows:
        greedy = copy(greedy)
        if room:
            own |= {narrow.cache_name(): room, "stopping_criteria": [_half_done(end)]}
        said = model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy, **own)
        new = said.shape[1] - ids.shape[1]
        over = (said[:, asked:] == end).any(-1) | (not room or new == greedy.max_new_tokens)
        for row in over.nonzero().flatten().tolist():
            yield rows[row], said[row, asked:].tolist()
        left = (~over).nonzero().flatten()
        rows, ids, mask = [rows[row] for row in left.tolist()], said[left], pad(mask, (0, new), value=1)[left]
        greedy.max_new_tokens -= new
        if rows:
            room.batch_select_indices(left)
            if names := own.get("adapter_names"):
                own["adapter_names"] = [names[row] for row in left.tolist()]


def _half_done(end: int):
    """Stops a batch as soon as half of its rows have come to their end."""
    import torch
    from transformers import StoppingCriteria

    class HalfDone(StoppingCriteria):
        done: torch.Tensor | bool = False

        def __call__(self, input_ids, scores, **kwargs):
            self.done = self.done | (input_ids[:, -1] == end)
            return torch.full_like(self.done, bool(2 * self.done.sum() >= len(self.done)))

    return HalfDone()


def _leave_room(asked: list[list[int]], context: int | None) -> None:
    longest = max(range(len(asked)), key=lambda i: len(asked[i]), default=None)
    if context and longest is not None and len(asked[longest]) >= context:
        raise LabError(f"the prompt has {len(asked[longest]):,} tokens", where=f"prompt {longest + 1} of {len(asked)}",
                       expected=f"fewer than {context:,}, the model's context", todo="Shorten it")


def _next_of(allowed: Callable, asked: int, row: int, ids: torch.Tensor) -> list[int]:
    """What transformers asks of each row at each step; `ids` begin with the `asked` tokens of the prompt."""
    return list(allowed(ids[asked:].tolist()))
