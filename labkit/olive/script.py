"""What the workflows of lab 11 name as `user_script`: rows with the prompt masked, and a metric to search by.

Olive reads this file by its path, inside its own process; labkit itself never imports it.
"""

from __future__ import annotations

import torch
from olive.data.registry import Registry
from olive.evaluator.metric_result import MetricResult
from olive.evaluator.olive_evaluator import OliveEvaluator
from olive.evaluator.registry import Registry as Evaluators

torch.manual_seed(0)  # Olive draws A before it seeds anything; labkit seeds with 0, so both start from the same A


@Registry.register_pre_process("prompt_masked")
def prompt_masked(dataset, model_name=None, max_seq_len=256, max_samples=None, **_):
    """Rows of `input_ids` and `labels` in place of Olive's own, one ticket each, only the answer counted in the loss.

    Args:
        dataset: columns `prompt` and `completion`.
        model_name: of the base, for its tokenizer; Olive fills it in.
    """
    from labkit import models
    from labkit.data.encode import encode

    if max_samples:
        dataset = dataset.select(range(min(max_samples, len(dataset))))
    rows = encode(dataset, models.tokenizer(model_name), max_seq_len).select_columns(["input_ids", "labels"])
    rows = rows.map(lambda row: {"attention_mask": [1] * len(row["input_ids"])})
    rows.set_format("torch")
    return rows


@Evaluators.register("TicketEvaluator")
class TicketEvaluator(OliveEvaluator):
    """Share of validation tickets whose tone a model with its adapter picks rightly, as the metric `tone`.

    A class of one's own, since Olive 0.13 cannot write down a metric of type "custom" and stops there.
    """

    def evaluate(self, model, metrics, device=None, execution_providers=None) -> MetricResult:
        from labkit import data, evaluation, models, profiles

        task = data.ticket_task("tone")
        held = data.spread(task.validation, 96)
        tuned = model.load_model(cache_model=False).to(profiles.device()).eval()
        said = evaluation.classify(tuned, models.tokenizer(model.model_path), held["prompt"], task.labels)
        right = sum(a == b for a, b in zip(held["label"], said, strict=True)) / len(held)
        found = {"value": right, "priority": 1, "higher_is_better": True}
        return MetricResult.model_validate({"tone-accuracy_score": found})
