"""A course for nbgrader, made from the same sources as the notebooks: answers, and locked cells that award points.

`labkit course --nbgrader DIR` writes it; nbgrader's own generate_assignment, autograde and feedback then do the rest.
The course's own notebooks carry none of this.
"""

from __future__ import annotations

import ast
from pathlib import Path

from labkit.blanks import BEGIN, learner_source, solved_source
from labkit.course import KERNEL, names
from labkit.errors import LabError
from labkit.exercises import find
from labkit.profiles import COURSE

CONFIG = '''"""nbgrader's settings for this course. Type `nbgrader generate_assignment 03_lora` in this folder."""
c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "labkit"
# Answers are left out by the course's own rule: `name = ...` stays, so that an untouched notebook runs to its end.
c.GenerateAssignment.preprocessors = [
    "nbgrader.preprocessors.IncludeHeaderFooter",
    "nbgrader.preprocessors.LockCells",
    "labkit.classroom.clearing.LeaveAnswersOut",
    "nbgrader.preprocessors.ClearOutput",
    "nbgrader.preprocessors.CheckCellMetadata",
    "nbgrader.preprocessors.ComputeChecksums",
    "nbgrader.preprocessors.SaveCells",
    "nbgrader.preprocessors.ComputeChecksums",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Autograde.sanitize_preprocessors = [
    "nbgrader.preprocessors.ClearOutput",
    "nbgrader.preprocessors.DeduplicateIds",
    "labkit.classroom.clearing.ForgetCopies",
    "nbgrader.preprocessors.OverwriteKernelspec",
    "nbgrader.preprocessors.OverwriteCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.OverwriteCells.add_missing_cells = True  # a cell that awards points and was deleted comes back
c.Execute.timeout = 900  # seconds a cell; some cells train a model
c.Execute.interrupt_on_timeout = True
'''


def write_course(folder: str | Path, chosen: list[str] | None = None, root: Path = COURSE) -> list[Path]:
    """Write an nbgrader course: nbgrader_config.py and source/NN_name/NN_name.ipynb for each lab.

    Args:
        folder: of the course; made where it is not there. Notebooks that were written before are written anew.
        chosen: labs by name or number; None means all.
        root: the checkout.

    Returns:
        The files written.

    Raises:
        LabError: the folder holds an nbgrader_config.py of somebody else's, or a lab's source is broken.
    """
    import nbformat

    folder = Path(folder)
    config = folder / "nbgrader_config.py"
    if config.is_file() and config.read_text(encoding="utf-8") != CONFIG:
        raise LabError("there is an nbgrader course here already", where=str(config), todo="Choose an empty folder")
    books = {name: _book(name, root) for name in names(chosen, root)}
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(CONFIG, encoding="utf-8")
    written = [config]
    for name, book in books.items():
        path = folder / "source" / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, path)
        written.append(path)
    return written


def _book(name: str, root: Path):
    import jupytext
    import nbformat

    source = (root / "solutions" / f"{name}.py").read_text(encoding="utf-8")
    cells = []
    for number, cell in enumerate(jupytext.reads(source, fmt="py:percent").cells, 1):
        cell = nbformat.from_dict({**cell, "id": f"lab{name[:2]}-{number:03d}", "metadata": {}})
        cells.append(cell)
        if cell.cell_type != "code":
            continue
        if BEGIN in cell.source:
            learner_source(cell.source, f"solutions/{name}.py")  # refuses broken marks here, with a place
            cell.metadata = {"nbgrader": _marks(f"answer-{number:03d}", solution=True)}
        for exercise, answer in _checked(cell.source):
            points = find(exercise).difficulty
            award = nbformat.v4.new_code_cell(
                f"from labkit.exercises import award\n\naward({exercise!r}, {answer}, points={points})",
                id=f"lab{name[:2]}-{number:03d}-{exercise}"[:64],
            )
            award.metadata = {"nbgrader": _marks(exercise, grade=True, points=points)}
            cells.append(award)
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})


def _marks(grade_id: str, solution: bool = False, grade: bool = False, points: int = 0) -> dict:
    marks = {"schema_version": 3, "grade_id": grade_id, "solution": solution, "grade": grade, "task": False,
             "locked": grade}
    return marks | ({"points": points} if grade else {})


def _checked(source: str) -> list[tuple[str, str]]:
    """(exercise, expression of the answer) for each `check("exercise", answer)` in a cell, in order."""
    try:
        tree = ast.parse(solved_source(source))
    except SyntaxError:  # a cell with %magic has no exercise
        return []
    calls = [node.value for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    return [(call.args[0].value, ast.unparse(call.args[1])) for call in calls
            if isinstance(call.func, ast.Name) and call.func.id == "check" and len(call.args) == 2
            and isinstance(call.args[0], ast.Constant)]
