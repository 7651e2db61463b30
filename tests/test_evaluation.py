"""Scores: figures against scikit-learn, intervals, and likelihoods that do not depend on how they were computed."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from labkit import evaluation, models
from labkit.data.encode import encode_completion, encode_prompt
from labkit.errors import LabError
from labkit.evaluation import accuracy, interval, macro_f1, per_class, score_labels, wilson

rng = np.random.default_rng(0)
TRUTH = list(rng.choice(["anger", "joy", "sadness"], 200, p=[0.6, 0.3, 0.1]))
SAID = [
    t if keep else str(s)
    for t, keep, s in zip(TRUTH, rng.random(200) < 0.6, rng.choice(["anger", "joy", "sadness", "?"], 200), strict=True)
]
NAMES = ["anger", "joy", "sadness"]

PROMPTS = [
    "Hello",
    "Which tone has this ticket?\n\nThe stove came broken, and nobody answers the telephone!",
    [
        {"role": "user", "content": "Good day"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Where is order 40121? It was to be here by Monday."},
    ],
    "What is written on the rope in the second box of order 99120, and who put it there in the first place?",
]
LABELS = ["joy", "joy and anger", "joy and sadness", "neutral", "a very small sadness, number 123"]


# -- figures ---------------------------------------------------------------------------------------------------------


def test_accuracy_macro_f1_and_classes_are_scikit_learns():
    assert accuracy(TRUTH, SAID).value == pytest.approx(accuracy_score(TRUTH, SAID), abs=1e-12)
    expected = f1_score(TRUTH, SAID, labels=NAMES, average="macro", zero_division=0)
    assert macro_f1(TRUTH, SAID).value == pytest.approx(expected, abs=1e-12)
    figures = precision_recall_fscore_support(TRUTH, SAID, labels=NAMES, zero_division=0)
    for i, row in enumerate(per_class(TRUTH, SAID)):
        assert row["class"] == NAMES[i]
        assert [row[k] for k in ("precision", "recall", "f1", "rows")] == [f[i] for f in figures]


def test_a_class_that_is_never_said_and_a_word_that_is_no_class_count_as_wrong():
    truth, said = ["a", "a", "b", "b"], ["a", "a", "a", "none of these"]
    assert macro_f1(truth, said).value == pytest.approx((0.8 + 0) / 2)
    assert accuracy(truth, said).value == 0.5
    assert [row["f1"] for row in per_class(truth, said)] == [pytest.approx(0.8), 0]


@pytest.mark.parametrize(
    "right, rows, low, high",
    [
        (81, 263, 0.2553, 0.3662),  # the example of Newcombe (1998), table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(right, rows, low, high):
    values = [1.0] * right + [0.0] * (rows - right)
    assert interval(values) == pytest.approx((low, high), abs=5e-5)
    assert wilson(right / rows, rows) == interval(values)


def test_the_interval_over_groups_is_wider_where_rows_are_doubles():
    once = list((rng.random(40) < 0.7).astype(float))
    values, groups = once * 8, list(range(40)) * 8
    low, high = interval(values, groups)
    narrow = interval(values)
    assert high - low > 2 * (narrow[1] - narrow[0])
    alone = interval(once)  # 8 doubles of a row are worth one
    assert high - low == pytest.approx(alone[1] - alone[0], abs=0.03)
    wide, tight = (macro_f1(TRUTH * 8, SAID * 8, groups=g) for g in (list(range(200)) * 8, None))
    assert wide.high - wide.low > 2 * (tight.high - tight.low) and wide.value == tight.value


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_all_rows_are_alike_the_interval_over_groups_still_doubts(value):
    groups = ["a", "a", "a", "b", "c", "c"]
    assert interval([value] * 6, groups) == wilson(value, 3)
    truth = list("xyxyxy")
    said = truth if value else ["z"] * 6
    score = macro_f1(truth, said, groups)
    assert (score.value, (score.low, score.high)) == (value, wilson(value, 3))


def test_a_mean_of_parts_lies_in_its_bootstrap_interval_and_the_seed_decides():
    values = list(rng.random(60))
    score = evaluation.mean_score("ROUGE-L", values)
    assert score.low < score.value < score.high and score.rows == 60
    assert interval(values, seed=1) == interval(values, seed=1) != interval(values, seed=2)


def test_better_is_said_only_where_intervals_do_not_touch():
    base, tuned = accuracy(["a"] * 40, ["a"] * 10 + ["b"] * 30), accuracy(["a"] * 40, ["a"] * 38 + ["b"] * 2)
    near = accuracy(["a"] * 40, ["a"] * 14 + ["b"] * 26)
    assert tuned.above(base) and not base.above(tuned) and not near.above(base)
    assert str(base) == "25.0% [14.2%, 40.2%]"


def test_nothing_to_score_is_refused():
    with pytest.raises(LabError, match="no rows to score"):
        accuracy([], [])
    with pytest.raises(ValueError):
        accuracy(["a", "b"], ["a"])


def test_rouge_l_is_the_shared_order_of_words():
    score = evaluation.rouge_l(["the cat sat down", "yes"], ["the cat lay down", "yes"])
    assert score.value == pytest.approx((0.75 + 1) / 2)


def test_entities_are_scored_by_parsing_by_field_and_by_what_was_asked_and_answered():
    truth = [{"order": "1", "place": None}, {"order": "2", "place": "Brno"}, {"order": None, "place": None}]
    said = ['{"order": "1", "place": "Graz"}', "no JSON", '{"order": null}']
    scores = {s.metric: s for s in evaluation.entity_scores([json.dumps(t) for t in truth], said)}
    assert scores["parses"].value == pytest.approx(2 / 3)
    assert scores["entity F1"].value == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert (scores["exact order"].value, scores["exact order"].rows) == (0.5, 2)
    assert (scores["exact place"].value, scores["exact place"].rows) == (0, 1)


def test_a_field_that_no_row_has_gets_no_score_of_its_own():
    scores = evaluation.entity_scores(['{"order": "1", "place": null}', '{"order": "2"}'], ['{"order": "1"}', "[]"])
    assert [s.metric for s in scores] == ["parses", "entity F1", "exact order"]
    assert [s.value for s in scores] == [0.5, 0.5, 0.5]


# -- what costs nothing ----------------------------------------------------------------------------------------------


def test_the_majority_is_the_commonest_answer_said_every_time():
    assert evaluation.majority(["a", "b", "b"], 4) == ["b"] * 4


def test_a_bag_of_words_learns_words_and_pairs_of_words():
    texts = ["the tent is torn", "torn again", "it is torn", "not torn", "not torn at all", "it is not torn"] * 3
    labels = (["bad"] * 3 + ["good"] * 3) * 3
    assert evaluation.bag_of_words(texts, labels, ["again torn", "surely not torn"]) == ["bad", "good"]


def test_the_nearest_answer_is_that_of_the_row_with_the_most_similar_words():
    texts, answers = ["where is my parcel", "the stove is broken", "how do I wash wool"], ["late", "sorry", "cold"]
    asked = ["my parcel, where is it?", "wash wool", "a broken stove"]
    assert evaluation.nearest_answer(texts, answers, asked) == ["late", "cold", "sorry"]


def test_groups_are_the_families_where_there_are_any():
    assert evaluation.groups_of(Dataset.from_list([{"family": "f1"}, {"family": "f2"}])) == ["f1", "f2"]
    assert evaluation.groups_of(Dataset.from_list([{"label": "joy"}])) is None


# -- with a model ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["tiny", pytest.param("small", marks=pytest.mark.real)])
def base(request):
    if request.param == "small":
        from labkit.fetch import fetch

        fetch("small")
    return models.load(request.param)


@pytest.fixture(scope="module")
def tiny():
    return models.load("tiny")


def one_by_one(model, tokenizer, prompts, labels):
    """Each label behind each prompt, whole, alone, without padding and without a cache."""
    scores = torch.empty(len(prompts), len(labels))
    for i, prompt in enumerate(prompts):
        for j, label in enumerate(labels):
            asked, answer = encode_prompt(tokenizer, prompt), encode_completion(tokenizer, label)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([asked + answer]), use_cache=False).logits[0].float()
            said = logits[len(asked) - 1 : -1].log_softmax(-1)
            scores[i, j] = said[range(len(answer)), answer].sum()
    return scores


def test_a_label_scores_as_it_does_alone_in_any_batch_with_padding_and_without(base):
    model, tokenizer = base
    ids = [encode_completion(tokenizer, label) for label in LABELS]
    assert len({len(i) for i in ids}) > 2 and len({i[0] for i in ids}) < len(ids)  # several tokens; a shared first one
    assert len({len(encode_prompt(tokenizer, prompt)) for prompt in PROMPTS}) == len(PROMPTS)  # so there is padding
    expected = one_by_one(model, tokenizer, PROMPTS, LABELS)
    assert expected.std() > 1
    for batch_size in (1, 3, 64):
        scores = score_labels(model, tokenizer, PROMPTS, LABELS, batch_size)
        torch.testing.assert_close(scores, expected, atol=2e-3, rtol=1e-4)


def test_a_label_scores_the_same_whichever_labels_stand_beside_it(base):
    model, tokenizer = base
    there = score_labels(model, tokenizer, PROMPTS[:2], LABELS)
    back = score_labels(model, tokenizer, PROMPTS[:2], LABELS[::-1])
    torch.testing.assert_close(there, back.flip(1), atol=1e-4, rtol=1e-5)


def test_a_scored_model_stays_in_the_mode_it_was_in_and_dropout_is_off(tiny):
    from labkit.adapters import attach_lora

    model = attach_lora(models.load("tiny")[0], 4, dropout=0.5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.05
    model.train()
    first = score_labels(model, tiny[1], PROMPTS, LABELS[:2])
    assert torch.equal(first, score_labels(model, tiny[1], PROMPTS, LABELS[:2]))
    assert model.training


def test_classify_takes_the_likeliest_label(tiny):
    said = evaluation.classify(*tiny, PROMPTS, LABELS)
    assert said == [LABELS[i] for i in one_by_one(*tiny, PROMPTS, LABELS).argmax(1)]


@pytest.fixture(scope="module")
def parrot():
    """tiny-base, all weights trained for a moment on two answers, so that it says them and stops."""
    from labkit.data.encode import collate, encode, pad_id

    model, tokenizer = models.load("tiny")
    answers = ["The rope is in the red box.", "sadness"]
    rows = encode(
        Dataset.from_list([{"prompt": p, "completion": a} for p, a in zip(PROMPTS[::3], answers, strict=True)]),
        tokenizer,
    )
    batch = collate(rows.to_list(), pad_id(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = model(**batch).loss
        if loss < 0.02:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), tokenizer, answers


def test_an_answer_ends_with_the_end_of_turn_in_any_batch_and_the_limit_cuts_it(parrot):
    model, tokenizer, answers = parrot
    for batch_size in (1, 2):
        assert evaluation.generate(model, tokenizer, PROMPTS[::3], 60, batch_size) == answers
    cut = evaluation.generate(model, tokenizer, PROMPTS[::3], 2)
    assert answers[0].startswith(cut[0]) and len(cut[0]) < len(answers[0])


@pytest.mark.real
def test_smollm2_answers_and_stops_at_its_end_of_turn():
    from labkit.fetch import fetch

    fetch("small")
    model, tokenizer = models.load("small")
    asked = ["What is the capital of France?", "Say yes."]
    together = evaluation.generate(model, tokenizer, asked, 64)
    assert "Paris" in together[0] and "<|im_" not in "".join(together)
    assert len(tokenizer(together[0])["input_ids"]) < 60  # it stopped by itself
    assert together == evaluation.generate(model, tokenizer, asked, 64, batch_size=1)


def test_a_class_that_a_draw_leaves_out_does_not_pull_the_interval_of_macro_f1_down():
    score = macro_f1(["a"] * 58 + ["b"] * 2, ["a"] * 57 + ["c"] + ["b"] * 2)
    assert score.value > 0.99 and score.low > 0.95


def test_answers_are_greedy_whatever_the_model_s_own_generation_settings_say(tmp_path):
    model, tokenizer = models.load("tiny")
    prompt = "Repeat: the rope the rope the rope the rope"
    plain = evaluation.generate(model, tokenizer, [prompt], 24)
    model.generation_config.update(repetition_penalty=1.5, do_sample=True, temperature=2.0)
    assert evaluation.generate(model, tokenizer, [prompt], 24) == plain


def test_the_f1_of_one_class_is_scikit_learn_s_and_its_gain_is_drawn_in_pairs():
    rng = np.random.default_rng(0)
    truth, before = (rng.choice(["a", "b", "c"], 90).tolist() for _ in range(2))
    better = [t if t == "b" and i % 2 else s for i, (t, s) in enumerate(zip(truth, before, strict=True))]
    groups = [i // 6 for i in range(90)]
    want = {name: f1_score(truth, said, labels=["b"], average="macro")
            for name, said in {"old": before, "new": better}.items()}
    assert evaluation.class_f1(truth, before, "b", groups).value == pytest.approx(want["old"])
    gain = evaluation.class_f1(truth, better, "b", groups, before=before)
    assert gain.value == pytest.approx(want["new"] - want["old"]) and 0 < gain.low <= gain.value <= gain.high
    none = evaluation.class_f1(truth, before, "b", groups, before=before)
    assert (none.value, none.low, none.high) == (0, 0, 0)
