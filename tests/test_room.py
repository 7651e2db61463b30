"""The cache with room: the same keys, values and texts as transformers' own, and no copy at each token."""

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

from labkit import evaluation, inbox, models
from labkit.adapters import architectures, family
from labkit.data.template import ENTITIES
from labkit.evaluation.answering import _written
from labkit.evaluation.room import SPARE, roomy_cache


@pytest.fixture(scope="module")
def base():
    return models.load("tiny")


def test_it_holds_what_transformers_own_cache_holds_to_the_bit(base):
    model, _ = base
    mine, theirs = roomy_cache(model), DynamicCache(config=model.config)
    ids = torch.randint(4, 2000, (3, 20 + 2 * SPARE))
    with torch.no_grad():
        for part in (ids[:, :20], *ids[:, 20:].split(1, dim=1)):
            said = [model(input_ids=part, use_cache=True, cache=cache).logits for cache in (mine, theirs)]
            assert torch.equal(*said)
    assert mine.get_seq_length() == theirs.get_seq_length() == ids.shape[1]
    for left, right in zip(mine.layers, theirs.layers, strict=True):
        assert torch.equal(left.keys, right.keys) and torch.equal(left.values, right.values)


def test_a_new_token_copies_nothing_while_there_is_room(base):
    layer = roomy_cache(base[0]).layers[0]
    places = set()
    for length in (10, *[1] * SPARE):
        new = torch.randn(2, 3, length, 64)
        layer.update(new, -new)
        places.add(layer.keys.data_ptr())
        assert torch.equal(layer.keys[..., -length:, :], new) and torch.equal(layer.values[..., -length:, :], -new)
    assert len(places) == 1
    layer.update(new, -new)  # one more than it has room for
    assert layer.keys.data_ptr() not in places and layer.get_seq_length() == 11 + SPARE


def test_it_stays_right_after_tokens_are_cropped_and_rows_chosen(base):
    mine, theirs = roomy_cache(base[0]).layers[0], DynamicCache(config=base[0].config).layers[0]
    first, second = torch.randn(4, 3, 9, 64), torch.randn(2, 3, 2, 64)
    for layer in (mine, theirs):
        layer.update(first, first)
        layer.crop(-3)
        layer.batch_select_indices(torch.tensor([2, 0]))
        layer.update(second, second)
    assert torch.equal(mine.keys, theirs.keys) and torch.equal(mine.values, theirs.values)


@pytest.mark.parametrize("name", architectures.NAMES)
def test_every_architecture_writes_the_same_with_it(name):
    model = architectures.small(name).eval()
    ids, mask = torch.randint(4, 60, (3, 12)), torch.ones(3, 12, dtype=torch.long)
    mask[1, :5] = 0
    greedy = GenerationConfig(max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=None)
    asked = dict(input_ids=ids, attention_mask=mask, generation_config=greedy)
    room = roomy_cache(model)
    sliding = getattr(model.config, "sliding_window", None) and getattr(model.config, "use_sliding_window", True)
    assert (room is None) == bool(sliding)
    if room:
        assert torch.equal(model.generate(**asked), model.generate(**asked, cache=room))


def test_virtual_tokens_keep_pefts_own_cache(base):
    fresh, tokenizer = models.load("tiny")
    model = family.attach(fresh, "prefix")
    assert roomy_cache(model) is None
    assert evaluation.generate(model, tokenizer, inbox.held("reply")["prompt"][:2], 5)


@pytest.mark.parametrize("name", architectures.NAMES)
def test_rows_that_end_leave_the_batch_and_all_answers_stay_what_they_were(name):
    model, end = architectures.small(name).eval(), 3
    ids, mask = torch.randint(4, 60, (24, 9), generator=torch.Generator().manual_seed(1)), torch.ones(24, 9).long()
    mask[1, :5] = 0
    greedy = GenerationConfig(max_new_tokens=24, do_sample=False, pad_token_id=0, eos_token_id=end)

    def ends_by_its_prompt(_, so_far):  # after 0 to 27 tokens, which is beyond the limit for some
        return [end] if len(so_far) - 9 >= int(so_far[8]) // 2 - 2 else list(range(4, 60))

    own, read = {"prefix_allowed_tokens_fn": ends_by_its_prompt}, []
    said = model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy, **own)[:, 9:].tolist()
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda module, args: read.append(args[0].shape))
    rows = dict(_written(model, ids, mask, greedy, own))
    hook.remove()
    assert sorted(rows) == list(range(24)) and len({answer.index(end) for answer in said if end in answer}) > 8
    for row, answer in rows.items():
        wanted = said[row][: said[row].index(end) + 1] if end in said[row] else said[row]
        assert answer[: len(wanted)] == wanted and set(answer[len(wanted) :]) <= {0}
    if roomy_cache(model):
        assert read[0][0] == 24 and read[-1][0] <= 12, "no row has left"
        assert all(shape[1] == 1 for shape in read[1:]), "the texts were read again"


def test_a_rule_for_tokens_follows_its_row_when_others_leave(base):
    form = evaluation.JsonObject(base[1], ENTITIES, most=12)
    prompts = inbox.held("entities", every=12)["prompt"]
    together = evaluation.generate(*base, prompts, 100, allowed=form)
    assert len({len(said) for said in together}) > 2
    assert together == [evaluation.generate(*base, [prompt], 100, allowed=form)[0] for prompt in prompts]
