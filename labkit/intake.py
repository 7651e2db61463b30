"""Turns the file that somebody brings into splits of encoded examples, and says in plain words what was understood.

First half of the job: `run_job` trains and scores on the splits that are made here; the report tells what was left out.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.data._rows import locate
from labkit.data.read import BadRow, Form, find, noun, quiet, read, read_file, recognise
from labkit.data.split import NAMES, split
from labkit.data.template import LABELS, PROMPTS, examples, ticket_examples
from labkit.errors import LabError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

TICKETS = "tickets"  # ships with the course, with splits of its own
TOGETHER = "like rows"  # the column that keeps nearly equal rows, and rows of a group, in one split
FEW = 30  # test rows, below which the interval deserves a warning
MOST_SHOWN = 5  # rows left out that are named on the screen; the report names them all


@dataclass
class Intake:
    """What was understood of the rows that somebody brought.

    `parts` holds examples: "all" (and "test" from a file of its own), and after `divide` train, validation and test.
    `template` is a prompt with `{text}` where a new text goes; `said` are the sentences for whoever looks on;
    `left_out` has a dict with `file`, `line` and `reason` for each row that is not used.
    """

    source: str
    sha256: str
    kind: str
    labels: tuple[str, ...]
    template: str
    parts: dict[str, Dataset]
    task: str | None = None
    group: str | None = None
    test: str | None = None
    said: list[str] = field(default_factory=list)
    left_out: list[dict] = field(default_factory=list)

    @property
    def numbered_by(self) -> str:
        """The column that tells a row: the line in its file, or the id of a shipped ticket."""
        return "id" if self.source == TICKETS else "line"

    def rows_of(self, name: str) -> list:
        """Lines (or ticket ids) of a split."""
        return self.parts[name][self.numbered_by][:]


def understand(
    source: str | Path, *, columns: str | Sequence[str] | None = None, task: str | None = None,
    test: str | Path | None = None, group: str | None = None, skip_bad_rows: bool = False,
) -> Intake:
    """Read a file and find out what it can be trained for; no model is needed yet, so bad news comes at once.

    Args:
        source: a file or a dataset of the hub as `labkit.data.read` takes it, or "tickets" for the shipped ones with
            their own splits.
        columns: the two columns to train on; None recognises them.
        task: of the shipped tickets; "tone" where it is not given.
        test: another file in the same form, to test on.
        group: a column whose rows must not be parted; `family` where there is one.
        skip_bad_rows: leave bad rows out and name them, rather than refuse the file.

    Raises:
        LabError: the file, a row or an option is wrong.
    """
    if str(source) == TICKETS:
        if columns or test or group:
            raise LabError("the shipped tickets have columns, families and test rows of their own", where=TICKETS,
                           todo="Leave out --columns, --test and --group; choose with --task")
        return _tickets(task or "tone")
    if task:
        raise LabError("has no tasks to choose from", where=str(source), todo="Leave --task out: it is for the tickets")
    path, where = find(source)
    bad: list[BadRow] | None = [] if skip_bad_rows else None
    records = read_file(path, where, columns, bad)
    form = recognise(records, columns, where)
    if group and group not in records.column_names:
        raise LabError(f"there is no column {group!r} to group by", where=where,
                       expected=", ".join(name for name in records.column_names if name != "line"))
    if group and group in (form.prompt, form.completion, "messages"):
        raise LabError(f"the column {group!r} is trained on, so rows cannot be grouped by it", where=where,
                       todo="Name another column with --group, or leave it out")
    parts = {"all": examples(records, form)}
    group = group or ("family" if "family" in parts["all"].column_names else None)
    found = Intake(str(source), _sha256(path), form.kind, form.labels, _template(form), parts, group=group,
                   left_out=_left_out(where, bad))
    found.said.append(f"{where} was read as {form.reason}.")
    if test is not None:
        _add_test(found, form, test, skip_bad_rows)
    return found


def divide(intake: Intake, tokenizer: PreTrainedTokenizerBase, max_length: int, skip_bad_rows: bool, seed: int) -> None:
    """Encode the examples and split them 80/10/10, in place; with a test file 90/10, with the tickets as they come.

    Args:
        intake: as `understand` returns it; `parts` becomes train, validation and test, with `input_ids` and `labels`.
        tokenizer: of the model to train.
        max_length: in tokens; longer rows are refused, or left out and named with `skip_bad_rows`.
        seed: of the split.

    Raises:
        LabError: a row is too long, or there are too few different rows to split.
    """
    from datasets import concatenate_datasets

    parts = {name: _fitting(intake, name, tokenizer, max_length, skip_bad_rows) for name in intake.parts}
    if "all" in parts:
        dealt = _deal(intake, parts.pop("all"), seed)
        if "test" in parts:  # then all other rows are there to learn from
            with quiet():
                dealt["train"] = concatenate_datasets([dealt["train"], dealt.pop("test")])
        parts = dealt | parts
    intake.parts = {name: parts[name] for name in NAMES}
    if intake.left_out:
        first = "; ".join(f"{place(row['file'], row['line'])}: {row['reason']}" for row in intake.left_out[:MOST_SHOWN])
        more = f"; and {len(intake.left_out) - MOST_SHOWN:,} more" if len(intake.left_out) > MOST_SHOWN else ""
        intake.said.append(f"{_rows(len(intake.left_out))} left out ({first}{more}).")
    train, validation, test = (len(intake.parts[name]) for name in NAMES)
    how = f", parted by {intake.group}" if intake.group else ""
    intake.said.append(f"{_rows(train)} to learn from, {validation:,} to watch the training, {test:,} to test on{how}; "
                       "the training never sees the test rows.")
    if test < FEW:
        intake.said.append(f"With only {_rows(test)} to test on, each figure is rough: its interval is wide, and only "
                           "intervals that do not touch tell a difference.")


def sample(dataset: Dataset, most: int, seed: int) -> tuple[Dataset, Dataset]:
    """At most `most` rows at random, in their order, and the others."""
    chosen = set(random.Random(seed).sample(range(len(dataset)), min(most, len(dataset))))
    with quiet():
        return (dataset.select(sorted(chosen)), dataset.select([i for i in range(len(dataset)) if i not in chosen]))


def plain(prompt: str | Sequence[dict]) -> str:
    """A prompt as one text: itself, or what its turns say."""
    return prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)


def place(file: str, line: int | str) -> str:
    """A row's place in words: lines are counted where a file has some, elsewhere rows."""
    return f"{file}, {noun(file)} {line}"


def _tickets(task: str) -> Intake:
    parts = {name: ticket_examples(read(f"{TICKETS}/{name}"), task) for name in NAMES}
    digest = hashlib.sha256("".join(_sha256(locate(f"{TICKETS}/{name}")[0]) for name in NAMES).encode()).hexdigest()
    kind = "label" if task in LABELS else "completion"
    found = Intake(TICKETS, digest, kind, LABELS.get(task, ()), PROMPTS[task], parts, task=task, group="family")
    labels = f", {len(found.labels)} labels ({', '.join(found.labels)})" if found.labels else ", free text"
    found.said.append(f"{sum(map(len, parts.values())):,} shipped tickets, task {task}{labels}.")
    return found


def _template(form: Form) -> str:
    """The prompt that `examples` makes of a text, taken from `examples` itself."""
    from datasets import Dataset

    if form.kind != "label":
        return "{text}"
    return examples(Dataset.from_dict({form.prompt: ["{text}"], form.completion: [form.labels[0]]}), form)["prompt"][0]


def _add_test(found: Intake, form: Form, test: str | Path, skip_bad_rows: bool) -> None:
    path, where = find(test)
    used = ("messages",) if form.kind == "messages" else (form.prompt, form.completion)
    bad: list[BadRow] | None = [] if skip_bad_rows else None
    records = read_file(path, where, used, bad)
    if form.kind == "label":
        for line, label in zip(records["line"], records[form.completion], strict=True):
            if str(label) not in form.labels:
                raise LabError(f"the label {str(label)!r} is none of {found.source}", where=place(where, line),
                               expected=", ".join(form.labels), todo="Mend the row or take it out")
    found.parts["test"] = examples(records, form)
    found.test = str(test)
    found.left_out += _left_out(where, bad)
    found.said.append(f"{where} holds {_rows(len(records))} to test on.")


def _fitting(intake: Intake, name: str, tokenizer, max_length: int, skip_bad_rows: bool) -> Dataset:
    from labkit.data.encode import encode
    from labkit.models import end_of_turn

    part = intake.parts[name]
    end_of_turn(tokenizer)  # a tokenizer without a chat template is no fault of the rows
    if skip_bad_rows:
        encoded = encode(part, tokenizer)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        file = intake.test if name == "test" and intake.test else intake.source
        intake.left_out += [
            {"file": file, "line": line, "reason": f"has {length} tokens, more than {max_length}"}
            for line, length in zip(part[intake.numbered_by], lengths, strict=True) if length > max_length]
        with quiet():
            part = encoded.select([i for i, length in enumerate(lengths) if length <= max_length])
        if not len(part):
            raise LabError(f"all rows have more than {max_length} tokens", where=file,
                           todo="Shorten them, or raise --max-length if the model takes more")
        return part
    try:
        return encode(part, tokenizer, max_length)
    except LabError as error:
        file = intake.test if name == "test" and intake.test else intake.source
        raise LabError(error.what, where=", ".join(filter(None, [file, error.where])), expected=error.expected,
                       todo=f"{error.todo}, or leave them out with --skip-bad-rows") from None


def _deal(intake: Intake, part: Dataset, seed: int) -> dict[str, Dataset]:
    from labkit.guards import alike

    prompts = [plain(prompt) for prompt in part["prompt"]]
    groups = _groups(intake, part) if intake.group else None
    numbers = alike(prompts)
    near = len(prompts) - len(set(numbers))
    if near:
        intake.said.append(f"{_rows(near)} nearly repeat another; such rows stay together on one side of the split.")
    together = alike(prompts, groups) if groups else numbers
    with quiet():
        part = part.add_column(TOGETHER, [str(number) for number in together])
    try:
        dealt = split(part, by=TOGETHER, stratify="label" if intake.kind == "label" else None, seed=seed)
    except LabError as error:
        raise LabError(error.what, where=error.where or intake.source, expected=error.expected,
                       todo=error.todo.removesuffix(" or split without the group")) from None
    return {name: rows.remove_columns(TOGETHER) for name, rows in dealt.items()}


def _groups(intake: Intake, part: Dataset) -> list[str]:
    values = part[intake.group][:]
    for line, value in zip(part["line"], values, strict=True):
        if value is None or not str(value).strip():
            raise LabError(f"the row has no {intake.group} to keep it with", where=place(intake.source, line),
                           todo="Fill it in, or name another column with --group (line: each row by itself)")
    return [str(value) for value in values]


def _left_out(where: str, bad: list[BadRow] | None) -> list[dict]:
    return [{"file": where, "line": row.line, "reason": row.reason} for row in bad or []]


def _rows(number: int) -> str:
    return f"{number:,} row" + ("" if number == 1 else "s")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
