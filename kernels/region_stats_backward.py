"""region_stats in Triton, backward: the adjoint of region_stats.py.

A row of gradients changes only where a row line begins or ends, and is the product of the columns' 0/1 membership
matrix with the gradients of the lines.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zigzag.kernels.geometry import any_line_begins, entry_of, image_size, line_span, lines, map_size
from zigzag.kernels.launch import accumulation, blocks, launch, power_of_two, shape_of, tiles
from zigzag.kernels.region_stats_lines import COLUMNS, gather_rows, lines_of
from zigzag.kernels.rounding import dithered_for


@triton.jit
def _row_gradient(
    grad_sums, p, w, c, height, width, channels,
    GRIDS: tl.constexpr, TAPS: tl.constexpr, LINES: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What the sums' gradients give to pixels w of row p, whatever they hold; CHUNK lines at a time."""
    change = tl.zeros([w.shape[0], c.shape[0]], ACC)
    for chunk in range(LINES // CHUNK):
        cells, first, cell, tap, exists = lines(chunk * CHUNK + tl.arange(0, CHUNK), GRIDS, TAPS)
        low, high = line_span(cells, cell, tap, exists, width, TAPS)
        row = tl.zeros([CHUNK, c.shape[0]], ACC)
        for a in tl.static_range(TAPS):
            h = p - a + TAPS // 2
            within = exists & (h >= 0) & (h < height)
            to = entry_of(first, cells, h * cells // height, cell, a, tap, TAPS)
            row += gather_rows(grad_sums, to, channels, c, within)
        member = ((w[:, None] >= low[None, :]) & (w[:, None] < high[None, :])).to(ACC)
        change = tl.dot(member, row, change, input_precision="ieee", out_dtype=ACC)
    return change


@triton.jit
def spread_sums(
    x, grad_sums, grad_power, others, grad_x, valid, shape, to_strides, channels, entries,
    GRIDS: tl.constexpr, TAPS: tl.constexpr, LINES: tl.constexpr, PAIRS: tl.constexpr, CHUNK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of a map, row by row: of the lines that each pixel lies in, of its square, and others'."""
    height, width = map_size(shape)
    _, _, sn, sc, sh, sw = shape
    to_n, to_c, to_h, to_w = to_strides
    c = tl.program_id(0) % tl.cdiv(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    task = tl.program_id(0) // tl.cdiv(channels, CHANNELS)
    tiles = tl.cdiv(width, COLUMNS)
    strips = tl.cdiv(height, ROWS)
    w = task % tiles * COLUMNS + tl.arange(0, COLUMNS)
    begin = task // tiles % strips * ROWS
    n = task // tiles // strips
    own_height, own_width = image_size(valid, n, height, width)
    real = (c < channels)[None, :]
    offsets = w[:, None].to(tl.int64) * sw + c[None, :].to(tl.int64) * sc
    to_offsets = w[:, None].to(tl.int64) * to_w + c[None, :].to(tl.int64) * to_c
    x += n.to(tl.int64) * sn
    grad_x += n.to(tl.int64) * to_n
    if others is not None:
        others += n.to(tl.int64) * to_n
    grad_sums += n.to(tl.int64) * entries * channels
    twice = 2 * tl.load(grad_power + n.to(tl.int64) * channels + c, mask=c < channels, other=0.0)
    change = tl.zeros([COLUMNS, CHANNELS], ACC)
    for p in range(begin, tl.minimum(begin + ROWS, height)):
        if (p == begin) | any_line_begins(p, own_height, GRIDS, TAPS, PAIRS):
            change = _row_gradient(grad_sums, p, w, c, own_height, own_width, channels, GRIDS, TAPS, LINES, CHUNK, ACC)
        inside = (w < own_width)[:, None] & (p < own_height)
        pixels = tl.load(x + tl.cast(p, tl.int64) * sh + offsets, mask=inside & real, other=0.0).to(ACC)
        grad = tl.where(inside, change + twice[None, :] * pixels, 0.0)
        at = tl.cast(p, tl.int64) * to_h + to_offsets
        if others is not None:
            grad += tl.load(others + at, mask=(w < width)[:, None] & real, other=0.0).to(ACC)
            # What others gave was rounded already: a sum that hardly differs from it would be rounded back to it.
            grad = dithered_for(grad_x.dtype.element_ty, grad, p, w[:, None], c[None, :])
        tl.store(grad_x + at, grad.to(grad_x.dtype.element_ty), mask=(w < width)[:, None] & real)


def region_stats_backward(
    x: Tensor,
    grad_sums: Tensor,
    grad_power: Tensor,
    grids: list[int],
    halo: int,
    valid: Tensor | None,
    others: Tensor | None,
) -> Tensor:
    """The gradient of x, in its strides; ``others``, the gradient by what else reads x, added."""
    lines = lines_of(grids, halo)
    number, channels, height, width = x.shape
    grad_x = torch.empty_like(x)
    if others is not None and others.stride() != grad_x.stride():
        others = torch.empty_like(x).copy_(others)
    options = tiles("region_stats_backward", x, 16)
    options["CHUNK"] = min(options["CHUNK"], lines.padded)
    programs = blocks(height, options["ROWS"]) * blocks(width, COLUMNS) * blocks(channels, options["CHANNELS"])
    launch(
        spread_sums,
        number * programs,
        x,
        grad_sums,
        grad_power,
        others,
        grad_x,
        valid,
        shape_of(x),
        grad_x.stride(),
        channels,
        lines.entries,
        GRIDS=lines.grids,
        TAPS=lines.taps,
        LINES=lines.padded,
        PAIRS=power_of_two(len(grids) * lines.taps),
        COLUMNS=COLUMNS,
        ACC=accumulation(x.dtype)[1],
        **options,
    )
    return grad_x
