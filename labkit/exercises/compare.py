"""Comparing an answer with what was expected, and saying in one sentence how they differ.

The tests in lab03.py and its neighbours are written with these helpers; `check` prints what they raise.
`where` is always a phrase that can end a sentence: "for x of shape (4, 192)", "with B = 0", "in the detour".
"""

from __future__ import annotations

import math
import numbers
import sys
from typing import Any

from labkit.exercises.words import NotAttempted, Wrong, describe, gave_none, is_array, shape_of


def expect_type(got: Any, kinds: type | tuple[type, ...], where: str = "") -> None:
    """Raise `Wrong` unless `got` is of that type, or of one of those types; a bool does not pass for a number."""
    _refuse_empty(got, where)
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(got, kinds) or (isinstance(got, bool) and bool not in kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise Wrong(_unlike(wanted, describe(got), where))


def expect_shape(got: Any, shape: tuple[int, ...], where: str = "") -> None:
    """Raise `Wrong` unless `got` is a tensor or array of that shape; says so when it is only transposed."""
    _refuse_empty(got, where)
    shape = tuple(shape)
    if not is_array(got):
        raise Wrong(_unlike(f"shape {shape}", f"{describe(got)}, which has no shape", where))
    found = shape_of(got)
    if found == shape:
        return
    sentence = _unlike(f"shape {shape}", str(found), where)
    if len(found) != len(shape):
        sentence += f" The number of axes is {len(found)} in place of {len(shape)}."
    elif sorted(found) == sorted(shape):
        sentence += " The right sizes in another order: is something transposed?"
    raise Wrong(sentence)


def expect_number(got: Any, want: float, tol: float = 1e-6, where: str = "") -> None:
    """Raise `Wrong` unless `got` is a number within `tol` × |`want`| of `want` (`tol` where that is 0).

    Numbers are int, float, numpy scalars, and tensors or arrays of one element. Names the factor where it is a usual
    one: percent for share, thousands, binary thousands, bits for bytes, the sign.
    """
    _refuse_empty(got, where)
    if is_array(got) and math.prod(shape_of(got)) == 1:
        got = got.item()
    if isinstance(got, bool) or not isinstance(got, numbers.Real):
        raise Wrong(_unlike("a number", describe(got), where))
    if isinstance(got, int) and got.bit_length() > 1000:  # too large for a float
        raise Wrong(_unlike(_show(want), f"a number of {got.bit_length():,} bits", where))
    got = float(got)
    if abs(got - want) <= tol * (abs(want) or 1.0):
        return
    sentence = _unlike(_show(want), _show(got), where)
    if want and math.isfinite(got):
        for factor, meaning in _USUAL_FACTORS.items():
            if math.isclose(got / want, factor, rel_tol=max(tol, 1e-6)):
                sentence += f" {meaning}"
                break
    raise Wrong(sentence)


_USUAL_FACTORS = {
    -1.0: "Only the sign is turned.",
    100.0: "That is 100 times too large: a percentage, where a share between 0 and 1 is asked?",
    0.01: "That is 100 times too small: a share between 0 and 1, where a percentage is asked?",
    1000.0: "That is 1000 times too large: is the unit right?",
    0.001: "That is 1000 times too small: is the unit right?",
    1024.0: "That is 1024 times too large: is the unit right?",
    1 / 1024: "That is 1024 times too small: is the unit right?",
    8.0: "That is 8 times too large: bits in place of bytes?",
    0.125: "That is 8 times too small: bytes in place of bits?",
    2.0: "That is twice too large: is something counted twice?",
    0.5: "That is half of it: is one of two parts missing?",
}


def constant_factor(got: Any, want: Any, tol: float = 1e-5) -> float | None:
    """The c with got = c × want everywhere, or None where there is no such c; shapes must be equal.

    >>> constant_factor([2.0, 4.0], [1.0, 2.0])
    2.0
    """
    got, want = _numbers(got), _numbers(want)
    norm = float((want * want).sum())
    if got.shape != want.shape or not norm:
        return None
    factor = float((got * want).sum()) / norm
    return factor if abs(got - factor * want).max() <= tol * abs(got).max() and factor else None


def expect_close(got: Any, want: Any, tol: float = 1e-5, where: str = "") -> None:
    """Raise `Wrong` unless `got` equals `want` entry by entry, within `tol` × the largest entry of `want`.

    Tells apart: None, another type, another shape, nan and infinity, all zeros, a constant factor, the sign,
    the transpose, a constant shift, another order; else names the largest difference and its place.

    Args:
        got: the learner's tensor, array, or list of numbers.
        want: tensor, array, or list of numbers; where it is a tensor or an array, `got` must be one too.
        tol: largest difference that passes, as a share of the largest entry of `want` (absolute where that is 0).
        where: the input that shows it, as a phrase.
    """
    _refuse_empty(got, where)
    if is_array(want) and shape_of(want) and not _same_house(got, want):
        raise Wrong(_unlike(describe(want), describe(got), where))
    if is_array(got):
        expect_shape(got, shape_of(_numbers(want)), where)
    values, wanted = _numbers(got), _numbers(want)
    if values.shape != wanted.shape:
        raise Wrong(_unlike(f"shape {wanted.shape}", str(values.shape), where))
    if not values.size:
        return
    limit = tol * _scale(wanted)
    if (difference := _difference(values, wanted)).max() <= limit:
        return
    raise Wrong(_how_they_differ(values, wanted, difference, limit, tol, where))


def _how_they_differ(values, wanted, difference, limit: float, tol: float, where: str) -> str:
    import numpy as np

    end = f" {where}" if where else ""
    for bad, word in ((np.isnan(values), "nan"), (np.isinf(values), "infinity")):
        if (bad & ~(np.isnan(wanted) | np.isinf(wanted))).any():
            return f"right shape, but {int(bad.sum())} of {bad.size} entries are {word}, first at {_first(bad)}{end}."
    if not values.any():
        return f"right shape, but your answer is all zeros{end}. Expected, for instance, {_at_largest(wanted)}."
    factor = constant_factor(values, wanted, max(tol, 1e-5)) if np.isfinite(wanted).all() else None
    if factor is not None and wanted.size > 1 and not math.isclose(factor, 1, rel_tol=1e-3):
        if math.isclose(factor, -1, rel_tol=1e-4):
            return f"right shape and size, but the sign is turned everywhere{end}."
        sign = "of the wrong sign and " if factor < 0 else ""
        size = abs(factor)
        times = f"{_show(size)} times too large" if size > 1 else f"{_show(1 / size)} times too small"
        return f"right shape, but everywhere {sign}{times}{end}: is a factor missing, or one too many?"
    if values.ndim >= 2 and values.shape[-1] == values.shape[-2]:
        if _difference(values.swapaxes(-1, -2), wanted).max() <= limit:
            return f"the right numbers, but transposed: rows stand where columns should{end}."
    shift = values - wanted
    if values.size > 1 and np.isfinite(shift).all() and abs(shift - shift.flat[0]).max() <= limit:
        more = "large" if shift.flat[0] > 0 else "small"
        return f"right shape, but everywhere {_show(abs(float(shift.flat[0])))} too {more}{end}."
    if values.size > 1 and _difference(np.sort(values, axis=None), np.sort(wanted, axis=None)).max() <= limit:
        return f"the right numbers, but in another order{end}."
    place = np.unravel_index(int(difference.argmax()), difference.shape)
    off = int((difference > limit).sum())
    index = f" at {_index(place)}" if place else ""
    return (
        f"right shape, but {off} of {difference.size} {'entries are' if difference.size > 1 else 'entry is'} off{end}. "
        f"The largest difference is {_show(float(difference.max()))}{index}: "
        f"expected {_show(float(wanted[place]))}, and got {_show(float(values[place]))}."
    )


def _numbers(x: Any):
    """A float64 numpy array of the values of a tensor, an array, or a list of numbers."""
    import numpy as np

    if (torch := sys.modules.get("torch")) and isinstance(x, torch.Tensor):
        if x.is_complex():
            raise Wrong(f"expected real numbers, and got {describe(x)}.")
        x = x.detach().to("cpu", torch.float64).numpy()
    try:
        return np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise Wrong(f"expected numbers, and got {describe(x)}.") from None


def _scale(wanted) -> float:
    import numpy as np

    return float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)) or 1.0


def _difference(a, b):
    """|a - b|; 0 where both are nan or the same infinity, infinite where only one is."""
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.atleast_1d(np.abs(a - b)).reshape(a.shape)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))


def _same_house(got: Any, want: Any) -> bool:
    """Both tensors, or both arrays: the next call on the wrong one would fail."""
    torch = sys.modules.get("torch")
    return is_array(got) and (not torch or isinstance(got, torch.Tensor) == isinstance(want, torch.Tensor))


def _refuse_empty(got: Any, where: str) -> None:
    if got is Ellipsis:
        raise NotAttempted
    if got is None:
        raise Wrong(gave_none(where))


def _index(place: tuple) -> str:
    return "[" + ", ".join(str(int(i)) for i in place) + "]"


def _first(mask) -> str:
    import numpy as np

    return _index(np.unravel_index(int(mask.argmax()), mask.shape))


def _at_largest(wanted) -> str:
    import numpy as np

    place = np.unravel_index(int(np.nan_to_num(abs(wanted)).argmax()), wanted.shape)
    return f"{_show(float(wanted[place]))} at {_index(place)}" if place else _show(float(wanted))


def _show(x: float) -> str:
    """A number as one would write it: 1,024 and 0.1667."""
    return f"{x:,.0f}" if math.isfinite(x) and x == round(x) and abs(x) < 1e15 else f"{x:.4g}"


def _unlike(expected: str, got: str, where: str) -> str:
    return f"expected {expected} {where}".rstrip() + f", and got {got}."
