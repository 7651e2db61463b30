"""Exercises: four verbs for learners (check, hint, solution, progress), and the tools that their authors write with.

A notebook hands an answer to `check`; the exercises themselves stand in one file a lab, lab03.py for lab 03.
"""

from labkit.exercises.calling import call
from labkit.exercises.compare import constant_factor, expect_close, expect_number, expect_shape, expect_type
from labkit.exercises.engine import Verdict, award, check, hint, solution, verdict
from labkit.exercises.progress import progress, progress_table
from labkit.exercises.registry import Exercise, exercise, find
from labkit.exercises.words import NotAttempted, Wrong, describe

__all__ = [
    "Exercise",
    "NotAttempted",
    "Verdict",
    "Wrong",
    "award",
    "call",
    "check",
    "constant_factor",
    "describe",
    "exercise",
    "expect_close",
    "expect_number",
    "expect_shape",
    "expect_type",
    "find",
    "hint",
    "progress",
    "progress_table",
    "solution",
    "verdict",
]
