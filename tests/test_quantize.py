"""Quantisation by hand equals bitsandbytes: the levels to rounding, the codes exactly."""

import numpy as np
import pytest
import torch
from answers.lab04 import ALSO_RIGHT

from labkit.exercises import verdict
from labkit.scratch import quantize

F = pytest.importorskip("bitsandbytes.functional")


def both(W: np.ndarray, block: int = 64):
    """(codes, absmax) by hand, and by bitsandbytes."""
    packed, state = F.quantize_4bit(torch.from_numpy(W), blocksize=block, quant_type="nf4")
    return quantize.nf4_quantize(W, block), (quantize.unpack(packed.numpy(), W.size), state.absmax.numpy())


def test_the_levels_are_those_of_bitsandbytes():
    theirs = F.get_4bit_type("nf4", device="cpu").numpy()
    assert (theirs == quantize.NF4).all()
    assert abs(quantize.nf4_codebook() - theirs).max() < 1e-6


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("shape", [(192, 192), (512, 192), (7, 9), (1, 1)])
def test_the_codes_are_those_of_bitsandbytes(shape, block):
    W = np.random.default_rng(0).normal(size=shape).astype(np.float32) / 14
    (codes, absmax), (theirs, their_absmax) = both(W, block)
    assert (codes == theirs).all() and (absmax == their_absmax).all()


def test_ties_levels_and_their_neighbours_get_the_codes_of_bitsandbytes():
    midpoints = (quantize.NF4[:-1] + quantize.NF4[1:]) / 2  # float32, as in bitsandbytes
    points = np.concatenate([midpoints, quantize.NF4])
    points = np.concatenate([points, np.nextafter(points, np.float32(2)), np.nextafter(points, np.float32(-2))])
    x = np.concatenate([np.insert(part, 0, 1.0) for part in np.array_split(points.clip(-1, 1), 2)])  # absmax is 1
    for size in (1, 0.25, 0.01, 0.3, 3):
        W = x.astype(np.float32) * np.float32(size)
        ours, theirs = both(W)
        assert (ours[0] == theirs[0]).all()
    assert (quantize.nf4_codes(np.append(midpoints, np.float32(1)))[0][:-1] == np.arange(15)).all()


def test_a_block_of_zeros_gets_the_level_zero():
    W = np.zeros((2, 64), np.float32)
    W[0] = np.linspace(-1, 1, 64)
    (codes, absmax), (theirs, their_absmax) = both(W)
    assert (codes == theirs).all() and (codes[64:] == 7).all() and (absmax == their_absmax).all()


def test_what_the_codes_stand_for_is_what_bitsandbytes_gives_back():
    W = np.random.default_rng(1).normal(size=(192, 192)).astype(np.float32)
    packed, state = F.quantize_4bit(torch.from_numpy(W), blocksize=64, quant_type="nf4")
    ours = quantize.nf4_dequantize(*quantize.nf4_quantize(W)).reshape(W.shape)
    assert np.allclose(ours, F.dequantize_4bit(packed, state).numpy(), rtol=1e-6, atol=0)


def test_absmax_codes_come_back_within_half_a_scale():
    x = np.random.default_rng(2).normal(size=(30, 10)).astype(np.float32)
    codes, scale = quantize.absmax_int8(x)
    assert codes.dtype == np.int8 and abs(codes.astype(int)).max() == 127
    assert abs(codes * scale - x).max() <= scale / 2 + 1e-6
    codes, scales = quantize.blockwise(x, 64)
    assert codes.shape == (300,) and scales.shape == (5,) and abs(codes).max() == 7
    assert abs(quantize.dequantize(codes, scales, 64) - x.reshape(-1)).max() <= scales.max() / 2 + 1e-6
    assert quantize.absmax_int8(np.zeros(3))[0].tolist() == [0, 0, 0]


def test_scales_come_back_from_their_own_codes():
    scales = abs(np.random.default_rng(3).normal(1, 0.2, 300)).astype(np.float32)
    codes, second, mean = quantize.double_quantize(scales)
    assert codes.dtype == np.int8 and codes.shape == (300,) and second.shape == (2,)
    assert abs(quantize.double_dequantize(codes, second, mean) - scales).max() <= second.max() / 2 + 1e-6


def test_a_detour_smaller_than_half_a_level_survives_the_merge():
    rng = np.random.default_rng(4)
    W, A, B = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 64), (2, 64), (5, 2)))
    W = quantize.nf4_dequantize(*quantize.nf4_quantize(W)).reshape(W.shape)
    merged = quantize.merge_quantised(W, A, B, 1e-3)
    assert merged.dtype == np.float32 and np.allclose(merged - W, 5e-4 * B @ A, atol=1e-6)


@pytest.mark.parametrize("name, answer", [(name, answer) for name, ways in ALSO_RIGHT.items() for answer in ways])
def test_other_right_answers_to_the_exercises_pass(name, answer):
    found = verdict(name, answer)
    assert found.state == "passed", found.sentence
