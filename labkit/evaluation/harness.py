"""An own small task run through the field's harness (lm-eval), offline, on a model that is loaded already.

Takes a classification's examples; gives the harness's figure, to stand beside that of `evaluate_model`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any

from labkit.data.template import render
from labkit.errors import LabError
from labkit.models import end_of_turn, quiet

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def task_config(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], name: str
) -> dict[str, Any]:
    """A multiple-choice task in lm-eval's form: the rendered prompt, and each label with the end of turn behind it.

    The harness compares sums of log-likelihoods of the choices; ours counts the end of turn, so the choices have it.
    """
    from datasets import Dataset as Rows

    end = tokenizer.decode([end_of_turn(tokenizer)])
    rows = Rows.from_dict({
        "asked": [render(tokenizer, prompt) for prompt in dataset["prompt"]],
        "choices": [[label + end for label in labels]] * len(dataset),
        "right": [list(labels).index(answer) for answer in dataset["completion"]],
    })
    return {
        "task": name, "custom_dataset": lambda **_: {"test": rows}, "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "{{asked}}", "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{right}}", "target_delimiter": "", "metric_list": [{"metric": "acc"}],
    }


def harness_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    labels: Sequence[str],
    name: str = "labkit_task",
    batch_size: int = 16,
) -> tuple[float, list[int]]:
    """Accuracy by `lm_eval.simple_evaluate`, and which label it chose in each row.

    Args:
        dataset: examples with `prompt` and `completion`; each completion is one of the labels.

    Raises:
        LabError: lm-eval is not installed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with _silent():
        try:
            import lm_eval
            from lm_eval.models.huggingface import HFLM
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise LabError("lm-eval is not installed", todo="Run `pip install lm-eval`") from error
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, add_bos_token=False)
        found = lm_eval.simple_evaluate(
            wrapped, tasks=[task_config(dataset, tokenizer, labels, name)], bootstrap_iters=0, log_samples=True,
            task_manager=TaskManager(include_defaults=False))  # the hundreds of others would be read first
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    chosen = [max(range(len(labels)), key=lambda j: sample["filtered_resps"][j][0]) for sample in samples]
    return float(found["results"][name]["acc,none"]), chosen


@contextmanager
def _silent() -> Iterator[None]:
    """Neither the harness's log nor its bars; errors still come."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), quiet():
            yield
    finally:
        logging.disable(before)
