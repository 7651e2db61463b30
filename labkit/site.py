"""A readable site of the solved labs: notebooks with their outputs, data cards, a glossary and a search; by Sphinx.

Stands at the top, beside `course`: it copies what is there into a folder of its own and lets Sphinx write the pages.
Nothing is executed, and no page fetches anything from elsewhere.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from labkit.course import built, names
from labkit.errors import LabError
from labkit.profiles import COURSE
from labkit.stamps import repository

CARDS = ("tickets", "handbook", "messy_tickets", "pairs", "snippets", "notes", "general", "tiny-base")


def write_site(folder: str | Path, root: Path = COURSE) -> Path:
    """Write the site.

    Args:
        folder: where the pages go; what an earlier call wrote there is written anew.
        root: the checkout.

    Returns:
        The first page.

    Raises:
        LabError: Sphinx is not installed, a solved notebook is missing, or a page has a dead link or another fault.
    """
    try:
        from sphinx.application import Sphinx
        from sphinx.util.docutils import docutils_namespace, patch_docutils
    except ImportError as error:
        raise LabError("Sphinx is not installed", where="make html", todo="pip install -e '.[site]'") from error
    folder = Path(folder)
    with tempfile.TemporaryDirectory(prefix="labkit-site-") as scratch:
        source = Path(scratch) / "source"
        _gather(source, root)
        faults = _Faults()
        with patch_docutils(str(source)), docutils_namespace():
            app = Sphinx(str(source), str(source), str(folder), str(Path(scratch) / "doctrees"), "html",
                         status=None, warning=faults, freshenv=True)
            app.build(force_all=True)
        if faults.lines:
            raise LabError(f"{len(faults.lines)} faults, the first: {faults.lines[0].replace(str(source), 'docs')}",
                           where="make html", todo="Mend the source of that page")
    return folder / "index.html"


class _Faults:
    """A stream that keeps Sphinx's warnings, a line each."""

    def __init__(self):
        self.lines: list[str] = []

    def write(self, text: str) -> None:
        self.lines += [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines() if line.strip()]

    def flush(self) -> None:
        pass


def _gather(source: Path, root: Path) -> None:
    """The pages' sources: docs/, the solved notebooks, the cards, and a first page from README."""
    shutil.copytree(root / "docs", source)
    labs = names(root=root)
    (source / "labs").mkdir()
    for name in labs:
        shutil.copy(built(name, root=root), source / "labs")
    cards = []
    for name in CARDS:
        card = root / "data" / name / "README.md"
        if card.is_file():
            (source / "data" / name).mkdir(parents=True, exist_ok=True)
            for file in (card, *card.parent.glob("*.png")):
                shutil.copyfile(file, source / "data" / name / file.name)
            text = _linked((source / "data" / name / "README.md").read_text(encoding="utf-8"), f"data/{name}", root)
            (source / "data" / name / "README.md").write_text(text, encoding="utf-8")
            cards.append(f"data/{name}/README")
    (source / "data" / "measured").mkdir(parents=True, exist_ok=True)
    for picture in (root / "data" / "measured").glob("*.png"):
        shutil.copyfile(picture, source / "data" / "measured" / picture.name)
    guide = root / "notebooks" / "TEACHING.md"
    pages = ["glossary"]
    for page, file in (("teaching", guide), ("contributing", root / "CONTRIBUTING.md")):
        if file.is_file():
            text = _linked(file.read_text(encoding="utf-8"), file.parent.relative_to(root).as_posix(), root)
            (source / f"{page}.md").write_text(text, encoding="utf-8")
            pages.append(page)
    index = _linked((root / "README.md").read_text(encoding="utf-8"), "", root)
    toc = "\n\n".join(f"```{{toctree}}\n:caption: {caption}\n:hidden:\n\n" + "\n".join(entries) + "\n```"
                      for caption, entries in (("Labs", [f"labs/{name}" for name in labs]),
                                               ("Data and model", cards), ("More", pages)) if entries)
    (source / "index.md").write_text(f"{index}\n\n{toc}\n", encoding="utf-8")


def _linked(text: str, here: str, root: Path) -> str:
    """Links to files that are no pages lead to the repository; those to solved labs lead to their pages; no badges."""
    text = re.sub(r"\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\)", "", text)

    def lead(found: re.Match) -> str:
        label, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found.group()
        path = (root / here / target).resolve()
        inside = path.relative_to(root.resolve()).as_posix() if path.is_relative_to(root.resolve()) else target
        if lab := re.fullmatch(r"solutions/(\w+)\.ipynb", inside):
            return f"[{label}](/labs/{lab.group(1)}.ipynb)"
        if card := re.fullmatch(r"data/([\w-]+)/README\.md", inside):
            return f"[{label}](/data/{card.group(1)}/README.md)"
        return f"[{label}](https://github.com/{repository(root)}/blob/main/{inside})"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", lead, text)
