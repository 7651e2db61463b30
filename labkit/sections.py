"""Whether each section of a lab can be started from a kernel that is new: it binds every name that it uses.

Beside `blanks`: both read a lab's source before `course` makes notebooks of it.
"""

from __future__ import annotations

import builtins
import re
import symtable
from collections.abc import Iterable, Iterator

GIVEN = {*dir(builtins), "__name__", "__file__", "get_ipython", "display"}  # what every kernel has


def sections(cells: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """Heading and code cells of each section; a section begins at a heading of level 1 or 2.

    Args:
        cells: (kind, source) in the notebook's order; kind is "markdown" or "code".
    """
    heading, code = "", []
    for kind, source in cells:
        if kind == "code":
            code.append(source)
        elif found := re.search(r"^##? +(.+)$", source, flags=re.MULTILINE):
            if code:
                yield heading, code
            heading, code = found.group(1).strip(), []
    if code:
        yield heading, code


def loose_names(code: list[str]) -> list[str]:
    """The names that these cells use and none of them binds, in alphabetical order."""
    table = symtable.symtable("\n".join(code), "section", "exec")
    bound = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    used = {s.get_name() for s in table.get_symbols() if s.is_referenced()} | set(_global_names(table))
    return sorted(used - bound - GIVEN)


def _global_names(table: symtable.SymbolTable) -> Iterator[str]:
    """Names that functions and classes inside look up outside of themselves."""
    for child in table.get_children():
        yield from (s.get_name() for s in child.get_symbols() if s.is_global() and s.is_referenced())
        yield from _global_names(child)
