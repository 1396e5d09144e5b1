"""Cases of position_sensitive_pool, and its oracle by plain loops over exact fractions."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import ceil, floor
from typing import ClassVar

import numpy as np
import torch
from cases import FLOATS, LAYOUTS, laid_out, name_of, normal, poisoned, random_valid
from checks import Problem, to_real
from oracle import REAL, real, sizes_of

# --- oracle -----------------------------------------------------------------------------------------------------------


def rounded(value):
    """To the nearest integer, halves away from zero."""
    whole = floor(abs(Fraction(value)) + Fraction(1, 2))
    return whole if value >= 0 else -whole


def bins_of(first, last, size, stride, length):
    """The rows of every bin: the official code's formulas, in exact arithmetic."""
    start = Fraction(rounded(first), stride)
    extent = max(Fraction(rounded(last) + 1, stride) - start, Fraction(1, 10))
    found = []
    for p in range(size):
        low, high = floor(start + p * extent / size), ceil(start + (p + 1) * extent / size)
        found.append(range(min(max(low, 0), length), min(max(high, 0), length)))
    return found


def position_sensitive_pool(x, rois, size, groups, stride, valid=None):
    """(R, D, size, size)."""
    x = real(x)
    number, channels, height, width = x.shape
    outputs = channels // groups**2
    sizes = sizes_of(valid, number, height, width)
    pooled = np.zeros((len(rois), outputs, size, size), dtype=REAL)
    for r, (index, x1, y1, x2, y2) in enumerate(rois.tolist()):
        own_height, own_width = sizes[int(index)]
        rows, columns = bins_of(y1, y2, size, stride, own_height), bins_of(x1, x2, size, stride, own_width)
        for p, q in np.ndindex(size, size):
            cell = p * groups // size * groups + q * groups // size
            values = x[int(index), cell :: groups**2][:, rows[p]][:, :, columns[q]]
            if values.size:
                pooled[r, :, p, q] = values.sum(axis=(1, 2)) / (len(rows[p]) * len(columns[q]))
    return pooled


# --- cases ------------------------------------------------------------------------------------------------------------


def random_rois(generator, count, number, height, width, dtype=torch.float32):
    """Within the image and beyond it; some of one point, some inside out, some with corners on halves of pixels."""
    if number == 0:
        return torch.empty(0, 5, dtype=dtype)
    image = torch.randint(number, (count, 1), generator=generator)
    corners = torch.rand(count, 4, generator=generator, dtype=torch.float64) * 1.6 - 0.3
    corners = corners * torch.tensor([width, height, width, height])
    corners[:, 2:] = torch.maximum(corners[:, 2:], corners[:, :2])
    if count > 3:
        corners[0, 2:] = corners[0, :2]
        corners[1] = corners[1, [2, 3, 0, 1]]
        corners[2] = corners[2].floor() + 0.5
        corners[3] = torch.tensor([0, 0, width - 1, height - 1])
    return torch.cat([image, corners], 1).to(dtype)


@dataclass(frozen=True)
class PoolCase:
    operation: ClassVar[str] = "position_sensitive_pool"
    shape: tuple[int, ...]
    """(N, D, H, W): D outputs, so D * groups^2 channels."""
    dtype: torch.dtype = torch.float32
    layout: str = "channels_last"
    rois: int = 6
    size: int = 6
    groups: int = 3
    stride: int = 4
    padded: bool = False
    roi_dtype: torch.dtype = torch.float32

    def __str__(self):
        shape = "x".join(map(str, self.shape))
        bins = f"{self.rois}rois-{self.groups}in{self.size}-stride{self.stride}-{name_of(self.roi_dtype)}"
        return f"{shape}-{name_of(self.dtype)}-{self.layout}-{bins}{'-valid' * self.padded}"

    def problem(self):
        generator = torch.Generator().manual_seed(5)
        number, outputs, height, width = self.shape
        valid = random_valid(generator, number, height, width) if self.padded else None
        x = normal(generator, number, outputs * self.groups**2, height, width, dtype=self.dtype)
        x = laid_out(poisoned(x, valid), self.layout)
        pixels = height * self.stride, width * self.stride
        rois = random_rois(generator, self.rois, number, *pixels, dtype=self.roi_dtype)
        exact = partial(self.exact, to_real(x), rois, valid)
        return Problem(partial(self.call, rois=rois, valid=valid), exact, ("pooled",), {"x": x}, {"x": valid})

    def exact(self, x, rois, valid):
        return (position_sensitive_pool(x, rois, self.size, self.groups, self.stride, valid),)

    def call(self, operation, given, rois=None, valid=None):
        return (operation(given["x"], rois, self.size, self.groups, stride=self.stride, valid=valid),)


def pool_cases():
    yield PoolCase((1, 1, 1, 1))
    yield PoolCase((0, 3, 4, 5))
    yield PoolCase((2, 3, 4, 5), rois=0)
    yield PoolCase((2, 3, 5, 4), rois=40, stride=1)
    yield PoolCase((2, 3, 5, 4), rois=9, stride=32, padded=True)
    yield PoolCase((2, 4, 9, 14), size=21, groups=7, stride=16)
    yield PoolCase((1, 70, 7, 6), size=2, groups=1)
    yield PoolCase((2, 64, 7, 6), size=5, groups=1, padded=True)
    yield PoolCase((1, 2, 7, 6), size=3, groups=5)
    yield PoolCase((1, 2, 7, 6), size=7, groups=3, roi_dtype=torch.float64)
    yield PoolCase((1, 5, 1, 40), stride=3)
    yield PoolCase((1, 5, 40, 1), stride=3)
    for dtype in FLOATS:
        for layout in LAYOUTS:
            yield PoolCase((2, 20, 8, 6), dtype, layout, size=4, groups=2)
        for layout in LAYOUTS[:4]:
            yield PoolCase((3, 17, 7, 9), dtype, layout, size=4, groups=1, padded=True)
