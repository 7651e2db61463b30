"""finetune(examples) -> Run: a thin use of transformers.Trainer with the tripwires on.

Takes examples, or rows that are encoded already; leaves a folder with the adapter, the settings and the curve.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import inspect
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit import adapters, checkpoints, guards, models, processes, profiles
from labkit.checkpoints import last as last_checkpoint
from labkit.data.encode import COLUMNS, IGNORED, collate, collate_packed, encode, pad_id
from labkit.errors import LabError
from labkit.guards import Finding
from labkit.kernels import quick
from labkit.monitoring import Meter, in_notebook, live, memory_told, notebook_line, say_of_the_rest
from labkit.narrow import switched_off
from labkit.trainer import TOLD, best_of, curve_of, make_trainer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLED = 8  # weights of a model that is trained as a whole that are compared with what they were
RATES = {"adamw": 1, "muon": 2}  # learning rate for an adapter, times what the profile says
KEPT = 4  # datasets that stay encoded for the next training in this process
MOST_LABELS = 50  # different answers, each met more than once, that are taken for labels
_kept_rows: dict[tuple[str, str, int], Dataset] = {}
DISK_FULL = ("No space left", "File too large", "os error 28", "os error 27", "PytorchStreamWriter", "inline_container")


@dataclass(frozen=True)
class Run:
    """What a fine-tuning left: where it is, how it was made, how the loss went.

    `settings` has what `finetune` was told, with the profile's values where it was not; `base` tells the base model's
    weights from others, and `data` the rows.
    `curve` has one dict a logged step with `step` and `loss` (nats), sometimes `validation_loss`, `learning_rate`,
    `grad_norm`. `meter` has what watching measured (`monitoring.Meter.facts`). `finished` is False where somebody
    stopped it; `finetune(..., resume=True)` goes on from there.
    """

    folder: Path
    settings: dict[str, Any]
    curve: list[dict[str, float]]
    seconds: float
    trainable: int
    total: int
    finished: bool = True
    findings: list[Finding] = field(default_factory=list)
    meter: dict[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Trainable parameters as a share of all, 0 to 1."""
        return self.trainable / self.total

    @cached_property
    def loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The tuned model and its tokenizer, read back from disk at first use."""
        if self.settings["method"] == "full":
            return models.load(self.folder / "model")
        base = self.settings["model"]
        if self.settings.get("base") not in (None, models.identity(base)):
            raise LabError("the base model is another one than this adapter was trained on", where=str(self.folder),
                           expected=f"{base} with the weights that it had then", todo="Train the adapter again")
        model, tokenizer = models.load(base, quantize=self.settings["quantize"])
        return adapters.load(model, self.folder / "adapter"), tokenizer

    @property
    def model(self) -> PreTrainedModel:
        return self.loaded[0]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.loaded[1]

    @classmethod
    def read(cls, folder: str | Path) -> Run:
        """A Run from the folder that `finetune` wrote."""
        file = Path(folder) / "run.json"
        if not file.is_file():
            raise LabError(
                "no run here",
                where=str(folder),
                expected="a folder that `labkit finetune` wrote",
                todo="Give the folder that holds run.json",
            )
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            facts["findings"] = [Finding(**f) for f in facts["findings"]]
            return cls(folder=Path(folder), **facts)
        except (ValueError, KeyError, TypeError) as error:
            raise LabError("run.json is damaged", where=str(file), todo="Train again, or take another run") from error


def finetune(
    examples: Dataset,
    validation: Dataset | None = None,
    *,
    model: str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
    method: str = "lora",
    rank: int | None = None,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: str | list[str] = "all-linear",
    quantize: str | None = None,
    optimizer: str = "adamw",
    learning_rate: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    weight_decay: float = 0.0,
    schedule: str = "cosine",
    max_length: int | None = None,
    seed: int = 0,
    out: str | Path = "runs/latest",
    resume: bool = False,
    bf16: bool | None = None,
    kernels: bool = True,
    narrow: bool = True,
    group_by_length: bool = False,
    reuse: bool = False,
    guard: bool = True,
    skip: Collection[str] = (),
    collator: Callable | None = None,
    loss: Callable | None = None,
    arguments: dict[str, Any] | None = None,
    callbacks: Sequence = (),
    evaluate_every: int | None = None,
    patience: int | None = None,
    progress: bool = False,
) -> Run:
    """Fine-tune a base model on examples and leave a Run.

    Started in several processes (torchrun, accelerate launch), all train together and take the steps of one: each has
    its share of `batch_size`, process 0 writes, and a run that was stopped goes on in any number of processes.

    Args:
        examples: columns `prompt` and `completion`, or rows that are encoded already, or packs of them.
        validation: the same, looked at every `evaluate_every` steps.
        model: profile, folder or hub id; None is the current profile. Or a base that is loaded, with its tokenizer;
            it is changed in place.
        method: "lora", "rslora", "dora", "pissa", or "full" for all weights.
        rank, alpha, dropout, targets: of the adapter; alpha is 2 r where it is not given.
        quantize: None, "nf4" or "int8": how the frozen base is kept.
        optimizer: "adamw", or "muon" for adapters of matrices only (`labkit.muon`); its momentum is `adam_beta1` of
            `arguments`, 0.9 unless told.
        learning_rate: peak; where it, rank, steps or batch_size are not given, the profile that suits the model says,
            for Muon twice what it says for AdamW.
        steps: optimizer steps, each of `batch_size` rows. LABKIT_STEPS caps it from outside.
        schedule: a transformers scheduler; the first twentieth of the steps is warm-up.
        max_length: in tokens; longer rows are refused, not cut.
        seed: of the start of A, of dropout and of the order of rows; on a CPU the same seed gives the same bytes.
        out: the Run's folder. resume: go on from its last whole checkpoint, if there is one; where the run was finished
            already, take it. On a CPU the weights are then those of a run that was never stopped, byte for byte.
        reuse: take the finished Run that lies in `out`, if base, rows and settings are the same.
        bf16: compute in bfloat16; None asks what the machine does well.
        kernels: in a training in bfloat16 on a CPU, compute attention and LoRA layers by `labkit.kernels`; False takes
            PyTorch's and peft's own, which differ by rounding (and drop others) and are slower.
        narrow: leave out what the loss does not look at, by `labkit.narrow`; False computes all, the same to rounding.
        group_by_length: put rows of about the same length into a batch of 8 or more (`trainer.LengthGroups`): with 16
            tickets 7 % is then padding, in place of 21. Rows are otherwise taken in the Trainer's order.
        guard: run the tripwires. skip: names of tripwires to leave out, such as "loss_mask" where all tokens count.
        collator: in place of `labkit.data.encode.collate`; with it or `loss`, rows keep their further columns.
        loss: function of (model, batch, items) to a scalar; `items` is how many labels count in the effective batch.
        arguments: transformers.TrainingArguments, over those that are made from the above.
        evaluate_every: steps from one look at validation to the next.
        patience: stop early, once so many looks in a row brought no lower validation loss, and take the weights of
            the lowest; None trains to the end and takes the last.
        callbacks: for the Trainer.
        progress: `monitoring.live`, a picture that redraws itself in a notebook and a bar in a terminal; without it a
            notebook shows a line that goes when it is done.

    Ctrl-C, or a notebook's stop button, ends it after the present step with a checkpoint and a Run that is not
    `finished`; in a notebook that is said, since the cell goes on. A second one ends it at once.

    Raises:
        LabError: a tripwire refused, a row is too long, the folder can't be written, or there is a checkpoint to go
            on from and it is of a run with other settings.
    """
    import torch

    with models.quiet():  # it imports peft, and that bitsandbytes, which has something to say
        from transformers import SchedulerType

    _leave_imports()
    given, model = (model, model[0].name_or_path) if isinstance(model, tuple) else (None, model)
    profile = models.suiting(model)
    name = str(model) if model else profile.name
    full = method == "full"
    if quantize and processes.asked_to_split():
        raise LabError("quantised weights are not split over processes here", where="quantize",
                       todo="Launch it without FSDP, or leave quantize out")
    if optimizer == "muon" and processes.asked_to_split():
        raise LabError("Muon needs whole matrices, and FSDP splits them", where="optimizer",
                       todo="Launch it without FSDP, or take optimizer='adamw'")
    if not full and method not in adapters.VARIANTS:
        raise LabError(
            f"there is no method {method!r}", expected=f"full, {', '.join(adapters.VARIANTS)}", where="method"
        )
    if full and quantize:
        raise LabError("quantised weights cannot be trained themselves", where="quantize", todo="Take method='lora'")
    rank = profile.rank if rank is None else rank
    steps = profile.steps if steps is None else steps
    batch_size = profile.batch_size if batch_size is None else batch_size
    for where, number in (("steps", steps), ("batch_size", batch_size)):
        if number < 1:
            raise LabError(f"{number}", where=where, expected="a whole number from 1 on")
    if patience is not None and (patience < 1 or validation is None or not evaluate_every):
        raise LabError(f"{patience}", where="patience", expected="a whole number from 1 on, validation rows and "
                       "evaluate_every")
    if schedule not in (known := [kind.value for kind in SchedulerType]):
        raise LabError(f"there is no schedule {schedule!r}", where="schedule", expected=", ".join(known))
    if optimizer not in RATES:
        raise LabError(f"there is no optimizer {optimizer!r} here", where="optimizer", expected=", ".join(RATES),
                       todo="Others go by arguments={'optim': ...}, under transformers' names")
    if learning_rate is None:
        learning_rate = profile.full_learning_rate if full else profile.learning_rate * RATES[optimizer]
    settings = {
        "model": name,
        "method": method,
        "quantize": quantize,
        "rank": None if full else rank,
        "alpha": None if full else (2 * rank if alpha is None else alpha),
        "dropout": dropout,
        "targets": None if full else targets,
        "seed": seed,
        "learning_rate": learning_rate,
        "steps": capped(steps),
        "batch_size": batch_size,
        "weight_decay": weight_decay,
        "schedule": schedule,
        **({} if optimizer == "adamw" else {"optimizer": optimizer}),
        "max_length": max_length or profile.max_length,
        "bf16": profiles.bf16() if bf16 is None else bf16,
        "kernels": kernels,
        **({} if narrow else {"narrow": False}),
        **({"group_by_length": True} if group_by_length else {}),
        "rows": len(examples),
        "data": _rows_hash(examples),
        "base": models.identity(name),
        **({"arguments": dict(arguments)} if arguments else {}),
        **({"loss": _which(loss)} if loss else {}),
        **({"patience": patience, "evaluate_every": evaluate_every, "validation": _rows_hash(validation)}
           if patience else {}),
        **wording(examples),
    }
    processes.join()
    processes.refuse_small(batch_size, len(examples))
    folder = processes.once(writable, Path(out))
    done = reuse or (resume and not (folder / "checkpoints").exists())  # they go when everything else is there
    if done and (old := processes.once(_same_run, folder, settings)):
        return old
    findings: list[Finding] = []
    last = None
    if resume:
        last, findings = processes.once(checkpoints.recover, folder)
        if last:
            checkpoints.refuse_others(last, settings)
    else:  # a later resume could take a checkpoint of another run for its own
        processes.once(checkpoints.drop, folder)
    base, tokenizer = given or models.load(name, quantize=quantize)
    rows = _encoded(examples, tokenizer, settings["max_length"])
    held = _encoded(validation, tokenizer, settings["max_length"]) if validation is not None else None
    packed = "position_ids" in rows.column_names
    collator = collator or partial(collate_packed if packed else collate, pad_id=pad_id(tokenizer))
    if guard:
        findings += before_training(rows, held, tokenizer, collator, skip)
    fit = partial(_fitted, settings=settings)
    tuned = models.settled(fit(base))
    counts = models.count_parameters(tuned)
    frozen, start = ({}, {})
    if guard:
        frozen, start = guards.fingerprint(tuned), guards.trainable(tuned, most=SAMPLED if full else None)
    first = folder / "checkpoints" / "start" if method == "pissa" else None
    if first:
        with _full_disk_told(folder):
            processes.once(adapters.save, tuned, first)

    started = time.monotonic()
    if not any(isinstance(getattr(callback, "meter", None), Meter) for callback in callbacks):
        callbacks = [*callbacks, live() if progress else notebook_line() or Meter().callback()]
    meter = next(found for c in callbacks if isinstance(found := getattr(c, "meter", None), Meter))
    trainer, stop = make_trainer(tuned, rows, held, collator, settings, folder, callbacks, evaluate_every, loss,
                                 arguments, patience, last)
    small = trainer.is_fsdp_enabled or trainer.args.gradient_checkpointing
    fast = quick(tuned, adapter=not small) if settings["kernels"] else nullcontext()
    whole = nullcontext() if narrow else switched_off()
    torch.manual_seed(seed)
    try:
        with processes.told(partial(last_checkpoint, folder)), _full_disk_told(folder), models.quiet(), \
                memory_told(), stop, fast, whole:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
    except guards.Tripped as tripped:
        tripped.curve, tripped.settings, tripped.meter = curve_of(trainer.state.log_history), settings, meter.facts()
        raise
    finally:
        for callback in callbacks:
            if close := getattr(callback, "close", None):  # a line or a bar that would else stay as it stood
                close()
    finished = not stop.asked or trainer.state.global_step >= settings["steps"]  # a callback may end it early
    if patience:
        findings.append(best_of(trainer.state))
    if trainer.is_fsdp_enabled:  # each process has a part of every weight: process 0 puts them together
        findings.append(Finding("weights_split", f"a process held {processes.held_share(trainer.model):.1%} of them"))
        parts = trainer.accelerator.get_state_dict(trainer.model)
        tuned = fit(models.load(name)[0]) if processes.first() else tuned
        if processes.first():
            tuned.load_state_dict(parts)
    # With bf16 an autocast stays around forward: the model in memory would answer otherwise than the one on disk.
    trainer.accelerator.unwrap_model(tuned, keep_fp32_wrapper=False)
    tuned.eval()
    if guard and processes.first():
        if frozen and "frozen_stayed" not in skip:
            findings.append(guards.frozen_stayed(tuned, frozen))
        if trainer.state.global_step > 1 and "adapter_moved" not in skip:  # in the first step the learning rate is 0
            findings.append(guards.adapter_moved(tuned, start))
        if meter.moves and "step_size" not in skip:
            findings.append(guards.step_size(max(meter.moves), full))
    run = Run(
        folder,
        settings,
        curve_of(trainer.state.log_history),
        round(time.monotonic() - started, 2),
        counts.trainable,
        counts.total,
        finished,
        findings,
        meter.facts(),
    )
    keep = partial(_keep, run, tuned, rows, tokenizer, first, guard, skip)
    findings[:] = processes.once(keep)
    if not finished and in_notebook():  # the cell goes on with it; a terminal is told by who asked for the run
        print(f"Stopped after step {trainer.state.global_step} of {settings['steps']}: this run is half trained, and "
              "so is what follows from it. Run the cell again, or go on from here with finetune(..., resume=True).")
        say_of_the_rest("The rest of this cell needs the whole run.")
    return run


def get_ready(*examples: Dataset) -> None:
    """Do now what trainings on these rows begin with, imports and encoding: for whoever forks processes that train."""
    with models.quiet():
        import accelerate  # noqa: F401
        import peft  # noqa: F401
        import transformers.trainer  # noqa: F401

        tokenizer = models.tokenizer()
    for rows in examples[-KEPT:]:
        _encoded(rows, tokenizer, profiles.current().max_length)


@cache
def _leave_imports() -> None:
    """Keep the garbage collector from what is there by now, half a million objects that imports made.

    The Trainer has it look at all objects in every training, which took a quarter of a second each time.
    """
    gc.collect()
    gc.freeze()


def _fitted(base: PreTrainedModel, settings: dict) -> PreTrainedModel:
    """The base with an adapter as the settings have it; for a full fine-tuning the base itself."""
    if settings["method"] == "full":
        return base
    return adapters.attach_lora(base, settings["rank"], settings["alpha"], dropout=settings["dropout"],
                                targets=settings["targets"], variant=settings["method"], seed=settings["seed"])


def _keep(run: Run, tuned: PreTrainedModel, rows: Dataset, tokenizer, first: Path | None, guard: bool,
          skip: Collection[str]) -> list[Finding]:
    """Write a run's weights and facts, look whether they answer as they should, and drop its checkpoints."""
    folder = run.folder
    (folder / "run.json").unlink(missing_ok=True)  # of an earlier run, whose weights are now written over
    with _full_disk_told(folder), models.quiet():
        if run.settings["method"] == "full":
            tuned.save_pretrained(folder / "model")
            tokenizer.save_pretrained(folder / "model")
        else:
            adapters.save(tuned, folder / "adapter", first)
    with _full_disk_told(folder):
        _write(run)  # before the last look, which loads the base once more and may want more memory than there is
        if guard:
            try:
                run.findings.extend(after_saving(run, tuned, rows, tokenizer, skip))
            except guards.Tripped:
                (folder / "run.json").unlink()  # what was refused is no run
                raise
            _write(run)
    if run.finished:
        checkpoints.drop(folder)
    return run.findings


def capped(steps: int) -> int:
    """Steps, or what LABKIT_STEPS allows where it is fewer (headless runs of the learners' copies)."""
    return profiles.limited(steps, "LABKIT_STEPS", "steps")


def writable(folder: Path) -> Path:
    """Make the folder and see that it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write"
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        raise LabError(
            f"cannot write here ({error.strerror})", where=str(folder), todo="Choose another folder with --out"
        ) from error
    return folder


def before_training(rows: Dataset, held: Dataset | None, tokenizer, collator: Callable,
                    skip: Collection[str] = ()) -> list[Finding]:
    """The tripwires that look at the data: loss mask, end of turn, prompt, leak."""
    few = rows.select(range(min(64, len(rows)))).to_list()
    batch = collator([{name: value for name, value in row.items() if name not in TOLD} for row in few])
    found = []
    if "loss_mask" not in skip:
        found.append(guards.loss_mask(rows.select_columns(["labels"]).to_list(), tokenizer))
    plain = {"labels", "attention_mask"} <= set(batch) and batch["attention_mask"].dim() == 2
    if "loss_mask" not in skip and plain:  # a collator may write labels of its own
        real = [mask.bool() for mask in batch["attention_mask"]]
        labels = [row[mask].tolist() for row, mask in zip(batch["labels"], real, strict=True)]
        guards.loss_mask([{"labels": row} for row in labels], tokenizer)
    if "end_of_turn" not in skip and "labels" in batch:
        found.append(guards.end_of_turn_counts(batch, tokenizer))
    if "prompt" in rows.column_names:
        if "same_prompt" not in skip:
            found.append(guards.same_prompt(few, tokenizer))
        if held is not None and "prompt" in held.column_names and "no_leak" not in skip:
            found.append(guards.no_leak([str(p) for p in rows["prompt"]], [str(p) for p in held["prompt"]]))
    return found


def after_saving(run: Run, tuned: PreTrainedModel, rows: Dataset, tokenizer,
                 skip: Collection[str] = ()) -> list[Finding]:
    """The tripwires that look at the result: what was saved answers as what was trained, in any batch."""
    few = [
        {"input_ids": r["input_ids"], "labels": r["labels"]} for r in rows.select(range(min(4, len(rows)))).to_list()
    ]
    batch = collate(few, pad_id(tokenizer))
    before = guards.logits_of(tuned, batch)
    found = [] if "reload_agrees" in skip else [guards.reload_agrees(before, guards.logits_of(run.model, batch))]
    if "batch_parity" in skip:
        return found

    def score(size: int):
        import torch

        if size == len(few):  # the whole batch was read above
            return _row_losses(before, batch["labels"])
        parts = [collate(few[i : i + size], pad_id(tokenizer)) for i in range(0, len(few), size)]
        return torch.cat([_row_losses(guards.logits_of(tuned, part), part["labels"]) for part in parts])

    # LLM.int8 looks for outliers in all rows of a batch together, so its scores do depend on the batch, a little.
    tolerance = {"tolerance": 0.5} if run.settings["quantize"] == "int8" else {}
    return [*found, guards.batch_parity(score, (1, len(few)), **tolerance)]


def _row_losses(logits, labels):
    """Summed loss of each row, nats: (batch, seq, vocabulary), (batch, seq) -> (batch,)."""
    from torch.nn.functional import cross_entropy

    losses = cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none")
    return losses.sum(-1)


def wording(examples: Dataset) -> dict[str, Any]:
    """What a chat with the result needs to ask as training did: the prompt with {text} in it, and the labels, if any.

    The template is what all prompts begin and end with; answers that come again and again are labels.
    """
    if not {"prompt", "completion"} <= set(examples.column_names) or len(examples) < 2:
        return {}
    prompts, answers = examples["prompt"][:], Counter(examples["completion"][:])
    if not isinstance(prompts[0], str) or len(set(prompts)) < 2:
        return {}
    head = os.path.commonprefix(prompts)
    tail = os.path.commonprefix([prompt[len(head) :][::-1] for prompt in prompts])[::-1]
    labels = sorted(answers) if len(answers) <= MOST_LABELS and min(answers.values()) > 1 else []
    return {"template": head + "{text}" + tail, "labels": labels}


def _rows_hash(rows: Dataset) -> str:
    """Tells one set of rows from another, whatever their order of columns."""
    digest = hashlib.sha256()
    for name in sorted({"prompt", "completion", *COLUMNS} & set(rows.column_names)):
        digest.update(json.dumps([name, rows[name][:]]).encode())
    return digest.hexdigest()[:16]


def _which(function: Callable) -> str:
    """Tells one loss from another: its name, what functools.partial fixed in it, and a hash of its source."""
    inner, fixed = getattr(function, "func", function), getattr(function, "keywords", {})
    try:
        source = hashlib.sha256(inspect.getsource(inner).encode()).hexdigest()[:8]
    except (OSError, TypeError):  # a callable object, or one whose source is nowhere
        source = ""
    said = {name: getattr(value, "name_or_path", value) for name, value in fixed.items()}
    return f"{getattr(inner, '__qualname__', type(inner).__qualname__)} {said} {source}"


def _same_run(folder: Path, settings: dict) -> Run | None:
    """The finished Run in this folder, if it was made from the same base, rows and settings."""
    try:
        run = Run.read(folder)
    except LabError:
        return None
    return run if run.finished and run.settings == json.loads(json.dumps(settings, default=str)) else None


def _encoded(dataset: Dataset, tokenizer, max_length: int) -> Dataset:
    if not len(dataset):
        raise LabError("no rows to train on", where="examples")
    if not {"input_ids", "labels"} <= set(dataset.column_names) and not {"prompt", "completion"} <= set(
            dataset.column_names):
        raise LabError(f"these rows have the columns {', '.join(dataset.column_names)}", where="examples",
                       expected="prompt and completion, or input_ids and labels",
                       todo="Make examples of records first: data.examples, or data.ticket_task for the tickets")
    if not {"input_ids", "labels"} <= set(dataset.column_names):
        return _encoded_once(dataset, tokenizer, max_length)
    for i, row in enumerate(dataset.select_columns(["input_ids", "labels"])):
        ids, labels = len(row["input_ids"]), len(row["labels"])
        if ids != labels:
            raise LabError(f"{ids} input_ids, but {labels} labels", where=f"row {i}", expected="one label a token")
        if ids > max_length:
            raise LabError(
                f"{ids} tokens",
                where=f"row {i}",
                expected=f"at most {max_length}",
                todo="Shorten it, or raise max_length",
            )
    return dataset


def _encoded_once(examples: Dataset, tokenizer, max_length: int) -> Dataset:
    """What `encode` gives, kept for the next training on the same rows: labs train many times."""
    words = getattr(tokenizer, "backend_tokenizer", None)
    if words is None:
        return encode(examples, tokenizer, max_length)
    how = hashlib.sha256(f"{words.to_str()}{tokenizer.chat_template}{tokenizer.eos_token}".encode()).hexdigest()
    key = (examples._fingerprint, how, max_length)
    if key not in _kept_rows:
        _kept_rows[key] = encode(examples, tokenizer, max_length)
    while len(_kept_rows) > KEPT:
        _kept_rows.pop(next(iter(_kept_rows)))
    return _kept_rows[key]


@contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    """A LabError for a disk that filled up: Python, safetensors and torch each say it in an error of their own."""
    try:
        yield
    except LabError:
        raise
    except Exception as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if not full and not any(sign in str(error) for sign in DISK_FULL):
            raise
        last = last_checkpoint(folder)
        kept = f"resume goes on from {last.name}" if last else "there is no whole checkpoint yet, so train again"
        raise LabError(
            "the disk became full, or the file too large for it", where=str(folder), todo=f"Free some space; {kept}"
        ) from error


def _write(run: Run) -> None:
    facts = {
        "settings": run.settings,
        "curve": run.curve,
        "seconds": run.seconds,
        "trainable": run.trainable,
        "total": run.total,
        "finished": run.finished,
        "findings": [vars(f) for f in run.findings],
        "meter": run.meter,
    }
    part = run.folder / "run.json.part"
    part.write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")
    os.replace(part, run.folder / "run.json")
