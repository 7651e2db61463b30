"""`read` turns a file into records, `recognise` says what they can be trained for; what is wrong is named by line.

The first step of the data's way: records (`datasets.Dataset`) are made here, and become examples in `template`.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.data._hub import PREFIX, fetch, is_hub
from labkit.data._rows import locate, text_rows
from labkit.data._tables import (
    KEPT_IN_MEMORY,
    Batch,
    Kinds,
    parquet_batches,
    row_batches,
    said,
    temporary_folder,
    to_dataset,
)
from labkit.errors import LabError

if TYPE_CHECKING:
    from datasets import Dataset

PAIRS = (("text", "label"), ("prompt", "completion"), ("input", "output"), ("instruction", "output"),
         ("question", "answer"))
ROLES = ("system", "user", "assistant")
MOST_LABELS, LONGEST_LABEL = 50, 40  # what still counts as classification: different values, characters


@dataclass(frozen=True)
class BadRow:
    """A row that `read` left out: its line in the file (in .json and .parquet the number of the row), and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class Form:
    """What a dataset can be trained for.

    `kind` is "label", "completion" or "messages"; `prompt` and `completion` are columns (None for messages);
    `labels` are sorted; `reason` says in a sentence what was understood and from what.
    """

    kind: str
    prompt: str | None
    completion: str | None
    labels: tuple[str, ...]
    rows: int
    reason: str


def read(
    source: str | Path, *, columns: str | Sequence[str] | None = None, left_out: list[BadRow] | None = None
) -> Dataset:
    """Read a file, or a dataset that ships with the course, into records.

    JSONL, CSV, TSV and Parquet are streamed; from 32 MB on the records lie in a temporary file, not in memory.
    Cells of CSV and TSV stay text. In JSON a key that a row lacks is None, and a column has one type in all rows.
    Blank lines are no rows. A BOM is accepted; text that is not UTF-8 is refused, not guessed.

    Args:
        source: path to .json (a list of objects, or {"data": [...]}), .jsonl, .ndjson, .csv, .tsv or .parquet; or
            "tickets" (its training split), "tickets/validation", "tickets/test"; or a dataset of the hub,
            "hub:owner/name" or "hub:owner/name/split".
        columns: the two columns to train on, as "question,answer" or a pair: they must hold text in every row.
            None: the pair that `recognise` knows, if there is one. (): no column is looked into.
        left_out: None: the first bad row raises. A list: bad rows are appended to it and left out.

    Returns:
        The good rows in the file's order, with a column `line` (int32; in .json and .parquet the number of the row)
        unless the file has a column of that name. Good rows and rows in `left_out` are all rows.

    Raises:
        LabError: the file, or a row of it, cannot be read, with line and remedy.
    """
    return read_file(*find(source), columns, left_out)


def find(source: str | Path) -> tuple[Path, str]:
    """The file that a source of `read` means, one of the hub downloaded, and the name to call it by in messages.

    Raises:
        LabError: there is no such file or dataset, or the hub cannot be reached.
    """
    return (fetch(source, temporary_folder()), source) if is_hub(source) else locate(source)


def title(source: str | Path) -> str:
    """What a source is called where a name is wanted: a file's without its extension, a dataset's without its owner.

    >>> title("post/letters.csv"), title("hub:owner/letters"), title("hub:owner/letters/test")
    ('letters', 'letters', 'letters-test')
    """
    return "-".join(source.removeprefix(PREFIX).split("/")[1:]) if is_hub(source) else Path(source).stem


def noun(where: str) -> str:
    """What the number of a row counts in a file: "line"; "row" in .json, .parquet and datasets of the hub."""
    return "row" if where.lower().endswith((".json", ".parquet")) or where.startswith(PREFIX) else "line"


def read_file(
    path: Path, where: str, columns: str | Sequence[str] | None = None, left_out: list[BadRow] | None = None
) -> Dataset:
    """`read` for what `find` found: who needs the file's bytes as well does not download them twice."""
    bad = _BadRows(where, left_out)
    small = path.stat().st_size < KEPT_IN_MEMORY
    if path.suffix.lower() == ".parquet":
        schema, batches = parquet_batches(path, where)
        used = _used(schema.names, columns, where)
        batches = _good_batches(batches, used, bad)
    else:
        rows = text_rows(path, where)
        if small:
            rows = list(rows)
        kinds = Kinds()
        for line, row in rows:
            if reason := row if isinstance(row, str) else kinds.add(line, row):
                bad.add(line, reason)
        schema = kinds.schema()
        used = _used(schema.names, columns, where)
        again = rows if small else text_rows(path, where)  # a large file is read twice rather than kept
        batches = row_batches(_good_rows(again, used, bad), schema, where)
    dataset = to_dataset(schema, batches, small, where)
    bad.finish(dataset.num_rows)
    return dataset


def recognise(dataset: Dataset, columns: str | Sequence[str] | None = None, where: str = "") -> Form:
    """What a dataset can be trained for, from the names of its columns and from every row of those it uses.

    Known are the pairs text/label, prompt/completion, input/output, instruction/output, question/answer, and
    `messages` (chat turns that end with the assistant's). `columns` names another pair. The kind is "label" for
    text/label, and for any other pair whose second column holds at most 50 different values of at most 40
    characters in one line, each seen at least twice on average (a known pair: each at least twice); else "completion".

    Args:
        dataset: records, as `read` returns them.
        columns: "question,answer", a pair of names, or None for the pair that is known.
        where: the file, for messages.

    Raises:
        LabError: the columns are none that it can tell, a row lacks its text or label, or the labels are no labels:
            seen once, only one, more than 50, fractions, alike but for case.
    """
    place = _Place(where, dataset)
    if not dataset.num_rows:
        raise LabError("there are no rows", where=where, expected="rows to train on")
    used = columns_of(dataset, columns, where)
    values: Counter[str] = Counter()
    first: dict[str, int] = {}  # value of the second column: the row where it is first seen
    opening, alike = None, True
    for index, row in enumerate(_rows_of(dataset, used)):
        if reason := complaint(row, used):
            raise LabError(reason, where=place(index), todo="Mend the row or take it out")
        start = row[used[0]] if len(used) == 2 else row[used[0]][:-1]
        opening, alike = (start, True) if index == 0 else (opening, alike and start == opening)
        if len(used) == 2 and len(values) <= MOST_LABELS:
            value = str(row[used[1]])
            values[value] += 1
            first.setdefault(value, index)
    rows, name = dataset.num_rows, "/".join(used)
    if alike and rows > 1:
        raise LabError(f"all {rows:,} rows have the same {used[0]}", where=where, expected="different prompts",
                       todo="Look at the file, or name other columns with --columns")
    if len(used) == 1:
        return Form("messages", None, None, (), rows, f"messages: {rows:,} conversations")
    if not _is_label(used, values, rows, named=columns is not None):
        return Form("completion", *used, (), rows, f"{name}: {rows:,} rows of free text")
    _check_labels(used, values, {value: place(index) for value, index in first.items()}, rows, where)
    labels = tuple(sorted(values))
    shown = ", ".join(labels[:10]) + (", …" if len(labels) > 10 else "")
    return Form("label", *used, labels, rows, f"{name}: {rows:,} rows, {len(labels)} labels ({shown})")


def columns_of(dataset: Dataset, columns: str | Sequence[str] | None = None, where: str = "") -> tuple[str, ...]:
    """The two columns to train on, the question's first, or ("messages",); the arguments are those of `recognise`.

    Raises:
        LabError: a column that is named is not there, or none is named and they are none that can be told.
    """
    if not (used := _used(dataset.column_names, columns, where)):
        raise _cannot_tell(dataset, where)
    return used


def complaint(row: dict, used: Sequence[str]) -> str:
    """Why a row cannot be trained on, or "": texts must be text, a label may be a whole number."""
    if tuple(used) == ("messages",):
        return _messages_complaint(row.get("messages"))
    for name in used:
        value = row.get(name)
        if value is None:
            return f"the row has no {name}"
        if type(value) is int and name == used[-1]:
            continue
        if not isinstance(value, str):
            return f"{name} is {said(value)}, not text"
        if not value.strip():
            return f"{name} is empty"
    return ""


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of `datasets` inside, and afterwards whatever was before."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


class _BadRows:
    """Bad rows on their way out: raised at once, or gathered for the caller's list."""

    def __init__(self, where: str, left_out: list[BadRow] | None):
        self.where, self.left_out = where, left_out
        self.found: dict[int, str] = {}

    def add(self, line: int, reason: str) -> None:
        if self.left_out is None:
            raise LabError(reason, where=f"{self.where}, {noun(self.where)} {line}",
                           todo="Mend the row or take it out")
        self.found[line] = reason

    def finish(self, good: int) -> None:
        if not good:
            first = min(self.found, default=0)
            what = f"all {len(self.found):,} rows are bad, the first because: {self.found[first]}" if first else ""
            raise LabError(what or "there are no rows", where=self.where, expected="at least one good row",
                           todo="Check that it is the right file")
        if self.left_out is not None:
            self.left_out.extend(BadRow(line, self.found[line]) for line in sorted(self.found))


def _good_rows(rows: Iterable[tuple[int, dict | str]], used: tuple, bad: _BadRows) -> Iterator[tuple[int, dict]]:
    for line, row in rows:
        if line in bad.found:
            continue
        if reason := complaint(row, used):
            bad.add(line, reason)
        else:
            yield line, row


def _good_batches(batches: Iterable[Batch], used: tuple, bad: _BadRows) -> Iterator[Batch]:
    for lines, batch in batches:
        present = [name for name in used if name in batch.schema.names]
        reasons = [complaint(row, used) for row in batch.select(present).to_pylist()] if used else [""] * len(lines)
        for line, reason in zip(lines, reasons, strict=True):
            if reason:
                bad.add(line, reason)
        good = [index for index, reason in enumerate(reasons) if not reason]
        yield [lines[index] for index in good], batch if len(good) == len(lines) else batch.take(good)


def _used(names: Sequence[str], columns: str | Sequence[str] | None, where: str) -> tuple[str, ...]:
    """The columns to train on: those asked for, the one known pair or `messages` among `names`, or ()."""
    if columns is not None:
        used = tuple(name.strip() for name in columns.split(",")) if isinstance(columns, str) else tuple(columns)
        if used not in ((), ("messages",)) and (len(used) != 2 or used[0] == used[1]):
            raise LabError(f"--columns names {', '.join(map(repr, used))}", expected="two, as in question,answer")
        if missing := [name for name in used if names and name not in names]:
            near = difflib.get_close_matches(missing[0], names, n=1)
            seen = [name for name in names if name != "line"]
            raise LabError(f"there is no column {missing[0]!r}", where=where, expected=", ".join(seen[:12]),
                           todo=f"Perhaps you mean {near[0]!r}" if near else "Name two of these")
        return used
    known = _known(names)
    return known[0] if len(known) == 1 else ()


def _known(names: Sequence[str]) -> list[tuple[str, ...]]:
    return [group for group in (*PAIRS, ("messages",)) if set(group) <= set(names)]


def _cannot_tell(dataset: Dataset, where: str) -> LabError:
    names = [name for name in dataset.column_names if name != "line"]
    seen = ", ".join(map(repr, names[:12])) + (", …" if len(names) > 12 else "")
    known = ", ".join("/".join(pair) for pair in PAIRS) + " or messages"
    if fitting := _known(names):
        return LabError(f"the columns {seen} fit more than one form", where=where, expected=f"one of {known}",
                        todo=f"Say which two: --columns {','.join(fitting[0][:2])}")
    texts = [name for name in names if str(getattr(dataset.features[name], "dtype", "")) in ("string", "large_string")]
    prompts = [name for name in texts if name in {pair[0] for pair in PAIRS}] + texts[:1]
    answers = [name for name in texts if name not in prompts] + texts[1:2]
    example = f", for example --columns {prompts[0]},{answers[0]}" if len(texts) > 1 else ""
    return LabError(f"cannot tell prompt and completion among the columns {seen}", where=where, expected=known,
                    todo=f"Name two text columns with --columns{example}; if the first line is no header, add one")


def _rows_of(dataset: Dataset, used: Sequence[str]) -> Iterator[dict]:
    for batch in dataset.with_format(None).select_columns(list(used)).iter(1000):
        yield from (dict(zip(used, values, strict=True)) for values in zip(*batch.values(), strict=True))


class _Place:
    """Names a row of a dataset by its file and line, or by its number where `read` left no lines."""

    def __init__(self, where: str, dataset: Dataset):
        feature = dataset.features.get("line")
        self.where = where
        self.lines = dataset["line"] if getattr(feature, "dtype", "") == "int32" else None  # int32: made by `read`

    def __call__(self, index: int) -> str:
        row = f"{noun(self.where)} {self.lines[index]}" if self.lines is not None else f"row {index + 1}"
        return f"{self.where}, {row}" if self.where else row


def _messages_complaint(turns: object) -> str:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return "the row has no messages" if turns is None else "messages is not a list of turns with role and content"
    for number, turn in enumerate(turns, 1):
        if extra := [name for name in turn if name not in ("role", "content") and turn[name] is not None]:
            return f"turn {number} has {extra[0]!r}, a turn has role and content"
        if turn.get("role") not in ROLES:
            return f"turn {number} has the role {turn.get('role')!r}, a role is {', '.join(ROLES[:2])} or {ROLES[2]}"
        if not isinstance(turn.get("content"), str) or not turn["content"].strip():
            return f"turn {number} has no content"
    if not turns or turns[-1]["role"] != "assistant":
        return f"messages end with {turns[-1]['role'] if turns else 'nothing'}, not with the assistant's turn"
    return "" if len(turns) > 1 else "messages hold an answer and no question"


def _is_label(used: tuple[str, ...], values: Counter[str], rows: int, named: bool) -> bool:
    if used == ("text", "label") and not named:
        return True
    short = all(len(value) <= LONGEST_LABEL and "\n" not in value for value in values)
    if not short or len(values) > MOST_LABELS or rows < 2 * len(values):
        return False
    return named or min(values.values()) > 1


def _check_labels(used: tuple[str, ...], values: Counter[str], first: dict[str, str], rows: int, where: str) -> None:
    """Refuse a second column that holds no usable labels; `first` has the place where each value is first seen."""
    column = used[1]
    free = f"Mend the file; to write {column} as free text instead, name the columns prompt and completion"
    if all(_is_number(value) for value in values) and not all(value.lstrip("+-").isdigit() for value in values):
        value = next(value for value in values if not value.lstrip("+-").isdigit())
        raise LabError(f"{column} holds fractions, such as {value}", where=first[value], expected="names of labels",
                       todo="Name another column with --columns, or turn the numbers into names")
    folded: dict[str, str] = {}
    for value in values:
        if (other := folded.setdefault(" ".join(value.casefold().split()), value)) != value:
            raise LabError(f"the label {value!r} differs from {other!r} in case or spaces only", where=first[value],
                           todo="Write them alike")
    if len(values) > MOST_LABELS:
        raise LabError(f"{column} holds more than {MOST_LABELS} different labels in {rows:,} rows", where=where,
                       expected=f"at most {MOST_LABELS}", todo=free)
    if len(values) == 1:
        raise LabError(f"all {rows:,} rows have the label {next(iter(values))!r}", where=where, expected="two or more")
    for value, count in values.items():
        if count == 1:
            raise LabError(f"the label {value!r} is seen only here", where=first[value],
                           expected="each label twice or more", todo=free)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
