"""Tripwires: each mistake is really made, in a training run where it would happen there, and is named."""

import math

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import DataCollatorForLanguageModeling, TrainerCallback

from labkit import adapters, guards, models, profiles
from labkit.data import read, render, ticket_examples
from labkit.data.encode import IGNORED, collate, encode, encode_completion, encode_prompt, pad_id
from labkit.errors import LabError
from labkit.evaluation import left_padded, score_labels
from labkit.guards import Tripped
from labkit.training import finetune


@pytest.fixture(scope="module")
def examples():
    return ticket_examples(read(profiles.COURSE / "data/tickets/train.jsonl").select(range(12)), "tone")


@pytest.fixture(scope="module")
def tiny():
    return models.load("tiny")


def trip(name: str, examples, tmp_path, validation=None, **options) -> str:
    """What finetune says when it refuses; the tripwire must be the one that is named."""
    options = {"steps": 2, "batch_size": 2, "rank": 2, "bf16": False, "out": tmp_path / "run"} | options
    with pytest.raises(Tripped) as caught:
        finetune(examples, validation, **options)
    assert caught.value.guard == name
    assert str(caught.value).startswith(f"tripwire {name}: ") and caught.value.todo
    assert not (tmp_path / "run" / "run.json").exists()  # what was refused is no run
    return str(caught.value)


def test_a_healthy_run_trips_nothing_and_tells_what_it_saw(examples, tmp_path):
    held = ticket_examples(read(profiles.COURSE / "data/tickets/validation.jsonl").select(range(6)), "tone")
    run = finetune(examples, held, steps=2, batch_size=2, rank=2, out=tmp_path)
    assert [finding.guard for finding in run.findings] == [
        "loss_mask",
        "end_of_turn",
        "same_prompt",
        "no_leak",
        "frozen_stayed",
        "adapter_moved",
        "step_size",
        "reload_agrees",
        "batch_parity",
    ]


def test_without_guards_a_mistake_goes_through(examples, tmp_path):
    run = finetune(examples, examples, steps=1, batch_size=2, rank=2, guard=False, out=tmp_path)
    assert run.findings == [] and run.finished


# -- what counts in the loss -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels, says",
    [
        (lambda row: [IGNORED] * len(row["labels"]), "row 7: none of its"),
        (lambda row: row["input_ids"], "row 7: all of its"),
        (lambda row: [IGNORED] * (len(row["labels"]) - 1) + row["labels"][-1:], "row 7: only the end of turn counts"),
    ],
)
def test_a_row_in_which_nothing_everything_or_only_the_end_counts_is_refused(examples, tiny, tmp_path, labels, says):
    rows = encode(examples, tiny[1]).to_list()
    rows[7]["labels"] = labels(rows[7])
    assert says in trip("loss_mask", Dataset.from_list(rows), tmp_path)


def test_an_empty_completion_is_refused(examples, tmp_path):
    rows = examples.to_list()
    rows[3]["completion"] = ""
    assert "row 3: only the end of turn counts" in trip("loss_mask", Dataset.from_list(rows), tmp_path)


def test_a_collator_that_counts_the_prompt_too_is_refused(examples, tmp_path):
    """The library's own, as many tutorials have it: labels are a copy of the input ids, the pad masked."""
    theirs = DataCollatorForLanguageModeling(models.load("tiny")[1], mlm=False)
    said = trip(
        "loss_mask", examples, tmp_path, collator=lambda rows: theirs([{"input_ids": r["input_ids"]} for r in rows])
    )
    assert "the prompt too" in said


def masks_every_pad(tokenizer):
    """A collator that keeps our labels but masks by id, as the library's does."""

    def collator(rows):
        batch = collate(rows, tokenizer.pad_token_id)
        batch["labels"][batch["input_ids"] == tokenizer.pad_token_id] = IGNORED
        return batch

    return collator


def test_pad_set_to_the_end_of_turn_and_masked_is_refused(examples, tmp_path):
    tokenizer = models.load("tiny")[1]
    tokenizer.pad_token_id = models.end_of_turn(tokenizer)  # the habit of many tutorials
    said = trip("end_of_turn", examples, tmp_path, collator=masks_every_pad(tokenizer))
    assert f"the end of turn (id {tokenizer.pad_token_id}) does not count in the loss" in said


def test_the_librarys_own_collator_with_pad_set_to_the_end_of_turn_is_refused(examples, tmp_path):
    tokenizer = models.load("tiny")[1]
    tokenizer.pad_token_id = models.end_of_turn(tokenizer)
    theirs = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trip("end_of_turn", examples, tmp_path, collator=lambda rows: theirs([{"input_ids": r["input_ids"]} for r in rows]))


def test_masking_pad_is_harmless_where_pad_is_a_token_of_its_own(examples, tiny, tmp_path):
    assert tiny[1].pad_token_id != models.end_of_turn(tiny[1])
    run = finetune(examples, steps=2, batch_size=2, rank=2, collator=masks_every_pad(tiny[1]), out=tmp_path)
    assert "end_of_turn" in {finding.guard for finding in run.findings}


def test_rows_that_were_encoded_without_an_end_of_turn_are_refused(examples, tiny, tmp_path):
    rows = encode(examples, tiny[1]).to_list()
    rows = [row | {"input_ids": row["input_ids"][:-1], "labels": row["labels"][:-1]} for row in rows]
    said = trip("end_of_turn", Dataset.from_list(rows), tmp_path)  # the user's own end of turn is still there
    assert "row 0 of the batch: the end of turn" in said and "does not count" in said


def test_another_end_of_turn_that_counts_does_not_stand_in_for_the_last_one(tiny):
    """As where a whole conversation counts: each earlier turn ends with the same token."""
    end = models.end_of_turn(tiny[1])
    batch = {"input_ids": torch.tensor([[5, 6, end, 7, end]]), "labels": torch.tensor([[IGNORED, 6, end, 7, IGNORED]])}
    with pytest.raises(Tripped, match=rf"row 0 of the batch: the end of turn \(id {end}\) does not count"):
        guards.end_of_turn_counts(batch, tiny[1])
    batch["labels"][0, -1] = end
    assert "counts in all 1 rows" in guards.end_of_turn_counts(batch, tiny[1]).saw
    batch["input_ids"][batch["input_ids"] == end] = 8
    with pytest.raises(Tripped, match="there is no end of turn"):
        guards.end_of_turn_counts(batch, tiny[1])


@pytest.mark.real
def test_smollm2s_pad_is_its_end_of_turn_and_a_collator_that_masks_pad_is_refused(examples, tmp_path):
    from labkit.fetch import fetch

    fetch("small")
    model, tokenizer = models.load("small")
    end = models.end_of_turn(tokenizer)
    assert tokenizer.pad_token_id == end == 2
    said = trip("end_of_turn", examples, tmp_path, model="small", collator=masks_every_pad(tokenizer))
    assert "pad is the same token, and the collator masks it" in said
    ours = collate(encode(examples, tokenizer).to_list(), pad_id(tokenizer))
    assert guards.end_of_turn_counts(ours, tokenizer).guard == "end_of_turn"
    # What it would have cost: with the end masked, the loss does not see at all how the model ends its answer.
    masked = masks_every_pad(tokenizer)(encode(examples, tokenizer).to_list()[:1])
    assert end not in masked["labels"] and end in ours["labels"][0]


# -- the training prompt is the serving prompt -----------------------------------------------------------------------


def encoded_as(examples, tokenizer, ids_of):
    """Rows as somebody might encode them: `ids_of` makes the prompt's ids; the column `prompt` is kept."""
    rows = []
    for row in examples:
        asked, answer = ids_of(tokenizer, row["prompt"]), encode_completion(tokenizer, row["completion"])
        rows.append(row | {"input_ids": asked + answer, "labels": [IGNORED] * len(asked) + answer})
    return Dataset.from_list(rows)


@pytest.mark.parametrize(
    "ids_of, says",
    [
        (lambda t, p: [t.bos_token_id, *encode_prompt(t, p)], "part at token"),
        (lambda t, p: t(render(t, p) + " ", add_special_tokens=False)["input_ids"], "the end in serving"),
        (lambda t, p: encode_prompt(t, p.strip() + " "), "part at token"),
        (lambda t, p: t(p, add_special_tokens=False)["input_ids"], "part at token 0"),
    ],
    ids=["second BOS", "trailing space", "space in the turn", "no template"],
)
def test_a_training_prompt_that_is_not_the_serving_prompt_is_refused(examples, tiny, tmp_path, ids_of, says):
    said = trip("same_prompt", encoded_as(examples, tiny[1], ids_of), tmp_path)
    assert "row 0: training and serving prompts part at token" in said and says in said


def test_rows_encoded_as_serving_does_are_let_through(examples, tiny):
    rows = encoded_as(examples, tiny[1], encode_prompt).to_list()
    assert guards.same_prompt(rows, tiny[1]).saw == "10 training prompts equal the serving prompts, token by token"


# -- rows that leak --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [str, str.upper, lambda text: text.replace(".", " ") + " Please."],
    ids=["the same", "in capitals", "nearly the same"],
)
def test_a_validation_row_that_stands_in_training_is_refused(examples, tmp_path, change):
    question, text = examples[4]["prompt"].split("\n\n", 1)
    held = Dataset.from_list([examples[4] | {"prompt": f"{question}\n\n{change(text)}"}])
    said = trip("no_leak", examples, tmp_path, held)
    assert "1 of 1 validation rows stand in the training rows too: validation row 0 is training row 4" in said


def test_rows_that_only_share_the_question_before_them_are_let_through():
    train = [f"Which tone has this ticket, please?\n\n{text}" for text in ("It came.", "It broke.", "Where is it?")]
    other = ["Which tone has this ticket, please?\n\nThanks a lot."]
    assert guards.no_leak(train, other).saw == "none of 1 validation rows is a training row or nearly one"


# -- weights that should move, and that should not ---------------------------------------------------------------------


@pytest.mark.parametrize("method", adapters.VARIANTS)
def test_an_adapter_that_trains_nothing_is_refused(examples, tmp_path, method):
    said = trip("adapter_moved", examples, tmp_path, method=method, learning_rate=1e-30)
    assert "training changed the weights by" in said and "it does nothing" in said


def test_an_adapter_whose_b_is_zero_is_refused():
    model = adapters.attach_lora(models.load("tiny")[0], 2)
    with pytest.raises(Tripped, match="B is zero in all"):
        guards.adapter_moved(model)
    next(p for n, p in model.named_parameters() if "lora_B" in n).data += 1
    assert "B differs from zero in 1 of" in guards.adapter_moved(model).saw


def test_a_frozen_weight_that_moves_is_refused(examples, tmp_path):
    class Meddler(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                next(p for n, p in model.named_parameters() if "norm" in n).data[0] += 1e-3

    said = trip("frozen_stayed", examples, tmp_path, callbacks=[Meddler()])
    assert "1 frozen weights moved, the first is base_model.model.model.layers.0.input_layernorm.weight" in said


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_rate(examples, tmp_path):
    said = trip("finite_loss", examples, tmp_path, learning_rate=1e30, steps=4)
    assert "the loss is nan at a learning rate of" in said and "step 3: " in said and "(its peak is 1e+30)" in said
    assert "Try a learning rate of 1e+29" in said


# -- what was saved is what was trained ------------------------------------------------------------------------------


def saved_wrongly(monkeypatch, change):
    """Between save and load, something changes the adapter's file."""
    save = adapters.save

    def harmed(model, folder, start=None):
        save(model, folder, start)
        file = folder / "adapter_model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    monkeypatch.setattr(adapters, "save", harmed)


def test_an_adapter_that_is_dropped_on_reload_is_refused(examples, tmp_path, monkeypatch):
    saved_wrongly(monkeypatch, lambda d: {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in d.items()})
    # So large a rate that two steps show in the logits.
    said = trip("reload_agrees", examples, tmp_path, learning_rate=0.05, rank=8)
    assert "the model read back from disk answers otherwise: logits differ by" in said


@pytest.mark.parametrize(
    "change",
    [
        lambda d: {k.replace(".self_attn.", ".attn."): v for k, v in d.items()},
        lambda d: {k: v for k, v in d.items() if "down_proj" not in k},
    ],
    ids=["renamed", "deleted"],
)
def test_an_adapter_whose_weights_are_not_found_on_reload_is_refused(examples, tmp_path, monkeypatch, change):
    saved_wrongly(monkeypatch, change)
    with pytest.raises(LabError, match="the adapter lacks .* of its .* weights, first "):
        finetune(examples, steps=2, batch_size=2, rank=2, out=tmp_path)


def test_logits_that_are_no_numbers_do_not_agree():
    with pytest.raises(Tripped, match="logits differ by nan"):
        guards.reload_agrees(torch.tensor([1.0, math.nan]), torch.tensor([1.0, 1.0]))


# -- batch and padding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
def test_logits_over_4_bits_are_those_of_float32_whatever_a_gpu_would_multiply_in(examples, monkeypatch, compute):
    monkeypatch.setattr(profiles, "compute_dtype", lambda: compute)
    model, tokenizer = models.load("tiny", quantize="nf4")
    layer = model.model.layers[0].mlp.up_proj
    layer.bias = torch.nn.Parameter(torch.full((layer.out_features,), 0.1, dtype=getattr(torch, compute)), False)
    batch = collate(encode(examples.select(range(3)), tokenizer).to_list(), pad_id(tokenizer))
    found = guards.logits_of(model, batch)
    assert layer.compute_dtype == layer.bias.dtype == getattr(torch, compute)
    layer.bias.data = layer.bias.data.float()
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.float32
    assert torch.equal(found, guards.logits_of(model, batch))


def test_a_score_that_depends_on_its_batch_because_padding_is_not_masked_is_refused(examples, tiny):
    model, tokenizer = tiny
    prompts = [encode_prompt(tokenizer, "Hello"), *(encode_prompt(tokenizer, prompt) for prompt in examples["prompt"])]

    def unmasked(size):
        last = []
        for start in range(0, len(prompts), size):
            ids, _ = left_padded(prompts[start : start + size], pad_id(tokenizer))
            with torch.no_grad():
                last.append(model(input_ids=ids).logits[:, -1].log_softmax(-1))
        return torch.cat(last)

    with pytest.raises(Tripped) as caught:
        guards.batch_parity(unmasked)
    assert caught.value.guard == "batch_parity" and "scores at batch 1 and 8 differ by" in str(caught.value)

    def ours(size):
        return score_labels(model, tokenizer, ["Hello", *examples["prompt"]], ["joy", "anger"], size)

    assert guards.batch_parity(ours).guard == "batch_parity"


def test_a_score_with_dropout_left_on_is_refused(examples, tiny):
    model = adapters.attach_lora(models.load("tiny")[0], 4, dropout=0.5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.05
    model.train()
    batch = collate(encode(examples, tiny[1]).to_list(), pad_id(tiny[1]))

    def score(size):
        with torch.no_grad():
            return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, -1]

    with pytest.raises(Tripped, match="turn dropout off"):
        guards.batch_parity(score)


# -- nearly equal texts ----------------------------------------------------------------------------------------------


def test_texts_that_are_nearly_equal_or_known_to_belong_together_share_a_group():
    long = "the stove that I ordered in May came broken and nobody answers the telephone or my many letters"
    texts = [long, "where is my parcel", long + " please", "a lovely tent, thank you", long.upper()]
    assert guards.alike(texts) == [0, 1, 0, 3, 0]
    assert guards.alike(texts, also=["a", "b", "c", "b", "d"]) == [0, 1, 0, 1, 0]
