"""Rounding that adds no bias in Triton, the only copy: csrc/rounding.h is that of C++."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dithered(values, h, w, c, DROPPED: tl.constexpr, MOST: tl.constexpr):
    """float32 values, moved by less than half of a unit in the last place of a type without their last DROPPED bits.

    Rounded to nearest, each is then rounded up as often as it is near to the upper of its neighbours, by where it lies.
    What the type holds stays as it is, and so does what is not normal or, at MOST and above, could overflow.
    """
    row = tl.cast(h, tl.uint32) * 0xD1B54A33
    phase = row + w.to(tl.uint32) * 0xABC98389 + c.to(tl.uint32) * 0x8CB92BA7
    step = ((phase >> (32 - DROPPED)) | 1).to(tl.int32) - (1 << (DROPPED - 1))
    size = tl.abs(values)
    normal = (size >= 1.17549435e-38) & (size < MOST)
    bits = values.to(tl.int32, bitcast=True) + tl.where(normal, step, 0)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def dithered_for(dtype: tl.constexpr, values, h, w, c):
    """The same for a type of maps; wider types take the values as they are."""
    if dtype == tl.bfloat16:
        values = dithered(values, h, w, c, 16, 3e38)
    elif dtype == tl.float16:
        values = dithered(values, h, w, c, 13, 65504.0)
    return values
