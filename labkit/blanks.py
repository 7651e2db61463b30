"""Answers left out: how the code of a solved lab becomes the code that a learner gets.

Works on one cell's source at a time; `labkit.course` calls it for every code cell when it builds the notebooks.

What stands between `### BEGIN SOLUTION` and `### END SOLUTION`, the marks included, becomes `...` at the marks'
indentation. Where the block binds names that the rest needs, each gets a line of its own instead, so that
`check("name", name)` still has something to look at:

- outside functions, every name that the block assigns or defines: `share = 2 * r / d  # a share of W` becomes
  `share = ...  # a share of W`; the comment at the end of the statement's first line stays, the answer goes;
- inside a function, only the names that are read below the block in the same function.
"""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize

from labkit.errors import LabError

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"


def solved_source(source: str) -> str:
    """One code cell without the marks, as the solved notebook shows it."""
    return "\n".join(line for line in source.split("\n") if line.strip() not in (BEGIN, END))


def learner_source(source: str, where: str = "") -> str:
    """One code cell as the learner gets it: the answers left out by the rule at the top of this module.

    >>> print(learner_source('''### BEGIN SOLUTION
    ... share = 2 * 8 / 192  # a share of W
    ... ### END SOLUTION'''))
    share = ...  # a share of W

    Raises:
        LabError: a mark without its partner, or a block that is empty or not Python.
    """
    lines, out = source.split("\n"), []
    begins = None
    for number, line in enumerate(lines):
        mark = line.strip()
        if mark == BEGIN and begins is None:
            begins = number
        elif mark == END and begins is not None:
            out += _blank(source, begins, number, where)
            begins = None
        elif mark in (BEGIN, END):
            raise LabError(f"{mark!r} without its partner in the cell that starts with {lines[0]!r}", where=where)
        elif begins is None:
            out.append(line)
    if begins is not None:
        raise LabError(f"{BEGIN!r} without its partner in the cell that starts with {lines[0]!r}", where=where)
    return "\n".join(out)


def _blank(source: str, begins: int, ends: int, where: str) -> list[str]:
    """What replaces lines begins..ends (from 0): `name = ...` for each name that is still needed, else `...`."""
    lines = source.split("\n")
    indent = lines[begins][: len(lines[begins]) - len(lines[begins].lstrip())]
    block = textwrap.dedent("\n".join(lines[begins + 1 : ends]))
    try:
        statements = ast.parse(_without_magics(block)).body
        outer = _function_around(ast.parse(_without_magics(source)), begins + 1)
    except SyntaxError as error:
        raise LabError(f"the solution block after {lines[0]!r} is not Python ({error.msg})", where=where) from error
    if not statements:
        raise LabError(f"the solution block after {lines[0]!r} is empty", where=where)
    needed = None if outer is None else {
        node.id for node in ast.walk(outer)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.lineno > ends + 1
    }
    comments, out = _comments(block), []
    for statement in statements:
        bound = [name for name in _bound(statement) if needed is None or name in needed]
        if bound and not any(line.startswith(f"{indent}{', '.join(bound)} = ") for line in out):
            comment = comments.get(statement.lineno)
            line = f"{indent}{', '.join(bound)} = {', '.join('...' for _ in bound)}"
            out.append(f"{line}  {comment}" if comment else line)
    return out or [f"{indent}..."]


def _bound(statement: ast.stmt) -> list[str]:
    """Names that a statement assigns or defines: `a = 1`, `a, b = f()`, `a: int = 1`, `def a`, `class a`, in `with`."""
    if isinstance(statement, ast.With):
        return [name for inner in statement.body for name in _bound(inner)]
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    flat = [item for target in targets for item in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [item.id for item in flat if isinstance(item, ast.Name)]


def _function_around(tree: ast.AST, line: int) -> ast.AST | None:
    """The innermost function that holds this line (from 1); None at the top level and in a class's body."""
    inner = None
    for node in ast.walk(tree):  # breadth first, so that what comes later lies deeper
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.lineno <= line <= node.end_lineno:
                inner = node
    return None if isinstance(inner, ast.ClassDef) else inner


def _comments(block: str) -> dict[int, str]:
    """Comments that stand behind code, by line (from 1)."""
    tokens = tokenize.generate_tokens(io.StringIO(_without_magics(block) + "\n").readline)
    return {token.start[0]: token.string for token in tokens
            if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip()}


def _without_magics(source: str) -> str:
    """The source with IPython's `%name` and `!` lines made harmless, so that Python's own parser reads it."""
    return re.sub(r"^([ \t]*)(?:%%?[a-zA-Z]|!).*$", r"\1pass", source, flags=re.MULTILINE)
