"""Adapters on tiny-base: by hand and by peft, merged and not, saved and loaded, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from labkit import adapters, models, profiles
from labkit.adapters import architectures
from labkit.errors import LabError
from labkit.scratch.lora import LoRALinear, merged_weight

IDS = torch.arange(4, 24).reshape(2, 10)


def attached(variant="lora", rank=4, trained=True, **options):
    """tiny-base with an adapter, as if trained: B, which starts at zero, is filled."""
    model = adapters.attach_lora(models.load("tiny")[0], rank, variant=variant, **options)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if trained and "lora_B" in name:
            parameter.data += 0.02 * torch.randn_like(parameter)
    return model.eval()


def logits(model):
    with torch.no_grad(), models.in_float32(model):
        return model(input_ids=IDS).logits


@pytest.fixture(scope="module")
def base_logits():
    return logits(models.load("tiny")[0])


@pytest.mark.parametrize("variant", adapters.VARIANTS)
def test_an_adapter_changes_nothing_before_it_is_trained(variant, base_logits):
    model = attached(variant, trained=False)
    torch.testing.assert_close(logits(model), base_logits, atol=2e-2 if variant == "dora" else 1e-3, rtol=0)


def test_dora_has_numbers_where_a_row_of_w_is_empty():
    base = models.load("tiny")[0]
    base.model.layers[0].mlp.up_proj.weight.data[3] = 0
    model = adapters.attach_lora(base, 4, variant="dora")
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_the_layer_by_hand_equals_pefts(base_logits):
    model = attached(alpha=12.0)
    theirs = model.get_base_model().model.layers[1].mlp.up_proj
    ours = LoRALinear(theirs.base_layer, r=4, alpha=12.0)
    name = "model.layers.1.mlp.up_proj"
    ours.A.data, ours.B.data = (m.clone() for m in adapters.matrices(model)[name])
    x = torch.randn(3, 5, theirs.in_features, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=0)
        assert (ours(x) - theirs.base_layer(x)).abs().max() > 1e-2  # the detour does something


@pytest.mark.parametrize("variant", adapters.VARIANTS)
def test_the_merged_model_answers_as_the_unmerged_one_and_differs_from_the_base(variant, base_logits):
    model = attached(variant)
    merged = adapters.merge(model)
    torch.testing.assert_close(logits(merged), logits(model), atol=1e-3, rtol=0)
    assert (logits(merged) - base_logits).abs().max() > 0.05
    assert not any("lora" in name for name, _ in merged.named_modules())


def test_a_merged_matrix_is_the_one_by_hand():
    model = attached(alpha=12.0)
    merged = dict(adapters.merge(model).named_parameters())
    for name, (a, b) in adapters.matrices(model).items():
        w = model.get_base_model().get_submodule(name).base_layer.weight
        torch.testing.assert_close(merged[f"{name}.weight"].data, merged_weight(w.data, a, b, 12.0))


def test_merging_leaves_the_model_that_was_given_alone():
    model = attached()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    said = logits(model)
    adapters.merge(model)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(logits(model), said)


def test_matrices_are_named_as_the_modules_are_and_have_the_ranks_shape():
    model = attached(rank=4, targets=["q_proj", "down_proj"])
    pairs = adapters.matrices(model)
    assert set(pairs) == {
        f"model.layers.{i}.{part}"
        for i in range(len(model.get_base_model().model.layers))
        for part in ("self_attn.q_proj", "mlp.down_proj")
    }
    linear = model.get_base_model().model.layers[0].mlp.down_proj
    a, b = pairs["model.layers.0.mlp.down_proj"]
    assert a.shape == (4, linear.in_features) and b.shape == (linear.out_features, 4)


def test_rslora_scales_by_the_root_of_the_rank():
    scaling = attached("rslora", rank=16, alpha=8.0).get_base_model().model.layers[0].mlp.up_proj.scaling["default"]
    assert scaling == 8.0 / 4


def test_the_seed_decides_how_a_starts():
    one, same, other = (adapters.matrices(attached(trained=False, seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(one[name][0], same[name][0]) for name in one)
    assert not any(torch.equal(one[name][0], other[name][0]) for name in one)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"rank": 0}, "rank: rank 0; expected a whole number from 1 on"),
        ({"rank": 2.5}, "rank: rank 2.5; expected"),
        ({"variant": "lorax"}, "variant: there is no variant 'lorax'; expected lora, rslora, dora, pissa"),
        (
            {"targets": ["q_proj", "query"]},
            "targets: no linear layer of this model is called query; expected all-linear",
        ),
        ({"targets": "embed_tokens"}, "called embed_tokens; expected all-linear, or some of down_proj, gate_proj"),
        ({"targets": []}, "targets: no module is named"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_would_be_right(options, says):
    with pytest.raises(LabError) as caught:
        adapters.attach_lora(models.load("tiny")[0], **options)
    assert says in str(caught.value)


def test_pissa_on_quantised_weights_is_refused():
    with pytest.raises(LabError, match="variant: PiSSA .* these weights are quantised"):
        adapters.attach_lora(models.load("tiny", quantize="nf4")[0], variant="pissa")


# -- saved and loaded ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "kept"
    adapters.save(attached(), folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "adapter")


def test_what_is_loaded_answers_as_what_was_saved(saved):
    loaded = adapters.load(models.load("tiny")[0], saved)
    torch.testing.assert_close(logits(loaded), logits(attached()), atol=1e-5, rtol=0)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_a_saved_pissa_is_a_plain_lora_over_the_whole_base(tmp_path, base_logits):
    model = adapters.attach_lora(models.load("tiny")[0], 4, variant="pissa")
    adapters.save(model, tmp_path / "start")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.01
    model.eval()
    adapters.save(model, tmp_path / "adapter", tmp_path / "start")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["init_lora_weights"], config["r"]) == (True, 8)
    loaded = adapters.load(models.load("tiny")[0], tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-3, rtol=0)
    assert (logits(loaded) - base_logits).abs().max() > 0.05


def damage(file, change):
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "harm, says",
    [
        (lambda f: shutil.rmtree(f), "no adapter here; expected adapter_config.json and adapter_model.safetensors"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter here"),
        (lambda f: (f / "adapter_config.json").unlink(), "no adapter here"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "does not fit this base model"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\xff" * 500), "the adapter's weights are damaged"),
        (
            lambda f: damage(
                f / "adapter_model.safetensors", lambda d: {k: v[:, :-1].contiguous() for k, v in d.items()}
            ),
            "does not fit this base model",
        ),
        (
            lambda f: damage(
                f / "adapter_model.safetensors", lambda d: {k.replace("self_attn", "attn"): v for k, v in d.items()}
            ),
            "weights, first base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight",
        ),
        (
            lambda f: damage(f / "adapter_model.safetensors", lambda d: dict(list(d.items())[1:])),
            "the adapter lacks 1 of its ",
        ),
    ],
)
def test_a_missing_damaged_or_misfit_adapter_is_refused(folder, harm, says):
    harm(folder)
    with pytest.raises(LabError) as caught:
        adapters.load(models.load("tiny")[0], folder)
    assert says in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.real
def test_an_adapter_of_another_base_is_refused(saved):
    from labkit.fetch import fetch

    fetch("small")
    with pytest.raises(LabError, match="does not fit this base model"):
        adapters.load(models.load("small")[0], saved)


def test_over_4_bits_a_merge_is_in_full_precision_and_leaves_the_model_alone_and_quantised_again_it_is_not_the_same():
    model = adapters.attach_lora(models.load("tiny", quantize="nf4")[0], 4).eval()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.002 * torch.randn_like(parameter)
    before = logits(model)
    merged = adapters.merge(model)
    assert {p.dtype for p in merged.parameters()} == {torch.float32} and not hasattr(merged, "peft_config")
    assert type(merged.model.layers[0].mlp.up_proj) is torch.nn.Linear
    torch.testing.assert_close(logits(merged), before, atol=1e-3, rtol=0)
    again = adapters.merge(model, requantise=True)
    assert "bitsandbytes" in type(again.model.layers[0].mlp.up_proj).__module__
    assert (logits(again) - before).abs().max() > 0.05
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("compute", ["float16", "bfloat16"])
def test_over_4_bits_with_biases_a_merged_model_answers_too(monkeypatch, tmp_path, compute):
    base = architectures.small("Qwen")
    torch.nn.init.normal_(base.model.layers[0].self_attn.q_proj.bias)
    with models.quiet():
        base.save_pretrained(tmp_path)
        models.tokenizer("tiny").save_pretrained(tmp_path)
    monkeypatch.setattr(profiles, "compute_dtype", lambda: compute)
    model = adapters.attach_lora(models.load(tmp_path, quantize="nf4")[0], 4).eval()
    merged = adapters.merge(model)
    assert (logits(merged) - logits(model)).abs().max() < 0.01
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    assert model.base_model.model.model.layers[0].self_attn.q_proj.base_layer.bias.dtype == getattr(torch, compute)


def test_a_merged_model_over_4_bits_can_be_saved_and_loaded_as_any_other(tmp_path):
    base, tokenizer = models.load("tiny", quantize="nf4")
    merged = adapters.merge(adapters.attach_lora(base, 4))
    with models.quiet():
        merged.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(models.load(tmp_path)[0]), logits(merged))
