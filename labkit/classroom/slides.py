"""Slides from a lab: each heading begins one, by nbconvert and reveal.js; the notebook itself is not changed."""

from __future__ import annotations

import re
from pathlib import Path

from labkit.course import built, names
from labkit.profiles import COURSE


def write_slides(folder: str | Path, chosen: list[str] | None = None, root: Path = COURSE) -> list[Path]:
    """Write NN_name.slides.html for each lab, from its solved notebook.

    A heading of the first two levels begins a slide, one of the third a slide below it, and every further cell goes
    on the same one. The page takes reveal.js from the network when it is shown.

    Args:
        folder: of the pages.
        chosen: labs by name or number; None means all.
        root: the checkout.

    Raises:
        LabError: a solved notebook is missing.
    """
    import nbformat
    from nbconvert import SlidesExporter

    written = []
    for name in names(chosen, root):
        book = nbformat.read(built(name, root=root), as_version=4)
        book.cells = [part for cell in book.cells for part in _parted(cell)]
        for cell in book.cells:
            cell.metadata["slideshow"] = {"slide_type": _kind(cell)}
        body, _ = SlidesExporter().from_notebook_node(book)
        path = Path(folder) / f"{name}.slides.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, encoding="utf-8")
        written.append(path)
    return written


def _parted(cell) -> list:
    """A text cell cut before each heading, so that a heading in its middle begins a slide too."""
    import nbformat

    if cell.cell_type != "markdown":
        return [cell]
    parts = [part for part in re.split(r"(?m)^(?=#{1,3} )", cell.source) if part.strip()]
    return [nbformat.v4.new_markdown_cell(part, id=f"{cell.id}-{i}"[:64]) for i, part in enumerate(parts)]


def _kind(cell) -> str:
    if cell.cell_type == "markdown" and (mark := re.match(r"#+ ", cell.source)):
        return "slide" if len(mark.group()) <= 3 else "subslide"
    return "-"
