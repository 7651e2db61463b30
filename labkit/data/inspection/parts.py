"""What `inspect` and `clean` see of a dataset: its splits in order, the columns that count, the texts in them.

What cannot be read as text is refused here, by split and column.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labkit.data.inspection.report import quoted
from labkit.data.read import PAIRS
from labkit.data.split import NAMES
from labkit.errors import LabError

if TYPE_CHECKING:
    from datasets import Dataset

TEXT = ("string", "large_string", "null")


@dataclass
class Part:
    """One split: its texts column by column, the first of which is compared with others, labels, lines."""

    name: str
    columns: list[list[str]]
    lines: list[int] | None
    labels: list[str | None] | None = None
    plain: list[str] = field(default_factory=list)  # the first column, mended and without personal data

    def __len__(self) -> int:
        return len(self.columns[0])

    def whole(self, row: int) -> str:
        return "\n".join(column[row] for column in self.columns)


def splits_of(data: Dataset | Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Splits by name, in the order of the data's way: training first, test last."""
    from datasets import Dataset

    splits = dict(data) if isinstance(data, Mapping) else {"train": data}
    for name, rows in splits.items():
        if not isinstance(rows, Dataset):
            raise LabError(f"{name} is a {type(rows).__name__}", expected="a datasets.Dataset, or a dict of them",
                           todo="Read the file with labkit.data.read")
        if not rows.num_rows:
            raise LabError("there are no rows", where=str(name), expected="rows to inspect")
    if not splits:
        raise LabError("there are no splits", expected="a datasets.Dataset, or a dict of them")
    order = {name: place for place, name in enumerate(NAMES)}
    return {str(name): splits[name] for name in sorted(splits, key=lambda name: order.get(name, 0.5))}


def columns_of(splits: Mapping[str, Dataset], text: str | None, label: str | None) -> tuple[tuple[str], str | None]:
    """The column of texts, and that of labels or answers, or None."""
    first = next(iter(splits.values()))
    names = [name for name in first.column_names if name != "line" or name in (text, label)]
    for asked in (text, label):
        if asked is not None and asked not in names:
            near = difflib.get_close_matches(asked, names, n=1)
            raise LabError(f"there is no column {asked!r}", expected=quoted(names, 12),
                           todo=f"Perhaps you mean {near[0]!r}" if near else "Name one of these")
    if text is not None and text == label:
        raise LabError(f"text and label are both {text!r}", expected="two columns")
    pairs = [pair for pair in PAIRS if set(pair) <= set(names)]
    if text is None and label is None and len(pairs) == 1:
        text, label = pairs[0]
    elif text is None and label is None and not pairs and "messages" in names:
        text = "messages"
    elif text is not None and label is None:
        label = next((answer for prompt, answer in pairs if prompt == text), None)
    elif text is None:
        of_text = [name for name in names if getattr(first.features[name], "dtype", "") in TEXT and name != label]
        known = list(dict.fromkeys(pair[0] for pair in PAIRS if pair[0] in names and pair[0] != label))
        fitting = known if len(known) == 1 else of_text
        if len(fitting) != 1:
            raise LabError(f"cannot tell which of the columns {quoted(names, 12)} holds the texts",
                           expected=", ".join("/".join(pair) for pair in PAIRS) + " or messages",
                           todo="Name it: text, and label if there is one")
        text = fitting[0]
    for name, rows in splits.items():
        if missing := [column for column in (text, label) if column is not None and column not in rows.column_names]:
            raise LabError(f"there is no column {missing[0]!r}", where=name, expected="the same columns in every split",
                           todo="Read that split again, or rename its columns")
    return (text,), label


def texts_of(rows: Dataset, column: str, name: str) -> list[str]:
    values = rows.with_format(None)[column][:]
    if column == "messages":
        values = [_conversation(value) for value in values]
    elif getattr(rows.features[column], "dtype", "") not in TEXT:
        raise LabError(f"{column} holds no text but {_kind(rows.features[column])}", where=name,
                       expected="a column of text", todo="Name another one as text")
    return [value or "" for value in values]


def _conversation(turns: Any) -> str:
    turns = turns if isinstance(turns, list) else []
    return "\n".join(str(turn.get("content") or "") for turn in turns if isinstance(turn, dict))


def _kind(feature: Any) -> str:
    dtype = getattr(feature, "dtype", "")
    return dtype if isinstance(dtype, str) and dtype and dtype not in ("list", "dict") else "lists or objects"


def lines_of(rows: Dataset) -> list[int] | None:
    made = getattr(rows.features.get("line"), "dtype", "") == "int32"  # int32: `read` wrote it
    lines = rows.with_format(None)["line"][:] if made else None
    return None if lines is None or None in lines else lines
