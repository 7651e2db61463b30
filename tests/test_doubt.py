"""Differences, intervals, leaks, calibration and money: figures that are known beforehand."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import binomtest

from labkit import evaluation
from labkit.errors import LabError
from labkit.evaluation import holm, mcnemar, ngram_overlap, paired_bootstrap, rows_needed

rng = np.random.default_rng(0)


def test_the_paired_interval_is_narrower_than_either_score_where_models_fail_on_the_same_rows():
    a = (rng.random(400) < 0.8).astype(float)
    b = np.where(rng.random(400) < 0.3, 1.0, a)
    d = paired_bootstrap(a, b)
    low, high = evaluation.interval(list(a))
    assert d.clear and d.value == pytest.approx(b.mean() - a.mean()) and d.high - d.low < 0.8 * (high - low)


def test_the_paired_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        g = np.random.default_rng(seed)
        a, b = g.random(150) < 0.7, g.random(150) < 0.75
        d = paired_bootstrap(a, b, draws=300, seed=seed)
        covered += d.low <= 0.05 <= d.high
    assert 180 <= covered <= 199


def test_families_make_a_paired_interval_wide_and_models_that_never_differ_cannot_be_told_apart():
    a, b = rng.random(40) < 0.6, rng.random(40) < 0.7
    wide = paired_bootstrap(np.repeat(a, 6), np.repeat(b, 6), list(np.repeat(np.arange(40), 6)))
    tight = paired_bootstrap(np.repeat(a, 6), np.repeat(b, 6))
    assert wide.high - wide.low > 2 * (tight.high - tight.low)
    same = paired_bootstrap([1, 0, 1], [1, 0, 1])
    assert (same.value, same.low, same.high, same.p, same.clear) == (0, 0, 0, 1, False)


def test_unequal_rows_are_refused():
    with pytest.raises(LabError, match="one each for the same rows"):
        paired_bootstrap([1.0], [1.0, 0.0])


def test_mcnemar_is_the_exact_binomial_test_on_rows_that_differ():
    a, b = [1] * 30 + [1] * 9 + [0] * 2 + [0] * 5, [1] * 30 + [0] * 9 + [1] * 2 + [0] * 5
    assert mcnemar(a, b) == (9, 2, pytest.approx(binomtest(9, 11).pvalue))
    assert mcnemar([True], [True]) == (0, 0, 1.0)


def test_rows_needed_is_the_textbooks_number_and_is_enough_in_a_simulation():
    assert rows_needed(0.10, 0.50) == 388  # 385 to 388 by tables of two proportions, 80 % power
    n = rows_needed(0.10, 0.70, differ=0.2)
    seen = 0
    for seed in range(300):
        u = np.random.default_rng(seed).random(n)
        only_a, only_b = (u < 0.05).sum(), ((u >= 0.05) & (u < 0.20)).sum()
        z = (only_b - only_a) / np.sqrt(only_a + only_b)
        seen += z > NormalDist().inv_cdf(0.975)
    assert 0.73 < seen / 300 < 0.88


@pytest.mark.parametrize("arguments", [(0.02, 0.99), (0.0, 0.5), (0.05, 0.5, 0.01)])
def test_impossible_differences_are_refused(arguments):
    with pytest.raises(LabError):
        rows_needed(*arguments)


def test_holm_keeps_the_chance_of_any_false_alarm_at_five_per_cent():
    alarms = sum(min(holm(list(p))) < 0.05 for p in rng.random((2000, 10)))
    assert alarms / 2000 < 0.065 and holm({"a": 0.5, "b": 0.01}) == {"a": 0.5, "b": 0.02}


def test_a_reworded_row_is_found_in_its_training_text_and_a_clean_one_is_not():
    train = ["My parcel with the blue rope has not come, and I am waiting since the second of May.", "Žeň je tu dnes"]
    found = ngram_overlap(train, ["my PARCEL with the blue rope has not come and I am waiting since June",
                                  "A tent for four people is what we need", "žeň je tu", ""], n=5)
    assert [f.row for f in found] == [0, None, 1, None]
    assert found[0].share > 0.8 and found[1].share == 0 and found[2].share == 1
    with pytest.raises(LabError):
        ngram_overlap(train, train, n=0)


def test_temperature_mends_a_model_that_is_too_sure_and_changes_no_answer():
    logits = rng.normal(size=(600, 4))
    truth = [int(g.choice(4, p=np.exp(row) / np.exp(row).sum())) for g, row in
             zip([rng] * 600, logits, strict=True)]
    assert evaluation.temperature(logits * 3, truth) == pytest.approx(3, rel=0.25)


def test_money_counts_prices_people_and_weeks_and_the_cheapest_threshold_wins():
    costs = evaluation.cost_matrix(["a", "b"], 10, {("a", "b"): 30})
    assert costs.tolist() == [[0, 30], [10, 0]]
    plans = evaluation.money([0, 1, 0], [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], costs, by_hand=1, a_week=3,
                             thresholds=[0.0, 0.7, 0.85, 1.01])
    assert [p.a_week for p in plans] == pytest.approx([40, 31, 2, 3])
    assert evaluation.cheapest(plans).threshold == 0.85 and plans[1].by_hand == pytest.approx(1 / 3)
    with pytest.raises(LabError, match="no label"):
        evaluation.cost_matrix(["a"], 1, {("a", "z"): 3})
