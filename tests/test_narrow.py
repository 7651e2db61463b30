"""A pass that leaves out what the loss does not look at: the same loss, slopes and scores, and fewer tokens."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from labkit import adapters, data, evaluation, finetune, models, narrow
from labkit.adapters import architectures, family
from labkit.data.encode import IGNORED, collate, collate_packed, encode, pack, pad_id
from labkit.losses import at_places, masked
from labkit.trainer import sparse_loss

SHAPE = dict(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, attention_bias=True)


def llama(attention: str = "sdpa", **more) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(LlamaConfig(**SHAPE | more), attn_implementation=attention)
    return model.double()


def rows(alike: int, lengths=(30, 22, 27), counted=(4, 9, 1), side: str = "right") -> dict:
    """Rows that begin with so many tokens that are the same, of which the last tokens count; padded to one length."""
    torch.manual_seed(1)
    width, ids = max(lengths), torch.randint(2, 50, (len(lengths), max(lengths)))
    ids[:, :alike] = ids[:1, :alike]
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for i, (length, n) in enumerate(zip(lengths, counted, strict=True)):
        where = slice(width - length, width) if side == "left" else slice(0, length)
        mask[i, where] = 1
        if n:
            labels[i, where][-n:] = ids[i, where][-n:]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def slopes(model, batch: dict, off: bool = False, loss=masked) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    with narrow.switched_off() if off else nullcontext():
        value = loss(model, batch)
        value.backward()
    return value.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def agree(model, batch: dict, exact: float = 1e-6) -> None:  # norms are in float32
    for mine, plain in zip(slopes(model, batch), slopes(model, batch, off=True), strict=True):
        torch.testing.assert_close(mine, plain, rtol=0, atol=exact)


class Tokens:
    """Counts what goes through the feed-forward part of each layer: (rows, tokens) of each call."""

    def __init__(self, model):
        self.layers = [layer.mlp for layer in getattr(model, "get_base_model", lambda: model)().model.layers]
        self.calls = [[] for _ in self.layers]

    def __enter__(self):
        self.hooks = [mlp.register_forward_pre_hook(lambda _, given, to=to: to.append(tuple(given[0].shape[:2])))
                      for mlp, to in zip(self.layers, self.calls, strict=True)]
        return self.calls

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


@pytest.mark.parametrize("attention, side", [("sdpa", "right"), ("sdpa", "left"), ("eager", "right")])
@pytest.mark.parametrize("alike", [0, 12])
def test_loss_and_slopes_are_those_of_the_whole_pass(alike, attention, side, monkeypatch):
    monkeypatch.setattr(narrow, "WORTH", 1)
    agree(llama(attention), rows(alike, side=side))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_without_padding_and_without_a_mask_too(attention, monkeypatch):
    monkeypatch.setattr(narrow, "WORTH", 1)
    for alike in (0, 12):
        batch = rows(alike, lengths=(20, 20), counted=(3, 5))
        agree(llama(attention), batch)
        agree(llama(attention), {name: value for name, value in batch.items() if name != "attention_mask"})


def test_one_row_a_row_without_a_label_and_a_batch_without_any():
    agree(llama(), rows(0, lengths=(9,), counted=(2,)))
    agree(llama(), rows(0, counted=(0, 3, 0)))
    model = llama()
    loss, slope = slopes(model, rows(0, counted=(0, 0, 0)))
    assert loss == 0 and not slope.any()


def test_rows_that_are_all_the_same_and_rows_that_count_from_their_first_token_on(monkeypatch):
    monkeypatch.setattr(narrow, "WORTH", 1)
    agree(llama(), rows(20, lengths=(20, 20, 20), counted=(3, 3, 3)))
    agree(llama(), rows(20, lengths=(20, 20, 20), counted=(20, 20, 20)))


def test_packed_rows_keep_to_themselves():
    base, tokenizer = models.load("tiny")
    encoded = encode(data.ticket_task("tone").train.select(range(9)), tokenizer)
    batch = collate_packed(pack(encoded, 512).to_list(), pad_id(tokenizer))
    agree(base.double(), batch)


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_adapters_learn_the_same(variant, monkeypatch):
    monkeypatch.setattr(narrow, "WORTH", 1)
    model = adapters.attach_lora(llama(), rank=2, variant=variant).double().train()
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # at zero, A gets no slope
            torch.nn.init.normal_(weight, std=0.1)
    agree(model, rows(12))


@pytest.mark.parametrize("kind", family.KINDS)
def test_every_kind_of_adapter_learns_the_same_whatever_it_puts_in_front(kind, monkeypatch):
    monkeypatch.setattr(narrow, "WORTH", 1)
    base, tokenizer = models.load("tiny")
    model = family.attach(base, kind).train()
    batch = collate(encode(data.ticket_task("tone").train.select(range(6)), tokenizer)
                    .select_columns(["input_ids", "labels"]).to_list(), pad_id(tokenizer))
    with models.quiet():
        agree(model, batch, exact=1e-4)
        with Tokens(model) as calls:
            sparse_loss(model, batch)
    assert calls[-1][-1][1] < 5, "in the last layer, a label and the end of turn"
    assert calls[0][-1][1] > 50


def test_the_last_layer_works_where_labels_count_and_the_others_read_a_beginning_once(monkeypatch):
    model, batch = llama(), rows(12)
    with Tokens(model) as calls:
        sparse_loss(model, batch)
    assert calls == [[(3, 30)], [(3, 30)], [(3, 9)]], "24 tokens would be spared: no pass of its own for so few"
    monkeypatch.setattr(narrow, "WORTH", 1)
    with Tokens(model) as calls:
        sparse_loss(model, batch)
    assert calls == [[(1, 12), (3, 18)], [(1, 12), (3, 18)], [(1, 1), (3, 9)]]
    with narrow.switched_off(), Tokens(model) as calls:
        sparse_loss(model, batch)
    assert calls == [[(3, 30)]] * 3


def test_where_something_is_dropped_each_row_reads_its_beginning_itself(monkeypatch):
    monkeypatch.setattr(narrow, "WORTH", 1)
    model = adapters.attach_lora(llama(), rank=2, dropout=0.5).double().train()
    with Tokens(model) as calls:
        sparse_loss(model, rows(12))
    assert calls[0] == [(3, 30)] and calls[-1] == [(3, 9)]
    with Tokens(model.eval()) as calls:
        sparse_loss(model, rows(12))
    assert calls[0] == [(1, 12), (3, 18)]


@pytest.mark.parametrize("name", architectures.NAMES)
def test_every_architecture_has_the_loss_of_all_its_logits(name, monkeypatch):
    monkeypatch.setattr(narrow, "WORTH", 1)
    model, batch = architectures.small(name).double(), rows(12)
    whole = model(**batch).loss
    assert narrow.fits(model) == (name not in ("Phi", "Gemma", "GPT-2"))
    torch.testing.assert_close(masked(model, batch), whole.double(), rtol=0, atol=1e-5)  # transformers adds in float32
    agree(model, batch)


def test_a_window_through_which_attention_looks_holds_in_the_last_layer_too(monkeypatch):
    from transformers import MistralConfig, MistralForCausalLM

    monkeypatch.setattr(narrow, "WORTH", 1)
    torch.manual_seed(0)
    shape = {name: value for name, value in SHAPE.items() if name != "attention_bias"}
    for window in (7, None):
        model = MistralForCausalLM(MistralConfig(**shape, sliding_window=window)).double()
        for alike in (0, 4, 12):
            agree(model, rows(alike))
            agree(model, rows(alike, lengths=(20, 20, 20)))


def test_logits_at_places_are_those_of_a_plain_call():
    given = {name: value for name, value in rows(12).items() if name != "labels"}
    places = torch.tensor([[-30, -1], [-12, -9], [-5, -4]])
    for model in (llama().eval(), architectures.small("GPT-2").double()):
        with torch.inference_mode():
            whole = model(**given).logits
            found = narrow.logits_at(model, given, places)
        torch.testing.assert_close(found, whole[torch.arange(3)[:, None], places], rtol=0, atol=1e-12)


def test_the_last_layer_is_left_out_of_checkpointing_and_its_slope_stays(monkeypatch):
    monkeypatch.setattr(narrow, "WORTH", 1)
    model, batch = adapters.attach_lora(llama(), rank=2).double(), rows(12)
    plain = slopes(model.train(), batch)
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()
    with Tokens(model) as calls:
        found = slopes(model, batch)
    for mine, other in zip(found, plain, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)
    assert calls == [[(3, 30)] * 2, [(3, 30)] * 2, [(3, 9)]], "the others run twice, and each row reads its beginning"
    assert all(layer.gradient_checkpointing for layer in model.get_base_model().model.layers)


def test_the_layer_is_put_back_also_after_an_error():
    model, batch = llama(), rows(0)
    with pytest.raises(IndexError):
        sparse_loss(model, batch | {"input_ids": batch["input_ids"] + 50})
    assert not any("forward" in vars(module) for module in model.modules()) and narrow.fits(model)


def test_switched_off_ends_with_its_block_and_holds_inside_another():
    model = llama()
    with pytest.raises(ZeroDivisionError), narrow.switched_off():
        with narrow.switched_off():
            pass
        assert not narrow.fits(model)
        raise ZeroDivisionError
    assert narrow.fits(model)


def test_labels_are_scored_as_by_a_whole_pass():
    base, tokenizer = models.load("tiny")
    task = data.ticket_task("tone")
    labels, prompts = task.labels, task.validation["prompt"][:40]
    mine = evaluation.score_labels(base, tokenizer, prompts, labels)
    with narrow.switched_off():
        plain = evaluation.score_labels(base, tokenizer, prompts, labels)
    torch.testing.assert_close(mine, plain, rtol=0, atol=1e-4)


def test_a_run_says_whether_it_left_something_out_and_learns_the_same(tmp_path):
    examples = data.ticket_task("intent").train.select(range(64))
    settings = dict(model="tiny", steps=4, bf16=False, seed=0)
    lean = finetune(examples, out=tmp_path / "lean", **settings)
    whole = finetune(examples, out=tmp_path / "whole", narrow=False, **settings)
    assert whole.settings["narrow"] is False and "narrow" not in lean.settings
    assert [row["loss"] for row in lean.curve] == pytest.approx([row["loss"] for row in whole.curve], abs=1e-4)
    for (_, mine), (_, other) in zip(*(sorted(run.model.state_dict().items()) for run in (lean, whole)), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=2e-3)


def test_a_batch_of_tickets_in_16_bits_has_the_loss_of_the_whole_pass_within_rounding():
    from labkit.kernels import quick

    base, tokenizer = models.load("tiny")
    model = adapters.attach_lora(base, rank=4).train()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    batch = collate(encode(data.ticket_task("intent").train.select(range(16)), tokenizer)
                    .select_columns(["input_ids", "labels"]).to_list(), pad_id(tokenizer))

    def low(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return sparse_loss(model, batch)

    with quick(model), Tokens(model) as calls:
        mine, plain = slopes(model, batch, loss=low), slopes(model, batch, off=True, loss=low)
    assert calls[0][0][0] == 1, "the question, once for 16 letters"
    exact = slopes(model, batch, off=True)
    assert abs(mine[0] - exact[0]) < 0.02

    def off(found):
        return 1 - float(torch.nn.functional.cosine_similarity(found[1], exact[1], 0))

    assert off(mine) < max(2 * off(plain), 1e-3)


def test_places_are_each_rows_own():
    counts = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    places = narrow.places_of(counts)
    assert places.shape == (3, 2) and places[0].tolist() == [1, 3] and places[2, 0] == 0
    assert counts.gather(1, places).sum() == counts.sum()
    logits, labels = at_places(llama(), rows(0))
    assert logits.shape == (3, 9, 50) and (labels != IGNORED).sum(-1).tolist() == [4, 9, 1]
