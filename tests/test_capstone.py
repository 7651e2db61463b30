"""A project from a file to ONNX on two forms of file, and what the rubric says when somebody cheats."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from labkit import data
from labkit.capstone import STEPS, Project, examine, rubric
from labkit.errors import LabError
from labkit.exercises import verdict


@pytest.fixture(scope="module", autouse=True)
def runs_of_its_own(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield


def whole(source: Path, folder: Path) -> Project:
    project = Project.open(source, folder, steps=2)
    for step in STEPS:
        getattr(project, step)()
    return project


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Project:
    """A CSV of texts and labels."""
    folder = tmp_path_factory.mktemp("labels")
    rows = [row for row in data.read("tickets/train").to_list() if row["tone"] in ("joy", "anger", "fear")][:150]
    with open(folder / "my letters.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([row["text"], row["tone"]] for row in rows)
    return whole(folder / "my letters.csv", folder / "project")


@pytest.fixture(scope="module")
def chats(tmp_path_factory) -> Project:
    """A JSONL of conversations."""
    folder = tmp_path_factory.mktemp("chats")
    with open(folder / "talk.jsonl", "w", encoding="utf-8") as file:
        for row in data.read("handbook/train").to_list()[:120]:
            turns = [{"role": "user", "content": row["input"]}, {"role": "assistant", "content": row["output"]}]
            file.write(json.dumps({"messages": turns}) + "\n")
    return whole(folder / "talk.jsonl", folder / "project")


def test_a_csv_of_texts_and_labels_goes_all_the_way(labels):
    assert labels.kind == "classification"
    assert [row["what is wrong"] for row in rubric(labels).rows] == [""] * len(STEPS)


def test_a_jsonl_of_conversations_goes_all_the_way(chats):
    assert chats.kind == "generation"
    assert [row["what is wrong"] for row in rubric(chats).rows] == [""] * len(STEPS)


def test_each_checkpoint_passes_on_a_project_that_holds(labels):
    for step in STEPS:
        assert verdict(f"project_{step}", labels).state == "passed", step


def test_a_project_is_gone_on_with_where_it_was_left(labels):
    Project.open(labels.source, labels.folder, steps=2)
    assert Project.open().folder == labels.folder.absolute()
    before = (labels.folder / "final" / "run.json").read_bytes()
    labels.final()
    assert (labels.folder / "final" / "run.json").read_bytes() == before


def test_the_folder_of_another_file_is_refused(labels, chats):
    with pytest.raises(LabError, match="there is a project on my letters here"):
        Project.open(chats.source, labels.folder)


def test_a_step_that_left_nothing_is_not_attempted(tmp_path, labels):
    fresh = Project.open(labels.source, tmp_path / "fresh")
    assert verdict("project_report", fresh).state == "not attempted"
    assert verdict("project_report", ...).state == "not attempted"
    assert "a project is looked at here" in verdict("project_report", "runs/mine").sentence


@pytest.fixture
def copied(labels, tmp_path):
    """The project in a folder of its own, to spoil."""
    shutil.copytree(labels.folder, tmp_path / "project")
    return Project(tmp_path / "project", labels.source, None, 2)


def spoil(file: Path, change) -> None:
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def put(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def leak(folder):
    train, test = rows_of(folder / "splits/train.jsonl"), rows_of(folder / "splits/test.jsonl")
    put(folder / "splits/train.jsonl", train + test[:3])


CHEATS = [
    ("report", lambda f: spoil(f / "report.json", lambda x: x.update(sha256="0")), "another version of the file"),
    ("report", lambda f: spoil(f / "report.json", lambda x: x["counts"].update(mojibake=99)), "99 rows with mojibake"),
    ("report", lambda f: (f / "report.html").unlink(), "report.html is missing"),
    ("split", leak, "prompts stand in"),
    ("split", lambda f: put(f / "splits/train.jsonl", rows_of(f / "splits/train.jsonl")[:50]), "are in the splits"),
    ("split", lambda f: put(f / "splits/test.jsonl", rows_of(f / "splits/test.jsonl")[:1]), "are in the splits"),
    ("baselines", lambda f: spoil(f / "baselines.json", lambda x: x["base"]["score"].update(value=0.01)),
     "written down"),
    ("baselines", lambda f: spoil(f / "baselines.json", lambda x: x.pop("similar words")), "similar words is missing"),
    ("baselines", lambda f: spoil(f / "baselines.json", lambda x: x["similar words"].update(
        x["the commonest answer"])), "not its answers"),
    ("methods", lambda f: spoil(f / "methods.json", lambda x: x.pop("full")), "fewer than two"),
    ("methods", lambda f: spoil(f / "methods/full/run.json", lambda x: x["settings"].update(steps=99)),
     "differ in steps"),
    ("methods", lambda f: spoil(f / "methods.json", lambda x: x["full"]["score"].update(value=0.999)), "scored again"),
    ("search", lambda f: (f / "search.log").unlink(), "no trial"),
    ("search", lambda f: spoil(f / "chosen.json", lambda x: x["setting"].update(rank=3)), "was better"),
    ("evaluation", lambda f: spoil(f / "chosen.json", lambda x: x["setting"].update(dropout=0.9)), "another dropout"),
    ("evaluation", lambda f: spoil(f / "final/evaluation.json", lambda x: x.update(answers=x["truth"])),
     "its answers give"),
    ("gate", lambda f: spoil(f / "gate.json", lambda x: x.update(passed=not x["passed"])), "by its own rules"),
    ("gate", lambda f: spoil(f / "gate.json", lambda x: x.update(rules=[{"metric": "main", "no_drop": 0.9}])),
     "lost five points"),
    ("export", lambda f: (f / "README.md").unlink(), "no model card"),
    ("export", lambda f: spoil(f / "ledger.json", lambda x: x["rows"].pop()), "no stage 'ONNX int4'"),
    ("export", lambda f: spoil(f / "ledger.json", lambda x: x["answers"].update({"ONNX int4": ["no"] * 9})),
     "not what the ONNX model says"),
]


@pytest.mark.parametrize("number", range(len(CHEATS)))
def test_what_was_written_down_by_hand_is_found(copied, number):
    step, cheat, said = CHEATS[number]
    cheat(copied.folder)
    assert said in "; ".join(examine(step, copied))
