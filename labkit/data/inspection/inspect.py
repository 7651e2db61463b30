"""`inspect` says what is wrong with a dataset before anybody trains on it: each finding with its rows; nothing changes.

Stands beside the data's way: it takes records, as `read` gives them or `split` deals them, and `clean` acts on its
report. Repeated texts are the business of `duplicates`, faults inside a text that of `texts`, labels that of `labels`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from labkit.data.inspection import duplicates
from labkit.data.inspection import texts as faults
from labkit.data.inspection.labels import Labels, are_labels, compare, label_texts, rare, understand_labels
from labkit.data.inspection.parts import Part, columns_of, lines_of, splits_of, texts_of
from labkit.data.inspection.report import KINDS, Finding, Lengths, Report, quoted
from labkit.data.read import PAIRS
from labkit.errors import LabError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["KINDS", "Finding", "Report", "inspect"]

NEAR = 0.7  # share of word pairs from which on two texts are nearly the same
FEW_WORDS, FEW_SIGNS = 3, 15  # a text with fewer words and fewer characters is very short
BINS = 12


def inspect(
    data: Dataset | Mapping[str, Dataset],
    *,
    labels: Sequence[str] | None = None,
    text: str | None = None,
    label: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_tokens: int | None = None,
    names: Iterable[str] = (),
    near: float = NEAR,
) -> Report:
    """Look for everything that spoils a dataset, and say in which rows it is.

    Args:
        data: records, or a dict of splits such as {"train": ..., "test": ...}. A row of an earlier split that is
            also, or nearly, in a later one is called leaked.
        labels: the right ones; None takes them from the data, where rare look-alikes are then called misspelt.
        text: the column of texts; None takes the pair that `recognise` knows, or the only column of text.
        label: the column of labels (or of answers); None takes the other one of that pair, if there is one.
        tokenizer: counts the length in tokens; without it words are counted, and no text is called over-long.
        max_tokens: the most that a row may have; None takes the tokenizer's own limit, if it has one.
        names: of persons, to be found among the personal data, as they are written: "Marta Nyberg".
        near: the share of word pairs (Jaccard) from which on two texts are nearly the same, if no number and no name
            tells them apart.

    Returns:
        A Report: it prints, shows itself in a notebook, and `report.rows("near duplicate")` gives the rows to act on.

    Raises:
        LabError: there is nothing to inspect, a column is missing or holds no text, or an option makes no sense.
    """
    _check_options(labels, max_tokens, tokenizer, near, names)
    splits = splits_of(data)
    columns, answers = columns_of(splits, text, label)
    parts = [Part(name, [texts_of(rows, column, name) for column in columns], lines_of(rows))
             for name, rows in splits.items()]
    found, remarks, wanted = _Findings(), [], faults.Names(names)
    known: Labels | None = None
    if answers is not None:
        for part in parts:
            part.labels = label_texts(splits[part.name], answers, labels, part.name)
        values = [value for part in parts for value in part.labels]
        sure = label is not None or (columns[0], answers) == PAIRS[0]
        if labels is not None or are_labels(values, sure):
            known = understand_labels(values, labels)
        else:
            remarks.append(f"{answers!r} was taken as free text ({len(set(values) - {None}):,} different values): "
                             "names and shares of labels were not looked at.")
            for part in parts:
                part.columns.append([value or "" for value in part.labels])
            columns = (*columns, answers)
    else:
        remarks.append("No column of labels was named: labels were not looked at.")
    _look_at_labels(parts, known, answers, labels is not None, found, remarks)
    _look_at_texts(parts, wanted, found)
    if not (language := _look_at_languages(parts, found)):
        remarks.append("Other languages were not looked for: most texts are too short to tell in which they are.")
    _look_for_repeats(parts, known, near, found)
    lengths = _look_at_lengths(parts, tokenizer, max_tokens, found, remarks)
    shares, difference = (), ""
    if known:
        shares, difference = compare({part.name: Counter(part.labels) for part in parts}, known.known)
    return Report({part.name: len(part) for part in parts}, columns, answers, known.known if known else (),
                  found.in_order(parts), lengths, shares, difference, language, tuple(remarks),
                  tuple(wanted.names))


class _Findings:
    """Gathers findings in any order, and hands them out in the order of KINDS."""

    def __init__(self):
        self.found: list[Finding] = []

    def add(self, kind: str, part: Part, rows: Iterable[int], sentence: str, notes: Mapping[int, dict] | None = None):
        rows = tuple(sorted(rows))
        if rows:
            lines = tuple(part.lines[row] for row in rows) if part.lines else ()
            self.found.append(Finding(kind, part.name, rows, sentence, lines,
                                      tuple(notes[row] for row in rows) if notes else ()))

    def in_order(self, parts: Sequence[Part]) -> tuple[Finding, ...]:
        kinds, names = list(KINDS), [part.name for part in parts]
        return tuple(sorted(self.found, key=lambda f: (kinds.index(f.kind), names.index(f.split))))


def _check_options(labels, max_tokens, tokenizer, near, names) -> None:
    if labels is not None and (isinstance(labels, str) or not labels or not all(isinstance(x, str) for x in labels)):
        raise LabError(f"labels is {labels!r}", expected='a list of names, such as ["joy", "anger"]')
    if isinstance(names, str):
        raise LabError(f"names is {names!r}", expected='a list of names, such as ["Marta Nyberg"]')
    if max_tokens is not None and (not isinstance(max_tokens, int) or max_tokens < 1):
        raise LabError(f"max_tokens is {max_tokens!r}", expected="a whole number from 1 on")
    if max_tokens is not None and tokenizer is None:
        raise LabError("max_tokens is given, but no tokenizer to count with", todo="Give tokenizer=... as well")
    if not 0 < near <= 1:
        raise LabError(f"near is {near!r}", expected="a share above 0, at most 1")


def _look_at_labels(parts: Sequence[Part], known: Labels | None, column: str | None, given: bool,
                    found: _Findings, remarks: list[str]) -> None:
    for part in parts if column is not None else ():
        missing = [row for row, value in enumerate(part.labels) if value is None]
        noun = "label" if known else column
        found.add("missing label", part, missing, f"There is no {noun} in column {column!r}.")
    if not known:
        return
    for part in parts:
        wrong = {row: {"label": value, "meant": known.meant[value]}
                 for row, value in enumerate(part.labels) if value in known.meant}
        values = Counter((note["label"], note["meant"]) for note in wrong.values())
        said = [f"{value!r} for {meant}" if meant else f"{value!r} is like none of them"
                for value, meant in sorted(values, key=lambda pair: (-values[pair], str(pair)))]
        more = f", and {len(said) - 5:,} more" if len(said) > 5 else ""
        found.add("unknown label", part, wrong,
                  f"{'They are not in the list' if given else 'They look misspelt'}: {', '.join(said[:5])}{more}.",
                  wrong)
    part = parts[0]  # what is learnt from
    seldom = rare(part.labels, known)
    if none := [label for label, count in seldom.items() if not count]:
        remarks.append(f"No row of {part.name} has the label {quoted(none)}.")
    rows = [row for row, value in enumerate(part.labels) if known.resolve(value) in seldom]
    said = [f"{label!r} has {count:,} row{'' if count == 1 else 's'}" for label, count in seldom.items() if count]
    more = f", and {len(said) - 5:,} more" if len(said) > 5 else ""
    even = len(part) // max(1, len(known.known))
    found.add("rare label", part, rows, f"{', '.join(said[:5])}{more}; an even share would be {even:,}.")


def _look_at_texts(parts: Sequence[Part], wanted: faults.Names, found: _Findings) -> None:
    """Faults inside texts; fills in `plain`."""
    for part in parts:
        garbled, tagged, told = {}, [], {}
        empty, short = [], []
        for row in range(len(part)):
            for place, column in enumerate(part.columns):
                text = column[row]
                decoded = faults.mend_encoding(text)
                if decoded != text:
                    garbled.setdefault(row, _changed(text, decoded))
                if faults.has_html(decoded):
                    tagged.append(row)
                    decoded = faults.strip_html(decoded)
                if personal := faults.personal(decoded, wanted):
                    told.setdefault(row, Counter()).update(one.kind for one in personal)
                    decoded = faults.mask(decoded, personal, " ")
                if place == 0:
                    part.plain.append(decoded)
                    if not any(sign.isprintable() and not sign.isspace() for sign in decoded) and row not in told:
                        empty.append(row)
                    elif len(decoded) < FEW_SIGNS and len(faults.WORD.findall(decoded)) < FEW_WORDS:
                        short.append(row)
        found.add("empty text", part, empty, "Nothing is left in them without spaces and tags.")
        found.add("very short text", part, short,
                  f"Fewer than {FEW_WORDS} words, such as {quoted([part.plain[row] for row in short])}.")
        kinds = sum(told.values(), Counter())
        said = ", ".join(f"{kind} {kinds[kind]:,}" for kind in ("email", "phone", "iban", "name") if kinds[kind])
        found.add("personal data", part, told, f"Found: {said}.", {row: dict(told[row]) for row in told})
        first = next(iter(garbled.values()), ("", ""))
        found.add("mojibake", part, garbled,
                  f"UTF-8 was read as another encoding: {quoted(first[:1])} stands for {quoted(first[1:])}.",
                  {row: {"reads": pair[0], "meant": pair[1]} for row, pair in garbled.items()})
        found.add("HTML", part, set(tagged), "Tags or entities of HTML are left in them.")


def _look_at_languages(parts: Sequence[Part], found: _Findings) -> str:
    """Texts in another language than most; returns the one that most are in, or "" where that cannot be told."""
    most, other = faults.odd_languages([text for part in parts for text in part.plain])
    start = 0
    for part in parts:
        mine = {row - start: {"language": other[row][0], "probability": round(other[row][1], 3)}
                for row in range(start, start + len(part)) if row in other}
        start += len(part)
        counts = Counter(note["language"] for note in mine.values())
        said = ", ".join(f"{code} {count:,}" for code, count in sorted(counts.items(), key=lambda one: (-one[1], one)))
        found.add("other language", part, mine, f"Most texts are in {most}; of these are {said}.", mine)
    return most


def _changed(before: str, after: str) -> tuple[str, str]:
    """The first word that differs between two texts."""
    for old, new in zip(before.split(), after.split(), strict=False):
        if old != new:
            return old, new
    return before[-20:], after[-20:]


def _look_for_repeats(parts: Sequence[Part], known: Labels | None, near: float, found: _Findings) -> None:
    groups: dict[str, dict[int, list[int]]] = {}  # text: split: rows
    for number, part in enumerate(parts):
        for row, text in enumerate(part.columns[0]):
            if text.strip():
                groups.setdefault(duplicates.same_key(text), {}).setdefault(number, []).append(row)
    exact: list[dict[int, dict]] = [{} for _ in parts]
    conflict: list[dict[int, dict]] = [{} for _ in parts]
    leaked: list[dict[int, dict]] = [{} for _ in parts]
    units = []  # (split, first row, all rows), one a text and split
    for group in groups.values():
        for number, rows in group.items():
            part = parts[number]
            meant = [_meant(part, known, row) for row in rows]
            different = list(dict.fromkeys(label for label in meant if label is not None))
            kept = rows[0]
            if len(different) > 1:
                conflict[number] |= {row: {"labels": different, "like": rows[0] if row != rows[0] else rows[1]}
                                     for row in rows}
            else:
                kept = rows[next((i for i, label in enumerate(meant) if label is not None), 0)]
                exact[number] |= {row: {"like": kept} for row in rows if row != kept}
            units.append((number, kept, rows))
            later = [other for other in group if other > number]
            if later:
                to = {"in": parts[later[-1]].name, "like": group[later[-1]][0], "share": 1.0}
                leaked[number] |= dict.fromkeys(rows, to)
    units = sorted((number, row, rows) for number, row, rows in units if parts[number].plain[row].strip())
    within, across = duplicates.repeats([parts[number].plain[row] for number, row, _ in units],
                                        [number for number, _, _ in units], near)
    nearly: list[dict[int, dict]] = [{} for _ in parts]
    for unit, (other, share) in within.items():
        number, row, _ = units[unit]
        nearly[number][row] = {"like": units[other][1], "share": round(share, 3)}
    for unit, (other, share) in across.items():
        number, _, rows = units[unit]
        to = {"in": parts[units[other][0]].name, "like": units[other][1], "share": round(share, 3)}
        for row in rows:
            leaked[number].setdefault(row, to)
    for part, same, both, close, gone in zip(parts, exact, conflict, nearly, leaked, strict=True):
        found.add("exact duplicate", part, same, f"They repeat {len({n['like'] for n in same.values()}):,} rows, but "
                  "for case and spaces.", same)
        texts = len({part.columns[0][row] for row in both})
        found.add("conflicting labels", part, both,
                  f"{texts:,} text{' stands' if texts == 1 else 's stand'} there with more than one "
                  f"{'label' if known else 'answer'}.", both)
        found.add("near duplicate", part, close, f"They share {near:.0%} or more of their word pairs with another row, "
                  "and no number or name tells the two apart.", close)
        said = ", ".join(f"{count:,} in {name}" for name, count in Counter(n["in"] for n in gone.values()).items())
        whole = sum(note["share"] == 1.0 for note in gone.values())
        found.add("leaked", part, gone, f"They are there again: {said}; {whole:,} word for word, "
                  f"{len(gone) - whole:,} nearly.", gone)


def _meant(part: Part, known: Labels | None, row: int) -> str | None:
    if part.labels is None:
        return None
    return known.resolve(part.labels[row]) if known else part.labels[row]


def _look_at_lengths(parts: Sequence[Part], tokenizer, max_tokens: int | None, found: _Findings,
                     remarks: list[str]) -> Lengths:
    unit = "tokens" if tokenizer is not None else "words"
    limit = max_tokens
    if tokenizer is not None and limit is None:
        own = getattr(tokenizer, "model_max_length", None)
        limit = own if isinstance(own, int) and own < 10**6 else None  # a huge number is transformers' word for none
    if limit is None:
        why = "no tokenizer was given" if tokenizer is None else "the tokenizer has no limit and none was given"
        remarks.append(f"Over-long texts were not looked for: {why}.")
    lengths = {part.name: _count(part, tokenizer) for part in parts}
    for part in parts if limit is not None else ():
        long = {row: {"tokens": count} for row, count in enumerate(lengths[part.name]) if count > limit}
        most = max(lengths[part.name])
        found.add("over-long text", part, long, f"More than {limit:,} tokens; the longest has {most:,}.", long)
    every = sorted(count for counts in lengths.values() for count in counts)
    often = every[int(0.99 * (len(every) - 1))]  # the longest hundredth shares the last bin
    width = _nice((often - every[0]) / (BINS - 1))
    start = every[0] // width * width
    bins = min(BINS, (every[-1] - start) // width + 1)
    counts = {name: Counter(min(bins - 1, (count - start) // width) for count in counted)
              for name, counted in lengths.items()}
    return Lengths(unit, start, width, {name: tuple(count[i] for i in range(bins)) for name, count in counts.items()},
                   {name: sorted(counted)[len(counted) // 2] for name, counted in lengths.items()},
                   {name: max(counted) for name, counted in lengths.items()})


def _count(part: Part, tokenizer) -> list[int]:
    texts = [part.whole(row) for row in range(len(part))]
    if tokenizer is None:
        return [len(text.split()) for text in texts]
    return [len(ids) for start in range(0, len(texts), 1000)
            for ids in tokenizer(texts[start : start + 1000], add_special_tokens=False, verbose=False)["input_ids"]]


def _nice(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 ... that is not below a width."""
    ten = 1
    while True:
        for step in (1, 2, 5):
            if step * ten >= width:
                return step * ten
        ten *= 10
