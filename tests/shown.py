"""What an executed, solved notebook shows, for the tests of what a lab must prove."""

from __future__ import annotations

import json

from labkit.profiles import COURSE


def outputs_of(lab: str) -> list[tuple[str, str]]:
    """(source, text of its outputs) of every code cell of solutions/`lab`.ipynb."""
    book = json.loads((COURSE / "solutions" / f"{lab}.ipynb").read_text(encoding="utf-8"))
    return [("".join(cell["source"]), _text(cell)) for cell in book["cells"] if cell["cell_type"] == "code"]


def _text(cell) -> str:
    parts = []
    for output in cell["outputs"]:
        parts += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
    return "\n".join("".join(part) for part in parts)


def the_output_of(outputs: list[tuple[str, str]], code: str) -> str:
    """The text shown by the first cell whose source has `code` in it."""
    return next(text for source, text in outputs if code in source)
