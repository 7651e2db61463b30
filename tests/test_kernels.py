"""Attention, norms and LoRA layers of our own: the same answers and gradients, no more memory, put back afterwards."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from labkit import adapters, data, finetune, kernels, models
from labkit.adapters import architectures
from labkit.data.encode import collate, collate_packed, encode, pack, pad_id
from labkit.trainer import sparse_loss


def tensors(heads=4, key_heads=2, seq=9, width=8, dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(3, n, seq, width, dtype=dtype, requires_grad=True) for n in (heads, key_heads, key_heads)]


def masks(seq=9):
    causal = torch.ones(seq, seq, dtype=torch.bool).tril()
    lengths = torch.tensor([9, 5, 1])
    real = torch.arange(seq) < lengths[:, None]
    places = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]] * 3)
    member = (places == 0).cumsum(-1)
    return {"none": None, "causal": causal[None, None], "padded": (causal & real[:, None])[:, None],
            "packed": (causal & (member[:, :, None] == member[:, None]))[:, None]}


@pytest.mark.parametrize("kept", [0, kernels.KEPT_SCORES])  # the softmax is computed again, or kept
@pytest.mark.parametrize("name", ["none", "causal", "padded", "packed"])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_the_same_as_pytorchs_forwards_and_backwards(name, key_heads, kept, monkeypatch):
    monkeypatch.setattr(kernels, "KEPT_SCORES", kept)
    seen = masks()[name]
    mine, theirs = tensors(key_heads=key_heads), tensors(key_heads=key_heads)
    given = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    ours = kernels.by_products(*mine, seen, 0.3)
    exact = scaled_dot_product_attention(*theirs, attn_mask=seen, is_causal=seen is None, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-12)
    ours.backward(given)
    exact.backward(given)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-12)


def test_the_slope_is_that_of_the_function():
    given = tensors(seq=5, width=3)
    assert torch.autograd.gradcheck(lambda q, k, v: kernels.by_products(q, k, v, None, 0.5), given)


def test_a_token_that_may_look_nowhere_gives_numbers():
    seen = torch.zeros(3, 1, 9, 9, dtype=torch.bool)
    given = tensors()
    said = kernels.by_products(*given, seen, 0.3)
    said.sum().backward()
    assert said.isfinite().all() and all(t.grad.isfinite().all() for t in given)


@pytest.mark.parametrize("most, there", [(0, False), (kernels.KEPT_SCORES, True)])
def test_what_is_seq_by_seq_is_kept_for_the_backward_pass_only_where_it_is_small(most, there, monkeypatch):
    monkeypatch.setattr(kernels, "KEPT_SCORES", most)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        kernels.by_products(*tensors(seq=40), None, 0.3)
    assert kept and any(shape.numel() >= 3 * 4 * 40 * 40 for shape in kept) == there  # in whatever shape


@pytest.mark.parametrize("bias", [False, True])
def test_the_detour_is_what_its_formula_says_forwards_and_backwards(bias):
    torch.manual_seed(0)
    x, a, b = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 5), (2, 5), (4, 2)))
    weight, more = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64) if bias else None
    exact = x @ weight.T + 0.7 * (x @ a.T @ b.T) + (more if bias else 0)
    torch.testing.assert_close(kernels.with_detour(x, weight, more, a, b, 0.7), exact, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x, a, b: kernels.with_detour(x, weight, more, a, b, 0.7), (x, a, b))


@pytest.mark.parametrize("size", [1e-4, 1, 1e3])
def test_a_norm_is_transformers_own_forwards_and_backwards(size):
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    torch.manual_seed(0)
    norm, x = LlamaRMSNorm(24, eps=1e-6), size * torch.randn(3, 7, 24)
    torch.nn.init.normal_(norm.weight.requires_grad_(False), mean=1, std=0.3)
    mine, theirs, given = x.clone().requires_grad_(), x.clone().requires_grad_(), torch.randn(3, 7, 24)
    ours, exact = kernels.normed(mine, norm.weight, norm.variance_epsilon), norm(theirs)
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=0)
    ours.backward(given)
    exact.backward(given)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6 / size)


def test_queries_are_turned_as_transformers_turns_them_forwards_and_backwards():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    torch.manual_seed(0)
    x, given = torch.randn(2, 3, 9, 8).bfloat16(), torch.randn(2, 3, 9, 8)
    cos, sin = torch.randn(2, 1, 9, 8), torch.randn(2, 1, 9, 8)  # halves that differ, too
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours = kernels.turned(mine, cos, sin)
    exact = apply_rotary_pos_emb(theirs, theirs, cos[:, 0], sin[:, 0])[0]
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-6)
    ours.backward(given)
    exact.backward(given)
    torch.testing.assert_close(mine.grad.float(), theirs.grad.float(), rtol=2**-7, atol=0.02)  # transformers' in steps


@pytest.mark.parametrize("name", ["Llama", "Qwen", "Mistral", "Phi", "Gemma"])
def test_norms_and_turns_are_put_back_whatever_happens_and_others_left_alone(name):
    model = adapters.attach_lora(architectures.small(name), rank=2).train()
    home = sys.modules[type(model.get_base_model()).__module__]
    turn, ids = home.apply_rotary_pos_emb, torch.randint(2, 90, (2, 12))
    with pytest.raises(ZeroDivisionError), kernels.quick(model):
        norms = [module for module in model.modules() if "Norm" in type(module).__name__ and "forward" in vars(module)]
        assert len(norms) == (4 if name in ("Llama", "Qwen", "Mistral") else 0)  # of two layers, and not the last
        assert (home.apply_rotary_pos_emb is turn) == (not norms)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            within = float(model(input_ids=ids, labels=ids).loss.detach())
        raise ZeroDivisionError
    assert home.apply_rotary_pos_emb is turn
    assert not any("forward" in vars(module) for module in model.modules())
    assert within == pytest.approx(float(model(input_ids=ids, labels=ids).loss.detach()), abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dropout_hides_from_the_detour_what_it_hides_and_the_slope_is_that_of_the_rest(dtype, monkeypatch):
    torch.manual_seed(0)
    x, a, b = (torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in ((2, 30, 5), (2, 5), (4, 2)))
    weight, given = torch.randn(4, 5, dtype=dtype), torch.randn(2, 30, 4, dtype=dtype)
    drawn, real = [], kernels.kept_bits
    monkeypatch.setattr(kernels, "kept_bits", lambda *asked: drawn.append(real(*asked)) or drawn[-1])
    said = kernels.with_detour(x, weight, None, a, b, 0.7, 0.25)
    slopes = torch.autograd.grad(said, (x, a, b), given)
    kept = (drawn[0] != 0).view(x.shape)
    assert 0 < kept.sum() < kept.numel()
    exact = x @ weight.T + 0.7 * ((x * kept / 0.75) @ a.T @ b.T)
    torch.testing.assert_close(said, exact)
    for mine, theirs in zip(slopes, torch.autograd.grad(exact, (x, a, b), given), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("drop", [0.01, 0.1, 0.5, 0.99])
def test_as_many_numbers_are_dropped_as_was_said_wherever_they_stand(drop, dtype):
    torch.manual_seed(0)
    like = torch.randn(1001, 999, dtype=dtype)
    kept = kernels.kept_bits(like, drop)
    assert set(kept.unique().tolist()) == {0, -1} and kept.element_size() == like.element_size()
    gone, doubt = (kept == 0).double(), 5 * (drop * (1 - drop)) ** 0.5
    assert abs(float(gone.mean()) - drop) < doubt / 1e3
    for share in (gone.mean(0), gone.mean(1)):  # no row and no column of its own kind
        assert float((share - drop).abs().max()) < 1.2 * doubt / 999**0.5
    pairs = (gone[:, :-1] * gone[:, 1:]).mean()  # the four that one draw gives do not hang together
    assert abs(float(pairs) - drop**2) < doubt / 1e3
    torch.manual_seed(0)
    torch.randn(1001, 999, dtype=dtype)
    assert torch.equal(kernels.kept_bits(like, drop), kept)
    assert not torch.equal(kernels.kept_bits(like, drop), kept)


def test_a_layer_that_is_more_than_plain_lora_is_left_to_peft(monkeypatch):
    base, tokenizer = models.load("tiny")
    tuned = adapters.attach_lora(base, rank=4, variant="dora").train()
    monkeypatch.setattr(kernels, "with_detour", None)
    with kernels.quick(tuned), torch.autocast("cpu", dtype=torch.bfloat16):
        sparse_loss(tuned, batch_of(tokenizer)).backward()


def test_kernels_can_be_left_out_and_a_run_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("labkit.training.quick", None)
    run = finetune(data.ticket_task("tone").train.select(range(32)), model="tiny", steps=2, kernels=False,
                   out=tmp_path)
    assert run.settings["kernels"] is False


def batch_of(tokenizer, packed=False):
    rows = encode(data.ticket_task("tone").train.select(range(12)), tokenizer)
    if packed:
        return collate_packed(pack(rows, 512).to_list(), pad_id(tokenizer))
    return collate(rows.select_columns(["input_ids", "labels"]).to_list(), pad_id(tokenizer))


def test_with_dropout_the_mean_of_many_slopes_is_that_of_pytorchs_own():
    base, tokenizer = models.load("tiny")
    tuned = adapters.attach_lora(base, rank=4, dropout=0.3).train()
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    batch = batch_of(tokenizer)

    def slope(times=24):
        tuned.zero_grad()
        for _ in range(times):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                sparse_loss(tuned, batch).backward()
        return torch.cat([w.grad.flatten() for w in tuned.parameters() if w.requires_grad]) / times

    torch.manual_seed(0)
    one, other = slope(), slope()
    with kernels.quick(tuned):
        mine = slope()

    def alike(a, b):
        return float(torch.nn.functional.cosine_similarity(a, b, 0))

    assert alike(mine, one) > alike(one, other) - 0.02 > 0.5
    assert float(mine.norm() / one.norm()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("packed", [False, True])
def test_a_model_trains_to_the_same_gradients_with_it_and_without(packed, monkeypatch):
    base, tokenizer = models.load("tiny")
    tuned = adapters.attach_lora(base, rank=4)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:  # at zero, A gets no gradient
            torch.nn.init.normal_(weight, std=0.02)
    batch, calls = batch_of(tokenizer, packed), []
    for name in ("by_products", "with_detour"):
        counting = partial(lambda real, *given: calls.append(1) or real(*given), getattr(kernels, name))
        monkeypatch.setattr(kernels, name, counting)
    expected = base.config.num_hidden_layers * (1 + 7)  # and of each block seven matrices

    def slopes(low=True):
        tuned.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            loss = sparse_loss(tuned.train(), batch)
        loss.backward()
        return float(loss.detach()), torch.cat([w.grad.flatten() for w in tuned.parameters() if w.requires_grad])

    without = slopes()
    assert not calls
    with kernels.quick(tuned):
        within = slopes()
    assert len(calls) == expected
    assert slopes()[0] == without[0] and len(calls) == expected  # put back
    exact = slopes(low=False)
    assert within[0] == pytest.approx(exact[0], abs=0.02)  # nats; what bfloat16 may round

    def off(found):  # 1 - cosine, of the slope in float32
        return 1 - float(torch.nn.functional.cosine_similarity(found[1], exact[1], 0))

    assert off(within) < max(2 * off(without), 1e-3)


def test_without_autocast_and_in_evaluation_pytorchs_kernel_answers(monkeypatch):
    base, tokenizer = models.load("tiny")
    batch = batch_of(tokenizer)
    batch.pop("labels")
    monkeypatch.setattr(kernels, "by_products", None)
    with torch.no_grad():
        before = base.eval()(**batch).logits
        with kernels.quick(base):
            assert torch.equal(base(**batch).logits, before)


def test_attention_both_ways_is_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(kernels, "by_products", None)
    query, key, value = tensors(key_heads=4, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        said, _ = kernels._attend(torch.nn.Module(), query, key, value, None, is_causal=False)
        exact = scaled_dot_product_attention(query, key, value)
    assert torch.equal(said, exact.transpose(1, 2))


def test_checkpointing_keeps_no_copies_of_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "with_detour", None)
    finetune(data.ticket_task("tone").train.select(range(32)), model="tiny", steps=2, bf16=True, out=tmp_path,
             arguments={"gradient_checkpointing": True})


def test_a_batch_too_large_for_its_scores_is_left_to_pytorch(monkeypatch):
    base, tokenizer = models.load("tiny")
    monkeypatch.setattr(kernels, "by_products", None)
    monkeypatch.setattr(kernels, "MOST_SCORES", 100)
    with kernels.quick(base), torch.autocast("cpu", dtype=torch.bfloat16):
        sparse_loss(base.train(), batch_of(tokenizer)).backward()


def test_a_saved_model_names_no_attention_of_ours(tmp_path):
    run = finetune(data.ticket_task("tone").train.select(range(64)), method="full", steps=2, out=tmp_path / "run",
                   model="tiny")
    assert kernels.NAME not in (run.folder / "model" / "config.json").read_text()
    assert run.model.config._attn_implementation == "sdpa"


IDS = torch.tensor([[4, 9, 20, 31, 7, 12], [5, 8, 30, 2, 11, 40]])


def tuned_a_little(variant: str = "lora", **more):
    torch.manual_seed(0)
    model = adapters.attach_lora(models.load("tiny")[0], rank=4, variant=variant, **more)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("variant", ["lora", "rslora", "pissa", "dora"])
def test_a_joined_adapter_answers_as_it_does_beside_the_base_and_is_put_back(variant):
    model = tuned_a_little(variant, dropout=0.1)
    weights = {name: p.clone() for name, p in model.state_dict().items()}
    with torch.inference_mode():
        apart = model(input_ids=IDS).logits
        with kernels.joined(model):
            together = model(input_ids=IDS).logits
            products = sum("forward" in vars(module) for module in model.modules())
        again = model(input_ids=IDS).logits
    assert products == (0 if variant == "dora" else 28), "DoRA is no sum of two products: it is left to peft"
    assert float((apart - together).abs().max()) < 1e-4
    assert torch.equal(apart, again), "afterwards it answers by the very same operations"
    assert all(torch.equal(weights[name], p) for name, p in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


def test_joined_answers_in_a_training_in_16_bits_that_looks_at_answers_in_between(monkeypatch):
    model = tuned_a_little()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        apart = model(input_ids=IDS).logits
        with kernels.joined(model):
            monkeypatch.setattr("peft.tuners.lora.layer.Linear.forward", None)  # none of peft's own is asked
            together = model(input_ids=IDS).logits
    monkeypatch.undo()
    with torch.inference_mode():
        exact = model(input_ids=IDS).logits
    assert float((together - exact).abs().mean()) < 1.5 * float((apart - exact).abs().mean())


def test_joined_leaves_training_and_rows_of_their_own_adapters_to_peft():
    model = tuned_a_little()
    with kernels.joined(model):
        model(input_ids=IDS, labels=IDS).loss.backward()
        with torch.inference_mode():
            base = model(input_ids=IDS, adapter_names=["__base__"] * 2).logits
    assert all(p.grad is not None for name, p in model.named_parameters() if "lora_" in name)
    with torch.inference_mode(), model.disable_adapter():
        assert float((base - model(input_ids=IDS).logits).abs().max()) < 1e-4
        with kernels.joined(model):  # switched off it stays off
            assert float((base - model(input_ids=IDS).logits).abs().max()) < 1e-4


def test_joined_keeps_the_layers_of_a_training_that_looks_at_answers_in_between():
    model = tuned_a_little()
    with kernels.quick(model):
        layers = [module for module in model.modules() if hasattr(module, "base_layer")]
        mine = [vars(layer)["forward"] for layer in layers]
        with kernels.joined(model):
            assert not any(vars(layer)["forward"] in mine for layer in layers)
        assert [vars(layer)["forward"] for layer in layers] == mine
    assert mine


def test_joined_makes_no_sums_that_would_not_fit(monkeypatch):
    model = tuned_a_little()
    monkeypatch.setattr(kernels, "MOST_SUMS", 1 << 20)
    with kernels.joined(model):
        assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("how", ["free text", "labels"])
def test_evaluation_answers_with_joined_adapters_as_without(how, monkeypatch):
    from contextlib import nullcontext

    from labkit.evaluation import answering

    model, tokenizer = tuned_a_little(), models.load("tiny")[1]
    prompts = data.ticket_task("tone").test["prompt"][:6]

    def answers():
        if how == "labels":
            return answering.score_labels(model, tokenizer, prompts, ["joy", "anger"])
        return answering.generate(model, tokenizer, prompts, 12)

    seen = []
    monkeypatch.setattr(answering, "joined", lambda model: seen.append(model) or kernels.joined(model))
    together = answers()
    monkeypatch.setattr(answering, "joined", lambda model: nullcontext())
    apart = answers()
    assert seen == [model]
    if how == "labels":
        torch.testing.assert_close(together, apart, rtol=0, atol=1e-3)
    else:
        assert together == apart
