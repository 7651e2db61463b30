"""The shipped notebooks: as new as their sources, every check passed, nothing on the page that should not be there.

That they run, and that their reproducible cells print the same again, is nbval's part of `make test`.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest

from labkit import blanks, course, sections
from labkit.exercises.registry import load_lab

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
def test_the_progress_table_lists_a_labs_exercises_in_their_order_on_the_page(name):
    source = "\n".join(cell.source for cell in code_cells("notebooks", name))
    declared = [exercise.name for exercise in load_lab(name[:2])]
    assert declared == list(dict.fromkeys(re.findall(r'\bcheck\("(\w+)"', source)))


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


@pytest.mark.parametrize("name", LABS)
@pytest.mark.parametrize("folder", ["notebooks", "solutions"])
def test_every_section_can_be_started_from_a_new_kernel(folder, name):
    cells = [(cell.cell_type, cell.source) for cell in book(folder, name).cells]
    found = {heading: sections.loose_names(code) for heading, code in sections.sections(cells)}
    assert len(found) > 2
    assert {heading: names for heading, names in found.items() if names} == {}


def test_a_name_that_only_an_earlier_section_binds_is_found():
    cells = [("markdown", "# Lab"), ("code", "import torch"), ("markdown", "text\n## Later"),
             ("code", "x = torch.zeros(3)"), ("markdown", "### within"), ("code", "def f(a):\n    return g(a) + x"),
             ("code", "print([i for i in range(3)])")]
    assert [(h, sections.loose_names(code)) for h, code in sections.sections(cells)] == [
        ("Lab", []), ("Later", ["g", "torch"])]
