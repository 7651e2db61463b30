"""A project from a file to a served model on two forms of file, and what each checkpoint says to wrong answers."""

import csv
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from labkit import data, search
from labkit.capstone import STEPS, Project, examine, rubric
from labkit.capstone import project as steps
from labkit.errors import LabError
from labkit.exercises import verdict
from labkit.exercises.registry import load_lab


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
    """A CSV of texts and labels, with faults: three rows twice, a text of markup alone, a row without text, one
    without a label."""
    folder = tmp_path_factory.mktemp("labels")
    rows = [row for row in data.read("tickets/train").to_list() if row["tone"] in ("joy", "anger", "fear")][:150]
    with open(folder / "my letters.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([row["text"], row["tone"]] for row in rows)
        writer.writerows([rows[i]["text"], rows[i]["tone"]] for i in (3, 40, 77))
        writer.writerows([["<p>&nbsp;</p>", "fear"], ["", "joy"], ["Where is my parcel? It is late.", ""]])
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


def test_what_was_dropped_is_named_with_its_line_and_reason(labels):
    named = json.loads((labels.folder / "cleaned" / "dropped.json").read_text())
    assert {row["line"]: row["reason"] for row in named if row["reason"] in steps.ACTED} == {
        152: "exact duplicate", 153: "exact duplicate", 154: "exact duplicate", 155: "empty text"}
    assert {row["line"] for row in named} == set(range(152, 158)) and {row["file"] for row in named} == {labels.source}
    assert sum(len(labels.part(name)) for name in steps.PARTS) == 150


def test_training_rows_that_stand_in_the_test_file_are_dropped_and_those_to_decide_on_stay(tmp_path):
    rows = [{"question": row["input"], "answer": row["output"]} for row in data.read("handbook/train").to_list()[:60]]
    put(tmp_path / "train.jsonl", [*rows[:50], {**rows[0], "answer": "Another answer to the same question."}])
    put(tmp_path / "test.jsonl", [rows[7], *rows[50:]])
    project = Project.open(tmp_path / "train.jsonl", tmp_path / "project", test=tmp_path / "test.jsonl")
    project.report()
    assert "conflicting labels" in str(project.clean())
    named = json.loads((project.folder / "cleaned" / "dropped.json").read_text())
    assert [(row["line"], row["reason"]) for row in named] == [(8, "leaked")]
    assert 51 in [row["line"] for row in project.cleaned()["train"]]
    project.split()
    assert [examine(step, project) for step in ("report", "clean", "split")] == [[], [], []]


def test_the_ledger_goes_from_the_base_to_what_is_served_and_the_card_carries_it(labels, chats):
    for project in (labels, chats):
        found = json.loads((project.folder / "ledger.json").read_text())["stages"]
        assert [row["name"] for row in found] == list(steps.STAGES)
        card = (project.folder / "README.md").read_text(encoding="utf-8")
        assert all(f"| {name} |" in card for name in steps.STAGES)


def test_without_the_extra_for_serving_the_ledger_ends_with_the_file(monkeypatch):
    monkeypatch.setattr(steps, "find_spec", lambda name: None)
    assert steps.stages_here() == ("base", "adapter", "merged", "ONNX fp32", "ONNX int4")


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


def spoil(file: Path, change) -> None:
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def put(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit(file: Path, change) -> None:
    """The rows of a JSONL file, changed by a function that takes and gives a list."""
    put(file, change(rows_of(file)))


def report(change):
    return lambda p: spoil(p.folder / "report.json", change)


def back(p, named: bool) -> None:
    """The doubles stay after all; still named as dropped, or no more."""
    doubles = [row for row in p.usable["train"] if row["line"] in (152, 153, 154)]
    edit(p.folder / "cleaned/train.jsonl", lambda rows: rows + doubles)
    if not named:
        spoil(p.folder / "cleaned/dropped.json",
              lambda x: x.__setitem__(slice(None), [row for row in x if row["line"] not in (152, 153, 154)]))


def drop(p) -> None:
    """Five good rows go by a reason that is none of theirs."""
    gone = rows_of(p.folder / "cleaned/train.jsonl")[:5]
    edit(p.folder / "cleaned/train.jsonl", lambda rows: rows[5:])
    spoil(p.folder / "cleaned/dropped.json", lambda x: x.extend(
        {"file": p.source, "line": row["line"], "reason": "near duplicate"} for row in gone))


def changed(number: int, **cells):
    """A change of rows: cells of one of them."""
    return lambda rows: [{**row, **cells} if i == number else row for i, row in enumerate(rows)]


def move(p, rows: int, into: str = "test") -> None:
    """Rows of train go to another split, all of them or but for those that remain."""
    train = rows_of(p.folder / "splits/train.jsonl")
    put(p.folder / "splits/train.jsonl", train[rows:])
    edit(p.folder / f"splits/{into}.jsonl", lambda there: there + train[:rows])


def copy(p, rows: int, of: str, into: str) -> None:
    some = rows_of(p.folder / f"splits/{of}.jsonl")[:rows]
    edit(p.folder / f"splits/{into}.jsonl", lambda there: there + some)


def cleaned_back(p) -> None:
    double = next(row for row in p.usable["train"] if row["line"] == 155)
    edit(p.folder / "splits/train.jsonl", lambda rows: [*rows, double])


def baseline(name: str, change):
    return lambda p: spoil(p.folder / "baselines.json", lambda x: change(x[name]))


def one_label(p, row: dict, held) -> None:
    """Answers that nobody gave, with the figure that belongs to them."""
    row["answers"] = [p.labels[0]] * len(held)
    row["score"] = asdict(p.score(held, row["answers"]))


def twice_lora(p) -> None:
    shutil.rmtree(p.folder / "methods/full")
    shutil.copytree(p.folder / "methods/lora", p.folder / "methods/full")


def setting(name: str, **cells):
    return lambda p: spoil(p.folder / f"methods/{name}/run.json", lambda x: x["settings"].update(cells))


def chosen(change):
    return lambda p: spoil(p.folder / "chosen.json", change)


def worst_trial(p) -> None:
    tried = sorted((t for t in search.trials_in(p.folder / "search.log") if t.state == "done"), key=lambda t: t.value)
    spoil(p.folder / "chosen.json", lambda x: x.update(trial=tried[0].number, setting=tried[0].setting))


def evaluated(change):
    return lambda p: spoil(p.folder / "final/evaluation.json", change)


def made_up(p) -> None:
    def change(x):
        row = {}
        one_label(p, row, p.tested)
        x.update(answers=row["answers"])
        x["metrics"]["accuracy"] = row["score"]

    spoil(p.folder / "final/evaluation.json", change)


def gate(**cells):
    return lambda p: spoil(p.folder / "gate.json", lambda x: x.update(cells))


def stage(name: str, **cells):
    return lambda p: spoil(p.folder / "ledger.json",
                           lambda x: next(row for row in x["stages"] if row["name"] == name).update(cells))


def without(name: str):
    return lambda p: spoil(p.folder / "ledger.json",
                           lambda x: x.update(stages=[row for row in x["stages"] if row["name"] != name]))


def other_model(p) -> None:
    """The 4-bit model stands where the whole one should."""
    shutil.rmtree(p.folder / "onnx-fp32")
    shutil.copytree(p.folder / "onnx", p.folder / "onnx-fp32")


def made_up_stage(p) -> None:
    def change(x):
        row = next(row for row in x["stages"] if row["name"] == "base")
        row["said"] = [p.labels[0] if said != p.labels[0] else p.labels[1] for said in row["said"]]
        row["accuracy"] = asdict(p.score(p.followed, row["said"]))

    spoil(p.folder / "ledger.json", change)


def card(change):
    def cheat(p):
        file = p.folder / "README.md"
        file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    return cheat


WRONG = {
    "report": [
        (report(lambda x: x.update(sha256="0")), "another version of the file"),
        (report(lambda x: x["counts"].update(mojibake=99)), "99 rows with mojibake, and there are 0"),
        (report(lambda x: x["counts"].pop("exact duplicate")), "0 rows with exact duplicate, and there are 3"),
        (report(lambda x: x.pop("counts")), "has not the form"),
        (lambda p: (p.folder / "report.json").write_text("{"), "is damaged"),
        (lambda p: (p.folder / "report.html").unlink(), "report.html is missing"),
        (lambda p: (p.folder / "report.html").write_text("<p>All is well."), "does not say that there are rows with"),
    ],
    "clean": [
        (lambda p: back(p, named=True), "accounted for twice"),
        (lambda p: back(p, named=False), "3 rows with exact duplicate stay"),
        (lambda p: edit(p.folder / "cleaned/train.jsonl", lambda rows: rows[5:]), "5 are missing"),
        (lambda p: spoil(p.folder / "cleaned/dropped.json", lambda x: x.clear()), "6 are missing"),
        (drop, "the report does not say so of it"),
        (lambda p: edit(p.folder / "cleaned/train.jsonl", changed(4, completion="joy")), "reads otherwise"),
        (lambda p: edit(p.folder / "cleaned/train.jsonl", changed(4, line=9999)), "no usable line"),
    ],
    "split": [
        (lambda p: copy(p, 3, "test", "train"), "3 prompts stand in train and in test"),
        (lambda p: copy(p, 2, "train", "validation"), "2 prompts stand in train and in validation"),
        (lambda p: copy(p, 1, "train", "train"), "is there twice"),
        (lambda p: edit(p.folder / "splits/train.jsonl", lambda rows: rows[20:]), "are named as left out"),
        (lambda p: move(p, 100), "the test split has"),
        (cleaned_back, "and not in cleaned/"),
        (lambda p: edit(p.folder / "splits/train.jsonl", changed(0, completion="none")), "another answer"),
        (lambda p: (p.folder / "splits/train.jsonl").unlink(), "there is no train.jsonl yet"),
    ],
    "baselines": [
        (baseline("base", lambda row: row["score"].update(value=0.01)), "base: written down 1.0%"),
        (lambda p: spoil(p.folder / "baselines.json", lambda x: x.pop("similar words")), "similar words is missing"),
        (lambda p: spoil(p.folder / "baselines.json", lambda x: x.update(
            {"similar words": x["the commonest answer"]})), "similar words: these are not its answers"),
        (baseline("base", lambda row: row.update(answers=row["answers"][:9])), "base: 9 answers to 15 test rows"),
        (lambda p: spoil(p.folder / "baselines.json", lambda x: one_label(p, x["base"], p.tested)),
         "not what the base says"),
    ],
    "methods": [
        (lambda p: spoil(p.folder / "methods.json", lambda x: x.pop("full")), "fewer than two"),
        (setting("full", steps=99), "differ in steps"),
        (setting("full", rows=20), "differ in rows"),
        (twice_lora, "are the same method"),
        (lambda p: spoil(p.folder / "methods.json", lambda x: x["full"]["score"].update(value=0.999)), "scored again"),
        (lambda p: shutil.rmtree(p.folder / "methods/full"), "methods/full"),
    ],
    "search": [
        (lambda p: (p.folder / "search.log").unlink(), "no trial has come to its end"),
        (lambda p: (p.folder / "search.log").write_text("".join(
            (p.folder / "search.log").read_text().splitlines(keepends=True)[:-40])), "and 10 were asked for"),
        (chosen(lambda x: x["setting"].update(rank=3)), "no trial in search.log has the setting"),
        (chosen(lambda x: x.update(trial=77)), "under the number 77"),
        (worst_trial, "was better"),
        (chosen(lambda x: x.pop("setting")), "has not the form"),
    ],
    "evaluation": [
        (chosen(lambda x: x["setting"].update(dropout=0.9)), "another dropout"),
        (evaluated(lambda x: x.update(answers=x["truth"])), "its answers give 100.0%"),
        (evaluated(lambda x: x.update(truth=x["truth"][::-1])), "the test rows were not these"),
        (evaluated(lambda x: x.update(prompts=x["prompts"][::-1])), "did not answer the same rows"),
        (made_up, "not what the final run says"),
        (lambda p: (p.folder / "base/evaluation.json").unlink(), "no evaluation here"),
    ],
    "gate": [
        (lambda p: spoil(p.folder / "gate.json", lambda x: x.update(passed=not x["passed"])), "by its own rules"),
        (gate(rules=[{"metric": "main", "no_drop": 0.9}], passed=True, saw=[]), "0 answers to 1 rules"),
        (gate(saw=["+50.0 points [+49.0, +51.0]"]), "gate.json saw +50.0 points"),
        (gate(rules=[]), "no rule"),
        (gate(rules=[{"metric": "charm", "at_least": 0.5}]), "charm"),
        (lambda p: p.gate([{"metric": "main", "no_drop": 0.9}]), "not to drop by more than 0.9"),
        (lambda p: p.gate([{"metric": "main", "at_least": 0.0}]), "lost five points: main: at least 0"),
    ],
    "export": [
        (without("served"), "no stage 'served'"),
        (without("ONNX fp32"), "no stage 'ONNX fp32'"),
        (lambda p: spoil(p.folder / "ledger.json", lambda x: x["stages"].reverse()), "in the order served"),
        (stage("merged", gap=0.5), "merged: log-likelihoods moved by 0.5 nats"),
        (stage("served", answers=["no"] * 15), "served: written down that 100% of the answers"),
        (stage("served", answers=["no"] * 15, same=0.0), "served: 0% of the answers are as in the stage before"),
        (lambda p: stage("ONNX int4", said=list(p.followed["completion"]))(p), "ONNX int4: written down"),
        (stage("ONNX int4", said=["joy"]), "ONNX int4: 1 answers to 15 prompts"),
        (made_up_stage, "base: 8 of 8 answers in the ledger are not what this stage says"),
        (other_model, "ONNX fp32: log-likelihoods move by"),
        (lambda p: (p.folder / "README.md").unlink(), "no model card"),
        (card(lambda text: text.split("## From the base")[0]), "does not carry the ledger"),
        (card(lambda text: "# A fine model\n"), "does not carry the figure"),
    ],
}


@pytest.mark.parametrize("step", STEPS)
def test_wrong_answers_fail_each_with_a_message_of_its_own(step, labels, tmp_path):
    def linked(source, target):  # weights are never written to, only replaced or taken away
        small = Path(source).suffix in (".json", ".jsonl", ".html", ".md", ".log")
        (shutil.copy2 if small else os.link)(source, target)

    texts = []
    for number, (cheat, said) in enumerate(WRONG[step]):
        spoilt = Project(tmp_path / str(number) / "project", labels.source, None, 2)
        shutil.copytree(labels.folder, spoilt.folder, copy_function=linked)
        cheat(spoilt)
        found = verdict(f"project_{step}", spoilt)
        assert found.state == "wrong", (number, found)
        assert said in found.sentence, number
        texts.append(found.sentence.replace(str(spoilt.folder), ""))
    assert len(texts) >= 5
    assert len(set(texts)) == len(texts), "\n".join(sorted(texts))


def test_every_checkpoint_has_wrong_answers_here():
    assert {f"project_{step}" for step in WRONG} == {task.name for task in load_lab("13")}
