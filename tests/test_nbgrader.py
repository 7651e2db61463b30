"""nbgrader's own generate_assignment, autograde and feedback on a course that labkit wrote."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from labkit.classroom.nbgrader import write_course
from labkit.cli import main
from labkit.errors import LabError
from labkit.profiles import COURSE

SOURCE = '''# %% [markdown]
# # Two exercises, no training

# %%
import torch

from labkit.exercises import check

# %%
### BEGIN SOLUTION
share = (8 * 192 + 192 * 8) / (192 * 192)  # a share of W
### END SOLUTION
print(share)


# %%
def detour_parameters(d_out, d_in, r):
    ### BEGIN SOLUTION
    return r * (d_in + d_out)
    ### END SOLUTION


check("detour_parameters", detour_parameters)


# %%
def lora_forward(x, W, A, B, alpha):
    ### BEGIN SOLUTION
    r = A.shape[0]
    return x @ W.T + (alpha / r) * (x @ A.T @ B.T)
    ### END SOLUTION


check("lora_forward", lora_forward)
'''
LAB = "03_lora"
LEARNERS = ("empty", "half", "right", "deleted", "copied", "reordered")


def nbgrader(folder: Path, *words: str) -> str:
    """nbgrader as one calls it in an activated environment: it starts alembic by its name."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run([sys.executable, "-m", "nbgrader", *words], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "PATH": path, "PYTHONPATH": str(COURSE)})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def answered(book, *names: str):
    """The book with these answers put in place of what the learner's copy has."""
    right = {"detour_parameters": "def detour_parameters(d_out, d_in, r):\n    return r * d_in + d_out * r",
             "lora_forward": "def lora_forward(x, W, A, B, alpha):\n"
                             "    return x @ W.T + alpha / A.shape[0] * (x @ A.T @ B.T)"}
    for cell in book.cells:
        for name in names:
            if cell.source.startswith(f"def {name}"):
                cell.source = right[name]
    return book


def place(book, grade_id: str) -> int:
    return next(i for i, cell in enumerate(book.cells) if cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Points by learner and exercise, after nbgrader has run from the release to the feedback."""
    root, folder = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("course")
    (root / "solutions").mkdir()
    (root / "solutions" / f"{LAB}.py").write_text(SOURCE, encoding="utf-8")
    write_course(folder, root=root)
    nbgrader(folder, "generate_assignment", LAB)
    release = folder / "release" / LAB / f"{LAB}.ipynb"
    for learner in LEARNERS:
        book = nbformat.read(release, as_version=4)
        if learner != "empty":
            answered(book, "detour_parameters", *(["lora_forward"] if learner != "half" else []))
        award = place(book, "lora_forward")
        if learner == "deleted":
            del book.cells[award]
        elif learner == "copied":  # JupyterLab's copy and paste keeps the metadata
            book.cells.append(nbformat.from_dict({**book.cells[award], "id": "a-copy"}))
        elif learner == "reordered":
            book.cells.insert(0, book.cells.pop(award))
        path = folder / "submitted" / learner / LAB / f"{LAB}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(book, path)
    nbgrader(folder, "autograde", LAB)
    nbgrader(folder, "generate_feedback", LAB)
    from nbgrader.api import Gradebook

    points = {}
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        for learner in LEARNERS:
            notebook = book.find_submission(LAB, learner).notebooks[0]
            points[learner] = {grade.name: grade.score for grade in notebook.grades}
    return folder, release, points


def test_the_release_has_no_answer_and_runs_to_its_end(graded, tmp_path):
    _, release, _ = graded
    text = release.read_text(encoding="utf-8")
    assert "alpha / r" not in text and "share = ...  # a share of W" in text
    copy = shutil.copy(release, tmp_path)
    done = subprocess.run([sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", str(copy)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_empty_hand_in_gets_nothing_and_a_right_one_everything(graded):
    points = graded[2]
    assert set(points["empty"].values()) == {0}
    assert min(points["right"].values()) > 0


def test_half_an_answer_gets_the_points_of_what_is_right(graded):
    points = graded[2]
    assert points["half"] == {**points["right"], "lora_forward": 0}


def test_a_deleted_cell_comes_back_and_a_copied_one_counts_once(graded):
    points = graded[2]
    assert points["deleted"] == points["right"]
    assert points["copied"] == points["right"]


def test_a_cell_that_awards_points_before_the_answer_stands_gives_none_for_it(graded):
    points = graded[2]
    assert points["reordered"] == {**points["right"], "lora_forward": 0}


def test_the_feedback_holds_the_sentence_about_the_answer(graded):
    folder = graded[0]
    page = (folder / "feedback" / "empty" / LAB / f"{LAB}.html").read_text(encoding="utf-8")
    assert "the body of your function is still empty" in page


def test_every_check_of_the_course_becomes_a_cell_that_awards_points(tmp_path):
    assert main(["course", "--nbgrader", str(tmp_path)]) == 0
    for path in sorted((COURSE / "solutions").glob("[0-9][0-9]_*.py")):
        book = nbformat.read(tmp_path / "source" / path.stem / f"{path.stem}.ipynb", as_version=4)
        awards = [c.metadata.nbgrader.grade_id for c in book.cells if c.metadata.get("nbgrader", {}).get("grade")]
        wanted = [line.split('"')[1] for line in path.read_text(encoding="utf-8").splitlines()
                  if line.startswith('check("')]
        assert awards == wanted, path.name


def test_the_notebooks_themselves_stay_clean_of_grading(tmp_path):
    for path in (COURSE / "notebooks").glob("*.ipynb"):
        assert "nbgrader" not in path.read_text(encoding="utf-8"), path.name


def test_a_course_of_somebody_else_is_not_written_over(tmp_path):
    (tmp_path / "nbgrader_config.py").write_text("c = get_config()\n")
    with pytest.raises(LabError, match="there is an nbgrader course here already"):
        write_course(tmp_path)
