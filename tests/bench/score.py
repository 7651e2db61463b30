"""Part 4, scoring labels by likelihood: all labels behind a prompt, batches of prompts, against one call a label."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

from bench.options import Options, missing
from bench.turns import Job, Way
from labkit import data, models
from labkit.data.encode import encode_completion, encode_prompt
from labkit.evaluation import classify

PART = "score"
FIGURE = "prompts/s"
PROMPTS = {"tiny": 48, "small": 6}


def one_call_a_label(model, tokenizer, prompts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The likeliest label of each prompt as most write it: prompt and label through the model, for each of them."""
    import torch

    found = []
    with torch.inference_mode():
        for prompt in prompts:
            asked = encode_prompt(tokenizer, prompt)
            scores = []
            for label in labels:
                answer = encode_completion(tokenizer, label)
                ids = torch.tensor([asked + answer], device=model.device)
                told = model(ids).logits[0, len(asked) - 1 : -1].float().log_softmax(-1)
                scores.append(float(told.gather(-1, ids[0, len(asked) :, None]).sum()))
            found.append(labels[scores.index(max(scores))])
    return found


def timed(answer, expected: dict[str, list[str]], name: str, prompts: Sequence[str]) -> dict[str, float | str]:
    """Prompts a second, and how many answers are those of the other ways."""
    started = time.perf_counter()
    said = answer()
    speed = len(prompts) / (time.perf_counter() - started)
    expected.setdefault("answers", said)
    same = sum(a == b for a, b in zip(said, expected["answers"], strict=True))
    return {FIGURE: speed, "same answers": f"{same} of {len(said)}"}


def job(model: str, prompts: int) -> Job:
    """A job on validation tickets of the tone."""
    task = data.ticket_task("tone")
    pair, labels, expected = models.load(model), list(task.labels), {}
    asked = list(task.validation.shuffle(seed=1).select(range(prompts))["prompt"])
    calls = {"one call a label": partial(one_call_a_label, *pair, asked, labels),
             "evaluation.classify": partial(classify, *pair, asked, labels)}
    ways = [Way(name, partial(timed, call, expected, name, asked)) for name, call in calls.items()]
    return Job(PART, f"{model}, {len(labels)} labels", FIGURE, ways, [("evaluation.classify", "one call a label")])


def jobs(options: Options) -> Iterator[Job]:
    """One job for each model."""
    for model in options.models:
        yield missing(PART, model) or job(model, PROMPTS[model])
