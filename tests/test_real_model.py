"""One true fine-tuning of the real model: SmolLM2-135M on the tickets, by the command line, with its real weights."""

import json

import pytest

from labkit import evaluation, fetch
from labkit.training import Run

pytestmark = pytest.mark.real


def test_smollm2_learns_the_tone_of_tickets_beyond_its_interval(tmp_path):
    from labkit import data, models
    from labkit.training import finetune

    fetch.fetch("small", progress=False)
    train, test = data.ticket_examples(data.read("tickets/train"), "tone"), data.read("tickets/test")
    held = data.ticket_examples(test, "tone").select(range(0, len(test), 6))
    base, tokenizer = models.load("small")
    before = evaluation.accuracy(held["label"], evaluation.classify(base, tokenizer, held["prompt"],
                                                                    data.LABELS["tone"]))
    run = finetune(train, model="small", steps=40, out=tmp_path)
    said = evaluation.classify(*run.loaded, held["prompt"], data.LABELS["tone"])
    after = evaluation.accuracy(held["label"], said)
    assert after.above(before), f"{before} -> {after}"
    assert Run.read(tmp_path).settings["model"] == "small"
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 8
