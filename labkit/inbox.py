"""The inbox's four tasks over one base: an adapter each, trained once and kept, the bank of them, and their test.

Over `training` and `adapters`: lab 05 and whatever serves several tasks from one base begin here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit import data, evaluation, models
from labkit.adapters import Bank
from labkit.data.tasks import to_score
from labkit.errors import LabError
from labkit.parallel import room, side_by_side
from labkit.profiles import current, runs
from labkit.training import Run, finetune, get_ready

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

TASKS = ("tone", "entities", "summary", "reply")
# Over the profile's own, which suit one task and 16 rows a step. Muon where it needs fewer steps than AdamW; a summary
# names the product less often with it.
SETTINGS: dict[str, dict[str, Any]] = {
    "tiny": {"tone": {"steps": 30, "batch_size": 8, "learning_rate": 3e-3, "alpha": 48, "optimizer": "muon",
                      "arguments": {"adam_beta1": 0.8}},
             "entities": {"steps": 150, "batch_size": 8, "learning_rate": 4e-3, "alpha": 48, "optimizer": "muon"},
             "summary": {"steps": 60, "batch_size": 4, "learning_rate": 2.5e-3, "alpha": 48},
             "reply": {"steps": 140, "batch_size": 4, "learning_rate": 6e-3, "alpha": 48, "optimizer": "muon",
                       "arguments": {"adam_beta1": 0.8}}},
}
MARKS = {"summary": "{}: ", "reply": "{} team, "}  # how a summary and a reply name the intent


def train(task: str) -> Run:
    """The adapter of one task: trained now, or taken from the runs where it lies with the same settings.

    Raises:
        LabError: the inbox has no such task.
    """
    if task not in TASKS:
        raise LabError(f"there is no task {task!r} in the inbox", where="task", expected=", ".join(TASKS))
    settings = SETTINGS.get(current().name, {}).get(task, {})
    return finetune(data.ticket_task(task).train, group_by_length=True, out=runs(f"inbox-{task}"),
                    reuse=True, **settings)


def train_all(tasks: Sequence[str] = TASKS) -> dict[str, Run]:
    """The adapters of several tasks, by task; on a CPU several tiny ones are trained at once, the longest first."""
    if room() > 1:  # with both cores, and not in each of the processes
        get_ready(*(data.ticket_task(task).train for task in tasks))
    settings = SETTINGS.get(current().name, {})
    longest = sorted(tasks, key=lambda task: -settings.get(task, {}).get("steps", current().steps))
    done = dict(zip(longest, side_by_side(train, longest), strict=True))
    return {task: done[task] for task in tasks}


def bank(tasks: Sequence[str] = TASKS) -> tuple[Bank, PreTrainedTokenizerBase]:
    """All of them over one base, and the base's tokenizer."""
    base, tokenizer = models.load()
    made = Bank(base)
    for task in tasks:
        made.add(task, train(task).folder)
    return made, tokenizer


def tickets(every: int = 1) -> Dataset:
    """One test ticket of each family, or of every n-th family: tickets of one family say the same thing again.

    A slow model gets fewer of them (`Profile.test_every`), and so does a run under LABKIT_ROWS.
    """
    found = data.read("tickets/test")
    firsts = list({family: i for i, family in reversed(list(enumerate(found["family"])))}.values())
    return to_score(found.select(sorted(firsts)), every * current().test_every)


def held(task: str, every: int = 1) -> Dataset:
    """The same tickets as examples of one task."""
    return data.ticket_examples(tickets(every), task)


def names(task: str, tickets: Dataset, answers: Sequence[str]) -> dict[str, evaluation.Score]:
    """How often a summary, or a reply, names the ticket's product, and its intent in the place where that belongs.

    Args:
        task: "summary" or "reply".
        tickets: records. answers: one a ticket.

    Raises:
        LabError: another task.
    """
    if task not in MARKS:
        raise LabError(f"answers of {task!r} name no team", where="task", expected=", ".join(MARKS))
    pairs, families = list(zip(tickets, answers, strict=True)), evaluation.groups_of(tickets)
    product = [float(row["entities"]["product"] in answer) for row, answer in pairs]
    intent = [float(MARKS[task].format(row["intent"]) in answer) for row, answer in pairs]
    return {name: evaluation.mean_score(name, values, families)
            for name, values in (("names the product", product), ("names the intent", intent))}
