"""Calling an answer on copies of its inputs, and noticing where it is still empty.

Tests of exercises call a learner's function through `call`; what it gives goes on to `compare`.
"""

from __future__ import annotations

import ast
import copy
import dis
import inspect
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any

from labkit.exercises.isolation import Printed, TimeUp, kept_state
from labkit.exercises.words import NotAttempted, Wrong, describe, explain, gave_none, is_array, shape_of


def call(answer: Callable, *args: Any, copies: bool = True, **kwargs: Any) -> Any:
    """Run the learner's function, and return what it gives.

    Random states and torch's switches are put back afterwards, so two calls draw the same random numbers.

    Args:
        answer: the learner's function, class, or other callable.
        copies: hand over copies, and refuse an answer that changes its inputs or gives None. False hands over the
            objects themselves, for exercises about changing a model in place or about gradients.

    Raises:
        NotAttempted: the function gives `...`, or gives None and still has a bare `...` in its body.
        Wrong: it cannot be called, stops with an error, gives None, or changes its inputs.
    """
    if answer is Ellipsis:
        raise NotAttempted
    if not callable(answer):
        raise Wrong(f"expected a function, and got {describe(answer)}.")
    if isinstance(sys.stdout, Printed):
        sys.stdout.clear()  # only what the last call printed is of interest
    given_args, given_kwargs = copy.deepcopy((args, kwargs)) if copies else (args, kwargs)
    names = _inputs(answer, args, kwargs)
    where = _for(names)
    try:
        with kept_state(figures=False):  # a test may want to look at the figure that was drawn
            result = answer(*given_args, **given_kwargs)
    except Exception as error:
        raise explain(error, where) from error
    except TimeUp:
        raise TimeUp(where) from None  # now with the inputs that it got stuck on
    except SystemExit:
        raise Wrong(
            f"your function ends the program (exit) {where}".rstrip() + ". Give back a value instead."
        ) from None
    if result is Ellipsis or (result is None and has_gap(answer)):
        raise NotAttempted
    if not copies:
        return result
    if result is None:
        raise Wrong(gave_none(where))
    after = (*given_args, *given_kwargs.values())
    for (name, before), now in zip(names, after, strict=True):
        if not _same(before, now):
            was, became = describe(before), describe(now)
            change = f" ({was} became {became})" if was != became else ""
            raise Wrong(
                f"your function changes its input {name} in place{change}. "
                "The caller still needs it: make a new one, or work on a copy."
            )
    return result


# ------------------------------------------------------------------ what is still empty


def require_attempt(answer: Any) -> None:
    """Raise `NotAttempted` where the answer is `...`, holds a `...`, or is a function whose body is still empty.

    Raises:
        NotAttempted: see above.
        Wrong: the answer is None.
    """
    if answer is Ellipsis:
        raise NotAttempted("replace the `...` with your answer, then run the cell again")
    if answer is None:
        raise Wrong("your answer is `None`. Does a function on the way to it lack its `return`?")
    if isinstance(answer, dict):
        for key, value in answer.items():
            if value is Ellipsis:
                raise NotAttempted(f"there is still a `...` at {describe(key)}")
    elif isinstance(answer, list | tuple):
        gaps = [place for place, value in enumerate(answer) if value is Ellipsis]
        if gaps:
            raise NotAttempted(f"there is still a `...` at place {gaps[0]}")
    elif isinstance(answer, type):
        for name, method in vars(answer).items():
            if isinstance(method, types.FunctionType) and _does_nothing(method) and has_gap(method):
                raise NotAttempted(f"the method `{name}` is still empty")
    else:
        function = getattr(answer, "__func__", answer)
        if isinstance(function, types.FunctionType) and _does_nothing(function):
            if has_gap(function) or _gives_ellipsis(function):
                raise NotAttempted("the body of your function is still empty")


def _does_nothing(function: types.FunctionType) -> bool:
    idle = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST", "COPY_FREE_VARS", "MAKE_CELL"}
    constants = {None, Ellipsis}
    return all(
        step.opname in idle and (step.opname not in ("LOAD_CONST", "RETURN_CONST") or step.argval in constants)
        for step in dis.get_instructions(function)
    )


def _gives_ellipsis(function: types.FunctionType) -> bool:
    return Ellipsis in function.__code__.co_consts


def has_gap(answer: Any) -> bool:
    """Whether the source of a function has a line that is only `...`, or a body that is only `pass`."""
    if not isinstance(answer, types.FunctionType | types.MethodType | type):
        answer = type(answer)  # a layer: its class holds the code
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(answer)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return False  # a lambda inside a call, or a function that was made without a file
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if all(isinstance(step, ast.Pass) for step in body):
                return True
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is Ellipsis:
            return True
    return False


# ------------------------------------------------------------------ inputs, before and after


def _inputs(answer: Callable, args: tuple, kwargs: dict) -> list[tuple[str, Any]]:
    """(name, value) for every input, by the learner's own parameter names."""
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):  # some builtins have none
        return [*((f"input {i}", value) for i, value in enumerate(args, 1)), *kwargs.items()]
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        takes = f"({', '.join(signature.parameters)})"
        raise Wrong(f"your function takes {takes}, but is called with {_count(args, kwargs)}.") from None
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
        elif parameter.kind == parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}[{i}]" for i in range(max(len(args) - len(names), 0))]
    return [*zip(names, args, strict=False), *kwargs.items()]


def _count(args: tuple, kwargs: dict) -> str:
    positions = f"{len(args)} input{'s' * (len(args) != 1)}"
    return positions + (f" and {', '.join(f'{name}=' for name in kwargs)}" if kwargs else "")


def _for(names: list[tuple[str, Any]], most: int = 5) -> str:
    parts = [f"{name} of shape {shape_of(x)}" if is_array(x) and shape_of(x) else f"{name} = {describe(x)}"
             for name, x in names[:most]]  # fmt: skip
    if len(names) > most:
        parts.append("and so on")
    return "for " + ", ".join(parts) if parts else ""


def _same(a: Any, b: Any) -> bool:
    """Whether an input is as it was; kinds of objects that cannot be compared count as unchanged."""
    if is_array(a):
        if type(a) is not type(b) or a.shape != b.shape or a.dtype != b.dtype:
            return False
        return bool(((a == b) | ((a != a) & (b != b))).all())  # nan stays nan
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, bool | int | float | complex | str | bytes | set):
        return a == b or a != a
    if (torch := sys.modules.get("torch")) and isinstance(a, torch.nn.Module):
        return _same(dict(a.state_dict()), dict(b.state_dict()))
    return True
