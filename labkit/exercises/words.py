"""Objects and errors in a few words, and the two things that an answer can be besides right.

`calling` and `compare` build their sentences from these; nothing here runs a learner's function.
"""

from __future__ import annotations

import linecache
import re
import reprlib
import sys
import sysconfig
import textwrap
import types
from pathlib import Path
from typing import Any

WIDTH = 88  # characters a line: what a notebook shows without a scroll bar
LONG = 200  # characters of a foreign error message that are shown


class Wrong(Exception):
    """The sentence that tells a learner what is wrong with this answer."""


class NotAttempted(Exception):
    """The answer is still `...`, whole or in part; the text, if any, says where."""


def is_array(x: Any) -> bool:
    """Whether x is a torch tensor or a numpy array; neither library is imported for it."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    return bool((torch and isinstance(x, torch.Tensor)) or (numpy and isinstance(x, numpy.ndarray | numpy.generic)))


def shape_of(x: Any) -> tuple[int, ...]:
    """Shape of a tensor or an array as a plain tuple."""
    return tuple(int(n) for n in x.shape)


def gave_none(where: str = "") -> str:
    """The sentence for a function without `return`."""
    return f"your function gave `None` {where}".rstrip() + ". Is there a `return`?"


class _Short(reprlib.Repr):
    """Containers cut to a few entries, with tensors in them described, not printed."""

    def repr_instance(self, x: Any, level: int) -> str:
        return repr(x) if x is None or x is Ellipsis else _describe(x)


_short = _Short()
_short.maxstring = 60
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = 4
_short.maxlevel = 3


def describe(x: Any) -> str:
    """An object in a few words: shape and dtype, or value, or type. Never raises, never long.

    >>> describe([1, 2, 3]), describe("hello"), describe(None)
    ('the list [1, 2, 3]', "'hello'", '`None`')
    """
    try:
        return _describe(x)
    except Exception:  # a learner's own __repr__, __class__ or __len__ may do anything
        return f"an object of type {type(x).__name__} that cannot be shown"


def _describe(x: Any) -> str:
    if x is None or x is Ellipsis:
        return "`None`" if x is None else "`...`"
    if is_array(x):
        kind = "tensor" if hasattr(x, "requires_grad") else "array"
        dtype, shape = str(x.dtype).removeprefix("torch."), shape_of(x)
        return f"a {dtype} {kind} of shape {shape}" if shape else f"{cut(repr(x.item()))} (a {dtype} {kind})"
    if isinstance(x, str | bytes):
        return cut(repr(x[:60]))
    if isinstance(x, bool | int | float | complex):
        return cut(repr(x))
    if isinstance(x, type):
        return f"the class `{x.__name__}`"
    if isinstance(x, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        return f"the function `{x.__name__}`"
    if isinstance(x, list | tuple | dict | set):
        return f"the {type(x).__name__} {cut(_short.repr(x), 80)}"
    if (torch := sys.modules.get("torch")) and isinstance(x, torch.nn.Module):
        return f"a {type(x).__name__} module"
    return f"an object of type {type(x).__name__}"


def cut(text: str, most: int = 60) -> str:
    """The text on one line, with an ellipsis where it is longer than `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."


# ------------------------------------------------------------------ what an error means

_PAIR = r"\(?(\d+(?:[x, ]+\d+)*),?\)?"
_MEANINGS: list[tuple[str, str]] = [
    (rf"mat1 and mat2 shapes cannot be multiplied {_PAIR} and {_PAIR}",
     "shapes ({0}) and ({1}) don't meet: the last size on the left must equal the first on the right. "
     "Is one of them to be transposed, or does it stand on the wrong side?"),
    (r"matmul: Input operand 1 has a mismatch.*size (\d+) is different from (\d+)",
     "the inner sizes {1} and {0} don't meet: the last size on the left of `@` must equal the first on the right. "
     "Is one of them to be transposed, or does it stand on the wrong side?"),
    (r"size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\) at non-singleton dimension (\d+)",
     "sizes {0} and {1} on axis {2} don't meet: two tensors join entry by entry only where sizes are equal or 1."),
    (r"operands could not be broadcast together with (?:remapped )?shapes (\(.*?\)) (\(.*?\))",
     "shapes {0} and {1} don't meet: two arrays join entry by entry only where sizes are equal or 1."),
    (r"(?:same dtype|scalar type|dtype).*?(?:got|found)",
     "two tensors of different dtype meet; bring one to the other's with `.to(other.dtype)`."),
    (r"on the same device", "two tensors on different devices meet; bring one over with `.to(other.device)`."),
    (r"leaf Variable that requires grad",
     "a parameter may not be changed in place while gradients are recorded: `torch.no_grad()` is for that."),
    (r"does not require grad and does not have a grad_fn",
     "the result has lost its link to the parameters: `.detach()`, `.item()`, `no_grad` or frozen weights cut it."),
    (r"(?:Boolean|truth) value of .* more than one (?:value|element).* ambiguous",
     "an `if` or `and` needs one True or False and got many: `.all()` or `.any()` makes one of them."),
    (r"'NoneType' object", "something is `None` there: does the function that made it lack its `return`?"),
    (r"'builtin_function_or_method' object is not subscriptable|bound method", "are its parentheses `()` missing?"),
]  # fmt: skip
_BY_TYPE = {
    NameError: "Is it misspelt, or defined in a cell that has not been run?",
    UnboundLocalError: "It gets its value further down, or only under an `if`.",
    RecursionError: "Your function calls itself without an end.",
    MemoryError: "It asks for more memory than there is: look at the sizes that it makes.",
    ZeroDivisionError: "Which input makes the divisor zero?",
    IndexError: "Counting starts at 0, and the last place is the length minus 1.",
    KeyError: "That key is not there.",
}


def explain(error: BaseException, where: str = "") -> Wrong | NotAttempted:
    """The sentence for an error in the learner's code: which, in which line, what it means, for which inputs."""
    if isinstance(error, Wrong | NotAttempted):
        return error
    message = safe_text(error)
    if isinstance(error, NotImplementedError) and "raise" in line_of(error):  # torch raises it too, for other reasons
        return NotAttempted("your function still raises NotImplementedError")
    if "ellipsis" in message:
        return NotAttempted("there is still a `...` in your code" + line_of(error))
    where = f" This was {where}." if where else ""
    meaning = next((text for kind, text in reversed(_BY_TYPE.items()) if isinstance(error, kind)), "")
    for pattern, sentence in _MEANINGS:
        if found := re.search(pattern, message, re.DOTALL):
            meaning = sentence.format(*(group.replace("x", ", ") for group in found.groups()))
            if found.groups():  # says all that the message says
                return Wrong(f"your code stops{line_of(error)}: {meaning}{where}")
            break
    text = f"your code stops{line_of(error)} with {type(error).__name__}: {cut(message, LONG)}".rstrip(":. ")
    return Wrong(f"{text}. {meaning[:1].upper()}{meaning[1:]}".rstrip() + where)


def safe_text(error: BaseException) -> str:
    """`str(error)`, also where a learner's exception cannot say what it is."""
    try:
        return str(error)
    except Exception:
        return ""


_NOT_LEARNERS = tuple(
    str(Path(path).resolve())
    for path in (Path(__file__).parent, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
)


def line_of(error: BaseException) -> str:
    """The learner's own line where it happened, as " at `CODE`"; empty where it cannot be told."""
    line, trace = "", error.__traceback__
    while trace:
        name = trace.tb_frame.f_code.co_filename
        # Resolved, as those are: an environment behind a link has two names.
        whose = name if name.startswith("<") else str(Path(name).resolve())
        if not whose.startswith((*_NOT_LEARNERS, "<frozen")):
            line = linecache.getline(name, trace.tb_lineno, trace.tb_frame.f_globals).strip() or line
        trace = trace.tb_next
    return f" at `{cut(line)}`" if line else ""


def say(text: str, wrap: bool = True) -> None:
    """Print text in short lines, also to a terminal that lacks some of its characters."""
    if wrap:
        text = "\n".join(
            textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False) for line in text.splitlines()
        )
    try:
        print(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, errors="replace").decode(encoding))
