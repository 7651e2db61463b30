"""The verbs of the notebooks: `check` judges an answer, `hint` nudges, `solution` shows.

An answer comes in from a notebook cell, is tested in isolation (`isolation`), and one sentence goes out to be printed;
what happened is kept by `progress`. Nothing here raises, except for Ctrl-C.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from labkit.errors import LabError
from labkit.exercises.calling import require_attempt
from labkit.exercises.isolation import Printed, TimeUp, kept_state, time_limit
from labkit.exercises.progress import now, record, records
from labkit.exercises.registry import Exercise, find
from labkit.exercises.solved import solution_code
from labkit.exercises.words import NotAttempted, Wrong, cut, describe, explain, line_of, safe_text, say

LONGEST = 1200  # characters of a sentence


@dataclass(frozen=True)
class Verdict:
    """What `check` found: `state` is "passed", "wrong", "not attempted" or "unknown"; `printed` is the answer's own."""

    state: str
    sentence: str
    printed: str = ""


def check(name: str, answer: Any = ...) -> None:
    """Say whether an answer is right, not attempted yet, or what is wrong with it.

    Args:
        name: the exercise, as the notebook gives it.
        answer: your function, number or object; it stays as it is.
    """
    found = verdict(name, answer)
    if found.state == "not attempted":
        say(f"not attempted yet: {found.sentence}.")
        return
    say(found.sentence)
    if found.state == "unknown":
        return
    if found.state == "wrong" and found.printed.strip():
        say(f"(It printed: {cut(found.printed, 200)})")
    passed = now() if found.state == "passed" else None
    for note in record(name, find(name).lab, attempts=1, passed=passed, last=found.sentence[:300]):
        say(note)


def award(name: str, answer: Any, points: float) -> float:
    """Judge an answer for nbgrader: print the sentence and give the points, which are that cell's value.

    Args:
        name: the exercise.
        answer: what the learner made.
        points: for an answer that passes; any other gets 0.
    """
    found = verdict(name, answer)
    say(found.sentence)
    return float(points) if found.state == "passed" else 0.0


def verdict(name: str, answer: Any) -> Verdict:
    """What `check` would print, without printing or recording it. For tests, and for tools of teachers."""
    try:
        task = find(name)
    except LabError as error:
        return Verdict("unknown", str(error))
    printed = Printed()
    try:
        state, sentence = _judge(task, answer, printed)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a learner's object may do, a check ends in a sentence
        state, sentence = "wrong", f"your answer could not be checked: it ends in {type(error).__name__}."
    return Verdict(state, sentence[:LONGEST], printed.text)


def _judge(task: Exercise, answer: Any, printed: Printed) -> tuple[str, str]:
    try:
        with kept_state(seed=0), redirect_stdout(printed), redirect_stderr(printed), time_limit(task.limit):
            return _test(task, answer)
    except TimeUp as late:
        where = f" {safe_text(late)}".rstrip()
        return "wrong", f"still running after {task.limit:g} seconds{where}. Is there a loop that doesn't end?"


def _test(task: Exercise, answer: Any) -> tuple[str, str]:
    try:
        require_attempt(answer)
        found = task.test(_copied(answer))
        if found is None:
            return "passed", f"passed. {task.after}" if task.after else "passed"
        if isinstance(found, NotAttempted | Wrong):
            raise found
        if not isinstance(found, str):
            raise TypeError(f"the test of {task.name} gave {describe(found)}, not a sentence or None")
        return "wrong", found
    except NotAttempted as gap:
        return "not attempted", safe_text(gap).rstrip(".") or "replace the `...` with your own, then run the cell again"
    except Wrong as wrong:
        return "wrong", safe_text(wrong)
    except SystemExit:
        return "wrong", "your answer ends the program (exit). Give back a value instead."
    except Exception as error:
        said = explain(error := _beyond(task.test, error))
        if isinstance(said, NotAttempted):
            return "not attempted", safe_text(said)
        if line_of(error):
            return "wrong", safe_text(said)
        message = cut(f"{type(error).__name__}: {safe_text(error)}", 200)
        return "wrong", f"your answer is {describe(answer)}, and the check can do nothing with that ({message})."


def _beyond(test: Callable, error: Exception) -> Exception:
    """The error without the frames down to the test itself, so that only the learner's own lines are quoted."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code is not getattr(test, "__code__", None):
        trace = trace.tb_next
    return error.with_traceback(trace.tb_next) if trace else error


def _copied(answer: Any) -> Any:
    """A deep copy, so that a test cannot change what the learner holds; functions and classes are themselves."""
    try:
        return copy.deepcopy(answer)
    except Exception:  # generators, open files, tensors in the middle of a graph: no copy can be made of these
        return answer


def hint(name: str) -> None:
    """Give the next hint: first a nudge, last nearly the solution. The last one repeats.

    Args:
        name: the exercise, as the notebook gives it.
    """
    try:
        task = find(name)
    except LabError as error:
        say(str(error))
        return
    if not task.hints:
        say(f"{name} has no hints.")
        return
    known, notes = records()
    level = min(known.get(name, {}).get("hints", 0) + 1, len(task.hints))
    say(f"hint {level} of {len(task.hints)}: {task.hints[level - 1]}")
    for note in notes + record(name, task.lab, hints=level):
        say(note)


def solution(name: str) -> None:
    """Show the reference solution, as it stands in the solved lab.

    Args:
        name: the exercise, as the notebook gives it.
    """
    try:
        task = find(name)
        code = solution_code(name, task.lab)
    except LabError as error:
        say(str(error))
        return
    say(code, wrap=False)
    for note in record(name, task.lab, solution=True):
        say(note)
