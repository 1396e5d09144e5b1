"""The lines that both directions of region_stats in Triton go by: those of all grids and taps along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl

from zigzag.kernels.launch import power_of_two

COLUMNS = 64
"""Columns of a tile."""


class Lines(NamedTuple):
    """The lines of all grids and taps along an axis, as kernels take them.

    Attributes:
        grids: (K, first line, first entry among all sums) of every grid.
        taps: 2 * halo + 1.
        padded: how many lines, as a power of two.
        entries: how many sums there are.
        most: the greatest K.
    """

    grids: tuple[tuple[int, int, int], ...]
    taps: int
    padded: int
    entries: int
    most: int


def lines_of(grids: Sequence[int], halo: int) -> Lines:
    """The lines of these grids and 2 * halo + 1 taps."""
    taps = 2 * halo + 1
    found = []
    line = entry = 0
    for cells in grids:
        found.append((cells, line, entry))
        line += cells * taps
        entry += (cells * taps) ** 2
    return Lines(tuple(found), taps, power_of_two(line, 16), entry, max(grids))


@triton.jit
def gather_rows(table, index, channels, c, mask):
    """Rows of a table (., C)."""
    return tl.load(
        table + index[:, None].to(tl.int64) * channels + c[None, :],
        mask=mask[:, None] & (c < channels)[None],
        other=0.0,
    )
