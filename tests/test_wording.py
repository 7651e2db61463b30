"""A run is asked in the words of its training: by the command that scores a learner's own file, and by the gate."""

from __future__ import annotations

import json

import pytest
from test_bad_input import cases, write_csv

from labkit import data
from labkit.cli import main
from labkit.errors import LabError
from labkit.evaluation import Evaluation
from labkit.job import run_job
from labkit.training import Run, finetune
from labkit.wording import rows_to_score, ticket_task_of, wording


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run of a job on a file of somebody's own, with columns that nobody knows, and a file to test on."""
    folder = tmp_path_factory.mktemp("own")
    rows = [{"subject": row["text"], "team": row["label"], "customer": n // 3} for n, row in enumerate(cases())]
    train, test = (write_csv(folder / f"{name}.csv", part) for name, part in (("train", rows), ("test", rows[:9])))
    done = run_job(train, columns="subject,team", group="customer", steps=2, batch_size=4, out=folder / "run",
                   progress=False)
    return done.run, test


def test_a_file_of_ones_own_is_scored_in_the_words_of_the_training_and_gated(own, capsys):
    run, test = own
    assert main(["evaluate", str(run.folder), "--test", str(test)]) == 0, capsys.readouterr().err
    scored = Evaluation.read(run.folder)
    said = json.loads((run.folder / "settings.json").read_text(encoding="utf-8"))
    opening = said["template"].partition("{text}")[0]
    assert scored.task == "classification" and scored.labels == said["labels"] and len(scored.values) == 9
    assert opening and all(prompt.startswith(opening) and prompt.count(opening) == 1 for prompt in scored.prompts)
    assert scored.groups == ["0"] * 3 + ["1"] * 3 + ["2"] * 3, "rows of a customer belong together"
    assert main(["gate", str(run.folder), str(run.folder)]) == 0


def test_a_test_file_in_which_a_label_is_met_once_or_not_at_all_is_scored_all_the_same(own, tmp_path):
    run, test = own
    head, first, *_ = test.read_text(encoding="utf-8").splitlines()
    (tmp_path / "one.csv").write_text(f"{head}\n{first}\n", encoding="utf-8")
    rows, kind, labels = rows_to_score(tmp_path / "one.csv", run)
    assert len(rows) == 1 and kind == "classification" and labels == wording(run)["labels"] and len(labels) == 2


def test_a_base_model_is_asked_as_finetune_would_ask(own):
    run, test = own
    mine, bases = (rows_to_score(test.with_name("train.csv"), of, "subject,team")[0]["prompt"][:] for of in (run, None))
    assert mine == bases


def test_prompts_that_are_whole_already_are_not_put_into_words_again(tmp_path):
    task = data.ticket_task("tone")
    run = finetune(task.train.select(range(64)), model="tiny", steps=1, batch_size=4, out=tmp_path / "run")
    rows = task.test.select(range(3))
    for name, columns in (("whole", ["prompt", "completion"]), ("text", ["text", "label"])):
        rows.select_columns(columns).to_json(tmp_path / f"{name}.jsonl")
        assert rows_to_score(tmp_path / f"{name}.jsonl", run)[0]["prompt"][:] == rows["prompt"][:]
    assert ticket_task_of(run) == "tone" and ticket_task_of(Run.read(run.folder)) == "tone"


def test_which_rows_is_asked_where_a_run_cannot_tell(own, capsys):
    assert main(["evaluate", str(own[0].folder)]) == 2
    assert "which rows" in capsys.readouterr().err


def test_a_file_without_the_columns_that_were_trained_on_is_refused(own, tmp_path):
    (tmp_path / "other.csv").write_text("text,label\na,b\n", encoding="utf-8")
    with pytest.raises(LabError, match="there is no column 'subject'"):
        rows_to_score(tmp_path / "other.csv", own[0])
