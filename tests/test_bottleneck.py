"""Bottlenecks on tiny-base, by hand: they start as nothing, train, save, load, and come off without a trace."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from labkit import adapters, models
from labkit.errors import LabError
from labkit.scratch import bottleneck

IDS = torch.arange(4, 24).reshape(2, 10)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def trained(model, steps=3):
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture
def base():
    return models.load("tiny")[0]


def test_before_training_the_model_answers_exactly_as_its_base(base):
    before = logits(base)
    assert torch.equal(logits(adapters.attach_bottleneck(base, 8)), before)


def test_only_the_bottlenecks_train_and_there_are_as_many_numbers_as_counted(base):
    model = adapters.attach_bottleneck(base, 8)
    counts = models.count_parameters(model)
    layers, d = base.config.num_hidden_layers, base.config.hidden_size
    assert counts.trainable == bottleneck.bottleneck_parameters(d, 8, layers)
    assert all(".bottleneck." in name for name, p in model.named_parameters() if p.requires_grad)


def test_they_learn_and_come_off_again_leaving_the_base_bit_identical(base):
    weights, said = {k: v.clone() for k, v in base.state_dict().items()}, logits(base)
    losses = trained(adapters.attach_bottleneck(base, 8))
    assert losses[-1] < losses[0] and (logits(base) - said).abs().max() > 1e-2
    adapters.detach_bottleneck(base)
    assert weights.keys() == base.state_dict().keys()
    assert all(torch.equal(v, base.state_dict()[k]) for k, v in weights.items())
    assert torch.equal(logits(base), said)


def test_what_is_loaded_answers_as_what_was_saved_and_only_the_bottlenecks_are_on_disk(base, tmp_path):
    trained(adapters.attach_bottleneck(base, 8))
    adapters.save_bottleneck(base, tmp_path)
    again = adapters.load_bottleneck(models.load("tiny")[0], tmp_path)
    assert torch.equal(logits(again), logits(base))
    assert (tmp_path / "bottleneck.safetensors").stat().st_size < 0.2 * sum(p.nbytes for p in base.parameters())


@pytest.mark.parametrize("harm, says", [
    (lambda f: (f / "bottleneck.json").unlink(), "no bottlenecks here"),
    (lambda f: (f / "bottleneck.json").write_text("{"), "are damaged"),
    (lambda f: (f / "bottleneck.json").write_text(json.dumps({"width": 4})), "of another shape"),
    (lambda f: save_file(dict(list(load_file(f / "bottleneck.safetensors").items())[1:]), f / "bottleneck.safetensors"),
     "1 of the weights are missing"),
])
def test_what_cannot_be_loaded_is_refused_and_the_base_left_as_it_was(base, tmp_path, harm, says):
    adapters.save_bottleneck(adapters.attach_bottleneck(models.load("tiny")[0], 8), tmp_path)
    harm(tmp_path)
    said, keys = logits(base), list(base.state_dict())
    with pytest.raises(LabError, match=says):
        adapters.load_bottleneck(base, tmp_path)
    assert list(base.state_dict()) == keys and torch.equal(logits(base), said)


@pytest.mark.parametrize("width", [0, -2, 2.5])
def test_a_width_that_is_none_is_refused(base, width):
    with pytest.raises(LabError, match="whole number from 1 on"):
        adapters.attach_bottleneck(base, width)


def test_bottlenecks_on_bottlenecks_and_none_to_take_off_are_refused(base):
    with pytest.raises(LabError, match="has no bottlenecks"):
        adapters.detach_bottleneck(base)
    adapters.attach_bottleneck(base, 4)
    with pytest.raises(LabError, match="has bottlenecks already"):
        adapters.attach_bottleneck(base, 4)


def test_ia3_by_hand_equals_pefts():
    from peft import IA3Config, get_peft_model

    model = get_peft_model(models.load("tiny")[0], IA3Config(target_modules=["k_proj"], feedforward_modules=[]))
    layer = model.base_model.model.model.layers[0].self_attn.k_proj
    torch.manual_seed(0)
    layer.ia3_l["default"].data.uniform_(0.5, 1.5)
    x = torch.randn(3, layer.in_features)
    with torch.no_grad():
        ours = bottleneck.ia3_forward(x, layer.base_layer.weight, layer.ia3_l["default"].flatten())
        torch.testing.assert_close(ours, layer(x), atol=1e-5, rtol=0)
