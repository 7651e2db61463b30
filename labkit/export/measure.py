"""How fast, how large, how far from its source: figures of a PyTorch model or an exported one, by the same procedure.

Beside `model`: the lab's tables, the curve of latency and the ledger are made of these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.export.model import OnnxModel, log_softmax

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


@dataclass(frozen=True)
class Speed:
    """Of the quickest repeats, since whatever else a machine does only adds to them. `first` is the time to the first
    token in seconds; the others are tokens a second, `decode` of those behind the first of the same answer."""

    first: float
    prefill: float
    decode: float


def speed(model: Any, prompt: int = 128, new: int = 32, batch: int = 1, repeats: int = 3) -> Speed:
    """Time reading a prompt and writing behind it, greedily and past any end of turn.

    Args:
        model: an OnnxModel, or a pair (PyTorch model, tokenizer).
        prompt: tokens to read. new: tokens to write, at least 2. batch: rows at once.
        repeats: after one that does not count.
    """
    ids = [[5 + (7 * i + 13 * row) % 200 for i in range(prompt)] for row in range(batch)]
    run = _onnx(model, ids) if isinstance(model, OnnxModel) else _torch(model[0], ids)
    run(2)
    seen = [run(new) for _ in range(repeats)]
    first, rest = min(times[0] for times in seen), min(times[-1] - times[0] for times in seen)
    return Speed(first, batch * prompt / first, batch * (new - 1) / rest)


def _onnx(model: OnnxModel, ids: list[list[int]]) -> Callable[[int], list[float]]:
    """What writes so many tokens behind `ids`, and gives the seconds from its start to each of them."""
    import numpy as np

    width = len(ids[0])

    def run(new: int) -> list[float]:
        started, times = time.perf_counter(), []
        generator = model._generator(width + new, None, len(ids), min_length=width + new)
        generator.append_tokens(np.array(ids, np.int32) if len(ids) > 1 else ids[0])
        for _ in range(new):
            generator.generate_next_token()
            times.append(time.perf_counter() - started)
        return times

    return run


def _torch(model, ids: list[list[int]]) -> Callable[[int], list[float]]:
    """The same of a PyTorch model."""
    import torch
    from transformers import GenerationConfig

    from labkit.models import quiet

    rows = torch.tensor(ids, device=next(model.parameters()).device)

    def run(new: int) -> list[float]:
        started, times = time.perf_counter(), []

        def noted(ids, scores, **kwargs):  # asked after each token whether it is the last
            if ids.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        greedy = GenerationConfig(max_new_tokens=new, min_new_tokens=new, do_sample=False, num_beams=1, pad_token_id=0,
                                  eos_token_id=None)
        with torch.inference_mode(), quiet():
            model.generate(input_ids=rows, attention_mask=torch.ones_like(rows), generation_config=greedy,
                           stopping_criteria=[noted])
        return times

    return run


def measure_one(name: str, model: Any, rows: Dataset, labels: Sequence[str], memory: int | None = None) -> dict:
    """One row of a table of contenders: speed, memory, size, accuracy.

    Args:
        model: an OnnxModel, or a pair (PyTorch model, tokenizer).
        rows: examples with `prompt` and `label`, to be answered by one of `labels`.
        memory: bytes of a process with this model, from `weigh.process_memory`.
    """
    from labkit import evaluation

    prompts, onnx = list(rows["prompt"]), isinstance(model, OnnxModel)
    said = model.classify(prompts, labels) if onnx else evaluation.classify(*model, prompts, labels)
    timed = speed(model)
    size = model.bytes if onnx else sum(p.numel() * p.element_size() for p in model[0].parameters())
    score = evaluation.accuracy(rows["label"], said, evaluation.groups_of(rows))
    return {"": name, "first token, ms": round(1000 * timed.first, 1), "prefill, tokens/s": round(timed.prefill),
            "decode, tokens/s": round(timed.decode), "process, MB": memory and round(memory / 1e6),
            "size, MB": round(size / 1e6, 1), "accuracy": str(score)}


def kl(reference: Callable[[Sequence[int]], np.ndarray], other: Callable[[Sequence[int]], np.ndarray],
       texts: Sequence[Sequence[int]]) -> float:
    """Mean KL divergence in nats a token of `other` from `reference`, both from token ids to logits (seq, vocabulary).

    >>> import numpy as np
    >>> kl(lambda ids: np.zeros((2, 4)), lambda ids: np.ones((2, 4)), [[1, 2]])
    0.0
    """
    import numpy as np

    total, tokens = 0.0, 0
    for ids in texts:
        p, q = log_softmax(reference(ids)), log_softmax(other(ids))
        total += float((np.exp(p) * (p - q)).sum())
        tokens += len(p)
    return total / tokens
