"""Small tables that read well in a terminal and in a notebook; every cell's text is escaped.

Used by whatever shows figures: evaluation, the command line, the notebooks.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

LONGEST = 2_000  # characters of a cell; of a longer text both ends are shown
WORD = 60  # letters from which on a word may be broken: a hash or an address would push the table out of the page
VERBATIM = "mathjax_ignore tex2jax_ignore"  # HTML classes: MathJax, new and old, takes no $ in here for a formula


class Table:
    """Rows of cells under a head; prints as aligned text, and as HTML in a notebook.

    Args:
        rows: dicts with the same keys, which become the head; numbers are set to the right.
        caption: one line above the table.
    """

    def __init__(self, rows: Iterable[dict], caption: str = ""):
        self.rows, self.caption = list(rows), caption
        self.head = list(dict.fromkeys(key for row in self.rows for key in row))

    def __str__(self) -> str:
        cells = [self.head, *([show(row.get(key)) for key in self.head] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.head))]
        right = [self._is_number(key) for key in self.head]
        lines = [
            "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
            for row in cells
        ]
        lines.insert(1, "  ".join("-" * w for w in widths))
        return "\n".join(([self.caption] if self.caption else []) + lines)

    __repr__ = __str__

    def _is_number(self, key: str) -> bool:
        values = [row[key] for row in self.rows if row.get(key) is not None]
        return bool(values) and all(isinstance(v, int | float) or show(v)[:1].isdigit() for v in values)

    def _repr_html_(self) -> str:
        def cell(tag: str, key: str, text: str) -> str:
            side = "right" if self._is_number(key) else "left"
            broken = ";overflow-wrap:anywhere" if max(map(len, text.split()), default=0) > WORD else ""
            return f'<{tag} style="text-align:{side}{broken}">{html.escape(text)}</{tag}>'

        def line(tag: str, row: list[str]) -> str:
            return "<tr>" + "".join(cell(tag, key, text) for key, text in zip(self.head, row, strict=True)) + "</tr>"

        body = "".join(line("td", [show(row.get(key)) for key in self.head]) for row in self.rows)
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        shown = f"{caption}<thead>{line('th', self.head)}</thead><tbody>{body}</tbody>"
        kind = f' class="{VERBATIM}"' if "$" in shown or "\\" in shown else ""
        return f"<table{kind}>{shown}</table>"

    def markdown(self) -> str:
        """The same as a Markdown table; pipes in cells are escaped."""

        def line(cells: list[str]) -> str:
            return "| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in cells) + " |"

        rule = "| " + " | ".join("--:" if self._is_number(key) else "---" for key in self.head) + " |"
        return "\n".join([line(self.head), rule, *(line([show(r.get(k)) for k in self.head]) for r in self.rows)])


def table(*rows: dict, caption: str = "", **cells) -> Table:
    """A Table from dicts, or a one-row table from keywords: `table(W=36864, share=0.08)`."""
    return Table([*rows, cells] if cells else rows, caption)


def show(value) -> str:
    """A value as a cell's text: thousands separated, floats to four figures (whole from 10,000 on), None as a dash,
    long texts cut."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return cut(str(value))


def cut(text: str, most: int = LONGEST, instead: str = " ... ({:,} characters are not shown) ... ") -> str:
    """The text, or its beginning and end with a word on what is left out, in `instead` of it.

    >>> cut("a" * 50, most=10)
    'aaaaa ... (40 characters are not shown) ... aaaaa'
    """
    half = most // 2
    if len(text) <= most:
        return text
    return text[:half] + instead.format(len(text) - 2 * half) + text[-half:]


def as_markdown(text: str) -> str:
    """Somebody's words as Markdown that shows them and does nothing else; `Table.markdown` takes care of pipes.

    >>> print(as_markdown("*all* [of](it) <b>stays</b>"))
    \\*all\\* \\[of\\](it) &lt;b&gt;stays&lt;/b&gt;
    """
    return re.sub(r"([\\`*_\[\]#~$])", r"\\\1", html.escape(text, quote=False))
