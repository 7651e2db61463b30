"""Muon: the steps of torch's own, an adapter that learns with it, and a sentence where it is not for it."""

from __future__ import annotations

import pytest
import torch

from labkit import LabError, data, finetune
from labkit.muon import Muon


def test_muon_steps_as_torchs_own_does_up_to_its_rounding():
    torch.manual_seed(0)
    start = {shape: torch.randn(shape) for shape in ((12, 12), (24, 12), (12, 24))}
    ours, theirs = ({shape: torch.nn.Parameter(w.clone()) for shape, w in start.items()} for _ in range(2))
    optimizers = (Muon(ours.values(), lr=0.1), torch.optim.Muon(theirs.values(), lr=0.1, weight_decay=0.01))
    for _ in range(3):
        for shape in start:
            ours[shape].grad = theirs[shape].grad = torch.randn(shape)
        for optimizer in optimizers:
            optimizer.step()
    for shape, w in start.items():
        step = (theirs[shape] - w).norm()
        assert step > 0.5 and (ours[shape] - theirs[shape]).norm() < 0.02 * step, shape


@pytest.fixture(scope="module")
def examples():
    return data.ticket_task("tone").train.select(range(400))


def test_an_adapter_learns_with_it(examples, tmp_path):
    run = finetune(examples, model="tiny", steps=25, batch_size=8, optimizer="muon", out=tmp_path)
    losses = [point["loss"] for point in run.curve]  # nats a token
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert (run.settings["optimizer"], run.settings["learning_rate"]) == ("muon", 4e-3)


@pytest.mark.parametrize("options, says", [
    ({"method": "full"}, "optimizer: Muon is for matrices inside the layers, and "),
    ({"method": "dora"}, "lora_magnitude_vector"),
    ({"optimizer": "lion"}, "optimizer: there is no optimizer 'lion' here; expected adamw, muon"),
])
def test_what_it_is_not_for_is_refused_in_a_sentence(examples, tmp_path, options, says):
    with pytest.raises(LabError) as caught:
        finetune(examples, out=tmp_path, **{"model": "tiny", "steps": 2, "optimizer": "muon"} | options)
    assert says in str(caught.value) and not (tmp_path / "run.json").exists()


def test_it_is_refused_where_matrices_are_split_over_processes(examples, tmp_path, monkeypatch):
    monkeypatch.setattr("labkit.processes.asked_to_split", lambda: True)
    with pytest.raises(LabError, match="optimizer: Muon needs whole matrices, and FSDP splits them"):
        finetune(examples, out=tmp_path, model="tiny", steps=2, optimizer="muon")
