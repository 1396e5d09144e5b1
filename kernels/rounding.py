"""Rounding that adds no bias in Triton, the only copy: csrc/rounding.h is that of C++."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _step(position, multiplier: tl.constexpr):
    return tl.mul(tl.cast(position, tl.uint32), multiplier, sanitize_overflow=False)


@triton.jit
def dither_phase(h, w, c):
    """Where a value lies decides how it is rounded: see csrc/rounding.h."""
    row = tl.add(_step(h, 0xD1B54A33), _step(w, 0xABC98389), sanitize_overflow=False)
    return tl.add(row, _step(c, 0x8CB92BA7), sanitize_overflow=False)


@triton.jit
def dithered(values, phase, DROPPED: tl.constexpr, MOST: tl.constexpr):
    """float32 values, moved by less than half of a unit in the last place of a type without their last DROPPED bits.

    Rounded to nearest, each is then rounded up as often as it is near to the upper of its neighbours. What the type
    holds stays as it is, and so do those that are no normal floats or, at MOST and above, could overflow.
    """
    step = ((phase >> (32 - DROPPED)) | 1).to(tl.int32) - (1 << (DROPPED - 1))
    size = tl.abs(values)
    normal = (size >= 1.1754943508222875e-38) & (size < MOST)
    bits = values.to(tl.int32, bitcast=True) + tl.where(normal, step, 0)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def dithered_half(values, phase):
    """The same for float16, which below its normal values has steps of 2^-24."""
    moved = values + (((phase >> 21) | 1).to(tl.int32) - 1024).to(tl.float32) * 2.910383045673370361328125e-11
    return tl.where(tl.abs(values) < 6.103515625e-05, moved, dithered(values, phase, 13, 65504.0))


@triton.jit
def dithered_for(dtype: tl.constexpr, values, h, w, c):
    """The same for a type of maps; wider types take the values as they are."""
    if dtype == tl.bfloat16:
        values = dithered(values, dither_phase(h, w, c), 16, 3e38)
    elif dtype == tl.float16:
        values = dithered_half(values, dither_phase(h, w, c))
    return values
