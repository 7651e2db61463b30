"""The reference solution of an exercise, read out of the solved lab, so that there is no second copy of it.

`solution` prints what this finds in solutions/NN_name.py.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

from labkit import profiles
from labkit.errors import LabError

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"


def solution_code(name: str, lab: str) -> str:
    """The code of an exercise in the solved lab, without its marks.

    It belongs to the first `check("name", ...)` of the file: the nearest solution block before it, with the others of
    the same cell, each with the function or class around it.

    Raises:
        LabError: the solved lab, the check, or its solution block is not there.
    """
    path = _solved_lab(lab)
    lines = path.read_text(encoding="utf-8").splitlines()
    call = re.compile(rf"^\s*check\(\s*[\"']{re.escape(name)}[\"']")
    last = next((i for i, line in enumerate(lines) if call.match(line)), None)
    if last is None:
        raise LabError(f'there is no check("{name}", ...)', where=path.name)
    ends = [i for i, line in enumerate(lines[:last]) if line.strip() == END]
    if not ends:
        raise LabError(f'there is no solution block before check("{name}", ...)', where=path.name)
    start = max((i for i, line in enumerate(lines[: ends[-1]]) if line.startswith("# %%")), default=0)
    blocks = _blocks(lines, start, ends[-1])
    nodes = _top_level(lines)
    pieces: dict[int, int] = {}
    for first, end in (_around(block, nodes) for block in blocks):
        pieces[first] = max(end, pieces.get(first, 0))  # two blocks of one function are one piece
    return "\n\n".join(_text(lines[first : end + 1]) for first, end in pieces.items())


def _solved_lab(lab: str) -> Path:
    folder = profiles.COURSE / "solutions"
    found = sorted(folder.glob(f"{lab}_*.py"))
    if not found:
        raise LabError(
            f"the solved lab {lab} is not there",
            where=str(folder),
            expected=f"a file {lab}_NAME.py",
            todo="It comes with a checkout of the course: get the folder solutions/ beside notebooks/",
        )
    return found[0]


def _blocks(lines: list[str], start: int, last: int) -> list[tuple[int, int]]:
    """(line of BEGIN, line of END) of the solution blocks in lines start..last."""
    blocks, begin = [], None
    for i in range(start, last + 1):
        if lines[i].strip() == BEGIN:
            begin = i
        elif lines[i].strip() == END and begin is not None:
            blocks.append((begin, i))
            begin = None
    return blocks


def _top_level(lines: list[str]) -> list[tuple[int, int]]:
    """First and last line of every function and class at the top level of the file, decorators included."""
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:  # a notebook may hold a %magic: then the blocks are shown alone
        return []
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [
        (min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1, node.end_lineno - 1)
        for node in tree.body
        if isinstance(node, kinds)
    ]


def _around(block: tuple[int, int], nodes: list[tuple[int, int]]) -> tuple[int, int]:
    begin, end = block
    for first, last in nodes:
        if first < begin <= last + 1:  # END is a comment: it may stand below the last statement of its function
            return first, max(last, end)
    return begin, end


def _text(lines: list[str]) -> str:
    kept = [line for line in lines if line.strip() not in (BEGIN, END)]
    return textwrap.dedent("\n".join(kept)).strip("\n")
