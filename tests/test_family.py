"""Every kind of adapter by one name: it starts near the base, trains alone, and comes back from disk as it was."""

import pytest
import torch

from labkit import inbox, models, relatives
from labkit.adapters import architectures, family
from labkit.data import ticket_task
from labkit.errors import LabError

IDS = torch.arange(4, 24).reshape(2, 10)
EACH = pytest.mark.parametrize("kind", family.KINDS)


def logits(model):
    with torch.no_grad(), models.quiet():
        return model.eval()(input_ids=IDS, use_cache=False).logits[:, -IDS.shape[1] :]


@pytest.fixture(scope="module")
def letters():
    return ticket_task("intent").train.select(range(8))


@EACH
def test_it_learns_without_moving_the_base_and_comes_back_from_disk_as_it_was(kind, letters, tmp_path):
    base, tokenizer = models.load("tiny")
    start = logits(base)
    model = family.attach(base, kind, rank=4, width=8, virtual=4)
    if kind not in ("prompt", "prefix"):  # those put something in front at once
        torch.testing.assert_close(logits(model), start, atol=1e-4, rtol=0)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    losses = relatives.train(model, tokenizer, letters, steps=4, batch_size=8, learning_rate=1e-2)
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    size = family.save(model, tmp_path)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 4 * trained <= size < 4 * trained * (2 if kind == "pissa" else 1) + 40_000
    if kind != "pissa":  # which has taken a part of W away: only `finetune` knows how it began
        torch.testing.assert_close(logits(family.load(models.load("tiny")[0], tmp_path)), logits(model), atol=1e-4,
                                   rtol=0)


def test_a_model_that_is_frozen_whole_is_refused_before_it_is_trained(letters):
    base, tokenizer = models.load("tiny")
    with pytest.raises(LabError, match="every parameter of this model is frozen"):
        relatives.train(base.requires_grad_(False), tokenizer, letters, steps=1, batch_size=8, learning_rate=1e-3)


def test_labels_are_picked_alike_by_their_first_token_and_whole():
    from labkit import evaluation

    base, tokenizer = models.load("tiny")
    task, prompts = ticket_task("tone"), inbox.held("tone", every=8)["prompt"]
    assert relatives.pick(base, tokenizer, prompts, task.labels) == evaluation.classify(
        base, tokenizer, prompts, task.labels)


def test_labels_that_begin_alike_and_unknown_kinds_are_refused():
    base, tokenizer = models.load("tiny")
    with pytest.raises(LabError, match="begin with the same token"):
        relatives.pick(base, tokenizer, ["x"], ["stock", "stock taking"])
    with pytest.raises(LabError, match="no adapter of the kind 'ia4'"):
        family.attach(base, "ia4")
    with pytest.raises(LabError, match="no architecture 'Falcon'"):
        architectures.small("Falcon")
    with pytest.raises(LabError, match="no task 'mood' in the inbox"):
        inbox.train("mood")


def test_the_letters_of_the_inbox_are_one_of_each_family_and_the_same_for_every_task():
    tickets = inbox.tickets()
    assert len(set(tickets["family"])) == len(tickets) == 96
    assert {tuple(inbox.held(task, every=3)["id"]) for task in inbox.TASKS} == {tuple(inbox.tickets(3)["id"])}


def test_a_summary_and_a_reply_are_right_where_they_name_product_and_team():
    tickets = inbox.tickets(every=12)
    for task in ("summary", "reply"):
        named = inbox.names(task, tickets, tickets[task][:])
        assert [score.value for score in named.values()] == [1.0, 1.0]
        shifted = [*tickets[task][1:], tickets[task][0]]
        assert all(score.value < 1 for score in inbox.names(task, tickets, shifted).values())
