"""The ledger: what is the same in every stage passes, and a stage that was broken on purpose is named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from exported import with_adapters

from labkit import LabError, data, models
from labkit.export import ROAD, to_onnx
from labkit.ledger import Ledger, Served, follow
from labkit.serving import running

TONE = data.ticket_task("tone")
ROWS = TONE.test.select(range(0, len(TONE.test), len(TONE.test) // 24))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return with_adapters(tmp_path_factory.mktemp("ledger"))[1]


@pytest.fixture(scope="module")
def ledger(many):
    with running(many) as url:
        return follow({"base": models.load("tiny"), "ONNX fp32": many, "served": Served(url, "base")}, ROWS,
                      TONE.labels, written=8)


def test_a_model_that_was_only_exported_and_served_stays_the_same(ledger):
    exact, served = ledger["ONNX fp32"], ledger["served"]
    assert exact.tokens_in and exact.gap < 1e-3 and exact.same == 1.0
    assert served.tokens_in and served.same == 1.0 and served.gap is None
    assert ledger["base"].gap is None and exact.accuracy.value == ledger["base"].accuracy.value


def test_every_stage_has_a_row_with_its_interval_and_its_size(ledger):
    rows = ledger.table().rows
    assert [row["stage"] for row in rows] == ["base", "ONNX fp32", "served"]
    assert all("[" in row["accuracy"] for row in rows) and rows[1]["MB"] > 5 and rows[1]["tokens/s"] > 0


def test_a_stage_that_is_another_model_is_named(many):
    broken = follow({"base": models.load("tiny"), "ONNX fp32": (many, "two")}, ROWS, TONE.labels, 4, timed=False)
    assert any("ONNX fp32: log-likelihoods moved" in sentence for sentence in broken.drifts())


def test_lost_accuracy_is_named_with_its_points(many):
    whole = follow({"merged": many, "ONNX int4": many}, ROWS, TONE.labels, 2, timed=False)
    assert whole.drifts() == []
    score = whole["merged"].accuracy
    whole.entries[0] = replace(whole["merged"], accuracy=replace(score, value=score.value + 0.05))
    assert "5.0 points" in whole.drifts()[0]


def test_a_figure_whose_interval_lies_below_is_named_even_where_points_are_few(many):
    whole = follow({"merged": many, "ONNX int4": many}, ROWS, TONE.labels, 2, timed=False)
    for n, (value, low, high) in enumerate([(0.07, 0.05, 0.09), (0.02, 0.01, 0.03)]):
        entry = whole.entries[n]
        whole.entries[n] = replace(entry, accuracy=replace(entry.accuracy, value=value, low=low, high=high))
    said = "ONNX int4: 2.0% [1.0%, 3.0%] of accuracy lies below merged, 7.0% [5.0%, 9.0%]."
    assert whole.drifts(points=0.1) == [said]


def test_an_exact_stage_without_label_scores_is_judged_by_its_answers(ledger):
    exact = ("ONNX fp32", "served")
    assert ledger.drifts(exact) == []
    served = ledger["served"]
    other = Ledger([*ledger.entries[:2], replace(served, same=0.5)])
    assert other.drifts(exact) == ["served: 50% of the answers are as in the stage before, and 90% must be."]
    wrote = Ledger([*ledger.entries[:2], replace(served, accuracy=replace(served.accuracy, value=0))])
    assert wrote.drifts(exact) == []  # it must write what the others pick
    assert "served" in wrote.drifts()[0]


def test_a_ledger_goes_through_a_file_and_comes_back(ledger):
    again = Ledger.of(json.loads(json.dumps(ledger.facts())))
    assert str(again.table()) == str(ledger.table()) and again.drifts() == ledger.drifts()
    assert again["base"].said == ledger["base"].said and set(again["base"].said) <= set(TONE.labels)


def test_a_conversation_is_served_turn_by_turn(many):
    prompt = [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Is it raining?"}]
    with running(many) as url:
        said, counted = Served(url, "base").ask(prompt)
    assert said == many.generate([prompt], 24)[0] and counted == len(many.prompt_ids(prompt))


def test_another_template_is_named(many):
    model, tokenizer = models.load("tiny")
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "assistant:\n")
    found = follow({"ONNX": many, "elsewhere": (model, tokenizer)}, ROWS, TONE.labels, 2, timed=False)
    assert any("other tokens" in sentence for sentence in found.drifts())


def test_nobody_there_and_nothing_to_follow_are_told():
    with pytest.raises(LabError, match="nobody answers"):
        follow({"served": Served("http://127.0.0.1:9/v1", "base")}, ROWS, TONE.labels)
    with pytest.raises(LabError, match="nothing to follow"):
        follow({}, ROWS, TONE.labels)


def test_int4_and_fp32_can_be_told_apart(many, tmp_path):
    int4 = to_onnx("tiny", "int4", recipe=ROAD["nearest"], out=tmp_path / "int4")
    found = follow({"ONNX fp32": many, "ONNX int4": int4}, ROWS, TONE.labels, 8, timed=False)
    assert 1e-3 < found["ONNX int4"].gap and found["ONNX int4"].tokens_in
