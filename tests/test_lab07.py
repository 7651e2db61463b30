"""What lab 07 must prove, read from the executed notebook."""

from __future__ import annotations

import re

import pytest
from shown import outputs_of, the_output_of


def percents(text: str) -> list[float]:
    return [float(x) for x in re.findall(r"([\d.]+)% \[", text)]


@pytest.fixture(scope="module")
def outputs():
    return outputs_of("07_evaluation")


def test_every_check_of_the_solved_notebook_passed(outputs):
    checks = [text for source, text in outputs if "\ncheck(" in source]
    assert len(checks) >= 7 and all(text.startswith("passed") for text in checks)


def test_metrics_by_hand_equal_the_libraries(outputs):
    text = the_output_of(outputs, "sacrebleu.corpus_bleu")
    assert len(re.findall(r"yes", text)) == 2 and not re.findall(r"\bno\b", text)
    text = the_output_of(outputs, "confusion_matrix(")
    assert "agrees: True" in text and "equal to 1e-9: True" in text
    assert "'accuracy': 0.9" in the_output_of(outputs, "evaluate.combine")


def test_the_stride_changes_the_perplexity_of_the_same_model_on_the_same_texts(outputs):
    text = the_output_of(outputs, "stride=stride")
    values = [float(v) for v in re.findall(r"^ *\d+ +([\d.]+)", text, re.M)]
    assert len(set(values)) == 3 and max(values) < 1.5 * min(values)


def test_the_careless_score_depends_on_the_batch_and_the_careful_one_does_not(outputs):
    one, many = (float(v) for v in re.findall(r" ([\d.]+)%", the_output_of(outputs, "careless(size)")))
    assert one - many >= 10
    text = the_output_of(outputs, "alone = evaluation.score_labels")
    assert text.count("nats: True, same answers: True") == 3


def test_the_router_is_scored_by_team_with_the_worst_ten_rows_and_its_latency(outputs):
    assert percents(the_output_of(outputs, "router.table()"))[0] >= 80
    assert "ms a row" in the_output_of(outputs, "router.table()")
    teams = percents(the_output_of(outputs, "router.slice_table"))
    assert len(teams) == 8 and teams == sorted(teams)
    assert "the 10 worst of 576 rows" in the_output_of(outputs, "router.worst(10)")


def test_looking_twenty_times_finds_something_and_holm_takes_it_back(outputs):
    before, after = map(int, re.findall(r": (\d+)", the_output_of(outputs, "after Holm")))
    assert before >= 20 and after <= 8


def test_a_learner_that_knew_nothing_shows_the_leak_and_one_that_saw_no_row_does_not(outputs):
    text = the_output_of(outputs, "lab07-leaky")
    seen, others = zip(*([float(x) for x in re.findall(r"([\d.]+)% \[", line)] for line in
                         re.findall(r"^(?:bag of words|adapter), .*$", text, re.M)), strict=True)
    gaps = [a - b for a, b in zip(seen, others, strict=True)]  # bag of words with and without, adapter with and without
    assert len(gaps) == 4 and gaps[0] >= 15 and gaps[1] < gaps[0] / 2 and gaps[2] < gaps[0] / 2
    assert float(re.search(r"^bag of words, with the leak.*?% \[([\d.]+)%", text, re.M)[1]) > others[0]


def test_a_threshold_is_cheaper_than_the_model_alone_and_than_people_alone(outputs):
    text = the_output_of(outputs, "evaluation.cost_matrix")
    alone, chosen, people = (int(line.split()[-1].replace(",", "")) for line in text.splitlines()[-3:])
    assert chosen < alone and chosen < people


def test_the_planted_worse_model_is_stopped_by_the_gate_which_names_the_team(outputs):
    text = the_output_of(outputs, "verdict = evaluation.gate")
    assert "The gate is shut." in text
    assert re.search(r"for each label.*FAILS +return -", text)
    text = the_output_of(outputs, "candidate passes:")
    assert "candidate passes: False" in text and "itself passes: True" in text
    assert "exit code 1" in the_output_of(outputs, "done.returncode")


def test_the_card_has_the_hubs_head(outputs):
    text = the_output_of(outputs, "evaluation.model_card")
    assert text.startswith("---\n") and "model-index:" in text and "base_model: tiny-base" in text


def test_the_harness_agrees_in_every_row(outputs):
    text = the_output_of(outputs, "harness_accuracy(")
    theirs, ours = re.search(r"lm-eval ([\d.]+), ours ([\d.]+)", text).groups()
    assert theirs == ours and text.strip().endswith("True")
