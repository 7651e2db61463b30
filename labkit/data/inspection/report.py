"""What `inspect` found, as an object that prints in a terminal, shows in a notebook, and hands out row numbers.

`clean` acts on it; the page is plain HTML and CSS without scripts, and every text in it is escaped.
"""

from __future__ import annotations

import difflib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labkit.errors import LabError
from labkit.tables import VERBATIM, cut

# Every kind of finding in the order of the report, with what to do about it.
KINDS = {
    "missing label": "Fill the label in, or drop the row",
    "unknown label": "Write the label as the others have it; the nearest known one is named",
    "rare label": "Gather more rows of it, or join it with another label",
    "conflicting labels": "Decide which label is right, or drop all rows of that text",
    "empty text": "Drop the row",
    "very short text": "Look whether anything can be learnt from it",
    "over-long text": "Shorten the row, or give the training a higher limit; nothing is cut silently",
    "exact duplicate": "Keep the first row of each text and drop these",
    "near duplicate": "Keep one row of each group and drop these",
    "leaked": "Take these rows out of training, or the test measures memory",
    "personal data": "Mask it before anybody trains on it",
    "mojibake": "Mend the encoding: clean does it",
    "HTML": "Strip the tags and read the entities: clean does it",
    "other language": "Decide whether the model shall answer that language; if not, leave the rows out",
}
SHOWN = 8  # row numbers that are named on the screen; `rows` gives them all
LISTED = 2000  # row numbers that a page lists
SHARES = 50  # labels whose shares are shown; `shares` has them all
_STYLE = (
    "<style>.lk{max-width:62em;font-family:sans-serif;line-height:1.4}.lk table{border-collapse:collapse;margin:.6em 0}"
    ".lk caption{text-align:left;font-weight:bold;padding:.3em 0}"
    ".lk.lk table :is(th,td){text-align:left;vertical-align:top;"  # twice, or JupyterLab's own rule has more weight
    "padding:.25em .7em .25em 0;border-bottom:1px solid #8888}.lk.lk table td.n{text-align:right}"
    ".lk i{display:inline-block;height:.7em;background:#0072B2;margin-right:.4em}.lk summary{cursor:pointer}</style>"
)


@dataclass(frozen=True)
class Finding:
    """One kind of fault in one split, and the rows that have it.

    `rows` are positions in that split, from 0, in rising order: those to act on (of duplicates all but the one to
    keep). `lines` are their lines in the file, where `read` left them. `notes` has a dict a row: what it is like,
    which label is meant, which mail address stands there. `sentence` says it in words, `todo` what to do.
    """

    kind: str
    split: str
    rows: tuple[int, ...]
    sentence: str
    lines: tuple[int, ...] = ()
    notes: tuple[Mapping[str, Any], ...] = ()

    @property
    def todo(self) -> str:
        return KINDS[self.kind]

    @property
    def where(self) -> str:
        """The first rows by number: their lines in the file, or their positions."""
        numbers = self.lines or self.rows
        noun = ("line" if self.lines else "row") + ("" if len(numbers) == 1 else "s")
        more = f" and {len(numbers) - SHOWN:,} more" if len(numbers) > SHOWN else ""
        return f"{noun} {', '.join(map(str, numbers[:SHOWN]))}{more}"


@dataclass(frozen=True)
class Lengths:
    """How long the texts are: rows of each split in bins of `width` units from `start` on, the last bin open."""

    unit: str
    start: int
    width: int
    counts: Mapping[str, tuple[int, ...]]
    median: Mapping[str, int]
    longest: Mapping[str, int]

    def names(self) -> list[str]:
        """The bins in words: 20-29, 30-39, 40+."""
        low = [self.start + i * self.width for i in range(len(next(iter(self.counts.values()))))]
        whole = [str(edge) if self.width == 1 else f"{edge}-{edge + self.width - 1}" for edge in low[:-1]]
        return [*whole, f"{low[-1]}+"]


@dataclass(frozen=True)
class Report:
    """What is wrong with a dataset, row by row; nothing was changed.

    `sizes` has the rows of each split, `text` the columns that were read, `label` that of the labels (None: there are
    none), `labels` the known ones, `shares` a dict a label with its share of each split, `difference` whether the
    splits differ in them, `remarks` what else there is to say, such as what was not looked for.
    """

    sizes: Mapping[str, int]
    text: tuple[str, ...]
    label: str | None
    labels: tuple[str, ...]
    findings: tuple[Finding, ...]
    lengths: Lengths
    shares: tuple[Mapping[str, Any], ...] = ()
    difference: str = ""
    language: str = ""
    remarks: tuple[str, ...] = ()
    names: tuple[str, ...] = field(default=(), repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """Rows of every kind that was found, over all splits."""
        return {kind: sum(len(f.rows) for f in self.findings if f.kind == kind)
                for kind in KINDS if any(f.kind == kind for f in self.findings)}

    def finding(self, kind: str, split: str | None = None) -> Finding | None:
        """The finding of a kind in a split, or None where nothing was found.

        Args:
            kind: such as "near duplicate"; KINDS lists them all.
            split: may be left out where there is only one.

        Raises:
            LabError: there is no such kind or split, or it has to be said which split.
        """
        if kind not in KINDS:
            near = difflib.get_close_matches(str(kind), KINDS, n=1, cutoff=0.5)
            raise LabError(f"there is no kind of finding {kind!r}", expected=", ".join(KINDS),
                           todo=f"Perhaps you mean {near[0]!r}" if near else "Name one of these")
        if split is None and len(self.sizes) > 1:
            raise LabError("the report is of several splits", expected=" or ".join(self.sizes),
                           todo=f"Say which: rows({kind!r}, {next(iter(self.sizes))!r})")
        if split is not None and split not in self.sizes:
            raise LabError(f"there is no split {split!r}", expected=", ".join(self.sizes), todo="Name one of these")
        return next((f for f in self.findings if f.kind == kind and split in (None, f.split)), None)

    def rows(self, kind: str, split: str | None = None) -> list[int]:
        """The rows to act on, as positions from 0; arguments and errors are those of `finding`."""
        found = self.finding(kind, split)
        return list(found.rows) if found else []

    def __str__(self) -> str:
        lines = [self._head(), ""]
        for f in self.findings:
            lines += [f"{f.kind} · {len(f.rows):,} of {self.sizes[f.split]:,} rows of {f.split}: {f.where}",
                      f"    {f.sentence} {f.todo}."]
        if not self.findings:
            lines.append("Nothing was found.")
        lines += ["", f"Length in {self.lengths.unit}"]
        lines += self._bars()
        if self.shares:
            from labkit.tables import Table

            cells = [{"label": str(row["label"])[:40], **{split: f"{row[split]:.1%}" for split in self.sizes}}
                     for row in self.shares[:SHARES]]
            lines += ["", str(Table(cells, self._shares_head()))]
            lines += [self.difference] if self.difference else []
        lines += ["", *self.remarks] if self.remarks else []
        return "\n".join(lines)

    __repr__ = __str__

    def _head(self) -> str:
        rows = ", ".join(f"{size:,} of {split}" for split, size in self.sizes.items())
        total = sum(self.sizes.values())
        known = f"{len(self.labels)} labels in {self.label!r}" if self.labels else (
            f"answers in {self.label!r}" if self.label else "no labels")
        return f"{total:,} rows ({rows}), texts in {' and '.join(map(repr, self.text))}, {known}"

    def _shares_head(self) -> str:
        more = len(self.shares) - SHARES
        return "Share of each label" + (f" ({more:,} more are not shown)" if more > 0 else "")

    def _bars(self) -> list[str]:
        names = self.lengths.names()
        lines = []
        for split, counts in self.lengths.counts.items():
            most = max(counts) or 1
            lines.append(f"  {split}: median {self.lengths.median[split]:,}, longest {self.lengths.longest[split]:,}")
            lines += [f"  {name:>{max(map(len, names))}} {'#' * -(-40 * count // most):<40} {count:,}".rstrip()
                      for name, count in zip(names, counts, strict=True)]
        return lines

    def _repr_html_(self) -> str:
        parts = [f"<div class='lk {VERBATIM}'>{_STYLE}<p><b>{_escape(self._head())}</b></p>", self._html_findings(),
                 *(self._html_lengths(split) for split in self.sizes)]
        if self.shares:
            parts.append(self._html_shares())
        parts += [f"<p>{_escape(sentence)}</p>" for sentence in self.remarks]
        return "".join(parts) + "</div>"

    def page(self, title: str = "What is in this dataset") -> str:
        """A whole HTML page with the report, to be kept or sent; it needs no other file."""
        return ("<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
                f"content='width=device-width'><title>{_escape(title)}</title></head>\n<body><h1>{_escape(title)}</h1>"
                f"{self._repr_html_()}</body></html>\n")

    def _html_findings(self) -> str:
        if not self.findings:
            return "<p>Nothing was found.</p>"
        rows = []
        for f in self.findings:
            numbers = f.lines or f.rows
            listed = ", ".join(map(str, numbers[:LISTED])) + (" …" if len(numbers) > LISTED else "")
            where = _escape(f.where)
            if len(numbers) > SHOWN:
                where = f"<details><summary>{where}</summary>{listed}</details>"
            rows.append(f"<tr><th scope='row'>{_escape(f.kind)}</th><td>{_escape(f.split)}</td>"
                        f"<td class='n'>{len(f.rows):,}</td>"
                        f"<td>{_escape(f.sentence)} <em>{_escape(f.todo)}.</em></td><td>{where}</td></tr>")
        head = "".join(f"<th scope='col'>{name}</th>" for name in ("finding", "split", "rows", "what", "where"))
        return f"<table><caption>Findings</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

    def _html_lengths(self, split: str) -> str:
        """One histogram as inline SVG, with its figures as text for whoever cannot see it."""
        counts, names, unit = self.lengths.counts[split], self.lengths.names(), self.lengths.unit
        step, high, most = max(44, 7 * max(map(len, names))), 80, max(self.lengths.counts[split]) or 1
        title = (f"Length of the texts of {split} in {unit}: median {self.lengths.median[split]:,}, longest "
                 f"{self.lengths.longest[split]:,}")
        told = "; ".join(f"{name}: {count:,}" for name, count in zip(names, counts, strict=True))
        bars = []
        for i, (name, count) in enumerate(zip(names, counts, strict=True)):
            tall = round(high * count / most, 1)
            bars.append(f"<rect x='{i * step + 4}' y='{14 + high - tall}' width='{step - 8}' height='{tall}' "
                        f"fill='#0072B2'/><text x='{i * step + step / 2}' y='{high + 28}'>{name}</text>"
                        f"<text x='{i * step + step / 2}' y='{10 + high - tall}'>{count:,}</text>")
        wide = step * len(counts)
        return (f"<p>{_escape(title)}</p><svg role='img' aria-label='{_escape(f'{title}. {told}')}' "
                f"viewBox='0 0 {wide} {high + 34}' width='{wide}' font-size='11' text-anchor='middle' "
                f"fill='currentColor' font-family='sans-serif'>{''.join(bars)}</svg>")

    def _html_shares(self) -> str:
        head = "".join(f"<th scope='col'>{_escape(split)}</th>" for split in self.sizes)
        most = max((row[split] for row in self.shares for split in self.sizes), default=0) or 1

        def cell(share: float) -> str:
            return f"<td><i aria-hidden='true' style='width:{6 * share / most:.2f}em'></i>{share:.1%}</td>"

        body = "".join(f"<tr><th scope='row'>{_escape(cut(str(row['label'])))}</th>"
                       + "".join(cell(row[split]) for split in self.sizes) + "</tr>" for row in self.shares[:SHARES])
        difference = f"<p>{_escape(self.difference)}</p>" if self.difference else ""
        return (f"<table><caption>{self._shares_head()}</caption><thead><tr><th scope='col'>label</th>{head}</tr>"
                f"</thead><tbody>{body}</tbody></table>{difference}")


def quoted(values: Sequence[str], most: int = 4, length: int = 30) -> str:
    """A few values as they stand in the data, shortened: 'angre', 'Joy' and 3 more."""
    short = [repr(value if len(value) <= length else value[: length - 1] + "…") for value in values[:most]]
    more = f" and {len(values) - most:,} more" if len(values) > most else ""
    return ", ".join(short) + more


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
