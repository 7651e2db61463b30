"""A row as the model gets it, token by token, with those that count in the loss underlined."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING

from labkit.data.encode import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READ = "color:#767676"  # grey that still has a contrast of 4.5 to 1 on white
COUNTED = "font-weight:bold;text-decoration:underline;border:1px solid #0072B2;border-radius:3px;padding:0 2px"


class TokenView:
    """Shows an encoded row: in a notebook tokens that count are bold and underlined, in a terminal in [brackets].

    Args:
        tokenizer: that the row was encoded with.
        row: `input_ids` and `labels`, both lists of the same length.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, row: Mapping):
        self.texts = [tokenizer.decode([token]) for token in row["input_ids"]]
        self.counts = [label != IGNORED for label in row["labels"]]

    @property
    def caption(self) -> str:
        """How many tokens count, in words."""
        return f"{sum(self.counts)} of {len(self.counts)} tokens count in the loss"

    def __str__(self) -> str:
        marked = (f"[{text}]" if counts else text for text, counts in zip(self.texts, self.counts, strict=True))
        return f"{''.join(marked)}\n({self.caption})"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        spans = (f'<span style="{COUNTED if counts else READ}">{html.escape(text)}</span>'
                 for text, counts in zip(self.texts, self.counts, strict=True))
        return f'<div style="white-space:pre-wrap">{"".join(spans)}</div><p>{self.caption}</p>'
