"""A row as the model gets it, token by token, with those that count in the loss underlined."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING

from labkit.data.encode import IGNORED
from labkit.tables import VERBATIM
from labkit.widgets.shown import TEXT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READ = "opacity:0.75"  # paler than the page's own text, with a contrast of 4.5 to 1 on a light page and on a dark one
COUNTED = "font-weight:bold;text-decoration:underline;border:1px solid #0072B2;border-radius:3px;padding:0 2px"
MOST = 2_000  # tokens that are shown; of a longer row the beginning and the end


class TokenView:
    """Shows an encoded row: in a notebook tokens that count are bold and underlined, in a terminal in [brackets].

    Args:
        tokenizer: that the row was encoded with.
        row: `input_ids` and `labels`, both lists of the same length.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, row: Mapping):
        self.counts = [label != IGNORED for label in row["labels"]]
        each = list(zip(row["input_ids"], self.counts, strict=True))
        hidden = max(0, len(each) - MOST)
        shown = each[: MOST // 2] + each[-MOST // 2 :] if hidden else each
        self.pieces = [(tokenizer.decode([token]), counts) for token, counts in shown]
        if hidden:
            self.pieces.insert(MOST // 2, (f" ... ({hidden:,} tokens are not shown) ... ", False))

    @property
    def caption(self) -> str:
        """How many tokens count, in words."""
        return f"{sum(self.counts)} of {len(self.counts)} tokens count in the loss"

    def __str__(self) -> str:
        marked = (f"[{text}]" if counts else text for text, counts in self.pieces)
        return f"{''.join(marked)}\n({self.caption})"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        spans = (f'<span style="{COUNTED if counts else READ}">{html.escape(text)}</span>'
                 for text, counts in self.pieces)
        return f'<div class="{VERBATIM}" style="{TEXT}">{"".join(spans)}</div><p>{self.caption}</p>'
