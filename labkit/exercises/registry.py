"""The register of exercises: what an author declares about one, and how a name leads to the one file that holds it.

`check("lora_forward", ...)` starts here: the name is looked for in the text of lab*.py, and only that file is imported.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from labkit.errors import LabError


@dataclass(frozen=True)
class Exercise:
    """One exercise, as its author declared it. `limit` is in seconds, `difficulty` from 1 to 3."""

    name: str
    lab: str
    title: str
    difficulty: int
    minutes: int
    hints: tuple[str, ...]
    after: str
    limit: float
    test: Callable


REGISTRY: dict[str, Exercise] = {}


def exercise(
    name: str,
    *,
    lab: str,
    title: str,
    difficulty: int = 1,
    minutes: int = 5,
    hints: tuple[str, ...] = (),
    after: str = "",
    limit: float = 20.0,
) -> Callable:
    """Declare the decorated function as the test of an exercise.

    The test gets a copy of the learner's answer. It returns None when the answer is right, or else the sentence that
    says what is wrong; it may also raise `Wrong`, as the `expect_...` helpers do. It runs with fixed random seeds.
    Import torch inside the test, not at the top of the file: `hint` and `progress` read the file too.

    Args:
        name: what learners write in `check("name", ...)`; unique in the whole course. Written out, not computed:
            the text of the file is searched for it.
        lab: number of the lab, two digits.
        title: a few words for the progress table.
        difficulty: 1 to 3.
        minutes: how long a learner may try before asking for a hint.
        hints: from nudge to near-solution.
        after: one line of fact or praise, printed after "passed".
        limit: seconds after which the answer is stopped.

    Raises:
        ValueError: the name is taken by another test, or a number is out of range.
    """
    if difficulty not in (1, 2, 3):
        raise ValueError(f"exercise {name!r}: difficulty is 1, 2 or 3, not {difficulty!r}")
    if isinstance(hints, str):
        raise ValueError(f"exercise {name!r}: hints is a tuple of sentences, not one string")

    def register(test: Callable) -> Callable:
        known = REGISTRY.get(name)
        # The same function again is a reload; another one would silently take its place.
        if known and (known.test.__module__, known.test.__qualname__) != (test.__module__, test.__qualname__):
            raise ValueError(f"two exercises are called {name!r}, in lab {known.lab} and in lab {lab}")
        REGISTRY[name] = Exercise(name, lab, title, difficulty, minutes, tuple(hints), after, limit, test)
        return test

    return register


def find(name: str) -> Exercise:
    """The exercise of that name; imports the file of its lab and no other.

    Raises:
        LabError: there is none of that name, or its file cannot be imported.
    """
    if not isinstance(name, str):
        raise LabError('the name of the exercise comes first, in quotes: check("name", answer)')
    if name not in REGISTRY:
        for module, text_names in _names_by_module().items():
            if name in text_names:
                _load(module)
    if name not in REGISTRY:
        known = sorted({*REGISTRY, *(n for names in _names_by_module().values() for n in names)})
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise LabError(f"no exercise is called {name[:60]!r}", todo=f"Names near it: {', '.join(near)}" if near else "")
    return REGISTRY[name]


def lab_modules() -> dict[str, Path]:
    """The files of exercises by module name, `lab03` and so on, in the order of the labs."""
    import labkit.exercises as package

    files = {path.stem: path for folder in package.__path__ for path in Path(folder).glob("lab[0-9][0-9].py")}
    return dict(sorted(files.items()))


def load_lab(lab: str) -> list[Exercise]:
    """All exercises of a lab, in the order in which its file declares them.

    Raises:
        LabError: its file cannot be imported.
    """
    if f"lab{lab}" in lab_modules():
        _load(f"lab{lab}")
    return [item for item in REGISTRY.values() if item.lab == lab]


def _load(module: str) -> None:
    try:
        import_module(f"labkit.exercises.{module}")
    except Exception as error:
        raise LabError(
            f"the exercises cannot be loaded ({type(error).__name__}: {str(error)[:200]})",
            where=f"{module}.py",
            todo="Install the course again, or report this",
        ) from error


def _names_by_module() -> dict[str, tuple[str, ...]]:
    return {module: _names_in(str(path), path.stat().st_mtime_ns) for module, path in lab_modules().items()}


@lru_cache(maxsize=64)
def _names_in(path: str, changed: int) -> tuple[str, ...]:
    """Names declared in a file, read from its text, since an import would cost seconds; `changed` keys the cache."""
    return tuple(re.findall(r"@exercise\(\s*[\"']([^\"']+)[\"']", Path(path).read_text(encoding="utf-8")))
