"""evaluate_model, compare, gate and card on tiny-base: one by one or in batches, left or right, saved and read."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import pytest
import torch
import yaml
from datasets import Dataset

from labkit import evaluation, models
from labkit.cli import main
from labkit.data import ticket_task
from labkit.errors import LabError
from labkit.evaluation import Evaluation, evaluate_model, gate
from labkit.scratch import metrics
from labkit.tables import Table


@pytest.fixture(scope="module")
def tiny():
    return models.load("tiny")


@pytest.fixture(scope="module")
def task():
    return ticket_task("intent")


@pytest.fixture(scope="module")
def rows(task):
    return task.test.select(range(0, 576, 16))


@pytest.fixture(scope="module")
def scored(tiny, rows, task):
    return evaluate_model(tiny, rows, "intent", labels=task.labels, name="tiny")


def made(values, name="model", groups=True, seconds=1.0):
    """An Evaluation with these right and wrong answers, 6 rows a family, labels x and y in turn."""
    n = len(values)
    truth = ["x" if i // 6 % 2 else "y" for i in range(n)]
    said = [t if v else "z" for t, v in zip(truth, values, strict=True)]
    families = [str(i // 6) for i in range(n)] if groups else None
    score = evaluation.accuracy(truth, said, families)
    return Evaluation("classification", name, {"accuracy": score}, [float(v) for v in values], truth, said,
                      [str(i) for i in range(n)], {"label": truth}, seconds, 16, groups=families)


def test_batched_and_one_by_one_left_and_right_padding_score_alike(tiny, rows, task, scored):
    for options in ({"batch_size": 1}, {"batch_size": 7, "padding_side": "right"}):
        other = evaluate_model(tiny, rows, "intent", labels=task.labels, **options)
        assert other.answers == scored.answers and other.metrics == scored.metrics
        torch.testing.assert_close(torch.tensor(other.probabilities), torch.tensor(scored.probabilities),
                                   atol=1e-4, rtol=1e-3)


def test_free_text_is_the_same_one_by_one_and_in_batches(tiny):
    rows = ticket_task("summary").test.select(range(0, 576, 96))
    one, many = (evaluate_model(tiny, rows, "summary", batch_size=size, max_new_tokens=12) for size in (1, 6))
    assert one.answers == many.answers and one.metrics == many.metrics
    assert list(one.metrics) == ["ROUGE-L", "ROUGE-1", "ROUGE-2", "exact match", "BLEU"]
    assert one.metrics["BLEU"].value == pytest.approx(metrics.bleu(one.truth, one.answers) / 100)


def test_a_thousand_tickets_are_scored_in_seconds(tiny, task):
    prompts = (task.test["prompt"][:] + task.train["prompt"][:])[:1000]
    started = time.process_time()
    evaluation.score_labels(*tiny, prompts, task.labels)
    spent = time.process_time() - started  # of all cores together, so that neighbours on the machine do not count
    assert spent <= 2 * 5 * 1.3, f"{spent:.1f} s of two cores' time"


def test_perplexity_of_a_model_is_exp_of_its_own_loss_in_any_batch_and_window(tiny):
    model, tokenizer = tiny
    texts = ["The rope is in the red box.", "Snow, and no parcel since the second of May: where is it?", ""]
    values = evaluation.token_log_likelihoods(model, tokenizer, texts)
    for text, mine in zip(texts[:2], values, strict=False):
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            loss = float(model(input_ids=ids, labels=ids).loss)
        assert metrics.perplexity(mine) == pytest.approx(math.exp(loss), rel=1e-4)
    assert values[2] == []
    again = evaluation.token_log_likelihoods(model, tokenizer, texts, batch_size=1, padding_side="right")
    assert sum(values, []) == pytest.approx(sum(again, []), abs=1e-4)
    windowed = evaluation.token_log_likelihoods(model, tokenizer, texts, width=9, stride=4)
    assert [len(row) for row in windowed] == [len(row) for row in values] and windowed[0][:8] == pytest.approx(
        values[0][:8], abs=1e-4)
    found = evaluate_model(tiny, Dataset.from_dict({"text": texts[:2]}), "perplexity")
    assert found.main.value == pytest.approx(metrics.perplexity(values[0] + values[1]), rel=1e-6)
    assert found.metrics["bits per byte"].value == pytest.approx(
        metrics.bits_per_byte(values[0] + values[1], "".join(texts)), rel=1e-6)


def test_slices_worst_rows_and_latency(scored):
    found = scored.slices("label")
    assert sum(s.rows for s in found.values()) == 36 and [s.value for s in found.values()] == sorted(
        s.value for s in found.values())
    worst = scored.worst(10).rows
    assert len(worst) == 10 and worst[0]["accuracy"] == 0 and worst[0]["right"] != worst[0]["said"]
    assert scored.latency > 0 and "ms a row" in str(scored.table())
    with pytest.raises(LabError, match="no column 'colour'"):
        scored.slices("colour")


def test_scores_are_kept_and_come_back_as_they_were(scored, tmp_path):
    scored.save(tmp_path)
    assert Evaluation.read(tmp_path) == scored == Evaluation.read(tmp_path / "evaluation.json")
    (tmp_path / "evaluation.json").write_text('{"task": 3}')
    with pytest.raises(LabError, match="no evaluation, or a damaged one"):
        Evaluation.read(tmp_path)
    with pytest.raises(LabError, match="labkit evaluate"):
        Evaluation.read(tmp_path / "nowhere")


@pytest.mark.parametrize("kind, change, said", [
    ("poetry", lambda d: d, "no task 'poetry'"),
    ("classification", lambda d: d.select([]), "no rows"),
    ("classification", lambda d: d.remove_columns("completion"), "no column 'completion'"),
])
def test_what_cannot_be_scored_is_refused_with_a_sentence(tiny, rows, kind, change, said):
    with pytest.raises(LabError, match=said):
        evaluate_model(tiny, change(rows), kind)


def test_a_right_answer_that_is_no_label_is_refused(tiny, rows):
    with pytest.raises(LabError, match="not among the labels"):
        evaluate_model(tiny, rows, "classification", labels=["delivery", "stock"])


def test_compare_has_intervals_differences_row_by_row_and_corrected_p():
    a, b = made([1] * 60 + [0] * 60, "a"), made([1] * 96 + [0] * 24, "b")
    table = evaluation.compare([a, b])
    assert isinstance(table, Table) and table.rows[1]["against a, row by row"].startswith("+30.0 points [")
    assert table.rows[0]["p (Holm)"] is None
    with pytest.raises(LabError, match="same rows"):
        evaluation.compare({"a": a, "b": made([1] * 60)})


def test_the_gate_opens_for_an_equal_model_and_says_which_rule_a_worse_one_breaks():
    old = made([1] * 108 + [0] * 12)
    assert gate(old, old) and "open" in str(gate(old, old))
    worse = made([v and (i // 6 % 2 == 0) for i, v in enumerate(old.values)])  # every x is lost
    verdict = gate(worse, old)
    assert not verdict and [str(c.rule)[:4] for c in verdict.failures] == ["main", "main"]
    assert "x -" in verdict.failures[1].saw and "y" not in verdict.failures[1].saw
    slow = replace(old, seconds=3.0)
    assert [c.rule.metric for c in gate(slow, old).failures] == ["latency"]


def test_a_small_drop_fails_where_the_candidate_must_prove_and_passes_where_the_gate_must():
    old, new = made([1] * 114 + [0] * 6), made([1] * 108 + [0] * 12)
    assert not gate(new, old, [{"metric": "accuracy", "no_drop": 0.02}])
    assert gate(new, old, [{"metric": "accuracy", "no_proven_drop": 0.02}])
    assert gate(new, old, [{"metric": "accuracy", "at_least": 0.9}])
    assert not gate(new, old, [{"metric": "accuracy", "slice": "label", "at_least": 0.95}])


def test_slices_of_chance_do_not_shut_the_gate_more_than_one_time_in_twenty_or_so():
    import numpy as np

    shut = 0
    for seed in range(100):
        g = np.random.default_rng(seed)
        old, new = (made((np.repeat(g.random(40) < 0.8, 6)).astype(int)) for _ in range(2))
        shut += not gate(new, old, [{"metric": "accuracy", "slice": "label", "no_proven_drop": 0}])
    assert shut <= 12


@pytest.mark.parametrize("rule, said", [
    ({"metric": "accuracy"}, "0 limits"), ({"no_drop": 0.1, "at_least": 0.5}, "2 limits"),
    ({"no_drop": -1}, "from 0 on"), ({"no_drop": True}, "from 0 on"), ({"colour": 1, "no_drop": 0}, "'colour'"),
    ({"metric": "F7", "at_least": 0.5}, "no metric 'F7'"), ({"metric": "latency", "no_drop": 1}, "latency"),
])
def test_a_rule_that_cannot_be_read_is_refused(rule, said):
    model = made([1, 0] * 12)
    with pytest.raises(LabError, match=said):
        gate(model, model, [rule])


def test_a_gate_without_rules_is_refused():
    model = made([1, 0] * 12)
    with pytest.raises(LabError, match="everything pass"):
        gate(model, model, [])


def test_labkit_gate_ends_with_0_for_a_good_candidate_1_for_a_worse_and_2_for_a_mistake(tmp_path, capsys):
    made([1] * 108 + [0] * 12).save(tmp_path / "old")
    made([1] * 60 + [0] * 60).save(tmp_path / "new")
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump([{"metric": "accuracy", "no_drop": 0.02}]))
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    assert main(["gate", old, old, "--rules", str(rules)]) == 0 and "open" in capsys.readouterr().out
    assert main(["gate", new, old, "--rules", str(rules)]) == 1
    out = capsys.readouterr().out
    assert "FAILS" in out and "points" in out
    assert main(["gate", str(tmp_path / "none"), old]) == 2 and "no evaluation here" in capsys.readouterr().err
    rules.write_text("no_drop: 1")
    assert main(["gate", old, old, "--rules", str(rules)]) == 2 and "no list of rules" in capsys.readouterr().err


def test_labkit_evaluate_scores_a_file_and_keeps_the_scores(tmp_path, capsys, rows):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": r["prompt"], "completion": r["completion"]}) + "\n"
                            for r in rows.select(range(8))))
    out = ["--out", str(tmp_path / "out")]
    assert main(["evaluate", "tiny", "--task", "classification", "--test", str(file), *out]) == 0
    assert "accuracy" in capsys.readouterr().out and len(Evaluation.read(tmp_path / "out").values) == 8
    assert main(["evaluate", "tiny", "--task", "intent"]) == 2 and "--out" in capsys.readouterr().err


def test_the_harness_gives_the_same_accuracy_and_the_same_answers(tiny, rows, task):
    from labkit.evaluation.harness import harness_accuracy

    few = rows.select(range(10))
    theirs, chosen = harness_accuracy(*tiny, few, task.labels)
    ours = evaluate_model(tiny, few, "intent", labels=task.labels)
    assert theirs == pytest.approx(ours.main.value) and [task.labels[i] for i in chosen] == ours.answers


def test_offline_modules_combine_and_equal_the_metrics_by_hand():
    import evaluate

    from labkit.evaluation.modules import load

    truth, said = ["a b c d e", "the rope", ""], ["a b c x e", "the the rope", "snow"]
    together = evaluate.combine([load(name) for name in ("exact_match", "bleu", "rouge")])
    found = together.compute(predictions=said, references=truth)
    assert found["bleu"] == pytest.approx(metrics.bleu(truth, said), abs=1e-9)
    assert found["rouge2"] == pytest.approx(sum(metrics.rouge_n(a, b, 2) for a, b in zip(truth, said, strict=True)) / 3)
    entities = load("entity_f1").compute(predictions=['{"a": 1}', "no"], references=['{"a": 1}', '{"a": 2}'])
    assert entities == {"entity_f1": pytest.approx(2 / 3)}
    with pytest.raises(LabError, match="no metric 'meteor'"):
        load("meteor")


def test_a_run_keeps_its_scores_until_its_weights_change_and_its_card_is_read_by_the_hub(tmp_path, task, rows):
    from huggingface_hub import ModelCard

    from labkit import finetune

    run = finetune(task.train.select(range(32)), steps=2, batch_size=4, out=tmp_path / "run", guard=False)
    few = rows.select(range(6))
    first = evaluate_model(run, few, "intent", labels=task.labels, name="router", reuse=True)
    assert evaluate_model(run, few, "intent", labels=task.labels, name="router", reuse=True) == first  # seconds too
    text = evaluation.model_card(run, first, title="router", out=tmp_path / "card", against={"other": replace(first)})
    card = ModelCard.load(tmp_path / "card" / "README.md")
    assert card.data.base_model == "tiny-base" and card.data.eval_results[0].metric_type == "accuracy"
    assert card.data.eval_results[0].metric_value == round(first.main.value, 4)
    assert "{text}" in text and "## Where it fails" in text and "Beside others" in text
    assert "From the base" not in text
    stages = Table([{"stage": "base", "MB": 8.66}, {"stage": "ONNX int4", "MB": 2.34}], "24 prompts")
    ledger = evaluation.model_card(run, first, stages=stages).split("## From the base to what is served")[1]
    assert "24 prompts." in ledger and "| ONNX int4 | 2.34 |" in ledger
    other = finetune(task.train.select(range(32)), steps=3, batch_size=4, out=tmp_path / "run", guard=False)
    assert evaluate_model(other, few, "intent", labels=task.labels, reuse=True).fingerprint != first.fingerprint
