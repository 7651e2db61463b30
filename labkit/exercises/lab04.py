"""The exercises of lab 04, QLoRA: what each answer is tried on, and what is said of the usual wrong ones."""

from __future__ import annotations

from labkit.exercises import Wrong, call, describe, exercise, expect_close, expect_number, expect_shape

LAB = "04"


# ------------------------------------------------------------------ what the tests share


def _show(x) -> str:
    """An array on one line, to four digits, its middle left out where it is long; a number as it is."""
    import numpy as np

    x = np.asarray(x)
    if not x.shape:
        return f"{x.item():.4g}"
    flat = [f"{v:.4g}" for v in x.reshape(-1)[:1000].tolist()]
    flat = flat if len(flat) <= 12 else [*flat[:5], "...", *flat[-3:]]
    return "[" + ", ".join(flat) + "]"


def _array(x, where: str):
    """An answer as a numpy array of numbers; tensors and lists pass too."""
    import numpy as np

    if type(x).__module__.split(".")[0] == "torch":
        x = x.detach().cpu().numpy()
    try:
        array = np.asarray(x)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.dtype.kind not in "iufb":
        raise Wrong(f"{where}: expected an array of numbers, and got {describe(x)}.")
    return array


def _parts(got, names: tuple[str, ...], where: str) -> tuple:
    """The values that an answer gives, where it is to give several."""
    wanted = f"({', '.join(names)})"
    if not isinstance(got, tuple | list) or len(got) != len(names):
        raise Wrong(f"{where}: expected {len(names)} values, {wanted}, and got {describe(got)}.")
    return tuple(got)


def _near(a, b, tol: float = 1e-5) -> bool:
    import numpy as np

    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return a.shape == b.shape and bool(np.all(abs(a - b) <= tol * (abs(b).max(initial=0.0) or 1.0)))


def _judge(got, want, where: str, usual=(), what: str = "") -> None:
    """Raise `Wrong` unless got is near want; `usual` has pairs of a wrong value, or a condition, and its sentence."""
    import numpy as np

    if _near(got, want):
        return
    for wrong, sentence in usual:
        if wrong if isinstance(wrong, bool) else _near(got, wrong):
            raise Wrong(f"{where}: expected {what}{_show(want)}, and got {_show(got)}: {sentence}")
    (expect_close if np.ndim(want) else expect_number)(got, want, 1e-5, f"for the {what.strip()}, {where}")


def _whole(codes, kind: str, shape: tuple[int, ...], where: str, lengths=()):
    """Codes as an array of that dtype and shape; says what is wrong with either."""
    codes = _array(codes, where)
    if codes.size and codes.dtype.kind == "f" and (codes != codes.round()).any():
        first = codes.reshape(-1)[(codes != codes.round()).reshape(-1)][0]
        raise Wrong(f"{where}: expected whole numbers as codes, and got {first:.4g} among them: round them.")
    if codes.shape != shape:
        for size, sentence in lengths:
            if codes.size == size:
                raise Wrong(f"{where}: expected codes of shape {shape}, and got {codes.shape}: {sentence}")
        expect_shape(codes, shape, f"for the codes, {where}")
    if codes.dtype != kind:
        size = codes.dtype.itemsize
        why = f"that is {size} bytes a code" if size > 1 else "it has no sign" if kind == "int8" else "codes start at 0"
        got = f"expected codes of dtype {kind}, and got {codes.dtype}"
        raise Wrong(f"{where}: {got}: {why}. End with .astype(np.{kind}).")
    return codes


def _same_codes(codes, want, x, scaled, where: str, usual=(), unit: str = "scales") -> None:
    """Raise `Wrong` unless codes equal want; shows the first entry that is off, and `usual` says why."""
    import numpy as np

    codes, want = codes.reshape(-1).astype(int), np.asarray(want).reshape(-1).astype(int)
    x, scaled = np.asarray(x).reshape(-1), np.asarray(scaled).reshape(-1)
    off = codes != want
    if not off.any():
        return
    i = int(off.argmax())
    told = (
        f"{where}: entry {i}, {x[i]:.4g}, is {scaled[i]:.4g} {unit}: expected code {want[i]}, and got {codes[i]}"
        f" ({int(off.sum())} of {off.size} are off)"
    )
    for wrong, sentence in usual:
        hit = wrong if isinstance(wrong, bool) else np.array_equal(codes, np.asarray(wrong).reshape(-1))
        if hit:
            raise Wrong(f"{told}: {sentence}")
    raise Wrong(f"{told}.")


def _roundings(scaled) -> list:
    """What the wrong ways of rounding make of entries that are scaled already."""
    import numpy as np

    return [
        (np.trunc(scaled), "cut off, not rounded: .astype alone drops what is behind the point. np.round comes first."),
        (np.floor(scaled), "rounded down. np.round takes the nearest whole number; // and np.floor do not."),
        (np.ceil(scaled), "rounded up. np.round takes the nearest whole number."),
        (-np.round(scaled), "the sign is turned."),
        (np.abs(np.round(scaled)), "the sign is gone. |x| is for the scale alone."),
    ]


# ------------------------------------------------------------------ the exercises


@exercise(
    "absmax_int8",
    lab=LAB,
    title="a byte in place of a float",
    difficulty=1,
    minutes=6,
    hints=(
        "The entry that is largest in size gets the code 127 or -127. How large is one step, then?",
        "scale = np.abs(x).max() / 127; a code is x / scale, rounded. All zeros would divide by 0: take scale 1 there.",
        "scale = float(np.abs(x).max()) / 127 or 1.0\nreturn np.round(x / scale).astype(np.int8), scale",
    ),
    after="No entry is off by more than half a scale, and the largest entry sets the scale of all the others.",
)
def absmax_int8(answer):
    import numpy as np

    first = np.array([0.333, -2.54, 1.006, 0.055, 0.0, -0.0333])
    second = np.array([[0.1, -0.2, 0.3], [4.0, 6.35, -5.01]])
    third = np.array([-0.444, 1.27, -1.001])
    for x in (first, second, third):
        where = f"for x = {_show(x)}" + (f" of shape {x.shape}" if x.ndim > 1 else "")
        got = _parts(call(answer, x), ("codes", "scale"), where)
        if np.ndim(got[0]) == 0 and np.ndim(got[1]) > 0:
            raise Wrong(f"{where}: the two are swapped. Codes come first, then the scale.")
        codes, scale = _array(got[0], where), _array(got[1], where)
        most, right = np.abs(x).max(), np.abs(x).max() / 127
        if codes.dtype.kind == "f" and codes.shape == x.shape and _near(codes, np.round(x / right) * right):
            raise Wrong(f"{where}: those are values again, codes × scale. Give the codes, and the scale beside them.")
        if scale.size > 1:
            raise Wrong(
                f"{where}: expected one scale for the whole of x, {right:.4g}, and got {scale.size}, {_show(scale)}: "
                "take the maximum over all entries, not along an axis."
            )
        scale, top = scale.reshape(-1)[0] if scale.size else np.nan, x.max()
        usual = (
            (most / 128, "divided by 128. int8 ends at 127, so a largest entry above zero would wrap round to -128."),
            (most / 255, "divided by 255. Half of the codes are below zero: the largest is 127."),
            (most / 7, "divided by 7, which is for 4 bits. In 8 bits the largest code is 127."),
            (127 / most, "upside down. x ≈ codes × scale, so the scale is one step: |x| max / 127."),
            (1 / most, "that is 1 / |x| max. The scale is one step: |x| max / 127."),
            (most, "that is |x| max itself. One step of 127 is the scale: divide by 127."),
            (top / 127, f"the largest of x, {top:.4g}, in place of |x|, {most:.4g}: codes beyond -127 do not fit."),
            (x.min() / 127, "the smallest of x is taken, and so the scale has a sign. Take the maximum of |x|."),
            ((top - x.min()) / 254, "that is half the range. Absmax keeps 0 at 0: take the maximum of |x|."),
            ((top - x.min()) / 255, "that is the range over 255. Absmax keeps 0 at 0: take the maximum of |x|."),
            (np.abs(x).mean() / 127, "the mean of |x| in place of its maximum: larger entries do not fit."),
        )
        _judge(scale, right, where, usual, "scale ")
        codes = _whole(got[0], "int8", x.shape, where)
        scaled = x / right
        usual = [
            *_roundings(scaled),
            (np.round(scaled).clip(0, 127), "what is below zero is cut to 0. Codes go from -127 to 127."),
            (np.round(scaled) % 256, "what is below zero is wrapped round. Codes go from -127 to 127."),
            (np.round(x * right), "multiplied by the scale. x ≈ codes × scale, so a code is x / scale."),
            (np.round(x), "x was rounded before it was scaled."),
        ]
        _same_codes(codes, np.round(scaled), x, scaled, where, usual)
    zeros = np.zeros(4)
    where = f"for x = {_show(zeros)}"
    codes, scale = (_array(part, where) for part in _parts(call(answer, zeros), ("codes", "scale"), where))
    got = f"codes {_show(codes)} and scale {_show(scale)}"
    if not np.isfinite(codes).all() or not np.isfinite(scale).all() or not scale.all():
        raise Wrong(f"{where}: expected codes 0 and scale 1, and got {got}: x / 0 has no code, so take 1.")
    if _whole(codes, "int8", (4,), where).any():
        raise Wrong(f"{where}: expected codes 0 and scale 1, and got {got}.")


@exercise(
    "blockwise",
    lab=LAB,
    title="a scale for every block",
    difficulty=2,
    minutes=10,
    hints=(
        "Flatten x, cut it into pieces of `block` entries, and do to each what absmax_int8 does, with 7 for 127.",
        "flat = x.reshape(-1), and flat[i : i + block] is a piece, for i in range(0, flat.size, block).",
        "flat = x.reshape(-1)\nparts = [flat[i : i + block] for i in range(0, flat.size, block)]\n"
        "scales = np.array([np.abs(part).max() / 7 or 1.0 for part in parts])\n"
        "codes = np.concatenate([np.round(part / scale) for part, scale in zip(parts, scales)]).astype(np.int8)",
    ),
    after="An outlier spoils its own block only; smaller blocks keep more, and cost more scales.",
)
def blockwise(answer):
    import numpy as np

    first = np.array(
        [
            [-0.06, -0.02, -0.27, -0.69, 0.31, -0.09, 0.04, -0.5, 1.36, 1.12],
            [2.09, 1.21, 0.15, -0.43, -4.3, 1.47, 2.85, 0.21, -1.2, 1.89],
            [-1.55, 2.47, -3.72, 1.43, -0.91, 0.85, -1.81, 1.1, 4.8, 2.73],
        ]
    )
    zeros = np.array([0.0, 0.0, 0.0, 0.5, -1.4, 0.31])
    for x, block in ((first, 8), (np.array([0.5, -1.4, 0.31]), 8), (zeros, 3)):
        shown = f"for x of shape {x.shape}" if x.ndim > 1 else f"for x = {_show(x)}"
        where = f"{shown}, block = {block}"
        got = _parts(call(answer, x, block), ("codes", "scales"), where)
        flat = x.reshape(-1)
        parts = [flat[i : i + block] for i in range(0, x.size, block)]
        most = np.array([np.abs(part).max() for part in parts])
        right = np.where(most > 0, most / 7, 1.0)
        codes, scales = _array(got[0], where), _array(got[1], where)
        if codes.size == len(parts) and scales.size == x.size:
            raise Wrong(f"{where}: the two are swapped. Codes come first, then the scales.")
        empty = (most == 0).any() and scales.shape == most.shape
        if empty and not (np.isfinite(scales).all() and scales.all()):
            told = f"expected scale 1 for the block of zeros, and got scales {_show(scales)}"
            raise Wrong(f"{where}: {told}: x / 0 has no code.")
        scales = np.where(most > 0, scales, 1.0) if empty else scales
        _judge_blocks(x, block, scales, right, where)
        lengths = (
            (len(parts) * block, "the padding is still there. Cut the codes to x.size."),
            (x.size // block * block, "the last block, which is short, is missing."),
        )
        if codes.shape == x.shape:
            codes = codes.reshape(-1)
        codes = _whole(codes, "int8", (x.size,), where, lengths)
        scaled = flat / np.repeat(right, block)[: x.size]
        usual = [
            *_roundings(scaled),
            (np.round(flat / (np.abs(flat).max() / 7)), "made with one scale for all. Use the scale of its own block."),
            (np.round(scaled * 127 / 7), "made for 127, not for 7. Four bits hold the codes from -7 to 7."),
            (np.round(scaled * 8 / 7), "made for 8, not for 7. The codes go from -7 to 7."),
            (np.round(flat * np.repeat(right, block)[: x.size]), "multiplied by the scale. A code is x / scale."),
            (np.round(x / np.resize(right, x.size).reshape(x.shape)),
             "the scales go round entry by entry. np.repeat gives each `block` times, np.tile and np.resize do not."),
        ]  # fmt: skip
        even = [np.round(part / (np.abs(part).max() / 7 or 1)) for part in np.array_split(flat, len(parts))]
        usual.append((np.concatenate(even), f"the blocks are of equal length. All but the last have {block} entries."))
        _same_codes(codes, np.round(scaled), x, scaled, where, usual, "scales of its block")


def _judge_blocks(x, block: int, scales, right, where: str) -> None:
    """Say what is wrong with the scales of `blockwise`."""
    import numpy as np

    flat, last = x.reshape(-1), x.size % block

    def most(parts, of=np.abs):
        return np.array([of(part).max() for part in parts]) / 7

    def cut(row, size=block):
        return [row[i : i + size] for i in range(0, row.size, size)]

    rows = [x] if x.ndim == 1 else list(x)
    width = len(right)  # entries in a block, were `block` the number of blocks
    padded = np.pad(flat, (0, -x.size % block))
    whole = np.abs(x).max() / 7
    if scales.shape != right.shape:
        usual = (
            (scales.size == 1, "that is one scale for all. Every block has its own."),
            (most(rows), "that is one for each row. A block is `block` entries, wherever a row ends."),
            (most(list(x.T)) if x.ndim > 1 else False, "that is one for each column. A block is consecutive entries."),
            (most([part for row in rows for part in cut(row)]), "blocks start anew with each row. Flatten x first."),
            (most(cut(flat)[: x.size // block]), f"the last block is missing: it is short, with {last} entries."),
            (most(padded.reshape(-1, block).T), "the maximum runs along the wrong axis: one for each block, axis 1."),
            (most(np.array_split(flat, block)) if x.size >= block else False,
             "x was cut into `block` pieces. `block` is how many entries a piece has."),
            (most(cut(padded, width)), "x was cut into `block` pieces. `block` is how many entries a piece has."),
            (np.repeat(right, block)[: x.size], "each scale stands there once for each entry. Once a block is enough."),
        )  # fmt: skip
        for wrong, sentence in usual:
            if wrong if isinstance(wrong, bool) else _near(scales, wrong):
                raise Wrong(
                    f"{where}: expected {len(right)} scales, {_show(right)}, and got {_show(scales)}: {sentence}"
                )
        expect_shape(scales, right.shape, f"for the scales, {where}")
    filled = x.size > block and last and _near(scales[:-1], right[:-1])
    usual = (
        (np.full(right.shape, whole), "every block has the scale of the largest entry of all. Take that of the block."),
        (right * 7 / 8, "divided by 8. The largest code is 7: 4 bits hold -7 to 7, and one code is left over."),
        (right * 7 / 15, "divided by 15. Half of the codes are below zero: the largest is 7."),
        (right * 7 / 127, "divided by 127, which is for 8 bits. In 4 bits the largest code is 7."),
        (right * 7, "that is |x| max of each block. One step of 7 is the scale: divide by 7."),
        (1 / right, "upside down. x ≈ codes × scale, so the scale is one step: |x| max / 7."),
        (most(cut(flat), lambda part: part), "the largest of x in place of the largest of |x|."),
        (most(cut(x.reshape(-1, order="F"))), "down the columns. A block is consecutive entries of x.reshape(-1)."),
        (most([flat[i :: len(right)] for i in range(len(right))]), "every n-th entry. A block is consecutive entries."),
        (most(np.array_split(flat, len(right))),
         f"the blocks are of equal length. All but the last have {block} entries."),
        (bool(filled), f"the last block has {last} entries, and what it was filled up with changes its scale."),
    )  # fmt: skip
    _judge(scales, right, where, usual, "scales ")


@exercise(
    "nf4_codebook",
    lab=LAB,
    title="sixteen levels for a bell curve",
    difficulty=3,
    minutes=15,
    hints=(
        "Above zero: 9 probabilities from 0.9677083 down to 0.5, evenly spaced, without the last, which is zero's own.",
        "norm.ppf turns a probability into a quantile. Below zero: the same with 8 probabilities, and a minus sign.",
        "above = norm.ppf(np.linspace(0.9677083, 0.5, 9)[:-1])\n"
        "below = -norm.ppf(np.linspace(0.9677083, 0.5, 8)[:-1])\n"
        "levels = np.sort(np.concatenate([below, [0], above]))\nreturn levels / levels.max()",
    ),
    after="Levels stand close where weights are frequent, and far apart where they are rare.",
)
def nf4_codebook(answer):
    import numpy as np

    from labkit.scratch import quantize

    want, where = quantize.NF4.astype(float), "in the codebook"
    got = _array(call(answer), where).astype(float)
    if got.ndim != 1:
        expect_shape(got, (16,), where)
    told = f"{where}: expected {_show(want)}, and got {_show(got)}"
    if not np.isfinite(got).all():
        raise Wrong(f"{told}: the quantile at probability 0 or 1 is infinite. The outermost one is 0.9677083.")
    if got.size == 16 and np.abs(got - want).max() <= 1e-6:
        return
    if got.size == 256:
        raise Wrong(f"{told}: bitsandbytes' table of 256 is filled up with zeros. Give its 16 levels.")
    ordered = np.sort(got)
    for even in (np.linspace(-1, 1, got.size), np.concatenate([np.linspace(-1, 0, 8)[:-1], np.linspace(0, 1, 9)])):
        if _near(ordered, even):
            raise Wrong(f"{told}: the levels are evenly spaced. Space the probabilities so, then take the quantiles.")
    if _near(got, np.arange(got.size)):
        raise Wrong(f"{told}: those are the codes. Give the level that each of them stands for.")
    above, below, zeros = int((got > 0).sum()), int((got < 0).sum()), int((got == 0).sum())
    if (above, zeros, below) != (8, 1, 7):
        usual = {
            (7, 1, 8): "turned round: the side of eight is above.",
            (8, 0, 8): "zero must be a level, or weights that are 0 would move. It takes the place of one below.",
            (8, 1, 8): "that is one more than 4 bits can tell apart.",
            (8, 0, 7): "zero is missing. Put it between the two sides.",
            (7, 1, 7): "one of the 16 codes is not used. Above zero there are eight.",
            (15, 1, 0): "the side below zero lacks its minus sign.",
        }
        said = usual.get((above, zeros, below), "")
        if not said and zeros > 1:
            said = "0.5 is the probability of zero: leave it out on both sides, and put 0 in once."
        have = f"{got.size}, {above} above zero, {zeros} at zero, {below} below: {said}".rstrip(": ")
        raise Wrong(f"{where}: expected 16 levels, 8 above zero, 1 at zero, 7 below, and got {have}")
    most = np.abs(got).max()
    if _near(ordered / most, want, 1e-6) and abs(most - 1) > 1e-6:
        raise Wrong(f"{told}: right up to a factor. Divide by the largest, {most:.4g}, so that they end at 1.")
    if _near(ordered, want, 1e-6):
        raise Wrong(f"{told}: the right levels, but not in order. Sort them from -1 to 1.")
    if abs(most - 1) > 1e-6:
        raise Wrong(f"{told}: they end at {most:.4g}, and some are off besides. Divide by the largest in the end.")
    if got.min() > -1 + 1e-6:
        raise Wrong(f"{told}: the lowest is not -1. Both sides start at the same probability, 0.9677083.")
    place = int(np.abs(ordered - want).argmax())
    raise Wrong(
        f"{told}. The largest difference is at [{place}]: expected {want[place]:.6f}, and got {ordered[place]:.6f}. "
        "Are they quantiles (norm.ppf) of evenly spaced probabilities, from 0.9677083 down to 0.5, 0.5 itself left out?"
    )


@exercise(
    "nf4_codes",
    lab=LAB,
    title="the nearest of sixteen levels",
    difficulty=2,
    minutes=8,
    hints=(
        "Bring the block to [-1, 1] first. Then each entry asks which of the 16 levels is nearest.",
        "np.abs(scaled[:, None] - codebook) is (n, 16): argmin along the last axis. For all zeros don't divide by 0.",
        "absmax = np.abs(x).max()\nscaled = x / (absmax or 1.0)\n"
        "return np.abs(scaled[:, None] - codebook).argmin(axis=1).astype(np.uint8), absmax",
    ),
    after="Two such codes fill one byte. The 16 levels are the same for all blocks; a block keeps its absmax alone.",
)
def nf4_codes(answer):
    import numpy as np

    from labkit.scratch import quantize

    first = np.array([0.035, -0.5, 0.31, 0.07, 0.0, -0.13, 0.4, -0.27, 0.2, -0.06, 0.11])
    even = (np.arange(16) - 8) / 8
    for x, book, name in ((first, quantize.NF4, "NF4"), (-2 * first, quantize.NF4, "NF4"),
                          (first, even, "-1, -7/8, ... 7/8"), (np.zeros(3), quantize.NF4, "NF4")):  # fmt: skip
        where = f"for x = {_show(x)}, codebook {name}"
        got = _parts(call(answer, x, book.copy()), ("codes", "absmax"), where)
        if np.ndim(got[0]) == 0 and np.ndim(got[1]) > 0:
            raise Wrong(f"{where}: the two are swapped. Codes come first, then absmax.")
        most = np.abs(x).max()
        codes, absmax = _array(got[0], where), _array(got[1], where)
        if absmax.size != 1:
            raise Wrong(f"{where}: expected one absmax, {most:.4g}, and got {absmax.size} numbers, {_show(absmax)}.")
        absmax = absmax.reshape(-1)[0]
        scaled = x / (most or 1.0)
        want = np.abs(scaled[:, None] - book).argmin(1)
        if codes.dtype.kind == "f" and codes.shape == x.shape:
            for levels, what in ((book[want], "levels"), (book[want] * most, "values again, levels × absmax")):
                if most and _near(codes, levels):
                    raise Wrong(f"{where}: those are {what}. A code is the level's place in the codebook, 0 to 15.")
        if most:
            usual = (
                (x.max(), f"the largest of x in place of |x|: {x.min():.4g} would leave [-1, 1]."),
                (x.min(), "the smallest of x, and so it has a sign. Take the maximum of |x|."),
                (1 / most, "upside down. absmax × level gives x back, so it is the maximum of |x| itself."),
                (most / 7, "divided by 7, as a scale of whole numbers is. These levels end at 1: leave absmax whole."),
                (most / 127, "divided by 127, as a scale of int8 is. These levels end at 1: leave absmax whole."),
                (x.std(), "the standard deviation. The largest entry has to become 1 or -1: take the maximum of |x|."),
                (np.abs(x).mean(), "the mean of |x|. The largest entry has to become 1 or -1: take the maximum."),
                (1.0, "that is 1, as if x were scaled already. Scale by the maximum of |x|, and give it back."),
            )
            _judge(absmax, most, where, usual, "absmax ")
        elif not np.isfinite(absmax):
            raise Wrong(f"{where}: expected absmax 0, and got {absmax}.")
        lengths = ((16, "one for each level. argmin runs along the axis of the levels, so that each entry gets one."),)
        if codes.size == 1 and x.size > 1:
            raise Wrong(f"{where}: expected {x.size} codes, and got one: argmin without axis= looks at all at once.")
        codes = _whole(codes, "uint8", x.shape, where, lengths)
        middle = (book[:-1] + book[1:]) / 2
        raw = np.abs(x[:, None] - book).argmin(1)
        usual = [
            (not most and not codes.any(), "0 / 0 is nan, and its argmin is 0, the level -1. Don't divide by 0."),
            (raw, "x was not scaled. Divide by absmax first, so that the levels meet it."),
            (np.abs((x * most)[:, None] - book).argmin(1), "multiplied by absmax. Divide by it."),
            (np.searchsorted(book, scaled), "that is the next level above, not the nearest."),
            (np.searchsorted(book, scaled).clip(0, 15), "that is the next level above, not the nearest."),
            ((np.searchsorted(book, scaled, "right") - 1).clip(0, 15), "that is the level below, not the nearest."),
            (np.abs(scaled[:, None] - book).argmax(1), "that is the level farthest away: argmin, not argmax."),
            ((scaled[:, None] - book).argmin(1), "the difference has a sign: take its absolute value before argmin."),
            ((book - scaled[:, None]).argmin(1), "the difference has a sign: take its absolute value before argmin."),
            (want + 1, "one too many: places count from 0 to 15."),
            (15 - want, "counted from the other end. 0 is the lowest level."),
            (np.abs(np.abs(scaled)[:, None] - book).argmin(1), "the sign is gone. |x| is for absmax alone."),
            (np.round((scaled + 1) * 7.5), "rounded to 16 even steps. Look the nearest level up in the codebook."),
            (np.searchsorted((quantize.NF4[:-1] + quantize.NF4[1:]) / 2, scaled) if book is even else False,
             "those are codes of NF4. Use the codebook that is handed in."),
            (np.searchsorted(middle, scaled) + 1, "one too many: places count from 0 to 15."),
        ]  # fmt: skip
        _same_codes(codes, want, x, scaled, where, usual, "of absmax")


@exercise(
    "double_quantize",
    lab=LAB,
    title="quantise the scales too",
    difficulty=2,
    minutes=8,
    hints=(
        "Scales are all above zero. Without their mean they lie on both sides of it, and use all codes.",
        "mean = scales.mean(), one for all; then blocks of scales - mean, each with its absmax / 127.",
        "mean = scales.mean()\nparts = [scales[i : i + block] - mean for i in range(0, len(scales), block)]\n"
        "second = np.array([np.abs(part).max() / 127 or 1.0 for part in parts])\n"
        "codes = np.concatenate([np.round(part / s) for part, s in zip(parts, second)]).astype(np.int8)",
    ),
    after="A scale of 32 bits becomes one of 8, and the second scales are too few to matter.",
)
def double_quantize(answer):
    import numpy as np

    few = np.array([0.0598, 0.0771, 0.0535, 0.0426, 0.0489, 0.0379, 0.0434, 0.0368, 0.0469, 0.0333])
    many = 0.05 + 0.01 * np.sin(np.arange(300.0) ** 2)
    for scales, block in ((few, 4), (many, None), (np.full(3, 0.25), 2)):
        where = f"for {f'scales = {_show(scales)}' if scales.size < 20 else f'{scales.size} scales'}, " + (
            f"block = {block}" if block else "and no block given (256)"
        )
        got = call(answer, scales, block) if block else call(answer, scales)
        got = _parts(got, ("codes", "second scales", "mean"), where)
        block = block or 256
        codes, second, mean = (_array(part, where) for part in got)
        parts = [scales[i : i + block] for i in range(0, scales.size, block)]
        if mean.size != 1:
            means = np.array([part.mean() for part in parts])
            why = "that is one for each block. Take the mean of all." if _near(mean, means) else "give one number."
            raise Wrong(f"{where}: expected one mean, {scales.mean():.4g}, and got {_show(mean)}: {why}")
        usual = (
            (0.0, "the mean was not taken off. All scales are above zero: half of the codes would never be used."),
            (np.median(scales), "that is the median."),
            (scales.min(), "that is the smallest. Subtract the mean, so that both signs are used."),
            (scales.max(), "that is the largest. Subtract the mean."),
            (-scales.mean(), "the sign is turned: it is added again when the scales are restored."),
            (scales.sum(), "that is the sum."),
        )
        _judge(mean.reshape(-1)[0], scales.mean(), where, usual, "mean ")
        centred = scales - scales.mean()
        parts, raw = ([row[i : i + block] for i in range(0, row.size, block)] for row in (centred, scales))
        most = np.array([np.abs(part).max() for part in parts])
        flat_out = most.max() < 1e-9  # scales that are all equal
        if not np.isfinite(second).all() or (flat_out and (second == 0).any()):
            raise Wrong(
                f"{where}: all scales equal their mean, and got second scales {_show(second)}: 0 / 0 has no code. "
                "Take 1 where nothing is left."
            )
        if flat_out:
            right = second if second.shape == most.shape else np.ones(most.shape)
        else:
            right = most / 127
        usual = (
            (right.size > 1 and second.size == 1, "that is one for all. Each block of scales has its own."),
            (right.size > 1 and second.shape == (scales.size // block,) and _near(second, right[: second.size]),
             "the last block, which is short, is missing."),
            (second.shape == scales.shape, "one for every scale: are codes and second scales swapped?"),
            (block == 256 and second.shape != right.shape, "a block has 256 scales where none is given."),
            (np.full(right.shape, most.max() / 127), "every block has that of all. Take the largest of its own block."),
            (most, "that is the largest of each block. Divide by 127."),
            (most / 128, "divided by 128. int8 ends at 127."),
            (most / 7, "divided by 7, which is for 4 bits. These codes have 8: divide by 127."),
            (most / 255, "divided by 255. Half of the codes are below zero: the largest is 127."),
            (127 / np.where(most > 0, most, 1), "upside down. One step is the largest / 127."),
            ([np.abs(part).max() / 127 for part in raw], "made before the mean was taken off."),
            ([part.max() / 127 for part in parts], "the largest in place of the largest in size: take np.abs first."),
            ([np.abs(part - part.mean()).max() / 127 for part in raw],
             "each block lost its own mean in place of that of all."),
        )  # fmt: skip
        _judge(second, right, where, usual, "second scales ")
        size = scales.size
        lengths = (
            (len(parts) * block, "the padding is still there. Cut the codes to len(scales)."),
            (size // block * block, "the last block, which is short, is missing."),
        )
        codes = _whole(codes, "int8", (size,), where, lengths)
        scaled = centred / np.repeat(right, block)[:size] if not flat_out else np.zeros(size)
        usual = [
            *_roundings(scaled),
            (np.round(scales / np.repeat(right, block)[:size]).astype(int).astype(np.int8),
             "made with the mean still in them, and so they wrap round. Subtract it first."),
            (np.round(scales / np.repeat(right, block)[:size]).clip(-127, 127),
             "made with the mean still in them. Subtract it first."),
            (np.round(centred / right.max()), "made with one scale for all. Use that of its own block."),
        ]  # fmt: skip
        _same_codes(codes, np.round(scaled), scales, scaled, where, usual, "second scales from the mean")


@exercise(
    "bits_per_weight",
    lab=LAB,
    title="what a weight really takes",
    difficulty=1,
    minutes=4,
    hints=(
        "A code has 4 bits. A scale of 8 bits is shared by a block of weights; a second scale of 32 bits by how many?",
        "A second scale serves block2 scales, and each of these serves block weights.",
        "return 4 + 8 / block + 32 / (block * block2)",
    ),
    after="4.127 for the usual blocks; with scales of 32 bits, not quantised again, it would be 4.5.",
)
def bits_per_weight(answer):
    for given in ((64, 256), (32, 128), ()):
        block, block2 = given or (64, 256)
        where = f"for block = {block}, block2 = {block2}" if given else "with neither block given (64 and 256)"
        got = call(answer, *given)
        first, second = 8 / block, 32 / (block * block2)
        right = 4 + first + second
        usual = (
            (first + second, "that is what the scales take. The code itself has 4 bits."),
            (4 + first, "the second scales are missing: 32 bits for block × block2 weights."),
            (4 + second, "the scales are missing: 8 bits for a block of weights."),
            (4.0, "that is the code alone. Scales are kept too."),
            (4 + 32 / block, "scales of 32 bits are those before they were quantised. Now they have 8."),
            (4 + 32 / block + second, "a scale has 8 bits now. 32 is for the second scales."),
            (4 + first + 32 / block2, "a second scale serves block2 scales, and so block × block2 weights."),
            (4 + first + 8 / (block * block2), "a second scale is kept in 32 bits, not in 8."),
            (4 + 8 / block2 + second, "a scale serves `block` weights; block2 counts scales."),
            (4 + first + 32 / (block + block2), "the blocks are added. A second scale serves block × block2 weights."),
            (right / 8, "that is in bytes. Give bits."),
            (1 + first + second, "a code has 4 bits."),
            (4 + 8 * block + 32 * block * block2, "a block shares its scale: divide by the number of weights."),
            (4 + 8 / 64 + 32 / (64 * 256), "that is for 64 and 256, whatever is given. Use block and block2."),
            (4 + 8 + 32, "a block shares its scale: divide by the number of weights in it."),
        )
        got = got.item() if getattr(got, "shape", None) == () else got
        if isinstance(got, float | int) and not isinstance(got, bool) and abs(got - right) > 1e-4:
            for wrong, sentence in usual:
                if abs(got - wrong) < 1e-6:
                    raise Wrong(f"{where}: expected {right:.4f}, and got {got:.4f}: {sentence}")
        expect_number(got, right, 2e-5, where)


@exercise(
    "qlora_bytes",
    lab=LAB,
    title="the bytes, before you run it",
    difficulty=2,
    minutes=8,
    hints=(
        "Frozen weights have no gradient and no moments. Which of the three counts need the base at all?",
        "fp32 is 4 bytes. Adam keeps two moments of each trained weight. bits / 8 are the bytes of a frozen one.",
        'return {"weights": parameters * bits / 8 + 4 * trainable, "gradients": 4 * trainable, '
        '"optimizer": 8 * trainable}',
    ),
    after="Full fine-tuning in fp32 is 16 bytes a weight. Activations come on top, and grow with batch and length.",
)
def qlora_bytes(answer):
    for n, t, bits in ((1_000_000, 50_000, 4.5), (800_000, 30_000, 4), (0, 1_000_000, 32), (800_000, 0, 32)):
        where = f"for parameters = {n:,}, trainable = {t:,}, bits = {bits}"
        got = call(answer, n, t, bits)
        names = ("weights", "gradients", "optimizer")
        if not isinstance(got, dict):
            raise Wrong(f"{where}: expected a dict with {', '.join(names)}, and got {describe(got)}.")
        if set(got) != set(names):
            missing, more = sorted(set(names) - set(got)), sorted(map(str, set(got) - set(names)))
            both = ((missing, "missing"), (more, "too many"))
            said = "".join(f" {', '.join(some)}: {what}." for some, what in both if some)
            raise Wrong(f"{where}: expected a dict with {', '.join(names)}, and got {', '.join(map(str, got))}.{said}")
        base = n * bits / 8
        weights = (
            (base, "the adapter's weights are missing: 4 bytes for each that is trained."),
            (n * bits + 4 * t, "that takes bits for bytes. Divide by 8."),
            (n * bits + 32 * t, "that is in bits. Divide by 8."),
            ((n + t) * bits / 8, "the trained weights are in fp32, 4 bytes each. Only the base has b bits."),
            ((n - t) * bits / 8 + 4 * t, "the trained weights stand beside the base, so all of it is kept."),
            ((n - t) * bits / 8, "the trained weights are beside the base. Keep all of it, and add 4 bytes for each."),
            (4 * n + 4 * t, "that is the base in fp32. Its weights take bits / 8 bytes each."),
            (base + 2 * t, "that is 2 bytes for a trained weight. fp32 takes 4."),
            (base + t, "that counts the trained weights. Each takes 4 bytes."),
            (4 * t, "the base is missing. It is frozen, and kept all the same."),
            (n // 8 * int(bits) + 4 * t, "bits is no whole number: don't round it."),
        )
        gradients = (
            (4 * (n + t), "a frozen weight has no gradient. Count the trained ones."),
            (4 * n, "a frozen weight has no gradient. Count the trained ones."),
            (t * bits / 8, "gradients are in fp32, 4 bytes each, whatever the base is kept in."),
            (n * bits / 8, "a frozen weight has no gradient. Count the trained ones, in fp32."),
            (2 * t, "that is 2 bytes for a gradient. fp32 takes 4."),
            (8 * t, "there is one gradient for a trained weight. The two moments are the optimizer's."),
            (t, "that counts gradients. Each takes 4 bytes."),
            (0, "a trained weight has a gradient."),
        )
        optimizer = (
            (8 * (n + t), "Adam keeps moments of what it trains. The base is frozen."),
            (8 * n, "Adam keeps moments of what it trains. The base is frozen."),
            (4 * t, "that is one moment. Adam keeps two of each trained weight: the mean and the mean square."),
            (12 * t, "that is 12 bytes for a trained weight. The two moments are 8."),
            (16 * t, "that is all of a trained weight's bytes. The optimizer's own are the two moments."),
            (2 * t * bits / 8, "moments are in fp32, 4 bytes each, whatever the base is kept in."),
            (2 * t, "that counts the moments, or takes one byte for each. fp32 takes 4."),
            (0, "Adam keeps two moments of each trained weight."),
        )
        wanted = {"weights": base + 4 * t, "gradients": 4 * t, "optimizer": 8 * t}
        for name, usual in zip(names, (weights, gradients, optimizer), strict=True):
            value, right = got[name], wanted[name]
            value = value.item() if getattr(value, "shape", None) == () else value
            if isinstance(value, int | float) and abs(value - right) > 1e-5 * right:
                units = ((right / 1e6, "that is in MB. Give bytes."), (right / 2**20, "that is in MiB. Give bytes."))
                for wrong, sentence in (*usual, *units):
                    if abs(value - wrong) <= 1e-9 * max(wrong, 1):
                        raise Wrong(f"{where}, {name}: expected {right:,.0f}, and got {value:,.6g}: {sentence}")
            expect_number(value, right, 1e-5, f"{where}, {name}")


@exercise(
    "merge_quantised",
    lab=LAB,
    title="merge without rounding",
    difficulty=2,
    minutes=6,
    hints=(
        "W is in full precision already: levels times absmax. Add the detour there, and leave it there.",
        "B is (d_out, r) and A is (r, d_in): only B @ A has the shape of W. Its factor is alpha / r; r is A.shape[0].",
        "return dequantised_W + (alpha / A.shape[0]) * (B @ A)",
    ),
    after="Rounded to 4 bits again, every change smaller than half a level would be gone.",
)
def merge_quantised(answer):
    import numpy as np

    from labkit.scratch import quantize

    rng = np.random.default_rng(4)
    W, A, B = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 6), (2, 6), (5, 2)))
    W = quantize.nf4_dequantize(*quantize.nf4_quantize(W, 30), 30).reshape(5, 6)
    alpha, detour, kept = 16.0, B @ A, len(np.unique(W))
    sizes = f"for dequantised_W {W.shape}, A {A.shape}, B {B.shape}"

    def merged(alpha=alpha, A=A, B=B, W=W):
        where = f"{sizes}, alpha = {alpha:g}"
        got = _array(call(answer, W, A, B, alpha), where)
        expect_shape(got, (5, 6), where)
        if got.dtype.kind != "f":
            raise Wrong(
                f"{where}: expected floats, and got {got.dtype}: a code cannot hold the small changes. "
                "Merge in full precision."
            )
        return got, where

    got, where = merged()
    if got.dtype == np.float16:
        raise Wrong(f"{where}: expected {W.dtype}, and got {got.dtype}: that is half precision. Keep the full one.")
    if _near(got, W):
        raise Wrong(f"{where}: W came back as it went in: the detour is missing.")
    zero = merged(B=np.zeros_like(B))[0]
    if not zero.any():
        raise Wrong("with B = 0 your matrix is all zeros: W itself is missing. The detour is added to it.")
    added = got.astype(float) - W
    r = A.shape[0]
    usual = {
        alpha: f"alpha alone stands before B A, so the detour is {r} times too large. The factor is alpha / r.",
        1.0: f"the scale is missing, so the detour is {alpha / r:g} times too small. The factor is alpha / r.",
        1.0 / r: "1 / r stands before B A. alpha is missing: the factor is alpha / r.",
        r / alpha: "the scale is upside down. The factor is alpha / r, and r is A.shape[0].",
        alpha / r**0.5: "alpha / sqrt(r) stands before B A, which is rsLoRA's rule. Here it is alpha / r.",
        alpha / A.shape[1]: "divided by d_in. r is A.shape[0].",
        alpha / B.shape[0]: "divided by d_out. r is B.shape[1], or A.shape[0].",
        -alpha / r: "the detour is subtracted. It is added to W.",
        alpha * r: "alpha × r stands before B A. Divide by r.",
    }
    for factor, sentence in usual.items():
        if _near(added, factor * detour, 1e-4):
            i = int(np.abs(detour).argmax())
            one, two = (W + alpha / r * detour).reshape(-1)[i], got.reshape(-1)[i]
            raise Wrong(f"{where}: entry [{i // 6}, {i % 6}] should be {one:.4g}, and is {two:.4g}: {sentence}")
    if _near(got, alpha / r * detour * W, 1e-4) or _near(got, W * (1 + alpha / r * detour), 1e-4):
        raise Wrong(f"{where}: W and the detour are multiplied entry by entry. They are added.")
    if _near(got, alpha / r * (W + detour), 1e-4):
        raise Wrong(f"{where}: W is scaled too. alpha / r stands before B A alone.")
    small, there = merged(alpha=0.002)
    if len(np.unique(small)) < 25:
        raise Wrong(
            f"{there}: expected 30 different entries, and got {len(np.unique(small))} (W itself has {kept}): your "
            "matrix was rounded again, and so small a detour is lost. Merge in full precision, and leave it so."
        )
    expect_close(zero, W, 1e-6, f"{sizes}, with B = 0, where W must come out as it went in")
    expect_close(got, W + alpha / r * detour, 1e-5, where)
    expect_close(small, W + 0.001 * detour, 1e-5, there)
    thin = merged(A=A[:1], B=B[:, :1])[0]
    expect_close(thin, W + alpha * (B[:, :1] @ A[:1]), 1e-5, "with r = 1 (take r from A, not from outside)")
