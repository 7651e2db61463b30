"""Constrained decoding on tiny-base: whatever the model would rather say, its answer has the form."""

import json
import random

import pytest

from labkit import evaluation, inbox, models
from labkit.data.template import ENTITIES, LABELS
from labkit.errors import LabError


@pytest.fixture(scope="module")
def base():
    return models.load("tiny")


@pytest.fixture(scope="module")
def form(base):
    return evaluation.JsonObject(base[1], ENTITIES)


def drawn(form, seed, most=400):
    """An answer of tokens drawn at random from those that are allowed."""
    rng, said = random.Random(seed), []
    while len(said) < most and (allowed := form(said)) != [form.end]:
        said.append(rng.choice(allowed))
    return said


def test_whatever_is_chosen_comes_out_as_json_with_the_keys_in_their_order(base, form):
    for seed in range(40):
        read = json.loads(base[1].decode(drawn(form, seed)))
        assert list(read) == list(ENTITIES)
        assert all(value is None or len(value) <= form.most + 12 for value in read.values())


@pytest.mark.parametrize("value", ["Kirrin mat", "Žilina", None, "6 October", ""])
def test_every_token_of_a_sound_answer_is_allowed_where_it_stands(base, form, value):
    text = json.dumps(dict.fromkeys(ENTITIES, value), ensure_ascii=False)
    ids = base[1](text, add_special_tokens=False)["input_ids"]
    assert all(token in form(ids[:n]) for n, token in enumerate(ids))
    assert form(ids) == form([*ids, form.end]) == [form.end]


def test_the_base_writes_json_that_parses_when_nothing_else_is_allowed(base, form):
    prompts = inbox.held("entities", every=16)["prompt"]
    said = evaluation.generate(*base, prompts, 220, allowed=form)
    assert all(list(json.loads(answer)) == list(ENTITIES) for answer in said)
    assert said != evaluation.generate(*base, prompts, 60)


def test_an_answer_of_a_list_is_one_of_them_whole(base):
    one_of = evaluation.OneOf(base[1], ["stock", "stock taking", "return"])
    said = evaluation.generate(*base, inbox.held("tone", every=16)["prompt"], 12, allowed=one_of)
    assert set(said) <= {"stock", "stock taking", "return"}


def test_a_constrained_answer_is_the_likeliest_of_those_allowed(base):
    """Labels of one token each: what greedy decoding takes among them is what the logits say."""
    prompts = inbox.held("tone", every=8)["prompt"]
    said = evaluation.generate(*base, prompts, 4, allowed=evaluation.OneOf(base[1], LABELS["tone"]))
    assert said == evaluation.classify(*base, prompts, LABELS["tone"])


@pytest.mark.parametrize("keys", [(), ('a"b',), ("a\n",), ("a\\",)])
def test_keys_that_cannot_be_written_are_refused(base, keys):
    with pytest.raises(LabError, match="cannot be the keys"):
        evaluation.JsonObject(base[1], keys)


def test_no_answers_to_choose_from_are_refused(base):
    with pytest.raises(LabError, match="no answers"):
        evaluation.OneOf(base[1], [])
