"""Small tables that read well in a terminal and in a notebook; every cell's text is escaped.

Used by whatever shows figures: evaluation, the command line, the notebooks.
"""

from __future__ import annotations

import html
from collections.abc import Iterable


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
            return f'<{tag} style="text-align:{side}">{html.escape(text)}</{tag}>'

        def line(tag: str, row: list[str]) -> str:
            return "<tr>" + "".join(cell(tag, key, text) for key, text in zip(self.head, row, strict=True)) + "</tr>"

        body = "".join(line("td", [show(row.get(key)) for key in self.head]) for row in self.rows)
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return f"<table>{caption}<thead>{line('th', self.head)}</thead><tbody>{body}</tbody></table>"

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
    """A value as a cell's text: thousands separated, floats to four figures, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
