"""The main job on anybody's file: an honest split, an honest table, and a report that says what happened."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_bad_input import cases, write_csv, write_jsonl

from labkit import evaluation, guards, job, training
from labkit.chat import Chat
from labkit.cli import main
from labkit.errors import LabError
from labkit.evaluation import Score
from labkit.intake import sample
from labkit.job import run_job
from labkit.report import JobResult, verdicts

ODD = "a <b>tent</b> | with a pipe, *stars* and a `tick` in it"
SHORT = {"model": "tiny", "steps": 8, "batch_size": 4, "progress": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[JobResult, Path, dict]:
    """One job on 72 rows, of which two are bad and four repeat others; with what `finetune` was given."""
    folder = tmp_path_factory.mktemp("job")
    rows = cases(72)
    rows[10]["text"], rows[20]["label"], rows[30]["text"] = "", "", "rope " * 300
    rows[40]["text"] = ODD
    for i, j in ((50, 51), (52, 53), (54, 55), (56, 57)):
        rows[j] = {**rows[i], "text": rows[i]["text"].upper() + "!!"}
    file = write_csv(folder / "rows.csv", rows)
    given = {}

    def spy(examples, validation, **options):
        given.update(train=examples["line"][:], validation=validation["line"][:])
        return finetune(examples, validation, **options)

    finetune = training.finetune
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "finetune", spy)
        return run_job(file, out=folder / "run", skip_bad_rows=True, **SHORT), file, given


def splits(folder: Path) -> dict:
    return json.loads((folder / "splits.json").read_text(encoding="utf-8"))


def test_every_row_is_in_one_split_or_is_named_as_left_out(made):
    result, _, _ = made
    found = splits(result.folder)
    out = [row["line"] for row in found["left out"]]
    every = sorted(line for name in ("train", "validation", "test", "train, not used", "test, not scored")
                   for line in found[name])
    assert sorted(out) == [12, 22, 32] and sorted([*every, *out]) == list(range(2, 74))
    reasons = {row["line"]: row["reason"] for row in found["left out"]}
    assert reasons[12] == "text is empty" and "more than 256" in reasons[32]


def test_the_training_is_given_no_row_that_is_tested_on(made):
    result, _, given = made
    found = splits(result.folder)
    assert given["train"] == found["train"] and set(given["validation"]) <= set(found["validation"])
    assert len(found["test"]) == result.scores["tuned"].rows
    assert not set(found["test"]) & {*given["train"], *given["validation"]}


def test_rows_that_nearly_repeat_another_stay_on_its_side(made):
    found = splits(made[0].folder)
    home = {line: name.split(",")[0] for name in ("train", "validation", "test", "train, not used")
            for line in found[name]}
    for line in (52, 54, 56, 58):
        assert home[line] == home[line + 1]
    assert "4 rows nearly repeat another; such rows stay together on one side of the split." in made[0].intake.said


def test_the_table_has_majority_words_base_and_tuned_each_with_its_interval(made):
    result = made[0]
    assert list(result.scores) == ["majority class", "bag of words", "bag of words, all rows", "base", "tuned"]
    for row, score in zip(result.table.rows, result.scores.values(), strict=True):
        assert row["accuracy"] == str(score) and "[" in row["macro-F1"] and score.low <= score.value <= score.high


def test_steps_that_do_not_reach_all_rows_train_words_and_model_on_the_same_rows(made):
    result, _, given = made
    assert len(given["train"]) == SHORT["steps"] * SHORT["batch_size"]
    assert {row["answers by"]: row["learnt from"] for row in result.table.rows}["bag of words"] == len(given["train"])
    said = " ".join(result.intake.said)
    assert "8 steps of 4 rows see 32 of the 55 rows to learn from, each once; --steps 14 would see all." in said


def test_the_words_better_than_appear_only_where_the_intervals_do_not_touch():
    def score(low: float, high: float) -> Score:
        return Score("accuracy", (low + high) / 2, low, high, 50)

    said = verdicts({"low": score(0.1, 0.3), "near": score(0.5, 0.8), "high": score(0.95, 1), "tuned": score(0.7, 0.9)})
    assert [line.partition(":")[0] for line in said] == [
        "The tuned model is better than low", "50 test rows do not tell the tuned model from near",
        "The tuned model is worse than high"]


def test_the_report_says_what_was_understood_left_out_found_and_how_to_go_on(made):
    result = made[0]
    text = (result.folder / "report.md").read_text(encoding="utf-8")
    for part in (result.verdicts[0].split(" [")[0], "2 labels (boots, tents)", "line 12: text is empty",
                 "95 % interval", f"labkit chat {result.folder}", "Which label fits: boots or tents?", "(curve.png)",
                 "no\\_leak",
                 "reload\\_agrees", "| transformers | ", "| origin of the base model | the repository, SHA-256",
                 "With only 7 rows to test on"):
        assert part in text, part
    assert result.table.markdown() in text


def test_the_picture_is_a_png_with_room_to_read(made):
    head = (made[0].folder / "curve.png").read_bytes()[:24]
    width, height = struct.unpack(">II", head[16:24])
    assert head.startswith(b"\x89PNG") and width >= 900 and height >= 500


def test_somebodys_markup_in_a_text_is_shown_and_does_nothing():
    from labkit.report import _wrong

    [line] = _wrong([{"text": ODD, "truth": "tents", "answer": "boots"}]).splitlines()[2:]
    assert line.count("|") == 5 and "\\|" in line and "<b>" not in line
    assert "\\*stars\\*" in line and "\\`tick\\`" in line


def test_three_rows_that_are_still_wrong_are_shown_without_the_opening_of_the_prompt(made):
    result, file, _ = made
    wrong = round((1 - result.scores["tuned"].value) * result.scores["tuned"].rows)
    assert len(result.wrong) == min(3, wrong)
    assert all(row["truth"] != row["answer"] and "Which label" not in row["text"] for row in result.wrong)


def test_the_same_seed_gives_the_same_adapter_byte_for_byte(made, tmp_path):
    result, file, _ = made
    again = run_job(file, out=tmp_path / "run", skip_bad_rows=True, **SHORT)
    name = "adapter/adapter_model.safetensors"
    assert (again.folder / name).read_bytes() == (result.folder / name).read_bytes()
    assert splits(again.folder) == splits(result.folder) and again.scores == result.scores


def test_the_chat_puts_a_text_in_the_words_of_the_training_and_picks_a_label(made, monkeypatch, capsys):
    result, asked = made[0], []
    classify = evaluation.classify
    monkeypatch.setattr(evaluation, "classify", lambda *a: asked.append(a[2]) or classify(*a))
    assert main(["chat", str(result.folder), "--ask", "the pole broke"]) == 0
    assert capsys.readouterr().out.strip() in ("boots", "tents")
    assert asked == [["Which label fits: boots or tents?\n\nthe pole broke"]]


def test_resume_of_a_finished_job_scores_again_and_trains_nothing(made, monkeypatch):
    result, file, _ = made
    monkeypatch.setattr(training, "finetune", lambda *_, **__: pytest.fail("trained again"))
    again = run_job(file, out=result.folder, resume=True, progress=False)
    assert again.scores == result.scores


def test_resume_with_another_setting_or_another_file_is_refused(made):
    result, file, _ = made
    with pytest.raises(LabError, match="rank is 4 now, and was 8 when the training began"):
        run_job(file, out=result.folder, resume=True, rank=4, progress=False)
    text = file.read_text()
    try:
        file.write_text(text + "one more tent,tents\n")
        with pytest.raises(LabError, match="the file has changed since the training began"):
            run_job(file, out=result.folder, resume=True, progress=False)
    finally:
        file.write_text(text)


def test_resume_of_nothing_is_refused(tmp_path):
    with pytest.raises(LabError, match="there is nothing to resume"):
        run_job(write_csv(tmp_path / "rows.csv", cases()), out=tmp_path / "none", resume=True)


def test_results_get_free_names_and_resume_takes_the_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert job._folder("a/rows.csv", None, resume=False) == Path("runs/rows")
    for name in ("rows", "rows-2"):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "run.json").touch()
    Path("runs/rows-3").mkdir()  # begun, but nothing came of it
    assert job._folder("a/rows.csv", None, resume=False) == Path("runs/rows-3")
    assert job._folder("a/rows.csv", None, resume=True) == Path("runs/rows-2")


def test_conversations_are_learnt_scored_and_continued(tmp_path):
    def talk(*texts: str) -> dict:
        turns = zip(("user", "assistant"), texts, strict=True)
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    rows = [talk(row["text"], f"So the {i % 9}.") for i, row in enumerate(cases(40))]
    result = run_job(write_jsonl(tmp_path / "talk.jsonl", rows), out=tmp_path / "run", **SHORT | {"steps": 3})
    assert list(result.scores) == ["commonest answer", "nearest answer", "nearest answer, all rows", "base", "tuned"]
    assert {score.metric for score in result.scores.values()} == {"ROUGE-L"}
    chat = Chat(result.folder)
    chat.ask("hello")
    chat.ask("and now?")
    assert [turn["role"] for turn in chat.turns] == ["user", "assistant"] * 2


def test_a_test_file_of_ones_own_is_what_the_scores_are_from(tmp_path):
    file, test = write_csv(tmp_path / "rows.csv", cases()), write_csv(tmp_path / "mine.csv", [
        {"text": f"number {i} of my own rows, which is about {'boots' if i % 2 else 'tents'}",
         "label": "boots" if i % 2 else "tents"} for i in (3, 14, 15, 92)])
    result = run_job(file, test=test, out=tmp_path / "run", **SHORT | {"steps": 2})
    found = splits(tmp_path / "run")
    assert found["test"] == [2, 3, 4, 5] and found["test source"] == str(test) and result.scores["tuned"].rows == 4
    assert len(found["train"] + found["train, not used"]) == 54 and len(found["validation"]) == 6


@pytest.fixture
def hub(monkeypatch) -> list:
    """A hub that cannot be there: the dataset owner/letters, whose fifth row has no text, and every download of it."""
    import datasets

    rows, asked = cases(72), []
    rows[4]["text"] = ""

    def load_dataset(name, split):
        asked.append((name, split))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_dataset_of_the_hub_goes_all_the_way_and_is_downloaded_once(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [word for name, value in SHORT.items() if name != "progress"
             for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["finetune", "hub:owner/letters", "--skip-bad-rows", *words]) == 0
    assert hub == [("owner/letters", "train")]
    found = splits(tmp_path / "runs/letters")
    assert [(row["file"], row["line"]) for row in found["left out"]] == [("hub:owner/letters", 5)]
    assert found["source"] == "hub:owner/letters" and len(found["train"] + found["train, not used"]) > 50
    assert "hub:owner/letters, row 5: text is empty" in (tmp_path / "runs/letters/report.md").read_text("utf-8")
    assert main(["finetune", "hub:owner/letters"]) == 2
    assert "hub:owner/letters, row 5: text is empty" in capsys.readouterr().err


def test_search_inspection_and_a_project_take_a_dataset_of_the_hub(hub, tmp_path, monkeypatch, capsys):
    from labkit.capstone import Project
    from labkit.search.job import task_of

    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path))
    found = task_of("hub:owner/letters", test="hub:owner/letters/test", model="tiny", skip_bad_rows=True)
    assert len(found.test) == 71 and ("owner/letters", "test") in hub
    project = Project.open("hub:owner/letters")
    assert project.name == "letters" and "hub:owner/letters was read as text/label" in project.understood()
    assert Project.open().intake.sha256 == project.intake.sha256
    assert main(["inspect", "hub:owner/letters"]) == 0
    assert "empty text · 1 of 72 rows of train: line 5" in capsys.readouterr().out


def test_rows_of_a_group_are_not_parted_and_the_interval_knows_them(tmp_path):
    from labkit.intake import divide, understand
    from labkit.models import load

    rows = [{**row, "customer": f"c{i % 20}"} for i, row in enumerate(cases())]
    found = understand(write_csv(tmp_path / "rows.csv", rows), group="customer")
    divide(found, load("tiny")[1], 256, False, 0)
    seen = [set(part["customer"]) for part in found.parts.values()]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 20 and found.group == "customer"


@pytest.mark.parametrize("words, sentence", [
    ({"task": "mood"}, "there is no task 'mood'"),
    ({"columns": "text,tone"}, "the shipped tickets have columns, families and test rows of their own"),
])  # fmt: skip
def test_options_that_do_not_suit_the_shipped_tickets_are_refused(words, sentence, tmp_path):
    with pytest.raises(LabError, match=sentence):
        run_job("tickets", out=tmp_path / "run", **words)


def test_a_task_for_a_file_of_ones_own_is_refused(tmp_path):
    with pytest.raises(LabError, match="has no tasks to choose from"):
        run_job(write_csv(tmp_path / "rows.csv", cases()), task="tone", out=tmp_path / "run")


# -- what the split rests on ------------------------------------------------------------------------------------------

WORDS = st.lists(st.sampled_from("ab"), min_size=1, max_size=14).map(" ".join)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine draws slowly
@given(st.lists(WORDS, min_size=2, max_size=12))
def test_alike_finds_exactly_the_pairs_that_no_leak_would_refuse(texts):
    home = guards.alike(texts)
    grams = [guards._grams(text) for text in _without_common_start(texts)]
    parent = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if len(grams[i] & grams[j]) >= 0.8 * len(grams[i] | grams[j]):
                parent = [parent[j] if p == parent[i] else p for p in parent]
    assert [home[i] == home[j] for i in range(len(texts)) for j in range(i)] == [
        parent[i] == parent[j] for i in range(len(texts)) for j in range(i)]


def _without_common_start(texts: list[str]) -> list[str]:
    import os

    same = len(os.path.commonprefix(texts)) if len(set(texts)) > 1 else 0
    return [text[same:] for text in texts]


def test_a_long_opening_that_all_prompts_share_makes_no_leak():
    opening = "Which label fits: " + ", ".join(f"label {i}" for i in range(40)) + "?\n\n"
    train, other = [opening + "it broke", opening + "too small"], [opening + "never came", opening + "wrong size"]
    assert "none of 2" in guards.no_leak(train, other).saw
    with pytest.raises(LabError, match="1 of 2 validation rows"):
        guards.no_leak(train, [opening + "It broke!", opening + "wrong size"])


def test_a_sample_keeps_the_order_and_names_the_rest():
    from datasets import Dataset

    rows = Dataset.from_dict({"n": list(range(50))})
    some, rest = sample(rows, 20, seed=3)
    assert some["n"][:] == sorted(random.Random(3).sample(range(50), 20)) and rest["n"][:] == sorted(rest["n"])
    assert sorted(some["n"][:] + rest["n"][:]) == rows["n"][:]
    assert len(sample(rows, 99, seed=3)[1]) == 0
