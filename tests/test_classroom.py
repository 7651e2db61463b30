import csv
import json
import shutil
import sys
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from labkit import data
from labkit.classroom import grade, handin, read_roster
from labkit.cli import main
from labkit.errors import LabError
from labkit.evaluation import Evaluation, evaluate_model
from labkit.training import Run, finetune


def progress_of(passed=(), tried=(), seen=(), last="the factor is alpha / r"):
    records = {name: {"lab": "03", "attempts": 2, "passed": "2026-01-01T10:00:00+00:00"} for name in passed}
    records |= {name: {"lab": "03", "attempts": 5, "last": last} for name in tried}
    records |= {name: {"lab": "03", "attempts": 1, "passed": "2026-01-01T10:00:00+00:00", "solution": True}
                for name in seen}
    full = {"lab": "", "attempts": 0, "passed": None, "hints": 0, "solution": False, "last": ""}
    return json.dumps({"version": 1, "exercises": {name: {**full, **record} for name, record in records.items()}})


@pytest.fixture
def room(tmp_path):
    """Four learners, one of them with a broken file."""
    (tmp_path / "anna.json").write_text(progress_of(passed=["lora_forward"]))
    (tmp_path / "boris").mkdir()
    (tmp_path / "boris" / "progress.json").write_text(progress_of(tried=["lora_forward"]))
    (tmp_path / "chen").mkdir()
    (tmp_path / "chen" / "progress.json").write_text(progress_of(seen=["lora_forward"]))
    (tmp_path / "dora.json").write_text('{"exercises": ')
    return tmp_path


def test_the_roster_says_whom_an_exercise_stops_and_what_they_were_told(room):
    row = next(row for row in read_roster(room).table().rows if row["exercise"] == "lora_forward")
    assert (row["passed"], row["of these, after the solution"], row["stopped"], row["whom"]) == (2, 1, 1, "boris")
    assert row["said most often"] == "the factor is alpha / r"


def test_a_progress_file_that_is_broken_is_named(room):
    assert read_roster(room).skipped == {"dora.json": "is not whole JSON"}


def test_a_second_file_of_the_same_learner_is_named(room):
    (room / "anna").mkdir()
    (room / "anna" / "progress.json").write_text(progress_of())
    assert list(read_roster(room).skipped) == ["anna.json", "dora.json"]


def test_what_stands_in_a_progress_file_never_becomes_html(room, tmp_path):
    evil = "<script>alert(1)</script>"
    (room / "<img src=x onerror=alert(1)>.json").write_text(progress_of(tried=["lora_forward"], last=evil))
    page = read_roster(room).page(tmp_path / "class.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_a_folder_without_progress_files_is_refused(tmp_path):
    with pytest.raises(LabError, match="no progress file"):
        read_roster(tmp_path)


def test_the_terminal_shows_the_class_and_writes_the_page(room, tmp_path, capsys):
    assert main(["progress", "--class", str(room), "--html", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().out
    assert "3 learners" in said and "dora.json: is not whole JSON" in said
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<table>") == 2


# ---------------------------------------------------------------- grading


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    task = data.ticket_task("tone")
    folder = tmp_path_factory.mktemp("runs") / "mine"
    return finetune(task.train, model="tiny", steps=12, out=folder).folder


@pytest.fixture(scope="module")
def handed_in(run, tmp_path_factory):
    """anna is honest; boris scaled her adapter, chen mended his predictions, dora wants an enormous rank."""
    evaluate_model(Run.read(run), data.ticket_task("tone"), progress=False).save(run)
    folder = tmp_path_factory.mktemp("class")
    for name in ("anna", "boris", "chen", "dora"):
        handin(name, [run], folder)
    file = folder / "boris" / "01_mine" / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor * 1.0001 for name, tensor in load_file(file).items()}, file)
    settings = folder / "boris" / "01_mine" / "run.json"
    facts = json.loads(settings.read_text())
    settings.write_text(json.dumps(facts | {"settings": facts["settings"] | {"seed": 7}}))
    claimed = Evaluation.read(folder / "chen" / "01_mine")
    perfect = {"accuracy": replace(claimed.main, value=1.0)}
    replace(claimed, answers=claimed.truth, metrics=perfect).save(folder / "chen" / "01_mine")
    (folder / "dora" / "01_mine" / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 100000}')
    (folder / "anna" / "progress.json").write_text(progress_of(passed=["lora_forward"]))
    return folder


@pytest.fixture(scope="module")
def graded(handed_in):
    return grade(handed_in, progress=False)


def remarks(graded, learner):
    return "; ".join(next(work.remarks for work in graded.works if work.learner == learner))


def test_work_is_scored_again_and_the_score_is_the_one_that_was_claimed(graded):
    anna = next(work for work in graded.works if work.learner == "anna")
    assert anna.task == "tone" and abs(anna.score.value - anna.claimed) < 0.005


def test_work_that_was_handed_in_twice_is_found_although_it_was_retouched(graded):
    assert "the same adapter as anna's" in remarks(graded, "boris")
    assert "are said to differ" in remarks(graded, "boris")


def test_of_two_equal_runs_it_is_said_that_honest_ones_look_alike(graded):
    assert "two honest runs agree" in remarks(graded, "chen")


def test_predictions_that_the_adapter_does_not_give_are_found(graded):
    assert "predictions are not what the adapter gives" in remarks(graded, "chen")
    assert "claimed 100.0%" in remarks(graded, "chen")


def test_an_adapter_that_asks_for_too_much_is_not_loaded(graded):
    dora = next(work for work in graded.works if work.learner == "dora")
    assert dora.score is None and "no LoRA adapter that can be loaded" in remarks(graded, "dora")


def test_exercises_get_credit_one_by_one(graded):
    row = next(row for row in graded.table().rows if row["learner"] == "anna")
    assert 0 < row["exercises"] < 1
    assert next(row for row in graded.table().rows if row["learner"] == "dora")["exercises"] == 0


def test_the_csv_has_a_line_a_learner_and_no_formula(handed_in, graded, tmp_path):
    shutil.copytree(handed_in / "anna", handed_in.parent / "again" / "=1+1")
    file, page = grade(handed_in.parent / "again", progress=False).write(tmp_path)
    with open(file, encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["learner"] for row in rows] == ["'=1+1"] and float(rows[0]["lora_forward"]) == 1.0
    assert "nothing vouches for that file" in page.read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows only an administrator makes links")
def test_a_link_out_of_the_hand_in_is_not_followed(handed_in, tmp_path):
    room = tmp_path / "class"
    shutil.copytree(handed_in / "anna", room / "eve")
    file = room / "eve" / "01_mine" / "evaluation.json"
    file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(tmp_path / "elsewhere.json")
    assert "a link is not followed" in remarks(grade(room, progress=False), "eve")


def test_a_fresh_run_is_scored_on_the_task_whose_words_it_asks_in(tmp_path, capsys):
    for name, task in (("own", "intent"), ("nobodys", "tone")):
        finetune(data.ticket_task(task).train.select(range(64)), model="tiny", steps=1, batch_size=4,
                 out=tmp_path / name)
    file = tmp_path / "nobodys" / "run.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(facts | {"settings": facts["settings"] | {"template": "{text}"}}), encoding="utf-8")
    to = ["--to", str(tmp_path / "class")]
    assert main(["handin", "anna", str(tmp_path / "own"), *to]) == 0, capsys.readouterr().err
    claimed = Evaluation.read(tmp_path / "class" / "anna" / "01_own")
    assert set(claimed.labels) == set(data.LABELS["intent"]) and len(claimed.values) == len(
        data.ticket_task("intent").test)
    assert main(["handin", "boris", str(tmp_path / "nobodys"), *to]) == 2
    assert "--task" in capsys.readouterr().err and not (tmp_path / "class" / "boris").exists()
    assert main(["handin", "boris", str(tmp_path / "nobodys"), *to, "--task", "tone"]) == 0


def test_a_hand_in_is_not_written_over(run, handed_in):
    with pytest.raises(LabError, match="there is a hand-in of that name"):
        handin("anna", [run], handed_in)
    with pytest.raises(LabError, match="cannot be a folder's name"):
        handin("../anna", [run], handed_in)
