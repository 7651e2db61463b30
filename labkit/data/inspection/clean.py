"""`clean` acts on a report: it mends what can be mended, masks personal data, drops the rest, and names every row.

Follows `inspect` on the data's way, before `template`; rows in are rows out and rows named, to the last one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.data.inspection.labels import label_texts
from labkit.data.inspection.parts import TEXT, splits_of
from labkit.data.inspection.report import KINDS, Report
from labkit.data.inspection.texts import Names, mask, mend, mend_encoding, personal, strip_html
from labkit.data.read import quiet
from labkit.errors import LabError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Change", "Log", "clean"]

REPAIRED = ("unknown label", "mojibake", "HTML", "personal data")
DROPPED = ("missing label", "unknown label", "conflicting labels", "empty text", "exact duplicate", "near duplicate",
           "leaked")  # an unknown label is dropped where nothing near it is known


@dataclass(frozen=True)
class Change:
    """One row that is not as it was: dropped, or a cell of it written anew.

    `row` is its position before the cleaning, `line` that in the file or None, `kind` the finding that was acted on,
    `done` is "dropped", "mended" or "masked"; `column`, `before` and `after` say what was written anew.
    """

    split: str
    row: int
    line: int | None
    kind: str
    done: str
    column: str = ""
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Log:
    """Everything that `clean` did: `sizes` has the rows of each split before and after, `changes` each row by name."""

    sizes: Mapping[str, tuple[int, int]]
    changes: tuple[Change, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How often each thing was done: {"mojibake mended": 12, "leaked dropped": 9}; a row is dropped once."""
        rows = {(change.split, change.row, change.kind, change.done) for change in self.changes}
        counts = Counter((kind, done) for _, _, kind, done in rows)
        return {f"{kind} {done}": counts[kind, done] for kind in KINDS for done in ("dropped", "mended", "masked")
                if counts[kind, done]}

    def dropped(self, split: str | None = None) -> list[int]:
        """Rows that are gone, as positions before the cleaning; of one split, or of the only one."""
        if split is None and len(self.sizes) > 1:
            raise LabError("the log is of several splits", expected=" or ".join(self.sizes), todo="Say which")
        return [change.row for change in self.changes if change.done == "dropped" and split in (None, change.split)]

    def __str__(self) -> str:
        from labkit.tables import Table

        lines = [f"{split}: {before:,} rows in, {after:,} out, {before - after:,} dropped"
                 for split, (before, after) in self.sizes.items()]
        if self.counts:
            lines.append(str(Table({"done": name, "rows": count} for name, count in self.counts.items())))
        return "\n".join(lines)

    __repr__ = __str__


def clean(
    data: Dataset | Mapping[str, Dataset],
    report: Report,
    *,
    repair: Sequence[str] = REPAIRED,
    drop: Sequence[str] = DROPPED,
    holder: str = "[{kind}]",
) -> tuple[Dataset | dict[str, Dataset], Log]:
    """Mend, mask and drop what a report names; whatever it does not name stays as it is.

    Of duplicates one row is kept, rows that leaked leave the earlier split, never the test. Labels are written as the
    nearest known one where there is one and no other. Personal data becomes a placeholder of its kind.

    Args:
        data: what was inspected, a dataset or a dict of splits.
        report: what `inspect` said of it.
        repair: kinds to mend or to mask, of those in REPAIRED.
        drop: kinds whose rows go; any of the report's.
        holder: what personal data becomes; {kind} is email, phone, iban or name.

    Returns:
        The same form as `data`, its rows in their order and with the same columns; and a Log of every change.

    Raises:
        LabError: a kind is none, or the report is of another dataset.

    >>> from datasets import Dataset
    >>> from labkit.data import inspect
    >>> rows = Dataset.from_dict({"text": ["Mail me: <b>jo@shop.example</b>", ""], "label": ["joy", "joy"]})
    >>> cleaned, log = clean(rows, inspect(rows))
    >>> cleaned["text"][:], log.dropped()
    (['Mail me: [email]'], [1])
    """
    repair, drop = _kinds("repair", repair, REPAIRED), _kinds("drop", drop, tuple(KINDS))
    _check_holder(holder)
    splits = splits_of(data)
    if report.sizes != {name: len(rows) for name, rows in splits.items()}:
        raise LabError(f"the report is of {_sizes(report.sizes)}, the data are "
                       f"{_sizes({name: len(rows) for name, rows in splits.items()})}",
                       todo="Inspect these data, and clean with that report")
    cleaned, changes = {}, []
    for name, rows in splits.items():
        lines = {row: line for f in report.findings if f.split == name
                 for row, line in zip(f.rows, f.lines, strict=False)}
        gone = _gone(report, name, repair, drop)
        changes += [Change(name, row, lines.get(row), kind, "dropped") for row, kind in sorted(gone.items())]
        kept = [row for row in range(len(rows)) if row not in gone]
        written = _labels(report, name, gone, repair) + _texts(rows, report, name, gone, repair, holder)
        changes += [Change(name, row, lines.get(row), *what) for row, *what in written]
        cells: dict[str, dict[int, Any]] = {}
        for row, _, _, column, _, after in written:
            cells.setdefault(column, {})[row] = after
        cleaned[name] = _written(rows, kept, cells, report.label)
    log = Log({name: (len(rows), len(cleaned[name])) for name, rows in splits.items()}, tuple(changes))
    return (cleaned if isinstance(data, Mapping) else next(iter(cleaned.values()))), log


def _kinds(what: str, kinds: str | Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if wrong := [kind for kind in kinds if kind not in known]:
        raise LabError(f"{what} names {wrong[0]!r}", expected=", ".join(known), todo="Name some of these")
    return kinds


def _check_holder(holder: str) -> None:
    try:
        holder.format(kind="email")
    except (KeyError, IndexError, ValueError):
        raise LabError(f"holder is {holder!r}", expected="a text with {kind} and no other braces") from None


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{size:,} rows of {name}" for name, size in sizes.items())


def _gone(report: Report, split: str, repair: Sequence[str], drop: Sequence[str]) -> dict[int, str]:
    """Rows that go, each with the first kind that it goes for."""
    gone: dict[int, str] = {}
    for f in report.findings:
        if f.split != split or f.kind not in drop:
            continue
        for number, row in enumerate(f.rows):
            if f.kind == "unknown label" and "unknown label" in repair and f.notes[number]["meant"]:
                continue
            gone.setdefault(row, f.kind)
    return gone


def _labels(report: Report, split: str, gone: Mapping[int, str], repair: Sequence[str]) -> list[tuple]:
    found = report.finding("unknown label", split)
    if found is None or "unknown label" not in repair:
        return []
    return [(row, "unknown label", "mended", report.label, note["label"], note["meant"])
            for row, note in zip(found.rows, found.notes, strict=True) if row not in gone and note["meant"]]


def _texts(rows: Dataset, report: Report, split: str, gone: Mapping[int, str], repair: Sequence[str],
           holder: str) -> list[tuple]:
    """(row, kind, done, column, before, after) of every text that is written anew, in order."""
    kinds = [kind for kind in ("mojibake", "HTML", "personal data") if kind in repair]
    faulty = {row for kind in kinds for row in report.rows(kind, split)} - set(gone)
    names, written = Names(report.names), []
    for column in report.text if faulty else ():
        texts = rows.with_format(None)[column]
        for row in sorted(faulty):
            value = texts[row]
            for kind in kinds:
                before, value = value, _rewritten(value, kind, names, holder)
                if value != before:
                    done = "masked" if kind == "personal data" else "mended"
                    written.append((row, kind, done, column, before, value))
    return written


def _rewritten(value: Any, kind: str, names: Names, holder: str) -> Any:
    """A cell with one kind of fault put right; the turns of a conversation one by one."""
    if isinstance(value, list):
        return [turn | {"content": _rewritten(turn.get("content"), kind, names, holder)} if isinstance(turn, dict)
                else turn for turn in value]
    if not isinstance(value, str):
        return value
    if kind == "mojibake":
        return mend_encoding(value)
    if kind == "HTML":
        return strip_html(value)
    told, mended = personal(value, names), mend(value)
    if mended != value and len(personal(mended, names)) > len(told):  # an address behind entities: it must not stay
        value, told = mended, personal(mended, names)
    return mask(value, told, holder)


def _written(rows: Dataset, kept: list[int], cells: Mapping[str, Mapping[int, Any]], label: str | None) -> Dataset:
    """The rows that are kept, with the cells that were written anew; columns and their types stay as they are.

    Only labels that are no text (numbers, class labels) become text where one of them is written anew.
    """
    from datasets import Dataset, Value

    with quiet():
        chosen = rows.with_format(None).select(kept)
        if not cells:
            return chosen
        columns, features = {name: chosen[name][:] for name in rows.column_names}, rows.features.copy()
        place = {row: number for number, row in enumerate(kept)}
        for column, changed in cells.items():
            if column == label and getattr(features[column], "dtype", "") not in TEXT:
                columns[column], features[column] = label_texts(chosen, column, None, column), Value("string")
            for row, value in changed.items():
                columns[column][place[row]] = value
        return Dataset.from_dict(columns, features=features)
