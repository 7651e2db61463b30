"""The shipped notebooks: as new as their sources, every check passed, nothing on the page that should not be there.

That they run, and that their reproducible cells print the same again, is nbval's part of `make test`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest

from labkit import blanks, course

LABS = course.names()


def book(folder: str, name: str):
    return nbformat.read(course.COURSE / folder / f"{name}.ipynb", as_version=4)


def code_cells(folder: str, name: str) -> list:
    return [cell for cell in book(folder, name).cells if cell.cell_type == "code"]


def text_of(output) -> str:
    """What an output shows as text, whatever its kind."""
    data = output.get("data", {})
    return output.get("text", "") + "".join(str(data.get(kind, "")) for kind in ("text/plain", "text/html"))


def test_every_notebook_is_as_new_as_its_source_and_nobody_edited_one():
    assert course.stale() == [], "run `make course`"


@pytest.mark.parametrize("name", LABS)
def test_a_solved_lab_passes_every_check_it_makes(name):
    checks = [cell for cell in code_cells("solutions", name) if "check(" in cell.source]
    for cell in checks:
        calls = sum(
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "check"
            for node in ast.walk(ast.parse(cell.source))
        )
        said = "".join(text_of(output) for output in cell.outputs)
        assert said.count("passed") >= calls, f"{cell.id}: {said}"


@pytest.mark.parametrize("name", LABS)
def test_a_solved_lab_shows_no_warning_no_progress_bar_and_no_path_of_the_machine(name):
    for cell in code_cells("solutions", name):
        for output in cell.outputs:
            assert output.get("name") != "stderr", f"{cell.id}: {output.text}"
            shown = text_of(output)
            for noise in (str(course.COURSE), str(Path.home()) + "/", "/tmp/", " at 0x", "Warning:"):
                assert noise not in shown, f"{cell.id} shows {noise!r}: {shown[:200]}"


@pytest.mark.parametrize("name", LABS)
def test_no_answer_and_no_mark_is_left_in_the_learners_copy(name):
    source = (course.COURSE / "solutions" / f"{name}.py").read_text(encoding="utf-8")
    assert blanks.BEGIN in source
    text = "\n".join(cell.source for cell in book("notebooks", name).cells)
    assert blanks.BEGIN not in text and blanks.END not in text and "..." in text


@pytest.mark.parametrize("name", LABS)
def test_no_code_cell_is_longer_than_25_lines(name):
    long = {cell.id: n for cell in code_cells("solutions", name) if (n := len(cell.source.splitlines())) > 25}
    assert long == {}
