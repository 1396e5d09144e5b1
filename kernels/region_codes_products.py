"""Tiles of region_codes' matrix products, each weight being a matrix (C, L) in the memory order that it has.

A weight's rows meet *narrow* tables (rows of C values) and its columns *wide* ones (rows of L = positions * C values,
position by position). A table is (pointer, elements per image, first row in an image, rows of the weight's input per
image); where a weight's memory runs over positions last, wide rows are read in that order. A table gets a name before
it is handed on: Triton 3.6 makes bare integers of the constants in a tuple that is built in a call.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zigzag.kernels.geometry import cell_start, image_size, ratio


@triton.jit
def _columns(k, channels, POSITIONS: tl.constexpr, LAST: tl.constexpr):
    """Where a wide row has what the weight's column k multiplies."""
    if LAST:
        offset = k % POSITIONS * channels + k // POSITIONS
    else:
        offset = k
    return offset


@triton.jit
def narrow_offsets(table, m, r, channels, EACH: tl.constexpr):
    """Offsets of values r of rows m, of which every image has EACH."""
    rows = (m // EACH).to(tl.int64) * table[1] + (table[2] + m % EACH).to(tl.int64) * channels
    return rows[:, None] + r[None, :]


@triton.jit
def wide_offsets(table, m, k, channels, POSITIONS: tl.constexpr, EACH: tl.constexpr, LAST: tl.constexpr):
    """Offsets of what the weight's columns k multiply in rows m."""
    rows = (m // EACH).to(tl.int64) * table[1] + (table[2] + m % EACH * POSITIONS).to(tl.int64) * channels
    return rows[:, None] + _columns(k, channels, POSITIONS, LAST)[None, :]


@triton.jit
def read_narrow(table, m, r, rows, channels, EACH: tl.constexpr):
    """A tile (rows m, values r)."""
    mask = (m < rows)[:, None] & (r < channels)[None, :]
    return tl.load(table[0] + narrow_offsets(table, m, r, channels, EACH), mask=mask, other=0.0)


@triton.jit
def read_wide(
    table, m, k, rows, channels, divisor,
    POSITIONS: tl.constexpr, EACH: tl.constexpr, LAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A tile (rows m, columns k), each row divided by its divisor, if any."""
    mask = (m < rows)[:, None] & (k < POSITIONS * channels)[None, :]
    tile = tl.load(table[0] + wide_offsets(table, m, k, channels, POSITIONS, EACH, LAST), mask=mask, other=0.0)
    if divisor is not None:
        tile = ratio(tile, divisor[:, None] + tl.zeros(tile.shape, ACC), ACC)
    return tile


@triton.jit
def read_weight(weight, r, k, channels, columns):
    """A tile (rows r, columns k) of a weight."""
    mask = (r < channels)[:, None] & (k < columns)[None, :]
    return tl.load(weight + r[:, None].to(tl.int64) * columns + k[None, :], mask=mask, other=0.0)


@triton.jit
def areas(valid, m, rows, height, width, EACH: tl.constexpr, K: tl.constexpr, ACC: tl.constexpr):
    """Pixels in the cells that rows m stand for; a tile's rows past the last take its image's size."""
    n, cell = tl.minimum(m, rows - 1) // EACH, m % EACH
    height, width = image_size(valid, n, height, width)
    y, x = cell // K, cell % K
    length = cell_start(y + 1, height, K) - cell_start(y, height, K)
    return length.to(ACC) * (cell_start(x + 1, width, K) - cell_start(x, width, K)).to(ACC)


@triton.jit
def add_product(total, left, right, ACC: tl.constexpr):
    """Add left . right to the total. A float32 tile has a sum of its own: one chain of all terms rounds too often."""
    if left.dtype == tl.float32:
        product = tl.dot(left, right, input_precision="ieee", out_dtype=ACC)
        total = tl.fma(product, tl.full(total.shape, 1, ACC), total)  # of a sum Triton would make that chain
    else:
        total = tl.dot(left, right, total, input_precision="ieee", out_dtype=ACC)
    return total


@triton.jit
def project(
    wide, weight, m, r, rows, channels, begin, end, divisor,
    POSITIONS: tl.constexpr, EACH: tl.constexpr, LAST: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Wide . weight^T for rows m, values r, over the weight's columns begin .. end - 1."""
    dtype: tl.constexpr = weight.dtype.element_ty
    total = tl.zeros([m.shape[0], r.shape[0]], ACC)
    for first in range(begin, end, COLUMNS):
        k = first + tl.arange(0, COLUMNS)
        left = read_wide(wide, m, k, rows, channels, divisor, POSITIONS, EACH, LAST, ACC).to(dtype)
        right = tl.trans(read_weight(weight, r, k, channels, POSITIONS * channels))
        total = add_product(total, left, right, ACC)
    return total


@triton.jit
def distribute(
    narrow, weight, m, k, rows, channels, columns, EACH: tl.constexpr, DEPTH: tl.constexpr, ACC: tl.constexpr
):
    """Narrow . weight for rows m, columns k."""
    dtype: tl.constexpr = weight.dtype.element_ty
    total = tl.zeros([m.shape[0], k.shape[0]], ACC)
    for first in range(0, channels, DEPTH):
        r = first + tl.arange(0, DEPTH)
        left = read_narrow(narrow, m, r, rows, channels, EACH).to(dtype)
        right = read_weight(weight, r, k, channels, columns)
        total = add_product(total, left, right, ACC)
    return total


@triton.jit
def outer(
    narrow, wide, grad, valid, r, k, rows, channels, height, width, K: tl.constexpr, MEAN: tl.constexpr,
    POSITIONS: tl.constexpr, EACH: tl.constexpr, LAST: tl.constexpr, DEPTH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """narrow^T . wide for the weight's rows r, columns k, written to its gradient; MEAN divides wide rows by areas."""
    dtype: tl.constexpr = grad.dtype.element_ty
    total = tl.zeros([r.shape[0], k.shape[0]], ACC)
    for first in range(0, rows, DEPTH):
        m = first + tl.arange(0, DEPTH)
        left = tl.trans(read_narrow(narrow, m, r, rows, channels, EACH).to(dtype))
        if MEAN:
            divisor = tl.maximum(areas(valid, m, rows, height, width, EACH, K, ACC), 1.0)
            right = read_wide(wide, m, k, rows, channels, divisor, POSITIONS, EACH, LAST, ACC)
        else:
            right = read_wide(wide, m, k, rows, channels, None, POSITIONS, EACH, LAST, ACC)
        total = add_product(total, left, right.to(dtype), ACC)
    columns = POSITIONS * channels
    mask = (r < channels)[:, None] & (k < columns)[None, :]
    tl.store(grad + r[:, None].to(tl.int64) * columns + k[None, :], total.to(dtype), mask=mask)
