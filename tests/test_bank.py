"""A bank of adapters on tiny-base: switching, mixed batches, mixing, merging, saving, and what is refused with why."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from labkit import adapters, models
from labkit.adapters import Bank, Router
from labkit.errors import LabError

IDS = torch.arange(4, 24).reshape(2, 10)
RANK = 4


def adapter(folder, seed, rank=RANK, variant="lora"):
    """An adapter on disk, as if trained: B, which starts at zero, is filled."""
    model = adapters.attach_lora(models.load("tiny")[0], rank, 2 * rank, seed=seed, variant=variant)
    torch.manual_seed(seed + 10)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.05 * torch.randn_like(parameter)
    adapters.save(model, folder)
    return folder


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    made = {name: adapter(folder / name, seed) for seed, name in enumerate(("tone", "summary"))}
    return made | {"wide": adapter(folder / "wide", 5, rank=8), "dora": adapter(folder / "dora", 6, variant="dora")}


@pytest.fixture
def bank(disk):
    return filled(disk)


def filled(disk, names=("tone", "summary")):
    made = Bank(models.load("tiny")[0])
    for name in names:
        made.add(name, disk[name])
    return made


def logits(model, ids=IDS, **more):
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


def alone(disk, name):
    return logits(adapters.load(models.load("tiny")[0], disk[name]))


def hurt(folder, to, change):
    """A copy of an adapter whose weights were changed."""
    to = shutil.copytree(folder, to)
    file = to / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return to


# -- switching -------------------------------------------------------------------------------------------------------


def test_each_adapter_of_a_bank_answers_as_it_does_alone_and_none_as_the_base(bank, disk):
    assert bank.names == ["tone", "summary"] and bank.active is None
    base = logits(models.load("tiny")[0])
    assert torch.equal(logits(bank.model), base)
    for name in bank.names:
        bank.use(name)
        torch.testing.assert_close(logits(bank.model), alone(disk, name), atol=1e-5, rtol=0)
        assert (logits(bank.model) - base).abs().max() > 0.05
    bank.use(None)
    assert torch.equal(logits(bank.model), base)


def test_using_gives_back_what_was_active(bank):
    bank.use("tone")
    with bank.using("summary"):
        assert bank.active == "summary"
    assert bank.active == "tone"


def test_switching_opens_no_file_and_copies_no_weight(bank, disk, tmp_path, monkeypatch):
    import builtins

    before = {name: p.data_ptr() for name, p in bank.model.named_parameters()}
    opened, real = [], builtins.open
    monkeypatch.setattr(builtins, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    for name in ("tone", "summary", None, "tone"):
        bank.use(name)
    assert not opened
    assert before == {name: p.data_ptr() for name, p in bank.model.named_parameters()}


def test_one_more_adapter_costs_its_own_bytes_and_nothing_else(disk):
    bank = filled(disk, ["tone"])
    def held():
        return sum(p.numel() * p.element_size() for p in bank.model.parameters())

    before = held()
    bank.add("summary", disk["summary"])
    saved = sum(t.numel() * t.element_size() for t in load_file(disk["summary"] / "adapter_model.safetensors").values())
    assert held() - before == bank.bytes("summary") == saved


def test_what_is_taken_out_is_gone_and_the_base_is_as_it_came(bank):
    bank.use("tone")
    bank.remove("tone")
    assert bank.names == ["summary"] and bank.active is None
    bank.remove("summary")
    assert bank.names == []
    assert torch.equal(logits(bank.model), logits(models.load("tiny")[0]))


# -- a mixed batch ---------------------------------------------------------------------------------------------------


def test_a_mixed_batch_equals_the_rows_one_by_one(bank):
    ids = torch.arange(4, 44).reshape(4, 10)
    names = ["summary", None, "tone", "summary"]
    with bank.each(names) as rows:
        together = logits(bank.model, ids, adapter_names=rows)
    for i, name in enumerate(names):
        with bank.using(name) as model:
            torch.testing.assert_close(together[i], logits(model, ids[i : i + 1])[0], atol=1e-4, rtol=0)
    assert bank.active is None


def test_answers_of_a_mixed_batch_equal_those_of_one_adapter_at_a_time(bank):
    from labkit import evaluation

    tokenizer = models.load("tiny")[1]
    prompts = ["The lamp is broken, and I want another.", "Where is it?", "Thanks for the rope.", "Send it back."] * 2
    names = ["summary", None, "tone", "summary", *[None] * 4]
    with bank.each(names) as rows:
        together = evaluation.generate(bank.model, tokenizer, prompts, 30, adapter_names=rows)
    lengths = {len(tokenizer(said)["input_ids"]) for said in together}
    assert len(lengths) > 2, "all end at once: nothing is seen of rows that leave the batch"
    for prompt, name, said in zip(prompts, names, together, strict=True):
        with bank.using(name) as model:
            assert evaluation.generate(model, tokenizer, [prompt], 30) == [said]


def test_a_mixed_batch_with_dora_is_refused(disk):
    bank = filled(disk, ["tone", "dora"])
    with pytest.raises(LabError, match="dora is a DoRA adapter"), bank.each(["tone", "dora"]):
        pass


# -- mixed and merged ------------------------------------------------------------------------------------------------


def detours(bank, name):
    """(alpha / r) B A of each module."""
    return {key: m.get_delta_weight(name) for key, m in bank.model.named_modules() if name in getattr(m, "lora_A", {})}


@pytest.mark.parametrize("how", ["svd", "cat"])
def test_a_mix_at_enough_rank_is_the_weighted_sum_of_the_detours(bank, how):
    bank.mix("both", {"tone": 0.7, "summary": 0.3}, how, rank=2 * RANK)
    one, two, both = (detours(bank, name) for name in ("tone", "summary", "both"))
    for key, got in both.items():
        torch.testing.assert_close(got, 0.7 * one[key] + 0.3 * two[key], atol=1e-4, rtol=0)


def test_linear_is_not_that_sum(bank):
    bank.mix("both", {"tone": 0.5, "summary": 0.5}, "linear")
    one, two, both = (detours(bank, name) for name in ("tone", "summary", "both"))
    assert max((both[k] - 0.5 * one[k] - 0.5 * two[k]).abs().max() for k in both) > 1e-3


@pytest.mark.parametrize("how", ["linear", "ties", "dare_linear", "dare_ties"])
def test_every_way_gives_an_adapter_that_answers_with_numbers_of_its_own(bank, how):
    bank.mix("both", {"tone": 0.5, "summary": 0.5}, how)
    assert bank.names == ["tone", "summary", "both"] and bank.active is None
    bank.use("both")
    said = logits(bank.model)
    assert said.isfinite().all() and (said - logits(models.load("tiny")[0])).abs().max() > 1e-3


def test_dare_draws_the_same_for_the_same_seed_and_leaves_the_random_state_alone(bank):
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        bank.mix(name, {"tone": 0.5, "summary": 0.5}, "dare_linear", seed=seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    one, same, other = (detours(bank, name) for name in ("one", "same", "other"))
    assert all(torch.equal(one[k], same[k]) for k in one) and any(not torch.equal(one[k], other[k]) for k in one)


def test_a_merged_adapter_answers_as_the_bank_does_and_leaves_the_bank_alone(bank):
    merged = bank.merge("summary")
    assert bank.active is None and bank.names == ["tone", "summary"]
    assert not any("lora" in name for name, _ in merged.named_modules())
    with bank.using("summary") as model:
        torch.testing.assert_close(logits(merged), logits(model), atol=1e-3, rtol=0)


# -- saved and loaded ------------------------------------------------------------------------------------------------


def test_a_saved_bank_comes_back_whole_with_a_mix_in_it(bank, tmp_path):
    bank.mix("both", {"tone": 0.5, "summary": 0.5}, "svd")
    bank.use("both")
    bank.save(tmp_path / "kept")
    again = Bank.load(models.load("tiny")[0], tmp_path / "kept")
    assert (again.names, again.active) == (bank.names, "both")
    for name in bank.names:
        with bank.using(name) as one, again.using(name) as two:
            torch.testing.assert_close(logits(two), logits(one), atol=1e-4, rtol=0)  # an svd's strides round otherwise
        one, two = detours(bank, name), detours(again, name)
        assert all(torch.allclose(two[key], one[key], atol=1e-6) for key in one)


def test_an_adapter_called_default_is_kept_too(disk, tmp_path):
    bank = Bank(models.load("tiny")[0])
    bank.add("default", disk["tone"])
    bank.save(tmp_path / "kept")
    assert Bank.load(models.load("tiny")[0], tmp_path / "kept").names == ["default"]


# -- what is refused -------------------------------------------------------------------------------------------------


def refusal(bank, name, folder):
    """The sentence; the bank must be as it was, whatever was refused."""
    names, active, said = bank.names, bank.active, logits(bank.model)
    with pytest.raises(LabError) as caught:
        bank.add(name, folder)
    assert (bank.names, bank.active) == (names, active) and torch.equal(logits(bank.model), said)
    return str(caught.value)


@pytest.mark.parametrize("first", [True, False], ids=["into an empty bank", "beside others"])
@pytest.mark.parametrize("harm, says", [
    (lambda w: {k: v for i, (k, v) in enumerate(sorted(w.items())) if i}, "lacks 1 of its"),
    (lambda w: {k: v[:2].clone() if "lora_A" in k else v[:, :2].clone() for k, v in w.items()},
     "its config says rank 4, and its weights have rank 2"),
    (lambda w: {k: v[:, :5].clone() if "lora_A" in k else v for k, v in w.items()}, "does not fit this base model"),
], ids=["missing weights", "another rank", "another width"])
def test_a_damaged_or_foreign_adapter_is_refused_with_the_reason(disk, tmp_path, harm, says, first):
    bank = Bank(models.load("tiny")[0]) if first else filled(disk, ["summary"])
    assert says in refusal(bank, "tone", hurt(disk["tone"], tmp_path / "hurt", harm))
    bank.add("tone", disk["tone"])  # and the right one still goes in


def test_an_adapter_whose_run_names_other_weights_of_the_base_is_refused(bank, disk, tmp_path):
    shutil.copytree(disk["tone"], tmp_path / "run" / "adapter")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"settings": {"base": "0123456789abcdef"}}))
    for folder in (tmp_path / "run", tmp_path / "run" / "adapter"):
        said = refusal(bank, "other", folder)
        assert "another base" in said and "0123456789abcdef" in said and bank.identity in said


def test_a_bank_of_one_rank_refuses_another(disk):
    bank = Bank(models.load("tiny")[0], rank=RANK)
    bank.add("tone", disk["tone"])
    assert "this adapter has rank 8; expected rank 4" in refusal(bank, "wide", disk["wide"])


@pytest.mark.parametrize("name, says", [("tone", "already"), ("a.b", "cannot be an adapter's name"),
                                        ("__base__", "cannot be"), ("", "cannot be")])
def test_a_name_that_is_taken_or_unusable_is_refused(bank, disk, name, says):
    assert says in refusal(bank, name, disk["tone"])


@pytest.mark.parametrize("weights, how, options, says", [
    ({"tone": 1.0, "summary": 1.0}, "soup", {}, "expected linear, svd"),
    ({"tone": 1.0}, "svd", {}, "1 adapters to mix"),
    ({"tone": 1.0, "reply": 1.0}, "svd", {}, "there is no adapter 'reply'; expected tone, summary, wide"),
    ({"tone": 1.0, "wide": 1.0}, "linear", {}, "the ranks are tone 4, wide 8"),
    ({"tone": 1.0, "summary": 1.0}, "ties", {"density": 0.0}, "density 0.0"),
])
def test_a_mix_that_cannot_be_made_is_refused(disk, weights, how, options, says):
    bank = filled(disk, ("tone", "summary", "wide"))
    with pytest.raises(LabError) as caught:
        bank.mix("both", weights, how, **options)
    assert says in str(caught.value) and bank.names == ["tone", "summary", "wide"]


def test_names_that_are_not_in_the_bank_are_refused_with_those_that_are(bank):
    for ask in (bank.use, bank.remove, bank.merge, bank.bytes):
        with pytest.raises(LabError, match="there is no adapter 'reply'; expected tone, summary"):
            ask("reply")
    with pytest.raises(LabError, match="the bank is empty"), Bank(models.load("tiny")[0]).each(["tone"]):
        pass


# -- the router ------------------------------------------------------------------------------------------------------


def test_the_router_sends_most_unseen_tickets_where_their_intent_belongs():
    from labkit import data

    train, test = data.read("tickets/train"), data.read("tickets/test")
    routes = {intent: f"{intent}-adapter" for intent in set(train["intent"])}
    sent = Router(train["text"][:], train["intent"][:], routes)(test["text"][:])
    right = sum(a == routes[b] for a, b in zip(sent, test["intent"], strict=True)) / len(sent)
    assert right >= 0.7  # a bag of words, one in six by chance


def test_the_router_takes_no_route_where_it_is_not_sure():
    router = Router(["send it back"] * 3 + ["where is it"] * 3, ["a"] * 3 + ["b"] * 3, {"a": "x", "b": "y"}, 0.8)
    assert router(["send it back", "lamp"]) == ["x", None]


def test_a_router_without_a_route_for_an_intent_is_refused():
    with pytest.raises(LabError, match="no route for b"):
        Router(["one", "two"], ["a", "b"], {"a": "x"})


# -- the widget ------------------------------------------------------------------------------------------------------


def test_the_widget_asks_the_base_and_every_adapter_in_the_words_of_its_task(bank):
    from labkit import data, evaluation
    from labkit.widgets.bank import bank_answers

    tokenizer, ticket = models.load("tiny")[1], "The lamp that came on Monday is broken."
    shown = bank_answers(bank, tokenizer, ticket, base_asks="summary", max_new_tokens=8)
    assert list(shown.answers) == ["base, asked for summary", "tone", "summary"]
    for name in bank.names:
        with bank.using(name) as model:
            prompt = data.PROMPTS[name].replace("{text}", ticket)
            assert evaluation.generate(model, tokenizer, [prompt], 8) == [shown.answers[name]]
    assert bank.active is None
    assert all("there is no ticket to answer" in said for said in shown.ask("  ").values())


def test_the_widget_refuses_an_empty_bank_and_an_adapter_without_a_template(bank):
    from labkit.widgets.bank import bank_answers

    tokenizer = models.load("tiny")[1]
    with pytest.raises(LabError, match="the bank is empty"):
        bank_answers(Bank(models.load("tiny")[0]), tokenizer, "x")
    with pytest.raises(LabError, match="no template for tone"):
        bank_answers(bank, tokenizer, "x", templates={"summary": "{text}"})
