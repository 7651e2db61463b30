"""Right and wrong answers to lab 08's exercises; the Runs are as `clinic.treat` leaves them."""

from __future__ import annotations

from pathlib import Path

from labkit import clinic
from labkit.data.encode import IGNORED
from labkit.scratch import watching
from labkit.training import Run


def run(name, held=(), losses=(), meter=None, **changed):
    """A Run of a case with these curves."""
    curve = [{"step": 4 * (i + 1), "validation_loss": loss} for i, loss in enumerate(held)]
    curve += [{"step": i + 1, "loss": loss} for i, loss in enumerate(losses)]
    return Run(Path("runs"), clinic.sick(name) | changed, curve, 9.0, 1, 2, meter=meter or {})


def over(held, **changed):
    return run("overfitting", held, **changed)


def rate(value, losses, move, **changed):
    return run("rate", losses=losses, meter={"move": move}, learning_rate=value, **changed)


def row(ids=lambda asked, answer: asked + answer, labels=lambda asked, answer: [IGNORED] * len(asked) + answer):
    """A writer of rows with one thing wrong with it."""

    def write(tokenizer, prompt, completion):
        right = watching.to_row(tokenizer, prompt, completion)
        n = right["labels"].count(IGNORED)
        asked, answer = right["input_ids"][:n], right["input_ids"][n:]
        return {"input_ids": ids(asked, answer), "labels": labels(asked, answer)}

    return write


def ratio(value):
    """A function of the squared lengths of the change and of the weights before and after."""

    def of(before, after):
        moved = sum((a - b).square().sum() for a, b in zip(after, before, strict=True))
        return float(value(moved, sum(b.square().sum() for b in before), sum(a.square().sum() for a in after)))

    return of


REFERENCES = {
    "throughput": watching.throughput,
    "mend_overfitting": over([0.9, 0.8, 0.7, 0.65], rows=400, rank=8, alpha=16),
    "mend_memory": {"batch_size": 4, "accumulation": 4, "checkpointing": True},
    "mend_batches": watching.by_length,
    "mend_format": watching.to_row,
    "update_ratio": watching.update_ratio,
    "mend_rate": rate(3e-3, [1.1, 1.0, 0.8, 0.7, 0.6, 0.5], 0.06),
}

WRONG = {
    "throughput": [
        lambda s, t, n: (sum(t) / sum(s), 1.0),
        lambda s, t, n: (sum(a / b for a, b in zip(t[1:], s[1:], strict=True)) / len(s[1:]), 1.0),
        lambda s, t, n: (sum(s[1:]) / sum(t[1:]), 1.0),
        lambda s, t, n: (sum(t[1:]) / sum(s[1:]), sum(s[1:]) / len(s[1:]) * n),
        lambda s, t, n: (sum(t[1:]) / sum(s[1:]), sum(s) / len(s) * (n - len(s))),
        lambda s, t, n: (sum(t[1:]) / sum(s[1:]), sum(s[1:]) / len(s[1:]) * (n - len(s) + 1)),
        lambda s, t, n: (sum(t[1:]) / sum(s[1:]), sum(s[1:]) / len(s[1:]) * (n - len(s)) / 60),
        lambda s, t, n: sum(t[1:]) / sum(s[1:]),
        lambda s, t, n: None,
    ],
    "mend_overfitting": [
        {"rows": 400},
        over([0.9, 0.8, 1.2, 1.9]),
        over([], rows=400),
        over([0.9, 0.8, 1.0, 1.5], rank=4),
        over([0.9, 0.8, 0.95], steps=12),
        over([1.0, 0.95, 1.0, 1.2], patience=2),
        over([1.0, 0.99, 0.98], learning_rate=1e-5),
        over([0.9, 0.7, 0.6, 0.5], rows=400, steps=400),
        "more data",
    ],
    "mend_memory": [
        {},
        {"checkpointing": True},
        {"batch_size": 8, "accumulation": 2},
        {"batch_size": 4, "accumulation": 1, "checkpointing": True},
        {"batch_size": 1, "accumulation": 16},
        {"batch_size": 2, "accumulation": 8, "checkpointing": True},
        {"method": "lora", "batch_size": 4, "accumulation": 4},
        {"batch_size": 8, "accumulation": 2, "checkpointing": True},
        {"batch_size": 0, "accumulation": 16},
        {"gradient_checkpointing": True},
        "checkpointing",
    ],
    "mend_batches": [
        lambda n, k: [list(range(len(n)))[i : i + k] for i in range(0, len(n), k)],
        lambda n, k: [sorted(n)[i : i + k] for i in range(0, len(n), k)],
        lambda n, k: watching.by_length(n, k)[:-1],
        lambda n, k: [[row] for row in range(len(n))],
        lambda n, k: [list(range(len(n)))],
        lambda n, k: sorted(range(len(n)), key=lambda row: n[row]),
        lambda n, k: [[row + 1 for row in batch] for batch in watching.by_length(n, k)],
        lambda n, k: watching.by_length(n, k) + [[0]],
        lambda n, k: None,
    ],
    "mend_format": [
        clinic.alpaca_row,
        row(labels=lambda asked, answer: asked + answer),
        row(labels=lambda asked, answer: [IGNORED] * len(asked + answer)),
        row(labels=lambda asked, answer: [IGNORED] * len(asked) + answer[:-1] + [IGNORED]),
        row(labels=lambda asked, answer: [IGNORED] * (len(asked) - 1) + answer + [IGNORED]),
        row(lambda asked, answer: asked + answer[:-1], lambda asked, answer: [IGNORED] * len(asked) + answer[:-1]),
        row(lambda asked, answer: [1, *asked, *answer], lambda asked, answer: [IGNORED] * (len(asked) + 1) + answer),
        row(labels=lambda asked, answer: answer),
        row(labels=lambda asked, answer: [IGNORED] * (len(asked) - 2) + asked[-2:] + answer),
        lambda tokenizer, prompt, completion: [1, 2, 3],
        lambda tokenizer, prompt, completion: None,
    ],
    "update_ratio": [
        ratio(lambda moved, before, after: moved / before),
        ratio(lambda moved, before, after: (before / moved) ** 0.5),
        ratio(lambda moved, before, after: moved**0.5),
        ratio(lambda moved, before, after: (moved / after) ** 0.5),
        ratio(lambda moved, before, after: abs(after**0.5 - before**0.5) / before**0.5),
        lambda before, after: float((after[0] - before[0]).norm() / before[0].norm()),
        lambda before, after: sum(
            float((a - b).norm() / b.norm()) for a, b in zip(after, before, strict=True)) / len(before),
        lambda before, after: None,
    ],
    "mend_rate": [
        {"learning_rate": 3e-3},
        rate(0.3, [1.1] * 6, 2.0),
        rate(3.0, [2.1] * 6, 9.0),
        rate(0.1, [1.1] * 6, 0.9),
        rate(1e-6, [1.1] * 6, 1e-5),
        rate(5e-4, [1.1] * 6, 0.01),
        rate(3e-3, [0.5] * 6, 0.06, rank=64),
        0.003,
    ],
}
