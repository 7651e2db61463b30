"""Constrained decoding: of all tokens only those that a form allows next, so that every answer has that form.

`generate(allowed=...)` takes one of these; what stands in the form is still the model's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.data.encode import encode_completion
from labkit.errors import LabError
from labkit.models import end_of_turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class OneOf:
    """Only these answers, whole.

    Args:
        tokenizer: the model's.
        answers: labels, say.

    Raises:
        LabError: there are no answers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]):
        if not answers:
            raise LabError("no answers to choose from", where="answers", expected="at least one")
        self.answers, self.end = [encode_completion(tokenizer, answer) for answer in answers], end_of_turn(tokenizer)

    def __call__(self, said: Sequence[int]) -> list[int]:
        """The tokens that may follow what was said so far."""
        n = len(said)
        ids = {answer[n] for answer in self.answers if len(answer) > n and answer[:n] == list(said)}
        return sorted(ids) or [self.end]


class JsonObject:
    """Only a JSON object with these keys in this order, each a string or null.

    The fixed parts are written in the tokens that the tokenizer gives them, which are those that training has seen; a
    choice is the model's wherever the form leaves one.

    Args:
        tokenizer: a byte-level one, as of Llama 3, Qwen, SmolLM2 and tiny-base.
        keys: of the object.
        most: letters of a value; then it is closed.

    Raises:
        LabError: no keys, or one that has to be escaped.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, keys: Sequence[str], most: int = 40):
        if not keys or any('"' in key or "\\" in key or not key.isprintable() for key in keys):
            raise LabError(f"{list(keys)} cannot be the keys", where="keys", expected="names without quotes")
        self.tokenizer, self.most, self.end = tokenizer, most, end_of_turn(tokenizer)
        self.leads = [("{" if i == 0 else ", ") + f'"{key}":' for i, key in enumerate(keys)]
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        before = tokenizer.decode([anchor := tokenizer.encode('"', add_special_tokens=False)[0]])
        texts = {i: tokenizer.decode([anchor, i])[len(before):] for i in range(len(tokenizer)) if i not in special}
        self.texts = {i: text for i, text in texts.items() if text}
        self.inside = [i for i, text in self.texts.items() if text.isprintable() and not set(text) & {'"', "\\"}]

    def __call__(self, said: Sequence[int]) -> list[int]:
        """The tokens that may follow what was said so far."""
        if self.end in said:
            return [self.end]
        text = self.tokenizer.decode(list(said))
        inside, options = self._follows(text)
        if inside is None:
            return [self._next(text, list(said), option) for option in options] or [self.end]
        return [i for i, t in self.texts.items() if options[0].startswith(t)] + self.inside * (inside < self.most)

    def _next(self, text: str, said: list[int], option: str) -> int:
        """The token with which `option` begins behind the text."""
        ids = self.tokenizer.encode(text + option, add_special_tokens=False)
        if ids[: len(said)] == said and len(ids) > len(said):
            return ids[len(said)]
        fits = [i for i, t in self.texts.items() if option.startswith(t)]  # the model has parted its words otherwise
        return max(fits, key=lambda i: len(self.texts[i]))

    def _follows(self, text: str) -> tuple[int | None, list[str]]:
        """Letters of the value that is open (None where none is), and what may be written next; nothing at the end."""
        for i, lead in enumerate(self.leads):
            tail = self.leads[i + 1] if i + 1 < len(self.leads) else "}"
            if len(text) < len(lead):
                return None, [lead[len(text):]]
            text = text[len(lead):]
            if " null".startswith(text) and text != " null":
                quote = ' "'[len(text):] if ' "'.startswith(text) else ""
                return None, [" null"[len(text):], *([quote] if quote else [])]
            if text.startswith(" null"):
                text = text[len(" null"):]
            elif (closed := text.find('"', 2)) < 0:
                return len(text) - 2, ['"' + tail]
            else:
                text = text[closed + 1:]
        return None, ["}"[len(text):]] if not text else []
