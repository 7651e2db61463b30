"""Five trainings that are really broken, for lab 08: what each is told, and what it is trained on.

Over `training`: nothing here pretends, each run fails for the reason that its settings give.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import data, models, profiles
from labkit.data.encode import blind_guess, collate, encode, pad_id
from labkit.errors import LabError
from labkit.training import Run, finetune

if TYPE_CHECKING:
    from datasets import Dataset

EVERY = 6  # steps between two looks at validation
CRAMPED = 0.25  # of the bytes that the sick run of "memory" wants
ROOM = 1.05  # times what its mend wants, where that is more: weights of a large model alone may pass the quarter
WIDTH = 256  # tokens that every batch of the slow run is wide
ROWS, ASKED, LENGTH = 16, 3, 128  # of "memory": rows a step that shall count, steps, tokens of each row


def sick(case: str) -> dict:
    """The settings of a broken run: "overfitting", "rate" or "memory".

    Raises:
        LabError: there is no such case.
    """
    return _case(case)[0]


def mended(case: str) -> dict:
    """Settings that mend it, put over those of `sick`: one way of several."""
    return _case(case)[1]


def _case(name: str) -> tuple[dict, dict]:
    usual = profiles.current().learning_rate  # twice this learns by heart; on a larger base 4e-3 would just explode
    cases = {
        "overfitting": (
            {"rows": 16, "steps": 30, "batch_size": 4, "rank": 32, "alpha": 128, "dropout": 0.0, "weight_decay": 0.0,
             "learning_rate": 2 * usual, "patience": None},
            {"rows": 400, "batch_size": 8, "rank": 8, "alpha": 16, "learning_rate": usual}),
        "rate": (
            {"rows": 400, "steps": 24, "batch_size": 8, "rank": 8, "learning_rate": 0.3},
            {"learning_rate": 1.5 * usual}),
        "memory": (
            {"method": "full", "batch_size": 16, "accumulation": 1, "checkpointing": False},
            {"batch_size": 4, "accumulation": 4, "checkpointing": True}),
    }
    if name not in cases:
        raise LabError(f"there is no case {name!r}", where="clinic", expected=", ".join(cases))
    return cases[name]


def rows_of(number: int) -> Dataset:
    """So many training tickets for the tone, all families mixed."""
    return data.ticket_task("tone").train.shuffle(seed=1).select(range(number))


def watched() -> Dataset:
    """A few validation tickets for the tone, of all families."""
    held = data.ticket_task("tone").validation
    return held.select(range(0, len(held), 12))


def blind() -> float:
    """The loss of a blind guess among the tones, in nats a counted token."""
    return blind_guess(models.tokenizer(), data.LABELS["tone"])


def treat(name: str, mend: dict, out: str | Path | None = None, **more) -> Run:
    """Train a case of the clinic, with settings put over those that make it sick.

    Args:
        name: "overfitting" or "rate".
        mend: settings that differ; {} is the sick run itself. `...`, an answer that is still open, is given back.
        out: folder of the Run; one that lies there with the same settings is taken as it is.
        more: for `finetune`, such as callbacks.

    Raises:
        LabError: there is no such case or setting, or a tripwire stopped the run.
    """
    if mend is ...:
        return mend
    told = sick(name)
    if unknown := sorted(set(mend) - set(told)):
        raise LabError(f"there is no setting {', '.join(unknown)}", where="mend", expected=", ".join(told))
    told |= mend
    rows = rows_of(told.pop("rows"))
    if name == "overfitting":
        more |= {"validation": watched(), "evaluate_every": EVERY}
    return finetune(rows, out=out or profiles.runs(f"lab08-{name}"), guard=False, reuse=True,
                    **told, **more)


# -- memory ------------------------------------------------------------------------------------------------------------


def wants(method: str = "full", batch_size: int = ROWS, accumulation: int = 1, checkpointing: bool = False) -> int:
    """Bytes that a step of the memory case will hold at its worst moment, predicted; on a GPU no other than on a CPU.

    Args:
        method: "full", "lora" or "qlora". batch_size: rows that go through at once.
        accumulation: such parts a step. checkpointing: whether activations are computed twice in place of kept.
    """
    return models.memory(None, method, batch=batch_size * accumulation, accumulation=accumulation, length=LENGTH,
                         rank=8, checkpointing=checkpointing, bf16=False, device="cpu").peak


def budget() -> int:
    """Bytes that the memory case may hold: a quarter of what it wants, and no less than its mend needs."""
    asked = sick("memory")
    return int(max(CRAMPED * wants(**asked), ROOM * wants(**asked | mended("memory"))))


def cramped(budget, method: str = "full", batch_size: int = ROWS, accumulation: int = 1, checkpointing: bool = False,
            out: str | Path | None = None) -> Run:
    """Three steps of the memory case under a `monitoring.Budget`.

    Raises:
        LabError: it wants more than there is.
    """
    from datasets import Dataset

    _, tokenizer = models.load()
    rows = encode(rows_of(ROWS * ASKED), tokenizer).to_list()
    for row in rows:  # as long as the longest letters that the model must bear
        gap = LENGTH - len(row["input_ids"])
        row["input_ids"], row["labels"] = [9] * gap + row["input_ids"], [9] * gap + row["labels"]
    more = {"gradient_accumulation_steps": accumulation, "activation_checkpointing": checkpointing}
    if profiles.device() == "cuda":  # a GPU's usual AdamW makes temporaries as large as all gradients; this makes none
        more["optim"] = "adamw_torch_fused"
    return finetune(Dataset.from_list(rows).select_columns(["input_ids", "labels"]),
                    method="full" if method == "full" else "lora", quantize="nf4" if method == "qlora" else None,
                    steps=ASKED, batch_size=batch_size, rank=8, bf16=False, guard=False, arguments=more,
                    callbacks=[budget.callback()], out=out or profiles.runs("lab08-memory"))


# -- slowness ----------------------------------------------------------------------------------------------------------


def slow_collator(tokenizer, rows: Dataset, width: int = WIDTH) -> Callable:
    """A loader as one meets it: whenever a row's turn comes its whole file is read to find it; then it is padded to
    the longest that might ever be.

    Args:
        rows: encoded tickets of the training file, with their `id`.
        width: tokens that every batch is wide.
    """
    file = profiles.COURSE / "data" / "tickets" / "train.jsonl"
    names = {tuple(row["input_ids"]): row["id"] for row in rows.to_list()}

    def collator(batch: list[dict]) -> dict:
        for row in batch:
            name = names[tuple(row["input_ids"])]
            records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            next(record for record in records if record["id"] == name)
        return padded(batch, tokenizer, width)

    return collator


def padded(rows: list[dict], tokenizer, width: int) -> dict:
    """A batch that is `width` tokens wide, whatever its rows need."""
    from torch.nn.functional import pad

    batch = collate([{name: row[name] for name in ("input_ids", "labels")} for row in rows], pad_id(tokenizer))
    gap = width - batch["input_ids"].shape[1]
    fill = {"input_ids": pad_id(tokenizer), "attention_mask": 0, "labels": -100}
    return {name: pad(values, (0, gap), value=fill[name]) for name, values in batch.items()}


def wide_collator(tokenizer, width: int = WIDTH) -> Callable:
    """Rows that are encoded already, padded to the longest that might ever be."""
    return partial(padded, tokenizer=tokenizer, width=width)


# -- format and base ---------------------------------------------------------------------------------------------------


def alpaca_row(tokenizer, prompt: str, completion: str) -> dict:
    """A row as an old tutorial makes it."""
    ids = tokenizer(f"### Instruction:\n{prompt}\n\n### Response:\n{completion}", add_special_tokens=False)["input_ids"]
    return {"input_ids": ids, "labels": list(ids)}


def rows_by(writer: Callable, examples: Dataset) -> Dataset:
    """Examples encoded row by row with a function of (tokenizer, prompt, completion)."""
    from datasets import Dataset

    _, tokenizer = models.load()
    return Dataset.from_list([row | writer(tokenizer, row["prompt"], row["completion"]) for row in examples.to_list()])


def blank_base(folder: str | Path) -> Path:
    """A base model as a broken copy leaves it: settings and tokenizer are right, the weights are noise."""
    from transformers import AutoConfig, AutoModelForCausalLM

    source, folder = models.find(), Path(folder)
    with models.quiet():
        noise = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source))
        noise.save_pretrained(folder)
        models.load()[1].save_pretrained(folder)
    return folder


# -- the runtime's tokenizer -------------------------------------------------------------------------------------------


def runtime(folder: str | Path, older: bool = False) -> Callable | None:
    """The tokenizer of onnxruntime-genai over an export of the base model: a function of a text to its token ids.

    Args:
        folder: of the export. older: an earlier tokenizer.json lies there, one that has learnt fewer merges.

    Returns:
        The function, or None where onnxruntime-genai is not installed (the extra `olive`).
    """
    try:
        import onnxruntime_genai
        from onnxruntime_genai.models.builder import create_model
    except ImportError:
        return None
    folder = Path(folder)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), models.quiet():
        create_model(None, str(models.find()), str(folder), "fp32", "cpu", str(folder / "cache"))
    if older:
        file = folder / "tokenizer.json"
        facts = json.loads(file.read_text(encoding="utf-8"))
        facts["model"]["merges"] = facts["model"]["merges"][: len(facts["model"]["merges"]) // 2]
        file.write_text(json.dumps(facts), encoding="utf-8")
    return onnxruntime_genai.Tokenizer(onnxruntime_genai.Model(str(folder))).encode
