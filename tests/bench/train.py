"""Part 1, training on a CPU: finetune against the recipe that tutorials show and against TRL; each lever alone.

All ways of a lesson get the same base, adapter, rows, labels, learning rates and number of optimizer steps. What is
compared are tokens that count in the loss, a second, from the end of the first step to the end of the last; loading,
encoding and saving are in "whole call" alone. The loss at the end is that of held-out rows, by one function for all.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.options import Options, missing
from bench.report import here
from bench.turns import Job, NotHere, Way, refuse
from labkit import adapters, data, models, profiles
from labkit.data.encode import IGNORED, collate, collate_packed, encode, pack, pad_id
from labkit.errors import LabError
from labkit.trainer import WARMUP, sparse_loss
from labkit.training import finetune

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

PART = "train"
FIGURE = "counted tokens/s"
STEPS = {"tiny": 6, "small": 4}  # the first one is not timed
HELD = 24  # rows that the loss at the end is taken of
LEVERS = ("bf16", "kernels", "logits where labels count", "narrow passes", "length groups", "packs")
LOW = ("bf16", "kernels")  # those for a processor that computes in bfloat16
TRL_LONGEST = 1024  # SFTConfig's max_length, which is the length of its packs


@dataclass(frozen=True)
class Lesson:
    """What all ways are to teach, and with what.

    `fresh` gives the base anew; `rows` and `held` are encoded, and exactly one pass over `rows` is taken. `guard` is
    finetune's: rows of random tokens have no meaning to be guarded.
    """

    fresh: Callable[[], PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    rows: Dataset
    held: Dataset
    steps: int
    batch_size: int
    max_length: int
    learning_rate: float
    rank: int
    scratch: Path
    guard: bool = True
    kept: dict[str, Any] = field(default_factory=dict)

    def base(self) -> PreTrainedModel:
        """The base with its adapter, the same start for all."""
        return adapters.attach_lora(self.fresh(), self.rank, seed=0)

    def shared(self) -> dict[str, Any]:
        """TrainingArguments that are the same for all ways; what is left out is the Trainer's own default."""
        return dict(output_dir=str(self.scratch / "trainer"), max_steps=self.steps, learning_rate=self.learning_rate,
                    per_device_train_batch_size=self.batch_size, lr_scheduler_type="cosine",
                    warmup_steps=warmup(self.steps), seed=0, data_seed=0, save_strategy="no", report_to=[],
                    disable_tqdm=True, use_cpu=profiles.device() == "cpu", dataloader_pin_memory=False)

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """What is the same in every round: made in the first one."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]


def warmup(steps: int) -> int:
    """As finetune has it."""
    return -int(-WARMUP * steps // 1)


def lesson(model: str, task: str, scratch: Path, steps: int | None = None) -> Lesson:
    """A lesson on the shipped tickets for a profile's model, with that profile's settings."""
    profile, found = profiles.named(model), data.ticket_task(task)
    steps = STEPS[model] if steps is None else steps
    base, tokenizer = models.load(model)
    rows = encode(found.train.shuffle(seed=1).select(range(steps * profile.batch_size)), tokenizer, profile.max_length)
    held = encode(found.validation.shuffle(seed=1).select(range(HELD)), tokenizer, profile.max_length)
    return Lesson(partial(copy.deepcopy, base), tokenizer, rows, held, steps, profile.batch_size, profile.max_length,
                  profile.learning_rate, profile.rank, scratch)


# -- what is watched while any of them trains ----------------------------------------------------------------------


class Watch:
    """Counts what each step trains on, and when it ends."""

    def __init__(self):
        self.counted: list[int] = []  # labels that count, by batch
        self.places: list[int] = []  # tokens that the model reads, padding included
        self.ends: list[float] = []
        self.work: list[float] = []  # CPU seconds of this process by then, which a busy machine leaves as they are

    def collator(self, inner: Callable[[list], dict]) -> Callable[[list], dict]:
        """The same batches, counted."""

        def counting(rows: list) -> dict:
            batch = inner(rows)
            self.counted.append(int((batch["labels"][:, 1:] != IGNORED).sum()))
            self.places.append(batch["input_ids"].numel())
            return batch

        return counting

    def callback(self):
        """For the Trainer; what was collated before the training, to look at it, does not count."""
        import torch
        from transformers import TrainerCallback

        watch = self

        class Ends(TrainerCallback):
            def on_train_begin(self, args, state, control, **kwargs):
                watch.counted.clear()
                watch.places.clear()

            def on_step_end(self, args, state, control, **kwargs):
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                watch.ends.append(time.perf_counter())
                watch.work.append(time.process_time())

        return Ends()

    def figures(self) -> dict[str, float]:
        """Speeds from the end of the first step to that of the last, and what all steps together saw."""
        steps = len(self.ends)
        if steps < 2:
            raise LabError(f"{steps} steps", where="bench", expected="two or more: the first one is not timed")
        seconds = self.ends[-1] - self.ends[0]
        counted, places = self.counted[:steps], self.places[:steps]
        return {FIGURE: sum(counted[1:]) / seconds, "read tokens/s": sum(places[1:]) / seconds,
                "counted tokens a CPU second": sum(counted[1:]) / (self.work[-1] - self.work[0]), "steps": steps,
                "counted tokens": sum(counted), "read tokens": sum(places)}


def held_loss(lesson: Lesson, trained: dict[str, torch.Tensor]) -> float:
    """Nats a counted token of the held rows, of a new base with these trained weights."""
    import torch

    model = lesson.base()
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(trained[name])
    model.eval()
    total = counted = 0
    rows = lesson.held.select_columns(["input_ids", "labels"]).to_list()
    with torch.inference_mode():
        for start in range(0, len(rows), 8):
            batch = collate(rows[start : start + 8], pad_id(lesson.tokenizer))
            batch = {name: value.to(model.device) for name, value in batch.items()}
            n = int((batch["labels"][:, 1:] != IGNORED).sum())
            total += float(sparse_loss(model, batch)) * n
            counted += n
    return total / counted


def trainable(model) -> dict[str, torch.Tensor]:
    """What is trained, by the name that it has in the base, whether peft's wrapper is around it or not."""
    return {name.removeprefix("base_model.model."): p for name, p in model.named_parameters() if p.requires_grad}


# -- the ways ------------------------------------------------------------------------------------------------------


def plain(lesson: Lesson, name: str, **more) -> dict[str, float]:
    """The recipe of most tutorials: Trainer and peft, everything padded to the longest length, the default collator.

    Prompts are masked as in the other ways, or it would be another lesson. `more`: TrainingArguments.
    """
    from transformers import Trainer, TrainingArguments, default_data_collator

    columns = lesson.rows.select_columns(["input_ids", "labels"])
    fill = partial(padded, length=lesson.max_length, pad=pad_id(lesson.tokenizer))
    started = time.perf_counter()
    rows = columns.map(fill, load_from_cache_file=False)
    model = lesson.base()
    trainer = Trainer(model=model, args=TrainingArguments(**lesson.shared() | more), train_dataset=rows,
                      data_collator=default_data_collator)
    return watched(lesson, name, trainer, started)


def padded(row: dict, length: int, pad: int) -> dict:
    """One row padded to a length, as `tokenizer(..., padding="max_length")` does it."""
    n = len(row["input_ids"])
    return {"input_ids": row["input_ids"] + [pad] * (length - n), "attention_mask": [1] * n + [0] * (length - n),
            "labels": row["labels"] + [IGNORED] * (length - n)}


def trl(lesson: Lesson, name: str, **more) -> dict[str, float]:
    """TRL's SFTTrainer on the same encoded rows; what `more` does not say is its own default.

    Raises:
        NotHere: TRL is not installed.
    """
    if not here("trl"):
        raise NotHere("trl is not installed; `pip install -c constraints.txt -e '.[bench]'` brings it")
    with models.quiet():
        from trl import SFTConfig, SFTTrainer

        settings = lesson.shared() | more
        if settings.get("packing"):
            length, size = lesson.once("TRL's packs", partial(trl_packs, lesson))
            settings |= {"max_length": length, "per_device_train_batch_size": size}
        started = time.perf_counter()
        trainer = SFTTrainer(model=lesson.base(), args=SFTConfig(**settings), processing_class=lesson.tokenizer,
                             train_dataset=lesson.rows.select_columns(["input_ids", "labels"]))
        return watched(lesson, name, trainer, started)


def watched(lesson: Lesson, name: str, trainer: Trainer, started: float) -> dict[str, float]:
    """Train, and give the figures of it."""
    from transformers import PrinterCallback

    watch = Watch()
    trainer.data_collator = watch.collator(trainer.data_collator)
    trainer.add_callback(watch.callback())
    trainer.remove_callback(PrinterCallback)
    with models.quiet():
        trainer.train()
    took = time.perf_counter() - started
    loss = lesson.once(f"{name}: loss", lambda: held_loss(lesson, trainable(trainer.model)))
    return watch.figures() | {"loss at the end": loss, "whole call, s": took}


def ours(lesson: Lesson, name: str, levers: Collection[str] | None = None) -> dict[str, float]:
    """`labkit.training.finetune`; None is as `labkit finetune` calls it, else exactly these levers are on.

    Raises:
        LabError: there is no such lever.
    """
    base, watch = lesson.fresh(), Watch()
    rows, settings = switched(lesson, watch, levers)
    started = time.perf_counter()
    finetune(rows, model=(base, lesson.tokenizer), rank=lesson.rank, learning_rate=lesson.learning_rate,
             steps=lesson.steps, max_length=lesson.max_length, out=lesson.scratch / "run", guard=lesson.guard,
             callbacks=[watch.callback()], **settings)
    took = time.perf_counter() - started
    loss = lesson.once(f"{name}: loss", lambda: held_loss(lesson, trainable(base)))
    return watch.figures() | {"loss at the end": loss, "whole call, s": took}


def switched(lesson: Lesson, watch: Watch, levers: Collection[str] | None) -> tuple[Dataset, dict[str, Any]]:
    """Rows and settings for finetune with these levers on and all others off; None is as `labkit finetune` calls it."""
    rows, packed = lesson.rows, levers is not None and "packs" in levers
    collator = watch.collator(partial(collate_packed if packed else collate, pad_id=pad_id(lesson.tokenizer)))
    settings: dict[str, Any] = {"batch_size": lesson.batch_size, "collator": collator, "group_by_length": True}
    if levers is None:
        return rows, settings
    if unknown := sorted(set(levers) - set(LEVERS)):
        raise LabError(f"there is no lever {', '.join(unknown)}", where="levers", expected=", ".join(LEVERS))
    settings["kernels"] = "kernels" in levers
    settings["bf16"] = "bf16" in levers or settings["kernels"]  # which are for bf16 alone
    settings["narrow"] = "narrow passes" in levers
    if not settings["narrow"] and "logits where labels count" not in levers:
        settings["loss"] = all_logits
    settings["group_by_length"] = "length groups" in levers and not packed
    if packed:
        rows, settings["batch_size"] = lesson.once("packs", partial(our_packs, lesson))
    return rows, settings


def all_logits(model: PreTrainedModel, batch: dict, items=None) -> torch.Tensor:
    """What finetune computes, with the head at work on every token: the lever "logits where labels count", off."""
    from torch.nn.functional import cross_entropy

    given = {name: value for name, value in batch.items() if name != "labels"}
    logits = model(**given, use_cache=False).logits[:, :-1].float()
    labels = batch["labels"][:, 1:]
    total = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (items if items is not None else (labels != IGNORED).sum().clamp(min=1))


# -- packs that make as many steps as rows do ----------------------------------------------------------------------


def longest(rows: Dataset) -> int:
    """Tokens of the longest row."""
    return max(map(len, rows["input_ids"]))


def fitting(count: Callable[[int], int], steps: int, least: int, most: int) -> tuple[int, int]:
    """The longest packs, up to `most`, that can be shared out evenly over the steps: (tokens a pack, packs a step).

    Args:
        count: packs that all rows make, by the length of a pack.
        least: the longest row. most: tokens.

    Raises:
        NotHere: no length does.
    """
    for length in range(most, least - 1, -1):
        packs = count(length)
        if packs >= steps and packs % steps == 0:
            return length, packs // steps
    raise NotHere(f"no packs of {least} to {most} tokens can be shared out over {steps} steps")


def our_packs(lesson: Lesson) -> tuple[Dataset, int]:
    """The lesson's rows in packs, and how many packs a step takes."""
    rows = lesson.rows
    length, size = fitting(lambda length: len(pack(rows, length)), lesson.steps, longest(rows), lesson.max_length)
    return pack(rows, length), size


def trl_packs(lesson: Lesson) -> tuple[int, int]:
    """As `fitting`, with TRL's own way of packing."""
    from trl import pack_dataset

    rows = lesson.rows.select_columns(["input_ids", "labels"])
    return fitting(lambda length: len(pack_dataset(rows, length, "bfd", {"load_from_cache_file": False})),
                   lesson.steps, longest(rows), TRL_LONGEST)


# -- the part ------------------------------------------------------------------------------------------------------


def ways(lesson: Lesson) -> dict[str, Callable[[], dict[str, float]]]:
    """Every way but the levers.

    TRL has its defaults with one exception: it computes in bfloat16 everywhere, and a processor that has to imitate
    that is many times slower, which says nothing about TRL; so it is given the dtype that finetune takes. Its
    checkpointing of activations, made for a GPU that is short of memory, is a default, so it also runs without.
    """
    suited = {"bf16": profiles.bf16()}
    freed = suited | {"gradient_checkpointing": False}
    ways = {"finetune": partial(ours, lesson), "plain Trainer": partial(plain, lesson),
            "TRL": partial(trl, lesson, **suited), "TRL, packing": partial(trl, lesson, packing=True, **suited),
            "TRL, no checkpointing": partial(trl, lesson, **freed),
            "TRL, packing, no checkpointing": partial(trl, lesson, packing=True, **freed)}
    return {name: partial(way, name) for name, way in ways.items()}


def levers(lesson: Lesson) -> dict[str, Callable[[], dict[str, float]]]:
    """finetune with no lever, with each alone, and with all that this machine has."""
    has = [lever for lever in LEVERS if lever not in LOW or profiles.bf16()]
    switches = {"no lever": (), **{lever: (lever,) for lever in LEVERS}, f"all levers ({len(has)})": has}
    ways = {name: partial(ours, lesson, name, on) for name, on in switches.items()}
    imitated = dict.fromkeys(LOW, refuse("this processor would have to imitate bfloat16"))
    return ways if profiles.bf16() else ways | imitated


def jobs(options: Options) -> Iterator[Job]:
    """finetune against the others, then each lever alone against none, for each model."""
    from datasets.utils import disable_progress_bars

    disable_progress_bars()
    for model in options.models:
        if gap := missing(PART, model):
            yield gap
            continue
        taught = lesson(model, options.task, options.scratch / model, options.steps)
        others, switches = ways(taught), levers(taught)
        yield Job(PART, f"{model}, {options.task}", FIGURE, [Way(*pair) for pair in others.items()],
                  [("finetune", name) for name in others if name != "finetune"])
        yield Job(PART, f"{model}, {options.task}, levers", FIGURE, [Way(*pair) for pair in switches.items()],
                  [(name, "no lever") for name in switches if name != "no lever"])
