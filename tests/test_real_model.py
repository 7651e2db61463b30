"""One true fine-tuning of the real model: SmolLM2-135M on the shipped tickets, with its real weights."""

import json

import pytest

from labkit import Run, data, evaluation, fetch, finetune, models

pytestmark = pytest.mark.real


def test_smollm2_learns_to_pull_the_fields_out_of_tickets_beyond_the_interval(tmp_path):
    fetch.fetch("small", progress=False)
    task = data.ticket_task("entities")
    held = task.test.select(range(0, len(task.test), 18))  # 32 rows of as many families

    def fields(model, tokenizer) -> dict[str, evaluation.Score]:
        said = evaluation.generate(model, tokenizer, held["prompt"], max_new_tokens=60)
        scores = evaluation.entity_scores(list(held["completion"]), said, evaluation.groups_of(held))
        return {score.metric: score for score in scores}

    before = fields(*models.load("small"))
    run = finetune(task.train, model="small", steps=20, batch_size=4, learning_rate=1e-3, out=tmp_path)
    after = fields(run.model, run.tokenizer)
    for metric in ("entity F1", "exact product", "exact order"):
        assert after[metric].above(before[metric]), f"{metric}: {before[metric]} -> {after[metric]}"
    assert after["parses"].value >= 0.9, str(after["parses"])
    assert Run.read(tmp_path).settings["model"] == "small"
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 8
