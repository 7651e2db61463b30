"""The loop by hand is torch's and transformers'; texts, range test and facts about bases are what they say."""

import math

import pytest
import torch
from datasets import Dataset
from transformers import get_scheduler

from labkit import models, profiles
from labkit.choosing import base_models
from labkit.data import examples, read, recognise
from labkit.data.encode import collate, encode, pad_id
from labkit.errors import LabError
from labkit.ratefinder import rate_test
from labkit.scratch import loop
from labkit.texts import answer_perplexity, perplexity, text_losses, text_rows
from labkit.training import finetune


@pytest.fixture(scope="module")
def base():
    return models.load("tiny")


@pytest.fixture(scope="module")
def handbook():
    rows = read("handbook/train")
    return examples(rows, recognise(rows)).select(range(22))


# -- the loop --------------------------------------------------------------------------------------------------------


def test_ten_steps_of_adamw_by_hand_are_those_of_torch():
    g = torch.Generator().manual_seed(0)
    w = torch.randn(5, 3, generator=g)
    theirs = torch.nn.Parameter(w.clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3)
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t in range(1, 11):
        theirs.grad = torch.randn(5, 3, generator=g)
        w, m, v = loop.adamw_step(w, theirs.grad, m, v, t, 0.05, 0.8, 0.95, 1e-3, 0.3)
        optimizer.step()
    torch.testing.assert_close(w, theirs.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clipping_by_hand_is_that_of_torch(limit):
    grads = [torch.randn(4, generator=torch.Generator().manual_seed(1)), torch.full((2, 3), -2.0)]
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads]
    for parameter, g in zip(parameters, grads, strict=True):
        parameter.grad = g.clone()
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    ours, before = loop.clip_by_norm(grads, limit)
    assert float(before) == pytest.approx(float(norm))
    for parameter, g in zip(parameters, ours, strict=True):
        torch.testing.assert_close(g, parameter.grad, rtol=1e-5, atol=1e-6)


def test_the_cosine_by_hand_is_that_of_transformers():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=4, num_training_steps=30)
    for step in range(31):
        assert loop.learning_rate_at(step, 30, 4, 0.3) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_the_loss_by_hand_is_that_of_the_model(base, handbook):
    model, tokenizer = base
    batch = collate(encode(handbook.select(range(5)), tokenizer).to_list(), pad_id(tokenizer))
    with torch.no_grad():
        answer = model(**batch)
    assert float(loop.next_token_loss(answer.logits, batch["labels"])) == pytest.approx(float(answer.loss), rel=1e-5)


def test_accumulated_loss_and_perplexity_weigh_by_labels():
    assert loop.accumulated_loss([2.0, math.nan, 1.0], [8, 0, 24]) == 1.25
    assert loop.perplexity([2.0, 1.0], [8, 24]) == pytest.approx(math.exp(1.25))


@pytest.mark.parametrize("seed, rows, batch_size, steps", [(0, 22, 4, 14), (5, 22, 8, 7)])
def test_batches_by_hand_have_the_rows_of_the_trainer_over_several_epochs(base, handbook, tmp_path, seed, rows,
                                                                        batch_size, steps):
    encoded = encode(handbook.select(range(rows)), base[1])
    taken = []

    def spy(some):
        taken.append([row["input_ids"] for row in some])
        return collate(some, pad_id(base[1]))

    finetune(encoded, steps=steps, batch_size=batch_size, rank=1, seed=seed, collator=spy, guard=False, out=tmp_path)
    ours = [[encoded[i]["input_ids"] for i in numbers] for numbers in loop.batch_rows(rows, batch_size, steps, seed)]
    assert taken[:steps] == ours


# -- early stopping --------------------------------------------------------------------------------------------------


def test_patience_stops_where_the_loop_by_hand_stops_and_leaves_the_best_weights(base, handbook, tmp_path):
    learn, watched = handbook.select(range(8)), handbook.select(range(8, 22))
    run = finetune(learn, watched, method="full", steps=30, batch_size=4, learning_rate=5e-3, evaluate_every=2,
                   patience=2, bf16=False, out=tmp_path)
    looks = [point for point in run.curve if "validation_loss" in point]
    losses = [point["validation_loss"] for point in looks]
    best, stop = loop.early_stopping(losses, 2)
    assert run.finished and looks[-1]["step"] == looks[stop]["step"] < 30
    [found] = [finding.saw for finding in run.findings if finding.guard == "best_weights"]
    assert found.startswith(f"step {looks[best]['step']} of {looks[stop]['step']} had the lowest validation loss")
    means = answer_perplexity(*run.loaded, watched)
    assert math.log(means.value) == pytest.approx(losses[best], rel=0.02)  # the Trainer takes the mean of batches


@pytest.mark.parametrize("options", [{"patience": 0, "evaluate_every": 2}, {"patience": 2}])
def test_a_patience_that_cannot_be_is_refused(handbook, tmp_path, options):
    with pytest.raises(LabError, match="patience: [02]; expected a whole number from 1 on, validation rows"):
        finetune(handbook, handbook, steps=2, out=tmp_path, **options)


# -- texts -----------------------------------------------------------------------------------------------------------


def test_a_long_text_becomes_several_rows_and_no_token_is_lost(base):
    tokenizer = base[1]
    text = "The tenant pays the rent on the first day of each month. " * 12
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    rows = text_rows([text], tokenizer, max_length=50).to_list()
    assert [token for row in rows for token in row["input_ids"][1:]] == ids
    assert all(row["labels"] == [-100, *row["input_ids"][1:]] and len(row["labels"]) <= 50 for row in rows)
    assert {row["input_ids"][0] for row in rows} == {tokenizer.bos_token_id}


def test_no_text_at_all_is_refused(base):
    with pytest.raises(LabError, match="there is no text"):
        text_rows([""], base[1])


def test_perplexity_is_exp_of_the_models_own_loss_and_does_not_depend_on_the_batch(base):
    model, tokenizer = base
    stories = read("general/texts")["text"][:9]
    means, counts = text_losses(model, tokenizer, stories, batch_size=4)
    for text, mean in zip(stories[:3], means[:3], strict=True):
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            assert mean == pytest.approx(float(model(ids, labels=ids).loss), rel=1e-4)
    found = perplexity(model, tokenizer, stories)
    assert found.value == pytest.approx(loop.perplexity(means, counts), rel=1e-5)
    assert found.low < found.value < found.high and found.tokens == sum(counts)
    assert found.change(found) == 0


def test_reading_a_domain_lowers_its_perplexity(base, tmp_path):
    rows = [row for row in read("notes/legal").to_list()]
    learn, held = ([row["text"] for row in rows if row["split"] == split][:n] for split, n in
                   (("train", 32), ("validation", 8)))
    run = finetune(text_rows(learn, base[1]), method="full", steps=8, batch_size=4, learning_rate=1e-3,
                   skip=["end_of_turn"], out=tmp_path)
    assert perplexity(*run.loaded, held).change(perplexity(*base, held)) < -0.3


# -- the range test --------------------------------------------------------------------------------------------------


def test_a_range_test_grows_by_one_factor_and_ends_where_the_loss_breaks(handbook):
    found = rate_test(handbook, model="tiny", low=1e-5, high=10, steps=16, batch_size=4)
    ratios = [b / a for a, b in zip(found.rates, found.rates[1:], strict=False)]
    assert max(ratios) == pytest.approx(min(ratios)) and found.rates[0] == 1e-5
    assert found.broke and len(found.rates) < 16
    assert 1e-5 < found.suggested < found.lowest < 1


@pytest.mark.parametrize("options", [{"low": 1.0, "high": 0.1}, {"low": 0.0}, {"steps": 1}])
def test_a_range_that_is_none_is_refused(handbook, options):
    with pytest.raises(LabError, match="expected a low rate above 0"):
        rate_test(handbook, model="tiny", **options)


# -- choosing a base -------------------------------------------------------------------------------------------------


def test_every_profiles_model_is_among_the_bases_with_the_same_licence():
    found = {base.model: base for base in base_models()}
    for profile in profiles.PROFILES.values():
        assert found[profile.model].licence == profile.licence
        assert found[profile.model].parameters == pytest.approx(profile.parameters, rel=0.02)
    assert found["tiny-base"].parameters == models.count_parameters(models.load("tiny")[0]).total
    assert all(base.source and base.allows for base in found.values())


def test_full_fine_tuning_takes_sixteen_bytes_a_weight_and_what_does_not_fit_is_not_listed():
    base = next(base for base in base_models() if base.model.startswith("meta-llama"))
    assert base.gigabytes("full") == pytest.approx(16 * base.parameters / 1e9)
    assert base.methods_within(16) == ["lora", "qlora"] and base.methods_within(2) == ["qlora"]
    with pytest.raises(LabError, match="there is no method 'half'"):
        base.gigabytes("half")


def test_general_questions_have_their_answer_in_the_note_and_no_row_twice():
    questions, stories = read("general/questions"), read("general/texts")
    assert len(set(questions["prompt"])) == 120 and len(set(stories["text"])) == 100
    assert all(row["completion"] in row["prompt"] for row in questions)


def test_rows_that_were_picked_out_are_encoded_without_a_progress_bar(base, capfd):
    rows = Dataset.from_dict({"prompt": ["a", "b", "c"], "completion": ["x", "y", "z"]}).select([2, 0])
    assert encode(rows, base[1])["completion"][:] == ["z", "x"]
    assert capfd.readouterr().err == ""
