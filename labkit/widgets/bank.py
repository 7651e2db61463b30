"""Type a ticket, see what the base and each adapter of a bank answer; every one is asked in the words of its task.

A front end over `adapters.Bank`; the page itself is `sidebyside`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from labkit import evaluation
from labkit.data import PROMPTS
from labkit.errors import LabError
from labkit.widgets.sidebyside import SideBySide

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from labkit.adapters import Bank


def bank_answers(bank: Bank, tokenizer: PreTrainedTokenizerBase, text: str, templates: Mapping[str, str] | None = None,
                 base_asks: str | None = None, max_new_tokens: int = 80) -> SideBySide:
    """A box for a ticket, the base's answer, and one answer an adapter.

    Args:
        bank: whose adapters answer; it is left as it was.
        text: the first ticket.
        templates: the prompt of each adapter, with {text} in it; None takes the tickets' task of the same name.
        base_asks: the adapter whose prompt the base gets; None is the first.

    Raises:
        LabError: the bank is empty, or an adapter has no template.
    """
    templates = dict(PROMPTS if templates is None else templates)
    if not bank.names:
        raise LabError("the bank is empty", where="bank", todo="Add an adapter first")
    if lost := [name for name in bank.names if name not in templates]:
        raise LabError(f"no template for {', '.join(lost)}", where="templates",
                       expected="a prompt with {text} in it for every adapter")

    def answer(name: str | None, template: str, ticket: str) -> str:
        if not ticket.strip():
            raise LabError("there is no ticket to answer", todo="Write something into the box")
        with bank.using(name) as model:
            return evaluation.generate(model, tokenizer, [template.replace("{text}", ticket)], max_new_tokens)[0]

    asked = base_asks or bank.names[0]
    columns = {f"base, asked for {asked}": partial(answer, None, templates[asked])}
    columns |= {name: partial(answer, name, templates[name]) for name in bank.names}
    return SideBySide(columns, text)
