"""The notebooks of the course: what is built from a lab's source, what counts as stale, and where a run stops."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from labkit import blanks, course, stamps
from labkit.errors import LabError

SAMPLE = '''\
# %% [markdown]
# # Shares
# A small lab.

# %%
import os

import ipywidgets
from IPython.display import display

print(os.environ["LABKIT_PROFILE"], os.path.basename(os.getcwd()))

# %% [markdown]
# ## Count once

# %%
### BEGIN SOLUTION
share = 2 * 8 / 192  # a share of W
### END SOLUTION

# %%
def double(x):
    """Twice x."""
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION


print(double(2))

# %% tags=["reproducible"]
print("always the same")

# %%
display(ipywidgets.IntSlider())
'''


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A course of one lab, in a folder whose name has a space and a letter outside ASCII."""
    root = tmp_path / "kurz č 1"
    (root / "solutions").mkdir(parents=True)
    (root / "notebooks").mkdir()
    (root / "solutions" / "07_shares.py").write_text(SAMPLE, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The same course, built once with execution; tests only read it."""
    root = tmp_path_factory.mktemp("built")
    (root / "solutions").mkdir()
    (root / "solutions" / "07_shares.py").write_text(SAMPLE, encoding="utf-8")
    course.build(progress=False, root=root)
    return root


def read(root: Path, folder: str):
    return nbformat.read(root / folder / "07_shares.ipynb", as_version=4)


def printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.parametrize(
    ("solved", "learner"),
    [
        ("### BEGIN SOLUTION\nprint(1)\n### END SOLUTION", "..."),
        ("### BEGIN SOLUTION\na = 1  # in kg\n### END SOLUTION\ncheck('a', a)", "a = ...  # in kg\ncheck('a', a)"),
        ("### BEGIN SOLUTION\na, b = 1, 2\nc: int = 3\na = 4\n### END SOLUTION", "a, b = ..., ...\nc = ...\na = ..."),
        ("### BEGIN SOLUTION\na = f(\n    1,  # inner\n)\n### END SOLUTION", "a = ..."),
        ('### BEGIN SOLUTION\na = "# no comment"\n### END SOLUTION', "a = ..."),
        ("### BEGIN SOLUTION\nmodel.x = 1\nd['k'] = 2\n### END SOLUTION", "..."),
        ("### BEGIN SOLUTION\ndef f(x):\n    y = 1\n    return y\n\nclass A:\n    z = 1\n### END SOLUTION",
         "f = ...\nA = ..."),
        ("### BEGIN SOLUTION\nwith no_grad():\n    y = f(x)\n### END SOLUTION", "y = ..."),
        ("def f(x):\n    ### BEGIN SOLUTION\n    y = x\n    return y\n    ### END SOLUTION\n\nf(1)",
         "def f(x):\n    ...\n\nf(1)"),
        ("def f(x):\n    ### BEGIN SOLUTION\n    t = 1\n    y = t\n    ### END SOLUTION\n    return y",
         "def f(x):\n    y = ...\n    return y"),
        ("class A:\n    def f(\n        x\n    ):\n        ### BEGIN SOLUTION\n        pass\n        ### END SOLUTION",
         "class A:\n    def f(\n        x\n    ):\n        ..."),
        ("def f():\n    pass\n\n### BEGIN SOLUTION\na = f()\n### END SOLUTION", "def f():\n    pass\n\na = ..."),
        ("%matplotlib inline\n### BEGIN SOLUTION\n!ls\na = 1\n### END SOLUTION", "%matplotlib inline\na = ..."),
        ("### BEGIN SOLUTION\na = 1\n### END SOLUTION\nb = 2\n### BEGIN SOLUTION\nc = 3\n### END SOLUTION",
         "a = ...\nb = 2\nc = ..."),
        ("a = 1\nprint(a)", "a = 1\nprint(a)"),
    ],
)
def test_each_form_of_answer_is_left_out_and_what_the_rest_needs_stays(solved, learner):
    assert blanks.learner_source(solved) == learner


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("a = 1\n### BEGIN SOLUTION\nb = 2", "without its partner"),
        ("a = 1\n### END SOLUTION", "without its partner"),
        ("### BEGIN SOLUTION\n### BEGIN SOLUTION\na = 1\n### END SOLUTION", "without its partner"),
        ("### BEGIN SOLUTION\n# only a comment\n### END SOLUTION", "is empty"),
        ("### BEGIN SOLUTION\na = = 1\n### END SOLUTION", "is not Python"),
    ],
)
def test_a_broken_solution_block_is_refused_with_its_file(source, says):
    with pytest.raises(LabError, match=says) as caught:
        blanks.learner_source(source, "solutions/07_shares.py")
    assert str(caught.value).startswith("solutions/07_shares.py: ")


def test_the_solved_notebook_shows_the_answers_without_marks_and_keeps_its_outputs(built):
    book = read(built, "solutions")
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert code[1].source == "share = 2 * 8 / 192  # a share of W"
    assert code[2].source.startswith('def double(x):\n    """Twice x."""\n    return 2 * x\n')
    assert "SOLUTION" not in "".join(cell.source for cell in book.cells)
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4, 5]
    assert printed(code[0]) == "tiny solutions\n" and printed(code[2]) == "4\n"


def test_the_solved_notebook_holds_nothing_of_the_run_but_outputs(built):
    book = read(built, "solutions")
    assert set(book.metadata) == {"kernelspec", "language_info", "labkit"}
    assert "version" not in book.metadata.language_info
    assert [dict(cell.metadata) for cell in book.cells if cell.metadata] == [
        {"tags": ["reproducible", "nbval-check-output"]}
    ]
    assert book.cells[-1].outputs[0].data == {"text/plain": course.WIDGET_TEXT}
    assert [cell.id for cell in book.cells] == [f"lab07-{n:03d}" for n in range(1, len(book.cells) + 1)]


def test_the_learners_copy_has_badge_title_and_set_up_first_then_the_lab_without_answers_or_outputs(built):
    book = read(built, "notebooks")
    badge, title, setup = book.cells[:3]
    assert f"github/{stamps.repository()}/blob/main/notebooks/07_shares.ipynb" in badge.source
    assert title.source.startswith("# Shares")
    assert setup.metadata.tags == ["setup"] and 'if KAGGLE or "google.colab" in sys.modules:' in setup.source
    assert len(setup.source.splitlines()) <= 12
    code = [cell for cell in book.cells[3:] if cell.cell_type == "code"]
    assert code[1].source == "share = ...  # a share of W"
    assert code[2].source == 'def double(x):\n    """Twice x."""\n    ...\n\n\nprint(double(2))'
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert not any("nbval-check-output" in cell.metadata.get("tags", []) for cell in book.cells)


def test_building_again_without_a_change_gives_the_same_bytes(built):
    paths = [built / folder / "07_shares.ipynb" for folder in ("solutions", "notebooks")]
    before = [path.read_bytes() for path in paths]
    course.build(["7"], progress=False, root=built)
    assert [path.read_bytes() for path in paths] == before


def test_text_alone_can_be_built_anew_and_the_outputs_stay(built, checkout):
    for folder in ("solutions", "notebooks"):
        shutil.copy(built / folder / "07_shares.ipynb", checkout / folder)
    source = checkout / "solutions" / "07_shares.py"
    source.write_text(SAMPLE.replace("# ## Count once", "# ## Count\n\n# %% [markdown]\n# Once."), encoding="utf-8")
    assert len(course.reword(["7"], root=checkout)) == 2 and course.stale(checkout) == []
    ran, now = ([c for c in read(root, "solutions").cells if c.cell_type == "code"] for root in (built, checkout))
    assert [cell.outputs for cell in ran] == [cell.outputs for cell in now] and printed(now[-2]) == "always the same\n"
    for folder in ("solutions", "notebooks"):
        assert any(cell.source == "Once." for cell in read(checkout, folder).cells)


@pytest.mark.parametrize("text", [SAMPLE.replace("2 * 8", "3 * 8"), SAMPLE + "\n# %%\nprint(7)\n",
                                  SAMPLE.replace(' tags=["reproducible"]', "")])
def test_code_that_was_changed_is_not_given_the_outputs_of_other_code(built, checkout, text):
    for folder in ("solutions", "notebooks"):
        shutil.copy(built / folder / "07_shares.ipynb", checkout / folder)
    (checkout / "solutions" / "07_shares.py").write_text(text, encoding="utf-8")
    with pytest.raises(LabError, match="a code cell is another than the one that was run: .*labkit course --build 07"):
        course.reword(root=checkout)


def test_text_of_a_lab_that_was_never_run_is_refused(checkout):
    with pytest.raises(LabError, match="labkit course --build 07"):
        course.reword(root=checkout)


def test_a_fresh_build_is_not_stale(built):
    assert course.stale(built) == []


def test_missing_and_older_notebooks_are_named(checkout):
    assert course.stale(checkout) == ["solutions/07_shares.ipynb is missing", "notebooks/07_shares.ipynb is missing"]
    course.build(execute=False, progress=False, root=checkout)
    assert course.stale(checkout) == ["solutions/07_shares.ipynb is missing"]
    source = checkout / "solutions" / "07_shares.py"
    source.write_text(SAMPLE + "\n# %%\nprint(7)\n", encoding="utf-8")
    assert course.stale(checkout)[1] == "notebooks/07_shares.ipynb is older than solutions/07_shares.py"
    source.unlink()
    assert course.stale(checkout) == ["notebooks/07_shares.ipynb has no source in solutions/"]


def test_line_ends_of_windows_do_not_make_a_notebook_stale(checkout):
    course.build(execute=False, progress=False, root=checkout)
    source = checkout / "solutions" / "07_shares.py"
    source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    assert course.stale(checkout) == ["solutions/07_shares.ipynb is missing"]


def test_a_solved_notebook_that_was_not_executed_is_stale(built, checkout):
    book = read(built, "solutions")
    book.cells[-1].outputs, book.cells[-1].execution_count = [], None
    nbformat.write(book, checkout / "solutions" / "07_shares.ipynb")
    assert "solutions/07_shares.ipynb was not executed" in course.stale(checkout)


def test_a_learners_copy_with_outputs_is_stale(checkout):
    course.build(execute=False, progress=False, root=checkout)
    book = read(checkout, "notebooks")
    book.cells[2].execution_count = 1
    nbformat.write(book, checkout / "notebooks" / "07_shares.ipynb")
    assert "notebooks/07_shares.ipynb has outputs" in course.stale(checkout)


def test_a_hand_edit_is_named_and_never_built_over(checkout):
    course.build(execute=False, progress=False, root=checkout)
    path = checkout / "notebooks" / "07_shares.ipynb"
    book = read(checkout, "notebooks")
    book.cells[-1].source = "my_answer = 1"
    nbformat.write(book, path)
    assert any("notebooks/07_shares.ipynb was edited by hand" in line for line in course.stale(checkout))
    for text in (SAMPLE, SAMPLE + "\n# %%\nprint(7)\n"):  # with its source as it was, and with a newer one
        (checkout / "solutions" / "07_shares.py").write_text(text, encoding="utf-8")
        with pytest.raises(LabError, match="edited since it was built"):
            course.build(execute=False, progress=False, root=checkout)
    assert read(checkout, "notebooks").cells[-1].source == "my_answer = 1"


def test_a_solved_lab_that_fails_is_not_written(checkout):
    source = checkout / "solutions" / "07_shares.py"
    source.write_text(SAMPLE.replace('print("always the same")', "1 / 0"), encoding="utf-8")
    with pytest.raises(LabError, match="solutions/07_shares.py.*code cell 4.*ZeroDivisionError"):
        course.build(progress=False, root=checkout)
    assert list(checkout.rglob("*.ipynb")) == []


def test_a_run_names_the_lab_the_cell_its_heading_and_the_error_and_goes_on(checkout):
    (checkout / "solutions" / "08_fine.py").write_text("# %%\nprint(1)\n", encoding="utf-8")
    (checkout / "solutions" / "09_gone.py").write_text("# %%\nimport os\nos._exit(1)\n", encoding="utf-8")
    source = SAMPLE.replace('print(os.environ["LABKIT_PROFILE"], os.path.basename(os.getcwd()))', "")
    source = source.replace('print("always the same")', 'raise ValueError("no such tone: happy")')
    (checkout / "solutions" / "07_shares.py").write_text(source, encoding="utf-8")
    course.build(execute=False, progress=False, root=checkout)
    before = (checkout / "notebooks" / "07_shares.ipynb").read_bytes()
    shares, fine, gone = course.run(progress=False, root=checkout)
    assert (shares.ok, shares.cell, shares.heading) == (False, 5, "Count once")  # the set-up cell is the first
    assert str(shares).startswith('07_shares stopped at code cell 5, under "Count once", after ')
    assert str(shares).endswith("ValueError: no such tone: happy")
    assert fine.ok and str(fine).startswith("08_fine ran to the end in ")
    assert gone.cell == 2 and "kernel died" in gone.error
    assert (checkout / "notebooks" / "07_shares.ipynb").read_bytes() == before


def test_a_run_leaves_the_learners_progress_alone(checkout, monkeypatch):
    mine = checkout / "notebooks" / "progress.json"
    monkeypatch.setenv("LABKIT_PROGRESS", str(mine))
    (checkout / "solutions" / "07_shares.py").write_text(
        "# %%\nimport os\nfrom pathlib import Path\nPath(os.environ['LABKIT_PROGRESS']).write_text('x')\n",
        encoding="utf-8",
    )
    course.build(execute=False, progress=False, root=checkout)
    assert course.run(progress=False, root=checkout)[0].ok
    assert not mine.exists()


def test_a_real_run_keeps_the_record_of_a_lab_that_ends_and_puts_the_old_one_back_where_it_fails(checkout):
    source = checkout / "solutions" / "07_shares.py"
    record = checkout / "data" / "measured" / "07_shares.json"
    record.parent.mkdir(parents=True)
    note = "import os\nfrom pathlib import Path\n"
    note += "Path(os.environ['LABKIT_RECORD']).write_text(os.environ['LABKIT_PROFILE'])\n"
    source.write_text(f"# %%\n{note}", encoding="utf-8")
    assert course.real(progress=False, root=checkout)[0].ok
    assert record.read_text() == "small"
    record.write_text("measured before")
    source.write_text(f"# %%\n{note}1 / 0\n", encoding="utf-8")
    assert not course.real(progress=False, root=checkout)[0].ok
    assert record.read_text() == "measured before"


def test_every_lab_has_its_turn_where_several_run_side_by_side():
    assert sorted(course.LONGEST_FIRST.split()) == [name[:2] for name in course.names()]


@pytest.mark.skipif(sys.platform == "win32", reason="a signal from another thread ends a process on Windows")
@pytest.mark.parametrize("at_once, begun", [(1, "x"), (2, "xx")])
def test_ctrl_c_stops_the_whole_run_at_once(checkout, at_once, begun):
    for name in ("07_shares", "08_next", "09_third"):
        (checkout / "solutions" / f"{name}.py").write_text(
            "# %%\nimport time\nfrom pathlib import Path\nPath('started').open('a').write('x')\ntime.sleep(300)\n",
            encoding="utf-8",
        )
    course.build(execute=False, progress=False, root=checkout)
    code = f"""
import os, signal, threading, time
from pathlib import Path
from labkit import course
root = Path({str(checkout)!r})
def interrupt():
    started = root / "notebooks" / "started"
    while not started.exists() or started.read_text() != {begun!r}:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
threading.Thread(target=interrupt, daemon=True).start()
try:
    course.run(progress=False, root=root, at_once={at_once})
except KeyboardInterrupt:
    print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=course.COURSE, capture_output=True, text=True, timeout=150)
    assert done.stdout.strip() == "stopped"
    assert (checkout / "notebooks" / "started").read_text() == begun


def test_labs_run_side_by_side_each_on_its_share_of_the_cores(checkout, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("labkit.profiles.cores", lambda: 4)
    wait = """# %%
import os, time
from pathlib import Path
assert os.environ["OMP_NUM_THREADS"] == "2"
Path(NAME).write_text("here")
while not Path("a").exists() or not Path("b").exists():  # for ever, if one waited for the other
    time.sleep(0.1)
"""
    for name, mine in (("07_shares", "a"), ("08_next", "b")):
        (checkout / "solutions" / f"{name}.py").write_text(wait.replace("NAME", repr(mine)), encoding="utf-8")
    course.build(execute=False, progress=False, root=checkout)
    assert [(result.name, result.ok) for result in course.run(progress=False, root=checkout)] == [
        ("07_shares", True), ("08_next", True)]
    alone = "# %%\nimport os\nassert 'OMP_NUM_THREADS' not in os.environ\n"  # one lab has all the cores
    (checkout / "solutions" / "07_shares.py").write_text(alone, encoding="utf-8")
    course.build(["07"], execute=False, progress=False, root=checkout)
    assert course.run(["07"], progress=False, root=checkout)[0].ok


def test_a_lab_is_found_by_name_or_number_and_a_wrong_one_is_named_with_its_neighbours(checkout):
    (checkout / "solutions" / "notes.py").write_text("", encoding="utf-8")  # not a lab
    assert course.names(root=checkout) == ["07_shares"]
    assert course.names(["7", "07", "07_shares"], checkout) == ["07_shares"]
    with pytest.raises(LabError, match="'07_share'; expected 07_shares"):
        course.names(["07_share"], checkout)


def test_a_course_without_labs_builds_runs_and_is_not_stale(tmp_path):
    assert course.build(root=tmp_path) == [] and course.run(root=tmp_path) == [] and course.stale(tmp_path) == []
    with pytest.raises(LabError, match="there is none yet"):
        course.names(["03"], tmp_path)


def test_nbval_compares_only_the_cells_that_are_marked_reproducible(built, tmp_path):
    book = read(built, "solutions")
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    code[2].outputs[0].text = "another number\n"  # not marked: may differ
    nbformat.write(book, tmp_path / "07_shares.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", "."]
    ours = ("LABKIT_", "PYTEST_", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env |= {"LABKIT_PROFILE": "tiny", "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "5 passed" in done.stdout, done.stdout
    code[3].outputs[0].text = "another line\n"  # marked
    nbformat.write(book, tmp_path / "07_shares.ipynb")
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "1 failed, 4 passed" in done.stdout, done.stdout


def test_the_readme_lists_every_lab_with_both_notebooks_and_its_badge():
    readme = (course.COURSE / "README.md").read_text(encoding="utf-8")
    for name in course.names():
        [line] = [line for line in readme.splitlines() if f"(notebooks/{name}.ipynb)" in line]
        colabs = stamps.badge(name).split("](")[1].partition(")")[0]
        assert f"(solutions/{name}.ipynb)" in line and f"({colabs})" in line


def test_another_address_goes_onto_readme_badges_and_set_up_cells_and_nowhere_stays_the_old_one(checkout):
    for name, text in (("pyproject.toml", '[project.urls]\nRepository = "https://github.com/old/place"\n'),
                       ("README.md", "[lab](https://colab.research.google.com/github/old/place/blob/main/x.ipynb)\n"
                                     "https://codespaces.new/old/place https://mybinder.org/v2/gh/old/place/main\n")):
        (checkout / name).write_text(text, encoding="utf-8")
    course.build(execute=False, progress=False, root=checkout)
    course.restamp("new-owner/my.course", checkout)
    for file in ("pyproject.toml", "README.md", "notebooks/07_shares.ipynb"):
        text = (checkout / file).read_text(encoding="utf-8")
        assert "new-owner/my.course" in text and "old/place" not in text, file
    with pytest.raises(LabError, match="owner/name"):
        course.restamp("https://github.com/new/place", checkout)


def test_every_notebook_and_the_readme_name_the_one_address():
    address = stamps.repository()
    for file in [course.COURSE / "README.md", *sorted((course.COURSE / "notebooks").glob("*.ipynb"))]:
        found = re.findall(rf"(?:{stamps.HOSTS})([\w.-]+/[\w.-]+?)(?=[/\"\\)])", file.read_text(encoding="utf-8"))
        assert set(found) == {address}, file.name
