"""Progress is kept through restarts, several notebooks, broken files and folders that cannot be written."""

import json
import os
import subprocess
import sys
import textwrap
import threading
from datetime import datetime

import pytest

from labkit import profiles
from labkit.exercises import check, exercise, hint, progress, progress_table, solution
from labkit.exercises.progress import progress_file, record, records
from labkit.exercises.registry import REGISTRY


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A progress file of one's own, and two exercises of lab 97."""
    path = tmp_path / "progress.json"
    monkeypatch.setenv("LABKIT_PROGRESS", str(path))
    before = dict(REGISTRY)
    exercise("four", lab="97", title="4", difficulty=2, minutes=7, hints=("a", "b"))(lambda x: None if x == 4 else "no")
    exercise("five", lab="97", title="5")(lambda x: None if x == 5 else "no")
    yield path
    REGISTRY.clear()
    REGISTRY.update(before)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))["exercises"]


def python(code, *args, file):
    """A second notebook, as far as the progress file can tell."""
    code = (
        'from labkit.exercises import *\nexercise("four", lab="97", title="4")(lambda x: None if x == 4 else "no")\n'
        + (textwrap.dedent(code))
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=profiles.COURSE, env={**os.environ, "LABKIT_PROGRESS": str(file)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_attempts_pass_hints_solution_and_last_sentence_are_kept(file, tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "COURSE", tmp_path)
    (tmp_path / "solutions").mkdir()
    text = '# %%\n### BEGIN SOLUTION\nx = 4\n### END SOLUTION\ncheck("four", x)\n'
    (tmp_path / "solutions" / "97_x.py").write_text(text, encoding="utf-8")
    check("four", 3)
    hint("four")
    solution("four")
    check("four", 4)
    kept = read(file)["four"]
    passed = datetime.fromisoformat(kept.pop("passed"))
    assert passed.utcoffset().total_seconds() == 0
    assert kept == {"lab": "97", "attempts": 2, "hints": 1, "solution": True, "last": "passed"}


def test_a_pass_is_not_taken_back_by_a_later_wrong_answer(file):
    check("four", 4)
    first = read(file)["four"]["passed"]
    check("four", 3)
    check("four", 4)
    assert read(file)["four"]["passed"] == first
    assert read(file)["four"]["attempts"] == 3


def test_progress_survives_a_restart(file, capsys):
    check("four", 3)
    hint("four")
    restarted = python('exercise("four", lab="97", title="4", hints=("a", "b"))', file=file)
    assert restarted.wait() == 0
    code = 'REG = find("four"); progress("97"); check("four", 4)'
    text = python(code, file=file).communicate()[0]
    assert "tried" in text and text.endswith("passed\n")
    assert read(file)["four"]["attempts"] == 2
    capsys.readouterr()
    hint("four")
    assert capsys.readouterr().out == "hint 2 of 2: b\n"


def test_notebooks_that_check_at_once_lose_nothing(file):
    code = """
        import sys
        from labkit.exercises.progress import record
        for i in range(25):
            check("four", 3)
            record(f"own_{sys.argv[1]}_{i}", "97", attempts=1)
    """
    others = [python(code, str(i), file=file) for i in range(4)]
    threads = [threading.Thread(target=lambda: [record("four", "97", attempts=1) for _ in range(25)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.communicate() and other.returncode for other in others] == [0] * 4
    kept = read(file)
    assert kept["four"]["attempts"] == 4 * 25 + 3 * 25
    assert len(kept) == 1 + 4 * 25


def test_a_reader_never_sees_half_a_file(file):
    many = {f"exercise_{i}": {"lab": "97", "attempts": 1, "last": "x" * 200} for i in range(3000)}
    file.write_text(json.dumps({"exercises": many}), encoding="utf-8")
    writer = threading.Thread(target=lambda: [record("four", "97", attempts=1) for _ in range(10)])
    writer.start()
    while writer.is_alive():
        assert len(read(file)) >= len(many)
    writer.join()
    assert read(file)["four"]["attempts"] == 10


GOOD = {"version": 1, "exercises": {"four": {"lab": "97", "attempts": 3, "passed": None, "hints": 0}}}
BROKEN = {
    "empty": b"",
    "half written": json.dumps(GOOD).encode()[:40],
    "not JSON": b"dear diary",
    "zero bytes": b"\0" * 100,
    "not UTF-8": b"\xff\xfe\xfa{",
    "a list": b"[1, 2]",
    "another program's": b'{"name": "jupyter"}',
    "a count that is a word": json.dumps({"exercises": {"four": {"attempts": "many"}}}).encode(),
    "a record that is a number": b'{"exercises": {"four": 4}}',
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_set_aside_and_named_once(file, capsys, kind):
    file.write_bytes(BROKEN[kind])
    check("four", 4)
    out = capsys.readouterr().out
    assert out.startswith("passed\nnote: progress.json is not ") and "progress.json.broken-1" in out
    assert (file.parent / "progress.json.broken-1").read_bytes() == BROKEN[kind]
    assert read(file)["four"]["attempts"] == 1
    check("four", 4)
    assert capsys.readouterr().out == "passed\n"


def test_a_second_broken_file_does_not_replace_the_first(file):
    for number in (1, 2):
        file.write_text(f"broken {number}", encoding="utf-8")
        records()
    assert [(file.parent / f"progress.json.broken-{n}").read_text(encoding="utf-8") for n in (1, 2)] == [
        "broken 1",
        "broken 2",
    ]


def test_a_file_with_a_byte_order_mark_or_unknown_fields_is_read_and_kept(file):
    newer = {"version": 2, "exercises": {"four": {"lab": "97", "attempts": 3, "mood": "good"}}}
    file.write_text(json.dumps(newer), encoding="utf-8-sig")
    check("four", 4)
    assert read(file)["four"]["attempts"] == 4 and read(file)["four"]["mood"] == "good"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a file's size")
def test_a_write_that_fails_leaves_the_old_file_whole(file):
    check("four", 3)
    code = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))  # as on a full disk: the file ends after 20 bytes
        check("four", 3)
        check("four", 4)
        progress("97")
    """
    text = " ".join(python(code, file=file).communicate()[0].split())
    assert text.count("your progress cannot be saved in") == 1 and "1 of 1 passed" in text
    assert read(file)["four"]["attempts"] == 1
    assert sorted(path.name for path in file.parent.iterdir() if path.suffix != ".lock") == ["progress.json"]


@pytest.mark.parametrize("where", ["below a file", "a folder", pytest.param("in a system folder", marks=
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no folder that nobody may write to"))])
def test_without_a_place_to_save_all_works_and_it_is_said_once(file, tmp_path, monkeypatch, capsys, where):
    (tmp_path / "plain").write_text("", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    places = {"below a file": tmp_path / "plain" / "p.json", "in a system folder": "/proc/labkit/p.json",
              "a folder": tmp_path / "folder"}  # fmt: skip
    monkeypatch.setenv("LABKIT_PROGRESS", str(places[where]))
    check("four", 3)
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("no note: your progress cannot be saved in ")
    check("four", 4)
    hint("four")
    hint("four")
    assert capsys.readouterr().out == "passed\nhint 1 of 2: a\nhint 2 of 2: b\n"
    row = progress_table("97")[0]
    assert (row["state"], row["attempts"], row["hints"]) == ("passed", 2, 2)


def test_what_could_not_be_saved_is_saved_as_soon_as_it_can_be(file, tmp_path, monkeypatch):
    late = tmp_path / "late" / "progress.json"
    monkeypatch.setenv("LABKIT_PROGRESS", str(late))
    late.parent.write_text("in the way", encoding="utf-8")
    check("four", 3)
    late.parent.unlink()
    check("four", 4)
    assert read(late)["four"]["attempts"] == 2


def test_a_file_that_another_program_holds_is_waited_for_and_then_left_alone(file, monkeypatch, capsys):
    from filelock import FileLock

    import labkit.exercises.progress  # noqa: F401  the name in the package is the function

    monkeypatch.setattr(sys.modules["labkit.exercises.progress"], "PATIENCE", 0.1)
    check("five", 5)
    with FileLock(f"{file}.lock"):
        check("four", 4)
    assert "another program holds it" in " ".join(capsys.readouterr().out.split())
    assert "four" not in read(file)
    check("four", 4)
    assert read(file)["four"]["attempts"] == 2 and "five" in read(file)


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows only an administrator makes links")
def test_a_link_is_followed_and_stays_a_link(file, tmp_path):
    (tmp_path / "real.json").write_text(json.dumps(GOOD), encoding="utf-8")
    file.symlink_to(tmp_path / "real.json")
    check("four", 4)
    assert file.is_symlink() and read(tmp_path / "real.json")["four"]["attempts"] == 4


def test_the_file_lies_beside_the_notebooks_or_in_the_cache_where_there_is_no_course(tmp_path, monkeypatch):
    monkeypatch.delenv("LABKIT_PROGRESS", raising=False)
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(profiles, "COURSE", tmp_path)
    assert progress_file() == tmp_path / "cache" / "progress.json"
    (tmp_path / "notebooks").mkdir()
    assert progress_file() == tmp_path / "notebooks" / "progress.json"


def test_the_table_has_a_row_an_exercise(file):
    check("four", 3)
    assert progress_table("97") == [
        {"lab": "97", "exercise": "four", "title": "4", "difficulty": 2, "minutes": 7, "state": "tried", "attempts": 1,
         "hints": 0, "hints_total": 2, "solution": False, "passed": None, "last": "no"},
        {"lab": "97", "exercise": "five", "title": "5", "difficulty": 1, "minutes": 5, "state": "not begun",
         "attempts": 0, "hints": 0, "hints_total": 0, "solution": False, "passed": None, "last": ""},
    ]  # fmt: skip


def test_progress_prints_a_bar_a_lab_and_a_line_an_exercise(file, capsys):
    check("four", 4)
    hint("four")
    check("five", 4)
    capsys.readouterr()
    assert progress("97") is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lab 97  [##########..........]  1 of 2 passed"
    assert [line.split() for line in lines[1:]] == [
        ["exercise", "difficulty", "minutes", "state", "attempts", "hints"],
        ["four", "2", "7", "passed", "1", "1", "of", "2"],
        ["five", "1", "5", "tried", "1", "0", "of", "0"],
    ]


def test_progress_shows_the_labs_that_were_begun(file, capsys):
    exercise("six", lab="96", title="6")(lambda x: None)
    check("four", 4)
    del REGISTRY["six"]
    capsys.readouterr()
    progress()
    shown = {line.split("  ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("lab")}
    assert "lab 97" in shown and "lab 96" not in shown  # labs whose files other tests have loaded may stand there too


def test_progress_of_a_lab_without_exercises_says_so(file, capsys):
    progress("55")
    assert capsys.readouterr().out == "there are no exercises in lab 55\n"
