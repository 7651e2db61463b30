"""From what a training left, the name of what ails it: by its curves, its meter, its tripwires, and its rows.

Each sign below is a question with a threshold of its own; `diagnose` asks them in an order in which the first to
hold explains those behind it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit import guards, models, profiles
from labkit.data.encode import blind_guess, collate, pad_id
from labkit.errors import LabError
from labkit.guards import Tripped

if TYPE_CHECKING:
    from datasets import Dataset

RISE = 0.15  # share by which validation may rise above its lowest; below it is a wobble
NATS = 0.1  # and at least so much
LEARNT = 0.95  # of the cost of a blind guess: a run whose last losses stay above has learnt nothing
NEAR = 1.5  # of it: who has learnt nothing but how often each label comes ends up near it
FELL = 0.97  # of the first losses: the same, where a blind guess has no known cost
LATE = 1 / 3  # share of the curve that its end is judged by
SURE = 2  # standard errors
UNDECIDED = 0.97  # of ln(vocabulary): a base whose guesses are spread so evenly knows nothing
WAITS, PADS = 0.25, 0.4  # shares of time and of tokens from which on they are what slows a run down
SHORT = 10  # logged losses that a judgement needs
ENOUGH = 200  # rows read before one can tell answers that do not follow from a run that has only begun

TODO = {
    "healthy": "Go on: score it on rows that it has not seen",
    "overfitting": "Get more data first; else stop at the lowest validation loss (patience=...), and give it less to "
                   "learn by heart with: a lower rank or alpha, dropout, weight decay, fewer steps",
    "out of memory": "Take fewer rows a step and accumulate them, switch checkpointing on, or keep the base in 4 bits",
    "slow: the loader": "Prepare the rows before the training, not in it; read them once; give the loader workers "
                        "(dataloader_num_workers)",
    "slow: padding": "Pad to the longest row of a batch and not of all, put rows of like length together, or pack them",
    "slow: full precision": "Compute in bfloat16: leave bf16 as it is, finetune asks the machine",
    "wrong data format": "Encode rows with `labkit.data.encode`, and leave the tripwires on",
    "learning rate too high": "Take a tenth of it, then let a range test find the place (labkit.ratefinder)",
    "learning rate too low": "Take ten times as much, then let a range test find the place (labkit.ratefinder)",
    "base model knows nothing": "See that its weights were loaded: perplexity on plain text must lie far below the "
                                "size of the vocabulary. Then take a base that was trained",
    "answers do not follow": "Read twenty rows aloud. Are prompts and completions still in the same order, and do "
                             "labels mean what they say",
    "rows leak": "Split by group, or drop the doubles first; then measure again",
    "frozen weights move": "Look for code that sets requires_grad, or for a second optimizer",
    "not what was trained": "Load the adapter on the base it was trained on, and look for missing keys in its file",
    "score depends on the batch": "Mask the padding, give positions that skip it, and turn dropout off",
}
OF_GUARD = {
    "fits_memory": "out of memory", "loss_mask": "wrong data format", "end_of_turn": "wrong data format",
    "same_prompt": "wrong data format", "no_leak": "rows leak", "adapter_moved": "learning rate too low",
    "finite_loss": "learning rate too high", "finite_weights": "learning rate too high",
    "no_explosion": "learning rate too high", "frozen_stayed": "frozen weights move",
    "reload_agrees": "not what was trained", "batch_parity": "score depends on the batch",
    "same_tokens": "wrong data format",
}


@dataclass(frozen=True)
class Diagnosis:
    """The illness that explains most, what shows it, and what to do; `also` names others that were seen."""

    illness: str
    evidence: tuple[str, ...]
    also: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        return self.illness == "healthy"

    @property
    def todo(self) -> str:
        """What to do, in one sentence."""
        return TODO[self.illness]

    def __str__(self) -> str:
        lines = [f"{self.illness}", *(f"  seen: {line}" for line in self.evidence), f"  to do: {self.todo}."]
        return "\n".join([*lines, *([f"  also: {', '.join(self.also)}"] if self.also else [])])

    __repr__ = __str__


def diagnose(run, examples: Dataset | None = None, validation: Dataset | None = None) -> Diagnosis:
    """Name what ails a training.

    Args:
        run: a Run, or the LabError (or torch.OutOfMemoryError) that stopped it.
        examples, validation: the rows, as `finetune` was given them. With them the tripwires for data are asked too,
            also those that were switched off in the run.

    Raises:
        LabError: it is neither; or it is an error that says itself what is wrong.
    """
    if isinstance(run, BaseException):
        return _of_error(run)
    if not hasattr(run, "curve"):
        raise LabError(f"this is {type(run).__name__}", where="diagnose", expected="a Run, or the error that ended it")
    found = [sign for sign in _signs(run, examples, validation) if sign]
    if not found:
        return Diagnosis("healthy", tuple(_all_well(run)))
    illness = found[0][0]
    evidence = [line for name, lines in found for line in lines if name == illness]
    return Diagnosis(illness, tuple(evidence), tuple(dict.fromkeys(name for name, _ in found if name != illness)))


Sign = tuple[str, list[str]]


def _of_error(error: BaseException) -> Diagnosis:
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return Diagnosis("out of memory", (str(error).split("\n")[0][:200],))
    if not isinstance(error, Tripped):
        raise error if isinstance(error, LabError) else LabError(f"{type(error).__name__}: {error}", where="diagnose",
                                                                 expected="a Run, or an error of a tripwire")
    losses = [point["loss"] for point in error.curve if "loss" in point]
    path = [f"the losses up to there: {', '.join(f'{loss:.3g}' for loss in losses[-6:])}"] if losses else []
    return Diagnosis(OF_GUARD[error.guard], (f"tripwire {error.guard}: {error.what}", *path))


def _signs(run, examples, validation) -> Iterator[Sign | None]:
    wrong = list(_rows(run, examples, validation))
    yield from wrong
    if wrong:  # what a curve says of such rows means nothing
        return
    learnt, evidence = _learnt(run)
    if not learnt:
        yield _why(run, evidence)
    yield _too_slow_a_rate(run)
    yield _overfits(run)
    yield from _slow(run)


def _rows(run, examples, validation) -> Iterator[Sign]:
    """What the tripwires say of the rows, where these are given."""
    if examples is None:
        return
    tokenizer = models.tokenizer(run.settings["model"])
    rows = examples.to_list()
    checks = []
    if rows and "labels" in rows[0]:
        batch = collate([{k: row[k] for k in ("input_ids", "labels")} for row in rows[:64]], pad_id(tokenizer))
        checks += [lambda: guards.loss_mask(rows, tokenizer), lambda: guards.end_of_turn_counts(batch, tokenizer)]
        if "prompt" in rows[0]:
            checks.append(lambda: guards.same_prompt(rows, tokenizer))
    if validation is not None and "prompt" in validation.column_names and rows and "prompt" in rows[0]:
        checks.append(lambda: guards.no_leak([str(row["prompt"]) for row in rows],
                                             [str(prompt) for prompt in validation["prompt"]]))
    for check in checks:
        try:
            check()
        except Tripped as tripped:
            yield OF_GUARD[tripped.guard], [f"tripwire {tripped.guard}: {tripped.what}"]


def _losses(run) -> list[float]:
    return [point["loss"] for point in run.curve if "loss" in point]


def _ends(losses: list[float]) -> tuple[list[float], list[float]]:
    """The first and the last third of a curve."""
    n = max(1, round(LATE * len(losses)))
    return losses[:n], losses[-n:]


def _blind(run) -> float | None:
    """The loss of a blind guess among the run's labels; None where it has none."""
    labels = run.settings.get("labels")
    if not labels or len(labels) < 2:
        return None
    return blind_guess(models.tokenizer(run.settings["model"]), labels)


def _learnt(run) -> tuple[bool, list[str]]:
    """Whether the end of the curve lies below a blind guess, or below its beginning, beyond doubt; and in words."""
    losses = _losses(run)
    if len(losses) < SHORT:
        return True, []
    first, last = _ends(losses)
    if not all(math.isfinite(loss) for loss in losses):
        return False, ["the loss is no number any more"]
    error = SURE * statistics.stdev(last) / math.sqrt(len(last))
    end, begin = statistics.mean(last), statistics.mean(first)
    if (blind := _blind(run)) is not None:
        said = f"the loss ends at {end:.2f} nats, and guessing blindly among the labels costs {blind:.2f}"
        return end - error < LEARNT * blind, [said]
    return end - error < FELL * begin, [f"the loss ends at {end:.2f} nats, after {begin:.2f} at the beginning"]


def _why(run, evidence: list[str]) -> Sign | None:
    """Why nothing was learnt: the rate, the base, or the rows."""
    losses, move = _losses(run), run.meter.get("move")
    low, high = guards.STEP_BAND[run.settings["method"] == "full"]
    if any(not math.isfinite(loss) for loss in losses):
        return "learning rate too high", evidence
    if move is not None and move < low:
        return None  # its own sign, below
    if (even := _evenness(run.settings["model"])) >= UNDECIDED:
        return "base model knows nothing", [
            f"asked for the next word, the base spreads its guess over the vocabulary: {even:.0%} of the most that is "
            "possible", f"the first loss is {losses[0]:.2f} nats", *evidence]
    if move is not None and move > high:
        return "learning rate too high", [
            f"one step moved the weights by {move:.0%} of their size; up to {high:.0%} is usual", *evidence]
    blind = _blind(run)
    if blind is not None and statistics.mean(_ends(losses)[1]) > NEAR * blind:
        return None  # whoever learns but the labels' shares ends at a blind guess: here more counts than the answers
    if _rows_read(run) < ENOUGH:
        return None
    return "answers do not follow", [*evidence, "the base can read, and the steps were neither too long nor too short"]


def _too_slow_a_rate(run) -> Sign | None:
    move, (low, _) = run.meter.get("move"), guards.STEP_BAND[run.settings["method"] == "full"]
    if move is None or move >= low:
        return None
    first, last = _ends(_losses(run))
    return "learning rate too low", [
        f"the longest step moved the weights by {move:.1g} of their size; {low:.0e} is the least that is usual",
        f"the loss went from {statistics.mean(first):.2f} to {statistics.mean(last):.2f} nats"]


def _evenness(model: str) -> float:
    """The entropy of the base's guesses at the next token, as a share of the most that is possible, ln(vocabulary)."""
    import torch

    base, tokenizer = models.load(model)
    text = "The post has come, and there is a letter in it. Who is it from, and what do they want to know?"
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]], device=base.device)
    with torch.no_grad():
        guess = base(input_ids=ids).logits[0].float().log_softmax(-1)
    return float(-(guess.exp() * guess).sum(-1).mean()) / math.log(guess.shape[-1])


def _overfits(run) -> Sign | None:
    held = [point for point in run.curve if "validation_loss" in point]
    if len(held) < 3 or run.settings.get("patience"):  # early stopping has taken the best
        return None
    best, end = min(held, key=lambda point: point["validation_loss"]), held[-1]
    low, high = best["validation_loss"], end["validation_loss"]
    _, last = _ends(_losses(run))
    if high - low < max(NATS, RISE * low) or statistics.mean(last) >= low:
        return None
    return "overfitting", [
        f"validation was lowest at step {best['step']}, {low:.2f} nats, and ends at {high:.2f}",
        f"training goes on to {statistics.mean(last):.2f}",
        f"{run.settings['steps'] * run.settings['batch_size'] / run.settings['rows']:.0f} times through "
        f"{run.settings['rows']:,} rows"]


def _slow(run) -> Iterator[Sign]:
    meter = run.meter
    if meter.get("steps", 0) < 3:
        return
    if (share := meter.get("waiting", 0)) > WAITS:
        yield "slow: the loader", [f"{share:.0%} of the time the model waited for its rows"]
    if (share := meter.get("padding", 0)) > PADS:
        yield "slow: padding", [f"{share:.0%} of the tokens in the batches are padding"]
    if profiles.bf16() and not run.settings["bf16"]:
        yield "slow: full precision", ["this machine multiplies in bfloat16, and the run did not"]


def _rows_read(run) -> int:
    return run.settings["batch_size"] * max((point["step"] for point in run.curve), default=0)


def _all_well(run) -> Iterator[str]:
    losses, meter = _losses(run), run.meter
    learnt, evidence = _learnt(run)
    if not learnt and _rows_read(run) < ENOUGH:
        yield f"{evidence[0]}: after {_rows_read(run)} rows that is too soon to tell, give it {ENOUGH} or more"
    if losses:
        first, last = _ends(losses)
        yield f"the loss went from {statistics.mean(first):.2f} to {statistics.mean(last):.2f} nats"
    if "move" in meter:
        yield f"the longest step moved the weights by {meter['move']:.1%} of their size"
    if "waiting" in meter:
        yield f"{meter['waiting']:.0%} of the time went by in waiting, {meter['padding']:.0%} of the tokens are padding"
    for name in ("loss_mask", "end_of_turn", "same_prompt"):
        if not any(f.guard == name for f in run.findings):
            yield f"tripwire {name} was not asked: give diagnose the rows"
