"""The shipped tickets as a task, and short trials on them."""

import pytest

from labkit import data, inbox, losses, profiles, runs
from labkit.errors import LabError
from labkit.search import quick_trial, trials


def test_a_task_has_three_splits_without_a_family_in_common():
    task = data.ticket_task("tone")
    families = [set(part["family"]) for part in (task.train, task.validation, task.test)]
    assert all(families) and not (families[0] & families[1] or families[0] & families[2] or families[1] & families[2])
    assert task.labels == data.LABELS["tone"] and set(task.test["label"]) == set(task.labels)
    row = task.test[0]
    assert task.template.replace("{text}", row["text"]) == row["prompt"]
    assert data.ticket_task("reply").labels == ()


def test_a_slow_profile_is_scored_on_fewer_rows_and_an_unknown_task_is_named():
    whole, few = (len(data.ticket_task("tone", profile).test) for profile in ("tiny", "small"))
    assert few == -(-whole // 3)
    with pytest.raises(LabError, match="tones"):
        data.ticket_task("tones")


def test_labkit_rows_caps_what_is_scored_evenly_over_all_families(monkeypatch):
    whole = data.ticket_task("tone", "tiny")
    monkeypatch.setenv("LABKIT_ROWS", "96")
    few = data.ticket_task("tone", "tiny")
    assert few.test["id"] == whole.test["id"][::6] and few.validation["id"] == whole.validation["id"][::3]
    assert few.train["id"] == whole.train["id"] and len(inbox.tickets()) == 96
    monkeypatch.setenv("LABKIT_ROWS", "all")
    with pytest.raises(LabError, match="^LABKIT_ROWS: 'all' is no number of rows"):
        data.ticket_task("tone", "tiny")


def test_a_trial_learns_and_is_scored_on_validation_rows():
    trial = quick_trial("tone", rank=4, alpha=8.0)
    assert trial.accuracy.rows == trials.MANY < len(data.ticket_task("tone").validation)
    assert trial.curve[-1]["loss"] < trial.curve[0]["loss"]
    assert trial.accuracy.low > 1 / 6, trial.accuracy


def test_a_setting_is_trained_once_and_told_as_it_was_asked_for():
    first = quick_trial("tone", rank=2, steps=2)
    again = quick_trial("tone", rank=2, alpha=4.0, method="lora", steps=2)
    assert (again.curve, again.seconds) == (first.curve, first.seconds)
    assert first.setting == {"batch_size": 8, "rank": 2} and again.row()["method"] == "lora"
    for other in ({"seed": 1}, {"rank": 3}, {"alpha": 5}, {"steps": 3}):
        assert quick_trial("tone", **{"rank": 2, "steps": 2, **other}).curve != first.curve


def test_two_functions_of_one_name_are_two_settings():
    def with_loss(factor):
        def loss(model, batch, items=None):
            return factor * losses.masked(model, batch, items)

        return quick_trial("tone", rank=2, steps=2, loss=loss).curve[0]["loss"]

    assert with_loss(2) == pytest.approx(2 * with_loss(1), rel=1e-3)


def test_runs_lie_apart_by_profile_and_where_labkit_runs_says(tmp_path, monkeypatch):
    assert runs("lab03") == profiles.COURSE / "runs" / profiles.current().name / "lab03"
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path))
    assert runs("lab03") == tmp_path / profiles.current().name / "lab03"


def test_a_slice_with_a_rare_label_keeps_the_first_few_of_it_and_all_others():
    train = data.ticket_task("tone", "tiny").train
    few = data.with_rare(train, "fear", keep=5)
    fear = [row["id"] for row in train.to_list() if row["label"] == "fear"]
    assert [row["id"] for row in few.to_list() if row["label"] == "fear"] == fear[:5]
    assert len(few) == len(train) - len(fear) + 5
    with pytest.raises(LabError, match="labelled 'dread'"):
        data.with_rare(train, "dread", keep=5)
