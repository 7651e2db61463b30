"""The way of the data: records (`read`) → examples (`template`) → splits (`split`) → encoded batches (`encode`).

The functions that a notebook calls are here by name, so `labkit.data.read` is the function; nothing heavy is loaded.
"""

from labkit.data.inspection import Log, Report, clean, inspect
from labkit.data.read import BadRow, Form, read, recognise
from labkit.data.split import label_shares, split, spread
from labkit.data.tasks import Task, ticket_task, with_rare
from labkit.data.template import LABELS, PROMPTS, examples, fill, render, ticket_examples, turns

__all__ = [
    "LABELS", "PROMPTS", "BadRow", "Form", "Log", "Report", "Task", "clean", "examples", "fill", "inspect",
    "label_shares", "read", "recognise", "render", "split", "spread", "ticket_examples", "ticket_task",
    "turns", "with_rare",
]
