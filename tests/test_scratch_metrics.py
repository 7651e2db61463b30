"""Metrics by hand against scikit-learn, sacrebleu and rouge-score on thousands of generated cases, to 1e-9."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import sacrebleu
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn import metrics as sk
from sklearn.preprocessing import MultiLabelBinarizer

from labkit.scratch import metrics as by_hand

MANY, FEWER = (settings(max_examples=n, deadline=None, database=None, derandomize=True,
                        suppress_health_check=list(HealthCheck)) for n in (1000, 300))  # what is slow, or simple
CLOSE = dict(rel=0, abs=1e-9)
WORDS = st.lists(st.sampled_from(["the", "rope", "The", "ROPE", "is", "12.5", "1,000", "re-use", "don't", "no.",
                                  "-", "&", "&amp;", "žeň", "雪", "🙂", "(ok)", "a", "a"]), max_size=12).map(" ".join)
TEXT = st.one_of(WORDS, WORDS, WORDS, st.text(max_size=30))  # also empty, unicode, line ends, repeated words
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5)
LABEL = st.sampled_from(["a", "b", "c", "ž"])
ROWS = st.one_of(st.lists(st.tuples(LABEL, LABEL), min_size=1, max_size=20),
                 st.lists(st.just(("a", "a")), min_size=1, max_size=3))  # one class only
FIELDS = ["order", "place", "date"]
RECORD = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(["1", "2", None]))
SCORER = RougeScorer(["rouge1", "rouge2", "rougeL"])


@FEWER
@given(ROWS)
def test_classes_are_scikit_learns(rows):
    truth, said = map(list, zip(*rows, strict=True))
    labels = sorted({*truth, *said})
    assert by_hand.accuracy(truth, said) == pytest.approx(sk.accuracy_score(truth, said), **CLOSE)
    assert by_hand.confusion(truth, said) == sk.confusion_matrix(truth, said, labels=labels).tolist()
    table = sk.precision_recall_fscore_support(truth, said, labels=labels, zero_division=0)
    ours = [[row[k] for row in by_hand.per_class(truth, said).values()] for k in ("precision", "recall", "f1", "rows")]
    np.testing.assert_allclose(ours, table, rtol=0, atol=1e-9)
    for average, mine in (("macro", by_hand.macro), ("micro", by_hand.micro)):
        theirs = sk.precision_recall_fscore_support(truth, said, labels=labels, average=average, zero_division=0)
        assert list(mine(truth, said).values()) == pytest.approx(theirs[:3], **CLOSE)


@FEWER
@given(ROWS)
def test_a_choice_of_classes_and_kappa_are_scikit_learns(rows):
    truth, said = map(list, zip(*rows, strict=True))
    theirs = sk.precision_recall_fscore_support(truth, said, labels=["a", "c"], average="micro", zero_division=0)
    assert list(by_hand.micro(truth, said, ["a", "c"]).values()) == pytest.approx(theirs[:3], **CLOSE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kappa = sk.cohen_kappa_score(truth, said)
    assert by_hand.kappa(truth, said) == pytest.approx(1.0 if math.isnan(kappa) else kappa, **CLOSE)


@MANY
@given(PAIRS)
@example([("", "")])
@example([("the rope", "")])
@example([("a a a a a a", "a a a a a a a a")])
@example([("Prices: 1,000.50-2; \"x\"", "prices 1,000.50 - 2 x")])
def test_bleu_is_sacrebleus(pairs):
    truth, said = map(list, zip(*pairs, strict=True))
    assert by_hand.bleu(truth, said) == pytest.approx(sacrebleu.corpus_bleu(said, [truth]).score, **CLOSE)


@MANY
@given(TEXT, TEXT)
@example("", "")
@example("the the the", "the")
@example("ž 雪", "雪")
def test_rouge_is_rouge_scores(truth, said):
    theirs = SCORER.score(truth, said)
    ours = {"rouge1": by_hand.rouge_n(truth, said, 1), "rouge2": by_hand.rouge_n(truth, said, 2),
            "rougeL": by_hand.rouge_l(truth, said)}
    for name, value in ours.items():
        assert value == pytest.approx(theirs[name].fmeasure, **CLOSE), name


@FEWER
@given(st.lists(st.tuples(RECORD, RECORD), min_size=1, max_size=6), PAIRS)
def test_entity_f1_and_exact_match_are_scikit_learns(records, texts):
    truth, said = map(list, zip(*records, strict=True))
    as_sets = [[{f"{k}={v}" for k, v in row.items() if v is not None} for row in rows] for rows in (truth, said)]
    binary = MultiLabelBinarizer(classes=[f"{k}={v}" for k in FIELDS for v in "12"])
    a, b = map(binary.fit_transform, as_sets)
    assert by_hand.entity_f1(truth, said) == pytest.approx(sk.f1_score(a, b, average="micro", zero_division=0), **CLOSE)
    assert by_hand.entity_f1(truth, said, "rows") == pytest.approx(
        sk.f1_score(a, b, average="samples", zero_division=1), **CLOSE)
    a, b = map(list, zip(*texts, strict=True))
    assert by_hand.exact_match(a, b) == pytest.approx(sk.accuracy_score(a, b), **CLOSE)


@FEWER
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30), st.integers(1, 15))
def test_bins_of_calibration_hold_every_row_once_and_agree_with_numpy(rows, bins):
    confidence, right = map(list, zip(*rows, strict=True))
    each = by_hand.calibration_bins(confidence, right, bins)
    assert sum(b["rows"] for b in each) == len(rows)
    c, r = np.array(confidence), np.array(right, float)
    place = np.clip(np.ceil(c * bins).astype(int) - 1, 0, bins - 1)
    gaps = [abs(c[place == k].mean() - r[place == k].mean()) * (place == k).mean() for k in set(place.tolist())]
    assert by_hand.calibration_error(confidence, right, bins) == pytest.approx(sum(gaps), **CLOSE)


@FEWER
@given(st.lists(st.floats(-12, 0), min_size=1, max_size=40), st.text(min_size=1, max_size=20))
def test_perplexity_is_exp_of_torchs_mean_loss_and_bits_per_byte_is_its_logarithm(values, text):
    assert by_hand.perplexity(values) == pytest.approx(math.exp(-np.mean(values)), rel=1e-9)
    if text.encode("utf-8", "ignore"):
        try:
            text.encode()
        except UnicodeEncodeError:
            return
        assert math.log2(by_hand.byte_perplexity(values, text)) == pytest.approx(
            by_hand.bits_per_byte(values, text), abs=1e-9)


@FEWER
@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_windows_count_every_token_once_and_are_never_wider_than_asked(length, width, data):
    stride = data.draw(st.integers(1, width))
    seen = list(by_hand.windows(length, width, stride))
    counted = [place for begin, end, first in seen for place in range(first, end)]
    assert counted == list(range(length))
    assert all(0 <= begin <= first < end <= length and end - begin <= width for begin, end, first in seen)
    assert all(first - begin >= min(width - stride, first) for begin, end, first in seen)  # enough context
