"""The Trainer that `finetune` uses: transformers' own, with logits only where labels count and a clean stop.

Stands between `finetune` (which says what to train) and transformers (which trains it).
"""

from __future__ import annotations

import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import checkpoints, guards, processes, profiles
from labkit.data.encode import COLUMNS, IGNORED
from labkit.errors import LabError
from labkit.losses import at_places
from labkit.monitoring import Meter
from labkit.monitoring.live import NAMES

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, Trainer, TrainingArguments

TOLD = ("prompt", "completion", "text", "label", "family", "id", "line")  # columns that say what a row is
WARMUP = 0.05  # share of the steps in which the learning rate rises
FEWEST = 8  # rows of a batch from which on like lengths are worth looking for: of 4 rows little is padding anyway
POOL = 4  # batches among whose rows like lengths are looked for: with 50 less is padded, and short runs learn less


def make_trainer(
    tuned: PreTrainedModel,
    rows: Dataset,
    held: Dataset | None,
    collator: Callable,
    settings: dict,
    folder: Path,
    callbacks: Sequence,
    evaluate_every: int | None,
    loss: Callable | None = None,
    more: dict | None = None,
    patience: int | None = None,
    last: Path | None = None,
) -> tuple[Trainer, StopCleanly]:
    """A transformers.Trainer for these settings, and the context that makes Ctrl-C stop it cleanly.

    Args:
        tuned: the model, with whatever is to be trained unfrozen. rows, held: encoded.
        settings: as `finetune` writes them into a Run.
        folder: checkpoints go below it.
        loss: in place of `sparse_loss`, as `finetune` says. more: TrainingArguments over those made here.
        last: the checkpoint that training will go on from.
        The rest as in `finetune`.
    """
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments

    steps = settings["steps"]
    log_every = max(1, steps // 40)
    wanted = dict(
        output_dir=str(folder / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=settings["batch_size"],
        per_device_eval_batch_size=32,
        learning_rate=settings["learning_rate"],
        weight_decay=settings["weight_decay"],
        lr_scheduler_type=settings["schedule"],
        warmup_steps=math.ceil(WARMUP * steps),
        max_grad_norm=1.0,
        bf16=settings["bf16"],
        use_cpu=profiles.device() == "cpu",
        seed=settings["seed"],
        data_seed=settings["seed"],
        logging_steps=log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=max(25, steps // 4),
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,  # `monitoring` tells how far it is
        remove_unused_columns=False,  # `keep` below has chosen
        label_names=["labels"],
        eval_strategy="steps" if held is not None and evaluate_every else "no",
        eval_steps=evaluate_every,
        dataloader_pin_memory=False,
        optim="adamw_torch",
        ddp_timeout=processes.patience(),
        ddp_find_unused_parameters=None if loss else False,  # a loss of one's own may leave the head unused
    )
    if patience:
        wanted |= dict(load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=False,
                       save_steps=evaluate_every, restore_callback_states_from_checkpoint=True)
        callbacks = [*callbacks, EarlyStoppingCallback(patience)]
        if last and (reached := _out_of_patience(last, patience)):
            wanted["max_steps"] = reached
    arguments = TrainingArguments(**wanted | (more or {}))
    processes.one_card(arguments)
    processes.let_split(arguments)
    batch = settings["batch_size"] * arguments.gradient_accumulation_steps
    grouped = settings.get("group_by_length") and batch >= FEWEST
    order = LengthGroups(lengths(rows), batch, settings["seed"]) if grouped else None
    keep = [name for name in rows.column_names if name in COLUMNS or (loss and name not in TOLD)]
    loss = loss or sparse_loss

    class SparseTrainer(Trainer):
        """Computes logits only where a label counts: with 49,152 tokens of vocabulary the head is most of the work."""

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            value = loss(model, inputs, num_items_in_batch)
            if self.args.average_tokens_across_devices and num_items_in_batch is not None:
                value = value * self.accelerator.num_processes  # gradients are averaged over processes, not summed
            return (value, {"loss": value}) if return_outputs else value

        def _get_train_sampler(self, train_dataset=None):
            return order or super()._get_train_sampler(train_dataset)

        def floating_point_ops(self, inputs):
            return 0  # counted from all parameters anew in each step, and read by nobody here

        def get_batch_samples(self, *args, **kwargs):
            for callback in callbacks:  # what other callbacks did since the last step is no waiting for the loader
                if isinstance(meter := getattr(callback, "meter", None), Meter):
                    meter.idle()
            if self.state.global_step >= self.args.max_steps:  # resumed from its last step: one more would be taken
                return [], None
            return super().get_batch_samples(*args, **kwargs)

        def get_train_dataloader(self):
            return processes.shared(super().get_train_dataloader())

        def _save_rng_state(self, output_dir):
            if self.args.should_save:  # the others' states are nothing that one process could go on with
                super()._save_rng_state(output_dir)
                if (mine := Path(output_dir, "rng_state_0.pth")).exists():
                    mine.replace(mine.with_name("rng_state.pth"))

        def _load_rng_state(self, checkpoint):
            # A checkpoint of CPUs, or of another number of GPUs, has no state for the generator of this GPU. That would
            # be an error in the log; dropout is then drawn anew, and nothing else hangs on it.
            log = logging.getLogger("transformers.trainer_pt_utils")
            log.disabled, was = True, log.disabled
            try:
                super()._load_rng_state(checkpoint)
            finally:
                log.disabled = was

        def _save_checkpoint(self, model, trial):
            rates = self._get_learning_rate(), self.args.learning_rate
            guards.finite(self.state.global_step, float(self._tr_loss), *rates)  # of the steps since the last log
            if not self.is_fsdp_enabled:  # there, each process has a part of them
                guards.finite_weights(self.model, self.state.global_step, *rates)
            place = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            if self.args.should_save:
                checkpoints.unseal(place)
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                checkpoints.seal(place, settings)

    stop = StopCleanly()
    trainer = SparseTrainer(
        optimizer_cls_and_kwargs=_muon(tuned, arguments) if settings.get("optimizer") == "muon" else None,
        model=tuned,
        args=arguments,
        data_collator=collator,
        train_dataset=rows.select_columns(keep),
        eval_dataset=held.select_columns(keep) if held is not None else None,
        callbacks=[*callbacks, watch(), stop.callback()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, stop


def _muon(tuned: PreTrainedModel, arguments: TrainingArguments) -> tuple[type, dict]:
    """Muon, where everything that is trained is a matrix inside the layers."""
    from labkit.muon import Muon

    whole = {*map(id, (tuned.get_input_embeddings().weight, getattr(tuned.get_output_embeddings(), "weight", None)))}
    others = [name for name, p in tuned.named_parameters() if p.requires_grad and (p.ndim != 2 or id(p) in whole)]
    if others:
        raise LabError(f"Muon is for matrices inside the layers, and {others[0]} is none", where="optimizer",
                       todo="Take optimizer='adamw', or LoRA without further modules")
    return Muon, {"lr": arguments.learning_rate, "weight_decay": arguments.weight_decay,
                  "momentum": arguments.adam_beta1}


class LengthGroups:
    """The order of rows in which those of a batch are about equally long, so that little is padded.

    Each epoch draws it anew from seed and epoch: pools of POOL batches at random, each pool sorted and cut into
    batches, the batches shuffled. A short last batch stays the last.

    Args:
        lengths: tokens, by row. batch: rows of one optimizer step, over all processes and accumulation.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int):
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        import torch

        dice, size = torch.Generator().manual_seed(self.seed + self.epoch), self.batch * POOL
        rows = torch.randperm(len(self), generator=dice).tolist()
        pools = (sorted(rows[i : i + size], key=lambda row: -self.lengths[row]) for i in range(0, len(rows), size))
        rows = [row for pool in pools for row in pool]
        whole = len(rows) // self.batch
        for i in torch.randperm(whole, generator=dice).tolist():
            yield from rows[i * self.batch : (i + 1) * self.batch]
        yield from rows[whole * self.batch :]


def lengths(rows: Dataset) -> list[int]:
    """Tokens of each encoded row."""
    from pyarrow import compute

    return compute.list_value_length(rows.with_format("arrow")[:]["input_ids"]).to_pylist()


def sparse_loss(model: PreTrainedModel, batch: dict, items: int | None = None):
    """Mean cross-entropy over the labels that count; the same number as with all logits.

    Logits are computed only at positions where some row of the batch has a label that counts.

    Args:
        batch: as `losses.at_places` takes it.
        items: labels that count in the whole effective batch, for accumulation; None counts those of this batch.
    """
    from torch.nn.functional import cross_entropy

    logits, labels = at_places(model, batch)
    total = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (items if items is not None else (labels != IGNORED).sum().clamp(min=1))


def watch():
    """A callback that stops at a loss that is not a number, or that explodes."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        lowest = math.inf

        def on_log(self, args, state, control, logs=None, model=None, **kwargs):
            if logs and "loss" in logs:
                loss, rate = float(logs["loss"]), float(logs.get("learning_rate", args.learning_rate))
                words = getattr(model.config.get_text_config(), "vocab_size", None) if model is not None else None
                guards.finite(state.global_step, loss, rate, args.learning_rate)
                guards.no_explosion(state.global_step, loss, self.lowest, rate, args.learning_rate, words)
                self.lowest = min(self.lowest, loss)

    return Watch()


def _out_of_patience(checkpoint: Path, patience: int) -> int | None:
    """The step of a checkpoint at which early stopping had ended the training already; else None."""
    noted = checkpoints.state(checkpoint)
    waited = noted["stateful_callbacks"].get("EarlyStoppingCallback", {}).get("attributes", {})
    return noted["global_step"] if waited.get("early_stopping_patience_counter", 0) >= patience else None


def best_of(state) -> guards.Finding:
    """Which weights early stopping took, from the Trainer's state."""
    if state.best_model_checkpoint is None:
        return guards.Finding("best_weights", "validation was never looked at: these are the last weights")
    return guards.Finding("best_weights", f"step {state.best_global_step} of {state.global_step} had the lowest "
                          f"validation loss, {state.best_metric:.3f} nats: these are its weights")


class StopCleanly:
    """While it is entered, the first Ctrl-C ends training after the present step, with a checkpoint."""

    def __init__(self):
        self.asked = False

    def callback(self):
        from transformers import TrainerCallback

        outer = self

        class Stop(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if processes.agree(outer.asked):
                    outer.asked = control.should_save = control.should_training_stop = True

        return Stop()

    def __enter__(self):
        self.main = threading.current_thread() is threading.main_thread()
        if self.main:
            self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number, frame):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_):
        if self.main:
            signal.signal(signal.SIGINT, self.before)


def curve_of(history: list[dict]) -> list[dict]:
    """The Trainer's log as `Run.curve`: one dict a logged step."""
    rows: dict[int, dict] = {}
    for entry in history:
        found = {new: float(entry[old]) for old, new in NAMES.items() if old in entry}
        if found:
            rows.setdefault(int(entry["step"]), {"step": int(entry["step"])}).update(found)
    return [rows[step] for step in sorted(rows)]
