"""Quantisation by hand: a weight becomes a code of few bits, and a block of weights shares one scale.

After QLoRA (Dettmers et al., 2023, sections 2 and 3). Only numpy is used. Lab 04 compares these with bitsandbytes, and
its exercises are checked against them.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

# The levels of NF4 as the paper prints them (appendix E) and as bitsandbytes ships them; `nf4_codebook` derives them,
# to 1e-6. Codes are made with these digits: a level that is off by 1e-7 changes a code in a million or so.
NF4 = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32)  # fmt: skip


def in_blocks(x: np.ndarray, block: int) -> list[np.ndarray]:
    """The entries of x (any shape) row after row, cut into pieces of `block`; the last may be shorter."""
    flat = x.reshape(-1)
    return [flat[i : i + block] for i in range(0, flat.size, block)]


def absmax_codes(x: np.ndarray, largest: int) -> tuple[np.ndarray, float]:
    """Whole numbers from -largest to largest, and the scale that brings them back: x ≈ codes × scale (equation 1).

    Args:
        x: any shape.
        largest: the code of the entry that is largest in size.

    Returns:
        Codes, int8, of the shape of x; the scale. Where x is all zeros, so are the codes, and the scale is 1.
    """
    scale = float(np.abs(x).max()) / largest or 1.0
    return np.round(x / scale).astype(np.int8), scale


def absmax_int8(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Codes from -127 to 127, int8, of the shape of x, and the scale: x ≈ codes × scale."""
    return absmax_codes(x, 127)


def blockwise(x: np.ndarray, block: int, largest: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Absmax with a scale of its own for every `block` entries, so that one outlier spoils one block only.

    Args:
        x: any shape, n entries; taken row after row.
        block: entries in a block.
        largest: 7 for 4 bits, 127 for 8.

    Returns:
        Codes (n,), int8; scales (blocks,), with blocks = n / block rounded up.
    """
    pairs = [absmax_codes(part, largest) for part in in_blocks(x, block)]
    return np.concatenate([codes for codes, _ in pairs]), np.array([scale for _, scale in pairs])


def dequantize(codes: np.ndarray, scales: np.ndarray, block: int) -> np.ndarray:
    """What the codes (n,) stand for, (n,): each times the scale (blocks,) of its block."""
    return codes * np.repeat(scales, block)[: codes.size]


def nf4_codebook() -> np.ndarray:
    """The 16 levels of NF4, (16,), sorted, from -1 to 1: normal weights use each about equally often (section 3).

    Eight quantiles of N(0, 1) above zero, seven below, and zero itself. The outermost stands at the probability
    0.9677083, halfway between 1 - 1/30 and 1 - 1/32; where 1 would be, the quantile is infinite.
    """
    outermost, quantile = 0.9677083, NormalDist().inv_cdf
    above = [quantile(p) for p in np.linspace(outermost, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(outermost, 0.5, 8)[:-1]]
    levels = np.array(sorted([*below, 0.0, *above]))
    return levels / levels.max()


def nf4_codes(x: np.ndarray, codebook: np.ndarray = NF4) -> tuple[np.ndarray, float]:
    """The nearest level of each entry, after the block is scaled to [-1, 1].

    Args:
        x: (n,), one block.
        codebook: (levels,), sorted.

    Returns:
        Codes (n,), uint8, places in the codebook; absmax, the largest |x|. An entry midway between two levels takes
        the lower one, as in bitsandbytes.
    """
    absmax = np.abs(x).max()
    scaled = x * (1 / np.maximum(absmax, np.float32(1e-38)))  # the reciprocal first: bitsandbytes rounds so, too
    midpoints = (codebook[:-1] + codebook[1:]) / 2
    return np.searchsorted(midpoints, scaled).astype(np.uint8), absmax


def nf4_quantize(W: np.ndarray, block: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """`nf4_codes` for every block of W, n entries of any shape: codes (n,), uint8, and absmax (blocks,).

    All blocks at once, for a matrix has thousands: a short last block is filled up with zeros, which change no absmax.
    """
    blocks = np.pad(W.reshape(-1), (0, -W.size % block)).reshape(-1, block)
    absmax = np.abs(blocks).max(axis=1)
    scaled = blocks * (1 / np.maximum(absmax, np.float32(1e-38)))[:, None]
    codes = np.searchsorted((NF4[:-1] + NF4[1:]) / 2, scaled.reshape(-1)[: W.size])
    return codes.astype(np.uint8), absmax


def nf4_dequantize(codes: np.ndarray, absmax: np.ndarray, block: int = 64) -> np.ndarray:
    """What NF4 codes (n,) stand for, (n,): their levels, each times the absmax (blocks,) of its block."""
    return dequantize(NF4[codes], absmax, block)


def unpack(packed: np.ndarray, count: int) -> np.ndarray:
    """The codes (count,), uint8, in bitsandbytes' bytes: two in each, the first in the upper four bits.

    >>> unpack(np.array([[0x7F], [0x03]], np.uint8), 3)
    array([ 7, 15,  0], dtype=uint8)
    """
    packed = packed.reshape(-1)
    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[:count]


def double_quantize(scales: np.ndarray, block: int = 256) -> tuple[np.ndarray, np.ndarray, float]:
    """Quantise the scales too: what is left of them after their mean, in blocks, to 8 bits (section 3).

    The paper and bitsandbytes use an 8-bit float where this uses whole numbers.

    Args:
        scales: (n,), positive, one for each block of weights.
        block: scales that share one second scale.

    Returns:
        Codes (n,), int8; second scales (blocks,); the mean: scales ≈ codes × second scale + mean.
    """
    mean = float(scales.mean())
    return *blockwise(scales - mean, block, largest=127), mean


def double_dequantize(codes: np.ndarray, second: np.ndarray, mean: float, block: int = 256) -> np.ndarray:
    """The scales (n,) that `double_quantize` gave codes (n,), second scales (blocks,) and mean for."""
    return dequantize(codes, second, block) + mean


def bits_per_weight(block: int = 64, block2: int = 256) -> float:
    """Bits that a weight takes: its code, its part of an 8-bit scale, and of a 32-bit second scale (section 3).

    >>> round(bits_per_weight(), 3)
    4.127
    """
    return 4 + 8 / block + 32 / (block * block2)


def qlora_bytes(parameters: int, trainable: int, bits: float) -> dict[str, float]:
    """Bytes for weights, gradients and optimizer, before activations.

    Args:
        parameters: weights of the base model, frozen. Full fine-tuning freezes none: `qlora_bytes(0, n, 32)`.
        trainable: weights that are trained, beside the frozen ones; fp32, as are their gradients and Adam's moments.
        bits: of one frozen weight, its part of the scales included.

    >>> qlora_bytes(1_000, 50, 4)
    {'weights': 700.0, 'gradients': 200, 'optimizer': 400}
    """
    return {"weights": parameters * bits / 8 + 4 * trainable, "gradients": 4 * trainable, "optimizer": 8 * trainable}


def merge_quantised(dequantised_W: np.ndarray, A: np.ndarray, B: np.ndarray, alpha: float) -> np.ndarray:
    """W + (alpha / r) B A, (d_out, d_in), in full precision, to be kept so: rounded again, it loses small changes.

    Args:
        dequantised_W: (d_out, d_in), levels times absmax, not codes. A: (r, d_in). B: (d_out, r).
        alpha: the scale of LoRA.
    """
    return dequantised_W + (alpha / A.shape[0]) * (B @ A)
