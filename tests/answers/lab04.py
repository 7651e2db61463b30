"""Right and wrong answers to lab 04's exercises."""

import numpy as np
import torch
from scipy.stats import norm

from labkit.scratch import quantize

# ------------------------------------------------------------------ absmax_int8


def absmax(scale=lambda x: np.abs(x).max() / 127, code=lambda x, scale: np.round(x / scale), kind=np.int8):
    """The right way, with another scale, another code or another dtype."""

    def answer(x):
        one = scale(x) or 1.0
        return code(x, one).astype(kind), one

    return answer


@np.errstate(invalid="ignore")
def no_care_for_zeros(x):
    scale = np.abs(x).max() / 127
    return np.round(x / scale).astype(np.int8), scale


def by_rows(x):
    scale = np.abs(x).max(-1, keepdims=True) / 127
    scale = np.where(scale > 0, scale, 1.0)
    return np.round(x / scale).astype(np.int8), scale


def in_place(x):
    scale = np.abs(x).max() / 127 or 1.0
    x /= scale
    return np.round(x).astype(np.int8), scale


# ------------------------------------------------------------------ blockwise and double_quantize


def pieces(flat, block):
    return [flat[i : i + block] for i in range(0, flat.size, block)]


def most(part):
    return np.abs(part).max()


def blocks(cut=lambda x, n: pieces(x.reshape(-1), n), scale=lambda part: most(part) / 7, code=np.round, kind=np.int8):
    """The right way, with other pieces, another scale, or another way to a code."""

    def answer(x, block):
        parts = cut(x, block)
        scales = np.array([scale(part) or 1.0 for part in parts])
        codes = [code(part / one) for part, one in zip(parts, scales, strict=True)]
        return np.concatenate(codes).astype(kind), scales

    return answer


def padded(mode, cut=False):
    """Blocks made by filling x up; the filling is left in the codes, or cut off them."""

    def answer(x, block):
        more = {"constant_values": 9.0} if mode == "constant" else {}
        parts = np.pad(x.reshape(-1), (0, -x.size % block), mode, **more).reshape(-1, block)
        scales = np.abs(parts).max(1) / 7
        scales = np.where(scales > 0, scales, 1.0)
        codes = np.round(parts / scales[:, None]).astype(np.int8).reshape(-1)
        return codes[: x.size] if cut else codes, scales

    return answer


def zero_padding(x, block):
    codes, scales = padded("edge", cut=True)(x, block)
    parts = np.pad(x.reshape(-1), (0, -x.size % block)).reshape(-1, block)
    return np.round(parts / scales[:, None]).astype(np.int8).reshape(-1), scales


def tiled(x, block):
    scales = quantize.blockwise(x, block)[1]
    return np.round(x.reshape(-1) / np.resize(scales, x.size)).clip(-127, 127).astype(np.int8), scales


def wrong_axis(x, block):
    parts = np.pad(x.reshape(-1), (0, -x.size % block)).reshape(-1, block)
    scales = np.abs(parts).max(0) / 7 + 1e-9
    return np.round(parts / scales).astype(np.int8).reshape(-1)[: x.size], scales


def one_scale(x, block):
    scale = np.abs(x).max() / 7
    return np.round(x.reshape(-1) / scale).astype(np.int8), np.full(len(pieces(x.reshape(-1), block)), scale)


@np.errstate(invalid="ignore")
def no_care_in_blocks(x, block):
    parts = pieces(x.reshape(-1), block)
    scales = np.array([most(part) / 7 for part in parts])
    return np.concatenate([np.round(part / s) for part, s in zip(parts, scales, strict=True)]).astype(np.int8), scales


def double(mean=np.mean, after=None, **options):
    """The right way with something else taken off, or with `blocks` of another kind."""

    def answer(scales, block=256):
        off = mean(scales)
        options.setdefault("scale", lambda part: most(part) / 127)
        codes, second = blocks(**options)(scales - off, block)
        return after(codes, second, off) if after else (codes, second, off)

    return answer


def mean_of_each_block(scales, block=256):
    means = np.array([part.mean() for part in pieces(scales, block)])
    left = scales - np.repeat(means, block)[: scales.size]
    return *quantize.blockwise(left, block, 127), means


def codes_of_all(scales, block=256):
    """Second scales after the mean, codes before it."""
    _, second, mean = quantize.double_quantize(scales, block)
    return np.round(scales / np.repeat(second, block)[: scales.size]).clip(-127, 127).astype(np.int8), second, mean


def no_mean_in_second(scales, block=256):
    codes, second = quantize.blockwise(scales, block, 127)
    return codes, second, scales.mean()


def fixed_block(scales, block=64):
    return quantize.double_quantize(scales, block)


# ------------------------------------------------------------------ nf4_codebook


def quantiles(outermost, count):
    return norm.ppf(np.linspace(outermost, 0.5, count + 1)[:-1])


def codebook(above=8, below=7, zeros=1, outermost=0.9677083, unit=True, sort=True):
    levels = np.concatenate([quantiles(outermost, above), [0.0] * zeros, -quantiles(outermost, below)])
    levels = np.sort(levels) if sort else levels
    return levels / abs(levels).max() if unit else levels


def with_half():
    above, below = (norm.ppf(np.linspace(0.9677083, 0.5, n)) for n in (9, 8))
    levels = np.sort(np.concatenate([above, -below]))
    return levels / levels.max()


def by_cdf():
    above, below = (norm.cdf(np.linspace(0.9677083, 0, n)[:-1]) - 0.5 for n in (9, 8))
    levels = np.sort(np.concatenate([above, [0], -below]))
    return levels / levels.max()


def up_to_one():
    with np.errstate(invalid="ignore"):
        return codebook(outermost=1.0)


# ------------------------------------------------------------------ nf4_codes


def coded(
    size=most,
    scaled=lambda x, absmax: x / (absmax or 1.0),
    place=lambda gap: np.abs(gap).argmin(1),
    after=lambda codes, book: codes.astype(np.uint8),
):
    """The right way with another absmax, another scaling, another choice, or something else given back."""

    def answer(x, codebook):
        absmax = size(x)
        return after(place(scaled(x, absmax)[:, None] - codebook), codebook), absmax

    return answer


def searched(shift):
    def answer(x, codebook):
        absmax = np.abs(x).max()
        places = np.searchsorted(codebook, x / (absmax or 1.0), "right" if shift else "left") - shift
        return places.clip(0, 15).astype(np.uint8), absmax

    return answer


def evenly(x, codebook):
    absmax = np.abs(x).max()
    return np.round((x / (absmax or 1.0) + 1) * 7.5).astype(np.uint8), absmax


# ------------------------------------------------------------------ qlora_bytes


def counted(
    weights=lambda n, t, b: n * b / 8 + 4 * t, gradients=lambda n, t, b: 4 * t, optimizer=lambda n, t, b: 8 * t
):
    return lambda n, t, b: {
        "weights": weights(n, t, b), "gradients": gradients(n, t, b), "optimizer": optimizer(n, t, b)
    }  # fmt: skip


# ------------------------------------------------------------------ merge_quantised


def merging(scale=lambda alpha, r: alpha / r, after=lambda W: W, detour=lambda A, B: B @ A):
    return lambda W, A, B, alpha: after(W + scale(alpha, A.shape[0]) * detour(A, B))


def nf4_again(W):
    return quantize.nf4_dequantize(*quantize.nf4_quantize(W)).reshape(W.shape)


def int8_again(W):
    codes, scale = quantize.absmax_int8(W)
    return (codes * np.float32(scale)).astype(np.float32)


def merged_in_place(W, A, B, alpha):
    W += alpha / A.shape[0] * (B @ A)
    return W


REFERENCES = {
    "absmax_int8": quantize.absmax_int8,
    "blockwise": quantize.blockwise,
    "nf4_codebook": quantize.nf4_codebook,
    "nf4_codes": quantize.nf4_codes,
    "double_quantize": quantize.double_quantize,
    "bits_per_weight": quantize.bits_per_weight,
    "qlora_bytes": quantize.qlora_bytes,
    "merge_quantised": quantize.merge_quantised,
}

WRONG = {
    "absmax_int8": [
        absmax(scale=lambda x: np.abs(x).max() / 128),
        absmax(scale=lambda x: np.abs(x).max() / 255),
        absmax(scale=lambda x: np.abs(x).max() / 7),
        absmax(scale=lambda x: 127 / np.abs(x).max() if x.any() else 1.0, code=lambda x, s: np.round(x * s)),
        absmax(scale=lambda x: np.abs(x).max()),
        absmax(scale=lambda x: x.max() / 127),
        absmax(scale=lambda x: x.min() / 127),
        absmax(scale=lambda x: (x.max() - x.min()) / 254),
        absmax(scale=lambda x: (x.max() - x.min()) / 255),
        absmax(scale=lambda x: np.abs(x).mean() / 127),
        absmax(code=lambda x, s: x / s),
        absmax(code=lambda x, s: x // s),
        absmax(code=lambda x, s: np.ceil(x / s)),
        absmax(code=lambda x, s: x * s),
        absmax(code=lambda x, s: np.abs(np.round(x / s))),
        absmax(code=lambda x, s: np.round(x / s).clip(0)),
        absmax(code=lambda x, s: np.round(x / s) * s, kind=float),
        absmax(code=lambda x, s: np.round(x), kind=np.int8),
        absmax(code=lambda x, s: x / s, kind=float),
        absmax(kind=float),
        absmax(kind=np.int64),
        absmax(kind=np.uint8),
        lambda x: absmax()(x)[::-1],
        lambda x: absmax()(x)[0],
        no_care_for_zeros,
        by_rows,
        in_place,
        lambda x: None,
    ],
    "blockwise": [
        one_scale,
        lambda x, block: (one_scale(x, block)[0], np.abs(x).max() / 7),
        blocks(cut=lambda x, n: list(np.atleast_2d(x))),
        blocks(cut=lambda x, n: list(np.atleast_2d(x).T)),
        blocks(cut=lambda x, n: [part for row in np.atleast_2d(x) for part in pieces(row, n)]),
        blocks(cut=lambda x, n: pieces(x.reshape(-1), n)[: max(x.size // n, 1)]),
        blocks(cut=lambda x, n: np.array_split(x.reshape(-1), min(n, x.size))),
        blocks(cut=lambda x, n: pieces(x.reshape(-1, order="F"), n)),
        blocks(cut=lambda x, n: [x.reshape(-1)[i :: -(-x.size // n)] for i in range(-(-x.size // n))]),
        blocks(cut=lambda x, n: np.array_split(x.reshape(-1), -(-x.size // n))),
        blocks(scale=lambda part: most(part) / 8),
        blocks(scale=lambda part: most(part) / 127),
        blocks(scale=most),
        blocks(scale=lambda part: 7 / most(part) if part.any() else 1.0),
        blocks(scale=lambda part: part.max() / 7),
        blocks(code=np.trunc),
        blocks(code=np.floor),
        blocks(kind=np.int64),
        blocks(kind=float),
        lambda x, block: (one_scale(x, block)[0], quantize.blockwise(x, block)[1]),
        lambda x, block: quantize.blockwise(x, block)[::-1],
        lambda x, block: quantize.blockwise(x, block)[0],
        padded("constant", cut=True),
        zero_padding,
        tiled,
        wrong_axis,
        no_care_in_blocks,
        lambda x, block: None,
    ],
    "nf4_codebook": [
        lambda: np.linspace(-1, 1, 16),
        lambda: codebook(above=7, below=8),
        lambda: codebook(above=8, below=8, zeros=0),
        lambda: codebook(above=8, below=8),
        lambda: codebook(above=7, below=7),
        lambda: codebook(zeros=0),
        lambda: codebook(unit=False),
        lambda: codebook(sort=False),
        lambda: codebook(outermost=0.975),
        lambda: codebook(unit=False, outermost=0.975),
        lambda: np.abs(codebook()),
        lambda: np.sort(np.tanh(codebook())) / np.tanh(1.0),
        up_to_one,
        with_half,
        by_cdf,
        lambda: np.pad(codebook(), (0, 240)),
        lambda: list(range(16)),
        lambda: codebook().reshape(4, 4),
        lambda: None,
    ],
    "nf4_codes": [
        coded(size=np.max),
        coded(size=np.min),
        coded(size=lambda x: 1.0),
        coded(size=np.std),
        coded(size=lambda x: most(x) / 7),
        coded(size=lambda x: 1 / most(x) if x.any() else 0.0),
        coded(scaled=lambda x, absmax: x),
        coded(scaled=lambda x, absmax: x * absmax),
        coded(scaled=lambda x, absmax: np.abs(x) / (absmax or 1.0)),
        np.errstate(invalid="ignore")(coded(scaled=lambda x, absmax: x / absmax)),
        coded(place=lambda gap: gap.argmin(1)),
        coded(place=lambda gap: np.abs(gap).argmax(1)),
        coded(place=lambda gap: np.abs(gap).argmin(0)),
        coded(place=lambda gap: np.abs(gap).argmin(1) + 1),
        coded(place=lambda gap: 15 - np.abs(gap).argmin(1)),
        coded(place=lambda gap: np.abs(gap).argmin(keepdims=True).reshape(-1)),
        coded(after=lambda codes, book: codes),
        coded(after=lambda codes, book: codes.astype(np.int8)),
        coded(after=lambda codes, book: book[codes]),
        lambda x, book: (coded(after=lambda codes, book: book[codes])(x, book)[0] * np.abs(x).max(), np.abs(x).max()),
        lambda x, book: coded()(x, quantize.NF4),
        lambda x, book: coded()(x, book)[::-1],
        lambda x, book: coded()(x, book)[0],
        searched(0),
        searched(1),
        evenly,
        lambda x, book: None,
    ],
    "double_quantize": [
        double(mean=lambda scales: 0.0),
        double(mean=np.median),
        double(mean=np.min),
        double(after=lambda codes, second, mean: (codes, second, -mean)),
        double(after=lambda codes, second, mean: (-codes, second, mean)),
        double(after=lambda codes, second, mean: (codes, second)),
        double(after=lambda codes, second, mean: (codes, second[0], mean)),
        double(after=lambda codes, second, mean: (second, codes, mean)),
        double(scale=lambda part: most(part) / 128),
        double(scale=lambda part: most(part) / 7),
        double(scale=lambda part: most(part)),
        double(scale=lambda part: part.max() / 127),
        double(code=np.trunc),
        double(code=np.floor),
        double(kind=np.int64),
        double(kind=float),
        double(cut=lambda x, n: pieces(x, n)[: max(x.size // n, 1)]),
        mean_of_each_block,
        codes_of_all,
        no_mean_in_second,
        fixed_block,
        lambda scales, block: quantize.double_quantize(scales, block),
        lambda scales, block=256: None,
    ],
    "bits_per_weight": [
        lambda block=64, block2=256: 8 / block + 32 / (block * block2),
        lambda block=64, block2=256: 4 + 8 / block,
        lambda block=64, block2=256: 4 + 32 / (block * block2),
        lambda block=64, block2=256: 4,
        lambda block=64, block2=256: 4 + 32 / block,
        lambda block=64, block2=256: 4 + 8 / block + 32 / block2,
        lambda block=64, block2=256: 4 + 8 / block + 8 / (block * block2),
        lambda block=64, block2=256: 4 + 8 / block + 32 / (block + block2),
        lambda block=64, block2=256: (4 + 8 / block + 32 / (block * block2)) / 8,
        lambda block=64, block2=256: 4 + 8 + 32,
        lambda block=64, block2=256: 4.127,
        lambda block, block2: 4 + 8 / block + 32 / (block * block2),
        lambda block=64, block2=256: None,
    ],
    "qlora_bytes": [
        counted(weights=lambda n, t, b: n * b / 8),
        counted(weights=lambda n, t, b: n * b + 4 * t),
        counted(weights=lambda n, t, b: (n + t) * b / 8),
        counted(weights=lambda n, t, b: (n - t) * b / 8 + 4 * t),
        counted(weights=lambda n, t, b: 4 * n + 4 * t),
        counted(weights=lambda n, t, b: n * b / 8 + 2 * t),
        counted(weights=lambda n, t, b: n * int(b) // 8 + 4 * t),
        counted(weights=lambda n, t, b: 4 * t),
        counted(gradients=lambda n, t, b: 4 * (n + t)),
        counted(gradients=lambda n, t, b: t * b / 8),
        counted(gradients=lambda n, t, b: 2 * t),
        counted(gradients=lambda n, t, b: t),
        counted(optimizer=lambda n, t, b: 8 * (n + t)),
        counted(optimizer=lambda n, t, b: 4 * t),
        counted(optimizer=lambda n, t, b: 12 * t),
        counted(optimizer=lambda n, t, b: 2 * t),
        lambda n, t, b: n * b / 8 + 16 * t,
        lambda n, t, b: (n * b / 8 + 4 * t, 4 * t, 8 * t),
        lambda n, t, b: {"weights": n * b / 8 + 4 * t, "optimizer": 8 * t},
        lambda n, t, b: {**quantize.qlora_bytes(n, t, b), "total": n * b / 8 + 16 * t},
        lambda n, t, b: {key: value / 1e6 for key, value in quantize.qlora_bytes(n, t, b).items()},
        lambda n, t, b: None,
    ],
    "merge_quantised": [
        merging(scale=lambda alpha, r: 1.0),
        merging(scale=lambda alpha, r: alpha),
        merging(scale=lambda alpha, r: r / alpha),
        merging(scale=lambda alpha, r: alpha / r**0.5),
        merging(scale=lambda alpha, r: -alpha / r),
        merging(scale=lambda alpha, r: alpha / 2),
        merging(detour=lambda A, B: A @ B),
        merging(detour=lambda A, B: A.T @ B.T),
        merging(after=lambda W: W.T),
        merging(after=nf4_again),
        merging(after=int8_again),
        merging(after=lambda W: W.astype(np.float16)),
        merging(after=lambda W: np.round(W).astype(np.int8)),
        lambda W, A, B, alpha: alpha / A.shape[0] * (B @ A),
        lambda W, A, B, alpha: alpha / A.shape[0] * (W + B @ A),
        lambda W, A, B, alpha: alpha / A.shape[1] * (B @ A) + W,
        lambda W, A, B, alpha: W,
        lambda W, A, B, alpha: None,
        merged_in_place,
    ],
}

# Right in other ways: what a learner may well write, and what has to pass.
ALSO_RIGHT = {
    "absmax_int8": [
        lambda x: (np.floor(x / (np.abs(x).max() / 127 or 1) + 0.5).astype("int8"), np.abs(x).max() / 127 or 1),
        lambda x: tuple(torch.as_tensor(part) for part in quantize.absmax_int8(x)),
        lambda x: list(quantize.absmax_int8(x.astype(np.float32))),
    ],
    "blockwise": [
        padded("edge", cut=True),
        lambda x, block: (quantize.blockwise(x, block)[0].reshape(x.shape), quantize.blockwise(x, block)[1].tolist()),
    ],
    "nf4_codebook": [codebook, lambda: quantize.NF4, lambda: torch.tensor(quantize.NF4), lambda: codebook().tolist()],
    "nf4_codes": [
        coded(),
        coded(place=lambda gap: (gap**2).argmin(-1)),
        lambda x, book: tuple(torch.as_tensor(part) for part in coded()(x, book)),
        lambda x, book: coded()(x.astype(np.float32), book),
    ],
    "double_quantize": [
        double(),
        lambda scales, block=256: quantize.double_quantize(scales.astype(np.float32), block),
    ],
    "bits_per_weight": [lambda block=64, block2=256: np.float32(4 + (8 + 32 / block2) / block)],
    "qlora_bytes": [counted(weights=lambda n, t, b: int(n * b // 8) + 4 * t)],
    "merge_quantised": [
        lambda W, A, B, alpha: W.astype(float) + alpha * B.astype(float) @ A / len(A),
        lambda W, A, B, alpha: torch.tensor(W) + alpha / B.shape[1] * torch.tensor(B) @ torch.tensor(A),
    ],
}
