"""`diagnose` names each illness: the five of lab 08, others that it does not show, and none where there is none."""

from __future__ import annotations

import random

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from labkit import LabError, clinic, data, finetune, guards, models
from labkit.data.encode import collate, encode
from labkit.monitoring import Budget, diagnose

SMALL = {"steps": 18, "batch_size": 4, "rank": 8, "guard": False}
GUARDED = {"steps": 4, "batch_size": 4, "rank": 4}


def said(rows, out, **how):
    """The diagnosis of a training, whether it ends or is stopped."""
    try:
        return diagnose(finetune(rows, out=out, **SMALL | how))
    except LabError as error:
        return diagnose(error)


# -- the five of the lab ---------------------------------------------------------------------------------------------


def test_overfitting_is_named_with_the_step_at_which_it_turns(tmp_path):
    found = diagnose(clinic.treat("overfitting", {}, out=tmp_path))
    assert found.illness == "overfitting" and "validation was lowest at step" in found.evidence[0]


def test_a_budget_that_is_too_small_is_out_of_memory(tmp_path):
    with pytest.raises(LabError) as caught, Budget(clinic.budget()) as budget:
        clinic.cramped(budget, out=tmp_path, **clinic.sick("memory"))
    assert diagnose(caught.value).illness == "out of memory"
    assert diagnose(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")).illness == "out of memory"


def test_a_starving_loader_comes_before_the_padding_behind_it(tmp_path):
    tokenizer = models.load()[1]
    rows = encode(clinic.rows_of(32), tokenizer)
    found = said(rows, tmp_path, steps=4, batch_size=4, collator=clinic.slow_collator(tokenizer, rows))
    assert found.illness == "slow: the loader" and "slow: padding" in found.also
    found = said(rows, tmp_path, steps=4, batch_size=4, collator=clinic.wide_collator(tokenizer))
    assert found.illness == "slow: padding"


def test_a_wrong_form_is_named_from_the_rows(tmp_path):
    rows = clinic.rows_by(clinic.alpaca_row, clinic.rows_of(32))
    run = finetune(rows, out=tmp_path, **GUARDED | {"guard": False})
    found = diagnose(run, rows)
    assert found.illness == "wrong data format"
    assert [line.split(":")[0] for line in found.evidence] == [
        "tripwire loss_mask", "tripwire end_of_turn", "tripwire same_prompt"]


def test_too_high_a_rate_is_named(tmp_path):
    assert said(clinic.rows_of(200), tmp_path, learning_rate=0.3, steps=24).illness == "learning rate too high"


def test_a_base_of_noise_is_named(tmp_path):
    base = clinic.blank_base(tmp_path / "base")
    found = said(clinic.rows_of(200), tmp_path / "run", model=base, learning_rate=2e-3, steps=24)
    assert found.illness == "base model knows nothing"


# -- others, which the lab does not show -------------------------------------------------------------------------------


def test_too_low_a_rate_is_named(tmp_path):
    assert said(clinic.rows_of(64), tmp_path, learning_rate=1e-6, steps=12).illness == "learning rate too low"


def test_answers_that_were_shuffled_are_named(tmp_path):
    rows = clinic.rows_of(400).to_list()
    answers = [row["completion"] for row in rows]
    random.Random(0).shuffle(answers)
    rows = Dataset.from_list([row | {"completion": answer} for row, answer in zip(rows, answers, strict=True)])
    assert said(rows, tmp_path, steps=36, batch_size=8).illness == "answers do not follow"


def test_validation_rows_among_the_training_rows_are_named(tmp_path):
    rows = clinic.rows_of(32)
    run = finetune(rows, rows.select([3]), out=tmp_path, evaluate_every=2, **GUARDED | {"guard": False})
    assert diagnose(run).healthy
    assert diagnose(run, rows, rows.select([3])).illness == "rows leak"


def test_a_masked_end_of_turn_is_named(tmp_path):
    tokenizer = models.load()[1]
    end = models.end_of_turn(tokenizer)

    def collator(rows):
        batch = collate(rows, end)
        batch["labels"][batch["input_ids"] == end] = -100
        return batch

    assert said(clinic.rows_of(16), tmp_path, collator=collator, **GUARDED | {"guard": True}).illness == (
        "wrong data format")


def test_frozen_weights_that_move_are_named(tmp_path):
    class Meddler(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            next(p for name, p in model.named_parameters() if "norm" in name).data[0] += 1e-3

    found = said(clinic.rows_of(16), tmp_path, callbacks=[Meddler()], **GUARDED | {"guard": True})
    assert found.illness == "frozen weights move"


def test_weights_that_are_no_numbers_are_the_rate(tmp_path):
    assert said(clinic.rows_of(16), tmp_path, learning_rate=1e30, **GUARDED).illness == "learning rate too high"


def test_an_adapter_that_was_dropped_is_named():
    with pytest.raises(guards.Tripped) as caught:
        guards.reload_agrees(torch.zeros(3), torch.ones(3))
    assert diagnose(caught.value).illness == "not what was trained"


# -- no false alarm ----------------------------------------------------------------------------------------------------

HEALTHY = [
    ("tone", {}), ("tone", {"seed": 1}), ("tone", {"seed": 2}),
    ("tone", {"steps": 15}), ("tone", {"batch_size": 8}),
    ("tone", {"rank": 2}), ("tone", {"rank": 32}), ("tone", {"learning_rate": 1e-3}), ("tone", {"learning_rate": 4e-3}),
    ("tone", {"method": "full"}), ("tone", {"method": "full", "seed": 1, "steps": 16}), ("tone", {"method": "dora"}),
    ("tone", {"schedule": "linear", "dropout": 0.1}),
    ("tone", {"validation": True}), ("intent", {}),
    ("intent", {"seed": 1, "rank": 4}), ("intent", {"validation": True}), ("summary", {}),
    ("entities", {}), ("reply", {"steps": 15}),
]


@pytest.mark.parametrize("task, how", HEALTHY)
def test_a_healthy_run_raises_no_alarm(task, how, tmp_path):
    found = data.ticket_task(task)
    rows, how = found.train.shuffle(seed=1).select(range(300)), dict(how)
    if how.pop("validation", False):
        how |= {"validation": found.validation.select(range(0, 288, 24)), "evaluate_every": 6}
    diagnosis = said(rows, tmp_path, **how)
    assert diagnosis.healthy, diagnosis


def test_a_run_that_has_only_begun_is_told_so(tmp_path):
    rows = data.ticket_task("tone").train.shuffle(seed=1).select(range(300))
    found = said(rows, tmp_path, steps=15, learning_rate=3e-4)
    assert found.healthy and "after 60 rows that is too soon to tell" in found.evidence[0]


def test_what_is_neither_a_run_nor_a_tripwires_error_is_told():
    with pytest.raises(LabError, match="expected a Run"):
        diagnose({"loss": 1})
    with pytest.raises(LabError, match="no such file"):
        diagnose(LabError("no such file"))
