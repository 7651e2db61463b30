"""Adapters on the architectures that learners meet: real configs cut small, random weights, no network."""

import pytest
import torch
import transformers as t

from labkit import adapters, models
from labkit.adapters import Bank, architectures
from labkit.adapters.architectures import small as fresh

IDS = torch.arange(4, 24).reshape(2, 10)
ALL = pytest.mark.parametrize("kind", architectures.NAMES)


def logits(model, **more):
    with torch.no_grad():
        return model(input_ids=IDS, **more).logits


def trained(model, steps=3):
    """A few steps at a rate that shows; what is frozen must not move."""
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    return model.eval()


@ALL
def test_lora_attaches_trains_saves_reloads_and_merges(kind, tmp_path):
    base = logits(fresh(kind))
    model = adapters.attach_lora(fresh(kind), 4)
    torch.testing.assert_close(logits(model), base, atol=1e-5, rtol=0)
    said = logits(trained(model))
    assert (said - base).abs().max() > 1e-3
    adapters.save(model, tmp_path)
    torch.testing.assert_close(logits(adapters.load(fresh(kind), tmp_path)), said, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(adapters.merge(model)), said, atol=1e-4, rtol=0)


@ALL
def test_a_bank_switches_and_batches_two_adapters(kind, tmp_path):
    for seed, name in enumerate(("one", "two")):
        adapters.save(trained(adapters.attach_lora(fresh(kind), 4, seed=seed)), tmp_path / name)
    bank = Bank(fresh(kind))
    for name in ("one", "two"):
        bank.add(name, tmp_path / name)
    with bank.each(["two", None]) as rows:
        together = logits(bank.model, adapter_names=rows)
    for i, name in enumerate(["two", None]):
        with bank.using(name) as model:
            torch.testing.assert_close(together[i], logits(model)[i], atol=1e-4, rtol=0)


@ALL
def test_bottlenecks_attach_train_save_reload_and_come_off(kind, tmp_path):
    model = fresh(kind)
    base = logits(model)
    said = logits(trained(adapters.attach_bottleneck(model, 8)))
    assert (said - base).abs().max() > 1e-3
    adapters.save_bottleneck(model, tmp_path)
    assert torch.equal(logits(adapters.load_bottleneck(fresh(kind), tmp_path)), said)
    assert torch.equal(logits(adapters.detach_bottleneck(model)), base)


def test_gpt2_is_adapted_by_the_names_of_older_tutorials_and_trains_what_they_save_whole(tmp_path):
    base = fresh("GPT-2")
    model = adapters.attach_lora(base, 4, targets=["c_attn", "c_proj"], modules_to_save=["ln_f"])
    assert {name.split(".")[-1] for name in adapters.matrices(model)} == {"c_attn", "c_proj"}
    said = logits(trained(model))
    adapters.save(model, tmp_path)
    torch.testing.assert_close(logits(adapters.load(fresh("GPT-2"), tmp_path)), said, atol=1e-5, rtol=0)
    merged = adapters.merge(model)
    torch.testing.assert_close(logits(merged), said, atol=1e-4, rtol=0)
    assert not torch.equal(merged.transformer.ln_f.weight, fresh("GPT-2").transformer.ln_f.weight)


@pytest.mark.parametrize("kind, module", [("GPT-2", "wte"), ("Llama, tied", "embed_tokens")])
def test_an_embedding_that_is_also_the_head_stays_one_matrix_trained_saved_and_merged(kind, module, tmp_path):
    model = adapters.attach_lora(fresh(kind), 4, modules_to_save=[module])
    said = logits(trained(model))
    adapters.save(model, tmp_path / "adapter")
    torch.testing.assert_close(logits(adapters.load(fresh(kind), tmp_path / "adapter")), said, atol=1e-5, rtol=0)
    merged = adapters.merge(model)
    assert torch.equal(merged.get_input_embeddings().weight, merged.get_output_embeddings().weight)
    assert not torch.equal(merged.get_input_embeddings().weight, fresh(kind).get_input_embeddings().weight)
    with models.quiet():
        merged.save_pretrained(tmp_path / "merged")
    again = t.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(again), said, atol=1e-4, rtol=0)


def test_where_adapters_go_and_what_is_tied_is_said_for_each_architecture():
    found = {name: architectures.linear_names(fresh(name)) for name in architectures.NAMES}
    assert found["GPT-2"] == ["c_attn", "c_proj", "c_fc"]
    assert found["Phi"] == ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"]
    assert all("lm_head" not in names for names in found.values())
    tied = [name for name in architectures.NAMES if architectures.one_matrix(fresh(name))]
    assert tied == ["Llama, tied", "Qwen", "Gemma", "GPT-2"]
