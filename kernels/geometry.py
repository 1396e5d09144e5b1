"""Integer geometry in Triton, the only copy: cells, the lines of a partition's cells and taps, resizing.

Vectors and scalars alike; sizes are those of one image.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def size_of(size):
    """A size that `zigzag.kernels.launch.odd` made odd."""
    return size >> 1


@triton.jit
def map_size(shape):
    """Height and width of a map from what `zigzag.kernels.launch.shape_of` says of it."""
    return size_of(shape[0]), size_of(shape[1])


@triton.jit
def image_size(valid, n, height, width):
    """Height and width of image n: its own where ``valid`` (N, 2) is given, the map's otherwise."""
    if valid is None:
        rows, columns = height, width
    else:
        rows = tl.minimum(tl.maximum(tl.load(valid + 2 * n), 1), height).to(tl.int32)
        columns = tl.minimum(tl.maximum(tl.load(valid + 2 * n + 1), 1), width).to(tl.int32)
    return rows, columns


@triton.jit
def cell_start(y, size, cells):
    """First row of cell y: row h lies in cell h * cells // size."""
    return (y * size + cells - 1) // cells


@triton.jit
def nearest_pixel(coordinate):
    """A coordinate, no NaN, rounded to int64, halves away from zero; within +-2^30, beyond any map."""
    near = tl.minimum(tl.maximum(coordinate, -1073741824.0), 1073741824.0)
    whole = near.to(tl.int64)  # toward zero
    rest = near - whole.to(coordinate.dtype)
    return whole + (rest >= 0.5).to(tl.int64) - (rest <= -0.5).to(tl.int64)


@triton.jit
def floor_div(a, b):
    """The quotient rounded down, of b > 0: a division of integers rounds toward zero here."""
    return a // b - (a % b < 0).to(tl.int64)


@triton.jit
def roi_bin(p, first, last, BINS: tl.constexpr, stride, size):
    """First row and end of bin p of an RoI of pixels first..last, FCIS's rules (`roi_bins` in zigzag/geometry.py)."""
    length = tl.maximum(10 * (last + 1 - first), stride)
    start = 10 * BINS * first + p * length
    unit = 10 * BINS * stride
    low, high = floor_div(start, unit), -floor_div(-start - length, unit)
    return tl.minimum(tl.maximum(low, 0), size).to(tl.int32), tl.minimum(tl.maximum(high, 0), size).to(tl.int32)


@triton.jit
def lines(line, GRIDS: tl.constexpr, TAPS: tl.constexpr):
    """The lines along an axis with these numbers, there being one for every grid, cell and tap in that order.

    Of each: K of its grid, the grid's first entry among all sums, its cell, its tap, and whether it exists. GRIDS holds
    (K, first line, first entry) of every grid.
    """
    cells = tl.full(line.shape, 1, tl.int32)
    entry = tl.zeros(line.shape, tl.int32)
    within = line
    exists = line < 0
    for g in tl.static_range(len(GRIDS)):
        own = (line >= GRIDS[g][1]) & (line < GRIDS[g][1] + GRIDS[g][0] * TAPS)
        cells = tl.where(own, GRIDS[g][0], cells)
        entry = tl.where(own, GRIDS[g][2], entry)
        within = tl.where(own, line - GRIDS[g][1], within)
        exists = exists | own
    return cells, entry, within // TAPS, within % TAPS, exists


@triton.jit
def cells_of(s, GRIDS: tl.constexpr):
    """The cells numbered s, in the order grid, row, column: K, row, column, and whether they exist.

    GRIDS holds (K, first cell) of every grid.
    """
    cells = tl.full(s.shape, 1, tl.int32)
    within = tl.zeros(s.shape, tl.int32)
    exists = s < 0
    for g in tl.static_range(len(GRIDS)):
        own = (s >= GRIDS[g][1]) & (s < GRIDS[g][1] + GRIDS[g][0] * GRIDS[g][0])
        cells = tl.where(own, GRIDS[g][0], cells)
        within = tl.where(own, s - GRIDS[g][1], within)
        exists = exists | own
    return cells, within // cells, within % cells, exists


@triton.jit
def line_span(cells, cell, tap, exists, size, TAPS: tl.constexpr):
    """First position that a line sums along its axis, and the end; equal where its cell is empty."""
    low = cell_start(cell, size, cells)
    high = cell_start(cell + 1, size, cells)
    empty = (low == high) | (exists == 0)
    shift = tap - TAPS // 2
    return tl.where(empty, 0, low + shift), tl.where(empty, 0, high + shift)


@triton.jit
def has_rows(y, a, size, cells, TAPS: tl.constexpr):
    """Whether any row lies in cell y as tap a shifts it, found row by row: for few rows, and without a division."""
    found = cells < 0
    for p in range(size):
        h = p - a + TAPS // 2
        found = found | ((h >= 0) & (h < size) & (h * cells >= y * size) & (h * cells < (y + 1) * size))
    return found


@triton.jit
def entry_of(first, cells, y, x, a, b, TAPS: tl.constexpr):
    """Where the sum over cell (y, x), shifted by tap (a, b), stands among all sums."""
    return first + ((y * cells + x) * TAPS + a) * TAPS + b


@triton.jit
def resize_tap(d, source, target, NEAREST: tl.constexpr, SHRINKS: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr):
    """What target row d reads of ``source`` rows: (start, count, first).

    Their weights are all ``first`` where the axis shrinks, else ``first`` and 1 - ``first``; without SHRINKS it is
    known not to. INDEX is the integer type that holds twice the product of any two sizes.
    """
    d = d.to(INDEX)
    floor = d * source // target
    one = (d * 0 + 1).to(ACC)
    if NEAREST:
        start, count, first = floor, d * 0 + 1, one
    else:
        over = (target * 2).to(INDEX)
        position = tl.maximum(tl.minimum((2 * d + 1) * source - target, (source - 1) * over), 0)
        remainder = position % over
        start, count, first = position // over, tl.where(remainder > 0, 2, 1), one - ratio(remainder, over, ACC)
        if SHRINKS:
            shrinks = source > target
            area = ((d + 1) * source + target - 1) // target - floor
            start, count = tl.where(shrinks, floor, start), tl.where(shrinks, area, count)
            first = tl.where(shrinks, ratio(d * 0 + 1, area, ACC), first)
    return start.to(tl.int32), count.to(tl.int32), first


@triton.jit
def ratio(above, below, ACC: tl.constexpr):
    """Above / below, integers below 2^22, rounded once."""
    numerator, divisor = above.to(ACC), below.to(ACC)
    if tl.float64 == ACC:
        quotient = numerator / divisor
    else:
        # Registers spill around the call that a division is. A quotient a few steps off, and what it leaves by fma.
        inverse = 1.0 / divisor
        near = numerator * inverse
        near = tl.fma(tl.fma(-near, divisor, numerator), inverse, near)
        quotient = tl.fma(tl.fma(-near, divisor, numerator), inverse, near)
    return quotient


@triton.jit
def tap_weight(k, count, first):
    """The weight of the k-th of ``count`` rows that a target row reads."""
    return tl.where((count == 2) & (k == 1), 1 - first, first)


@triton.jit
def readers(r, source, target, NEAREST: tl.constexpr, INDEX: tl.constexpr):
    """The target rows that may read source row r: first and end. All that do are among them."""
    r = r.to(INDEX)
    low = r * target // source
    high = ((r + 1) * target + source - 1) // source
    if not NEAREST:
        # A stretched row is read from (2r - 1) D / 2s - 1/2 to (2r + 3) D / 2s - 1/2, and the last rows to the end.
        stretched = tl.maximum((2 * r - 1) * target - source, 0) // (2 * source)
        end = tl.maximum((2 * r + 3) * target - source, 0) // (2 * source) + 1
        low = tl.where(target > source, tl.where(r == 0, 0, stretched), low)
        high = tl.where(target > source, tl.where(r == source - 1, target, tl.minimum(end, target)), high)
    return low.to(tl.int32), high.to(tl.int32)


@triton.jit
def any_line_begins(p, size, GRIDS: tl.constexpr, TAPS: tl.constexpr, PAIRS: tl.constexpr):
    """Whether row p lies in other lines than row p - 1 does; PAIRS is at least the number of grids times TAPS."""
    pair = tl.arange(0, PAIRS)
    cells = tl.full([PAIRS], 1, tl.int32)
    for g in tl.static_range(len(GRIDS)):
        cells = tl.where(pair // TAPS == g, GRIDS[g][0], cells)
    h = p - pair % TAPS + TAPS // 2
    return tl.max(((h == size) | (h >= 0) & (h * cells % size < cells)).to(tl.int32), 0) > 0
