"""Turns records into examples (prompt and completion), and a prompt into the text that a model sees.

The second step of the data's way: `read` made the records, `encode` turns the examples into token ids.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from string import Formatter
from typing import TYPE_CHECKING, Any

from labkit.data.read import Form, quiet
from labkit.errors import LabError

if TYPE_CHECKING:
    from datasets import Dataset

PROMPTS = {
    "tone": "Which tone has this ticket: joy, anger, sadness, fear, surprise or neutral?\n\n{text}",
    "intent": (
        "Which team does this ticket go to: delivery, return, payment, warranty, advice, change, stock or workshop?"
        "\n\n{text}"
    ),
    "entities": "Write product, order, place and date of this ticket as JSON.\n\n{text}",
    "summary": "Write a summary of this ticket in one line.\n\n{text}",
    "reply": "Write a reply to this ticket.\n\n{text}",
}
LABELS = {
    "tone": ("joy", "anger", "sadness", "fear", "surprise", "neutral"),
    "intent": ("delivery", "return", "payment", "warranty", "advice", "change", "stock", "workshop"),
}
ENTITIES = ("product", "order", "place", "date")
Prompt = str | Sequence[Mapping[str, str]]  # one user message, or the turns so far


def ticket_examples(tickets: Dataset, task: str) -> Dataset:
    """The tickets as examples of one task.

    Args:
        tickets: records of the shipped tickets.
        task: "tone", "intent", "entities", "summary" or "reply".

    Returns:
        Columns prompt, completion, text (the ticket alone), family, id; and label for tone and intent.

    Raises:
        LabError: an unknown task, a column that is not there, or a label that the task does not have.
    """
    if task not in PROMPTS:
        raise LabError(f"there is no task {task!r}", expected=", ".join(PROMPTS), todo=_near(task, PROMPTS))
    if missing := {"text", task, "family", "id"} - set(tickets.column_names):
        raise LabError(f"the tickets have no column {min(missing)!r}", expected="text, family, id and the task's own",
                       todo='Read them with read("tickets")')

    def example(row: dict) -> dict:
        answer = row[task]
        if task in LABELS and answer not in LABELS[task]:
            raise LabError(f"{answer!r} is no {task}", where=f"ticket {row['id']}", expected=", ".join(LABELS[task]))
        if task == "entities":
            answer = json.dumps({name: answer[name] for name in ENTITIES}, ensure_ascii=False)
        made = {"prompt": fill(PROMPTS[task], row, f"ticket {row['id']}"), "completion": answer}
        return made | ({"label": answer} if task in LABELS else {})

    return _mapped(tickets, example, labelled=task in LABELS, chat=False, keep=["text", "family", "id"])


def examples(dataset: Dataset, form: Form, template: str | None = None) -> Dataset:
    """Records of any file as examples.

    Args:
        dataset: the records that `form` was recognised in.
        form: what `recognise` said of them.
        template: the prompt with `{column}` for a column's text, in place of the form's own.

    Returns:
        The columns prompt (text; for messages the list of turns before the last), completion (text), label (for the
        kind "label" only), and the other columns of `dataset`, such as `line` or a group. Columns that went into the
        examples, or that would be taken for a part of them (a `label` beside question and answer), are not kept.

    Raises:
        LabError: a field of the template is no column, or a template is given for messages.
    """
    if form.kind == "messages" and template is not None:
        raise LabError("messages take no prompt template", todo="Leave the template out: the turns are the prompt")
    opening = f"Which label fits: {_or(form.labels)}?\n\n" if form.kind == "label" else ""

    def example(row: dict) -> dict:
        if form.kind == "messages":
            *prompt, answer = turns(row["messages"])
            return {"prompt": prompt, "completion": answer["content"]}
        where = f"line {row['line']}" if "line" in row else ""
        prompt = opening + row[form.prompt] if template is None else fill(template, row, where)
        made = {"prompt": prompt, "completion": str(row[form.completion])}
        return made | ({"label": made["completion"]} if form.kind == "label" else {})

    used = {"messages", form.prompt, form.completion, "prompt", "completion", "label"}
    keep = [name for name in dataset.column_names if name not in used]
    return _mapped(dataset, example, labelled=form.kind == "label", chat=form.kind == "messages", keep=keep)


def fill(template: str, row: Mapping[str, Any], where: str = "") -> str:
    """A template with each `{field}` replaced by the row's text; `{{` and `}}` stand for braces.

    Args:
        template: text with fields, for example "Question: {question}".
        row: column to value; text, or a number.
        where: file and line, for messages.

    Raises:
        LabError: an unknown field, an unpaired brace, or a value that is missing or no text.

    >>> fill("Ticket {id}: {text}", {"id": 7, "text": "Where is {it}?"})
    'Ticket 7: Where is {it}?'
    """
    parts = []
    for text, field in _parse(template):
        parts.append(text)
        if field is None:
            continue
        if field not in row:
            raise LabError(f"the template has {{{field}}}, and there is no such column", where=where,
                           expected=", ".join(row), todo=_near(field, row))
        value = row[field]
        if value is None or not isinstance(value, str | int | float):
            what = "is empty" if value is None else f"holds a {type(value).__name__}, not text"
            raise LabError(f"the template has {{{field}}}, and {field} {what}", where=where,
                           todo="Mend the row or leave the field out")
        parts.append(str(value))
    return "".join(parts)


def turns(prompt: Prompt) -> list[dict[str, str]]:
    """The chat turns of a prompt: text is one turn of the user's, a list is copied turn by turn."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": turn["role"], "content": turn["content"]} for turn in prompt]


def render(tokenizer: Any, prompt: Prompt) -> str:
    """The text that the model sees before it writes: the one place, for training and for serving alike.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        prompt: one user message, or the turns so far.

    Returns:
        The turns in the tokenizer's chat template, up to where the assistant's answer begins. It may hold the
        beginning-of-text token already: encode it with `add_special_tokens=False`.

    Raises:
        LabError: the tokenizer has no chat template, or the template refuses the turns.
    """
    name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
    if not getattr(tokenizer, "chat_template", None):
        raise LabError("has no chat template", where=name, expected="an instruction-tuned model's tokenizer",
                       todo="Choose the model's Instruct variant, or set tokenizer.chat_template")
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(turns(prompt), tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns(prompt))
        raise LabError(f"the chat template refuses turns of {roles} ({error})", where=name,
                       todo="Leave out the roles that this model does not know") from None


def _mapped(
    dataset: Dataset, example: Callable[[dict], dict], *, labelled: bool, chat: bool, keep: list[str]
) -> Dataset:
    """`example` of every row, with the types said: left alone, `map` casts text back to a same-named column's type."""
    from datasets import Features, List, Value

    text = Value("string")
    own = {"prompt": List({"role": text, "content": text}) if chat else text, "completion": text}
    own |= {"label": text} if labelled else {}
    features = Features(own | {name: dataset.features[name] for name in keep})
    drop = [name for name in dataset.column_names if name not in keep]

    def batch_of(batch: dict[str, list]) -> dict[str, list]:
        made = [example(dict(zip(batch, values, strict=True))) for values in zip(*batch.values(), strict=True)]
        return {name: [row[name] for row in made] for name in own}

    with quiet():  # in batches: ten times as fast as row by row
        made = dataset.map(batch_of, batched=True, remove_columns=drop, features=features)
    return made.select_columns(list(features))


def _or(labels: Sequence[str]) -> str:
    return ", ".join(labels[:-1]) + " or " + labels[-1]


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Perhaps you mean {near[0]!r}" if near else ""


@lru_cache(maxsize=64)
def _parse(template: str) -> tuple[tuple[str, str | None], ...]:
    """(text, field or None) after one another."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise LabError(f"the template has a brace without its pair ({error})", where=repr(template[:60]),
                       todo="Write {{ or }} for a brace that is meant as text") from None
    for _, field, spec, conversion in parts:
        if field == "" or spec or conversion:
            raise LabError(f"the template has {{{field}{'!' + conversion if conversion else ''}"
                           f"{':' + spec if spec else ''}}}", where=repr(template[:60]),
                           expected="the name of a column alone between braces",
                           todo="Write {{ and }} for braces that are meant as text")
    return tuple((text, field) for text, field, _, _ in parts)
