"""region_codes in Triton, forward and backward. See zigzag/ops/region_codes.py for what it computes.

Every step is one launch for all grids, and every weight is read once, in its own memory order and dtype. Forward:
regions, the aggregating weight's product in chunks of its columns, their sum, codes. Backward runs the same way back; a
launch that reads a weight also writes that weight's gradient, by other programs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from zigzag.kernels.launch import accumulation, blocks, launch, power_of_two, tiles
from zigzag.kernels.region_codes_products import (
    areas,
    distribute,
    narrow_offsets,
    outer,
    project,
    wide_offsets,
)

CHUNK = 1024
"""Columns of a weight whose products with one row are summed by one program."""


@triton.jit(do_not_specialize=["height", "width", "number"])
def encode(
    sums, regions, weights, biases, valid, height, width, number, channels, entries, cells,
    GRIDS: tl.constexpr, LAST: tl.constexpr, MEAN: tl.constexpr, ROWS: tl.constexpr, VALUES: tl.constexpr,
    COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Regions: the region convolution's weight times each cell's shifted sums, or means, and its bias."""
    value_blocks = tl.cdiv(channels, VALUES)
    r = tl.program_id(0) % value_blocks * VALUES + tl.arange(0, VALUES)
    task = tl.program_id(0) // value_blocks
    for g in tl.static_range(len(GRIDS)):
        rows = number * GRIDS[g][4]
        if (task >= 0) & (task < tl.cdiv(rows, ROWS)):
            m = task * ROWS + tl.arange(0, ROWS)
            area = areas(valid, m, rows, height, width, GRIDS[g][4], GRIDS[g][0], ACC)
            wide = sums, entries * channels, GRIDS[g][2]
            end = GRIDS[g][3] * channels
            if MEAN:
                divisor = tl.maximum(area, 1.0)
                area = tl.minimum(area, 1.0)
                product = project(
                    wide, weights[g], m, r, rows, channels, 0, end, divisor, GRIDS[g][3], GRIDS[g][4], LAST[g], COLUMNS,
                    ACC,
                )  # fmt: skip
            else:
                product = project(
                    wide,
                    weights[g],
                    m,
                    r,
                    rows,
                    channels,
                    0,
                    end,
                    None,
                    GRIDS[g][3],
                    GRIDS[g][4],
                    LAST[g],
                    COLUMNS,
                    ACC,
                )
            bias = tl.load(biases[g] + r, mask=r < channels, other=0.0).to(ACC)
            own = regions, cells * channels, GRIDS[g][1]
            to = narrow_offsets(own, m, r, channels, GRIDS[g][4])
            mask = (m < rows)[:, None] & (r < channels)[None, :]
            tl.store(regions + to, product + area[:, None] * bias[None, :], mask=mask)
        task -= tl.cdiv(rows, ROWS)


@triton.jit(do_not_specialize=["number"])
def project_chunks(
    wide, narrow, parts, weights, grads, number, channels, cells,
    GRIDS: tl.constexpr, LAST: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, VALUES: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A weight times all cells of every image at once, in chunks of its columns: parts (chunk of any grid, N, C).

    With ``grads`` (on the way back) also the gradients of the weights, narrow^T . wide.
    """
    value_blocks, row_blocks = tl.cdiv(channels, VALUES), tl.cdiv(number, ROWS)
    task = tl.program_id(0)
    first = 0
    for g in tl.static_range(len(GRIDS)):
        columns = GRIDS[g][4] * channels
        chunks = tl.cdiv(columns, CHUNK)
        table = wide, cells * channels, GRIDS[g][1]
        if (task >= 0) & (task < chunks * value_blocks * row_blocks):
            chunk = task // (value_blocks * row_blocks)
            m = task // value_blocks % row_blocks * ROWS + tl.arange(0, ROWS)
            r = task % value_blocks * VALUES + tl.arange(0, VALUES)
            begin = chunk * CHUNK
            end = tl.minimum(begin + CHUNK, columns)
            product = project(
                table, weights[g], m, r, number, channels, begin, end, None, GRIDS[g][4], 1, LAST[g], COLUMNS, ACC
            )
            to = parts + (first + chunk).to(tl.int64) * number * channels
            mask = (m < number)[:, None] & (r < channels)[None, :]
            tl.store(to + m[:, None].to(tl.int64) * channels + r[None, :], product, mask=mask)
        task -= chunks * value_blocks * row_blocks
        first += chunks
        if grads is not None:
            column_blocks = tl.cdiv(columns, COLUMNS)
            if (task >= 0) & (task < value_blocks * column_blocks):
                r = task // column_blocks * VALUES + tl.arange(0, VALUES)
                k = task % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
                own = narrow, len(GRIDS) * channels, g
                outer(
                    own, table, grads[g], None, r, k, number, channels, 1, 1, 1, False, GRIDS[g][4], 1, LAST[g], DEPTH,
                    ACC,
                )  # fmt: skip
            task -= value_blocks * column_blocks


@triton.jit
def _sum_chunks(parts, n, c, g, number, channels, GRIDS: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr):
    """The sum of grid g's parts, in their order: (images n, channels c)."""
    first, count = 0, 0
    for other in tl.static_range(len(GRIDS)):
        first += tl.where(other < g, tl.cdiv(GRIDS[other][4] * channels, CHUNK), 0)
        count += tl.where(other == g, tl.cdiv(GRIDS[other][4] * channels, CHUNK), 0)
    mask = (n < number)[:, None] & (c < channels)[None, :]
    total = tl.zeros([n.shape[0], c.shape[0]], ACC)
    for chunk in range(first, first + count):
        at = (tl.cast(chunk, tl.int64) * number + n[:, None]) * channels + c[None, :]
        total += tl.load(parts + at, mask=mask, other=0.0)
    return total


@triton.jit(do_not_specialize=["number"])
def finish_hidden(
    parts, hidden, biases, number, channels,
    GRIDS: tl.constexpr, CHUNK: tl.constexpr, IMAGES: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """relu(the sum of the parts + bias), (N, grids, C)."""
    channel_blocks = tl.cdiv(channels, CHANNELS)
    c = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    g = tl.program_id(0) // channel_blocks % len(GRIDS)
    n = tl.program_id(0) // (channel_blocks * len(GRIDS)) * IMAGES + tl.arange(0, IMAGES)
    value = _sum_chunks(parts, n, c, g, number, channels, GRIDS, CHUNK, ACC)
    for other in tl.static_range(len(GRIDS)):
        if other == g:
            value += tl.load(biases[other] + c, mask=c < channels, other=0.0).to(ACC)[None, :]
    value = tl.where(value < 0, 0.0, value)
    at = (n[:, None].to(tl.int64) * len(GRIDS) + g) * channels + c[None, :]
    tl.store(hidden + at, value, mask=(n < number)[:, None] & (c < channels)[None, :])


@triton.jit(do_not_specialize=["number"])
def spread_hidden(
    narrow, wide, to_wide, weights, biases, grads, number, channels, cells,
    GRIDS: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, VALUES: tl.constexpr, COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """One row per image and grid times a weight, to all cells of the image: codes, or the gradient of regions.

    With ``grads`` (on the way back) also the gradients of the weights, narrow^T . wide.
    """
    row_blocks = tl.cdiv(number, ROWS)
    task = tl.program_id(0)
    for g in tl.static_range(len(GRIDS)):
        columns = GRIDS[g][4] * channels
        column_blocks = tl.cdiv(columns, COLUMNS)
        k = task % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
        table = narrow, len(GRIDS) * channels, g
        if (task >= 0) & (task < column_blocks * row_blocks):
            m = task // column_blocks * ROWS + tl.arange(0, ROWS)
            product = distribute(table, weights[g], m, k, number, channels, columns, 1, DEPTH, ACC)
            own = to_wide, cells * channels, GRIDS[g][1]
            at = wide_offsets(own, m, k, channels, GRIDS[g][4], 1, LAST[g])
            if biases is not None:
                of = k // GRIDS[g][4] if LAST[g] else k % channels
                product += tl.load(biases[g] + of, mask=k < columns, other=0.0).to(ACC)[None, :]
            mask = (m < number)[:, None] & (k < columns)[None, :]
            tl.store(to_wide + at, product.to(to_wide.dtype.element_ty), mask=mask)
        task -= column_blocks * row_blocks
        if grads is not None:
            value_blocks = tl.cdiv(channels, VALUES)
            k = task % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
            if (task >= 0) & (task < column_blocks * value_blocks):
                r = task // column_blocks * VALUES + tl.arange(0, VALUES)
                own = wide, cells * channels, GRIDS[g][1]
                outer(
                    table, own, grads[g], None, r, k, number, channels, 1, 1, 1, False, GRIDS[g][4], 1, LAST[g], DEPTH,
                    ACC,
                )  # fmt: skip
            task -= column_blocks * value_blocks


# --- backward ---------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["number"])
def finish_before(
    parts, hidden, before, grad_codes, grad_aggregate_b, grad_distribute_b, number, channels, cells,
    GRIDS: tl.constexpr, CHUNK: tl.constexpr, IMAGES: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The gradient before the ReLU, (N, grids, C), and those of the biases on either side of it."""
    channel_blocks = tl.cdiv(channels, CHANNELS)
    c = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    g = tl.program_id(0) // channel_blocks
    of_aggregate = tl.zeros([IMAGES, CHANNELS], ACC)
    for first in range(0, number, IMAGES):
        n = first + tl.arange(0, IMAGES)
        value = _sum_chunks(parts, n, c, g, number, channels, GRIDS, CHUNK, ACC)
        at = (n[:, None].to(tl.int64) * len(GRIDS) + g) * channels + c[None, :]
        mask = (n < number)[:, None] & (c < channels)[None, :]
        value = tl.where(tl.load(hidden + at, mask=mask, other=0.0) <= 0, 0.0, value)
        tl.store(before + at, value, mask=mask)
        of_aggregate += value
    for other in tl.static_range(len(GRIDS)):
        if other == g:
            to = grad_aggregate_b[other] + c
            tl.store(to, tl.sum(of_aggregate, 0).to(to.dtype.element_ty), mask=c < channels)
            of_distribute = tl.zeros([IMAGES, CHANNELS], ACC)
            for first in range(0, number * GRIDS[other][4], IMAGES):
                m = first + tl.arange(0, IMAGES)
                table = grad_codes, cells * channels, GRIDS[other][1]
                at = narrow_offsets(table, m, c, channels, GRIDS[other][4])
                mask = (m < number * GRIDS[other][4])[:, None] & (c < channels)[None, :]
                of_distribute += tl.load(grad_codes + at, mask=mask, other=0.0)
            to = grad_distribute_b[other] + c
            tl.store(to, tl.sum(of_distribute, 0).to(to.dtype.element_ty), mask=c < channels)


@triton.jit(do_not_specialize=["height", "width", "number"])
def encode_backward(
    sums, grad_regions, grad_sums, weights, grad_weights, grad_biases, valid, height, width, number, channels, entries,
    cells,
    GRIDS: tl.constexpr, LAST: tl.constexpr, MEAN: tl.constexpr, ROWS: tl.constexpr, VALUES: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """From the gradient of regions to those of the sums, and of the region convolution's weight and bias."""
    value_blocks = tl.cdiv(channels, VALUES)
    task = tl.program_id(0)
    for g in tl.static_range(len(GRIDS)):
        rows = number * GRIDS[g][4]
        columns = GRIDS[g][3] * channels
        row_blocks, column_blocks = tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS)
        narrow = grad_regions, cells * channels, GRIDS[g][1]
        k = task % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
        if (task >= 0) & (task < row_blocks * column_blocks):
            m = task // column_blocks * ROWS + tl.arange(0, ROWS)
            product = distribute(narrow, weights[g], m, k, rows, channels, columns, GRIDS[g][4], DEPTH, ACC)
            if MEAN:
                divisor = tl.maximum(areas(valid, m, rows, height, width, GRIDS[g][4], GRIDS[g][0], ACC), 1.0)
                product = product / divisor[:, None]
            to = sums, entries * channels, GRIDS[g][2]
            at = wide_offsets(to, m, k, channels, GRIDS[g][3], GRIDS[g][4], LAST[g])
            tl.store(grad_sums + at, product, mask=(m < rows)[:, None] & (k < columns)[None, :])
        task -= row_blocks * column_blocks
        k = task % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
        if (task >= 0) & (task < value_blocks * column_blocks):
            r = task // column_blocks * VALUES + tl.arange(0, VALUES)
            wide = sums, entries * channels, GRIDS[g][2]
            outer(
                narrow, wide, grad_weights[g], valid, r, k, rows, channels, height, width, GRIDS[g][0], MEAN,
                GRIDS[g][3], GRIDS[g][4], LAST[g], DEPTH, ACC,
            )  # fmt: skip
        task -= value_blocks * column_blocks
        if (task >= 0) & (task < value_blocks):
            r = task * VALUES + tl.arange(0, VALUES)
            of_bias = tl.zeros([DEPTH, VALUES], ACC)
            for first in range(0, rows, DEPTH):
                m = first + tl.arange(0, DEPTH)
                area = areas(valid, m, rows, height, width, GRIDS[g][4], GRIDS[g][0], ACC)
                factor = tl.minimum(area, 1.0) if MEAN else area
                mask = (m < rows)[:, None] & (r < channels)[None, :]
                at = narrow_offsets(narrow, m, r, channels, GRIDS[g][4])
                of_bias += factor[:, None] * tl.load(grad_regions + at, mask=mask, other=0.0)
            to = grad_biases[g] + r
            tl.store(to, tl.sum(of_bias, 0).to(to.dtype.element_ty), mask=r < channels)
        task -= value_blocks


class _Plan:
    """What all launches of one call share."""

    def __init__(self, sums: Tensor, parameters: list[Tensor], grids: list[int]) -> None:
        self.number, self.entries, self.channels = sums.shape
        self.parts = [tuple(parameters[part::6]) for part in range(6)]
        found = []
        cell = entry = 0
        for k, conv in zip(grids, self.parts[0], strict=True):
            taps = conv.shape[2] * conv.shape[3]
            found.append((k, cell, entry, taps, k * k))
            cell += k * k
            entry += k * k * taps
        self.cells = cell
        self.grids = tuple(found)
        self.dtype, acc = accumulation(sums.dtype)
        self.chunks = sum(blocks(k * k * self.channels, CHUNK) for k in grids)
        self.tiles = tiles("region_codes" if parameters[0].element_size() == 2 else "region_codes.wide", sums)
        self.between = tiles("region_codes.hidden", sums)
        self.constants = {"GRIDS": self.grids, "ACC": acc}

    def last(self, part: int) -> tuple[bool, ...]:
        """Of every grid: whether the memory of a weight runs over its positions last."""
        return tuple(weight.is_contiguous() for weight in self.parts[part])

    def products(self, rows: int) -> dict[str, Any]:
        """Tiles and constants of the products of so many rows."""
        most = self.tiles["ROWS"]
        return {**self.constants, **self.tiles, "ROWS": min(power_of_two(rows, 16), most)}

    def hidden(self) -> dict[str, Any]:
        """Tiles and constants of the kernels between the products."""
        return {**self.constants, "CHUNK": CHUNK, **self.between}


def region_codes(
    sums: Tensor, parameters: list[Tensor], grids: list[int], height: int, width: int, mean: bool, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes and regions (N, sum K*K, C), and what lies behind the ReLU (N, grids, C)."""
    p = _Plan(sums, parameters, grids)
    regions = sums.new_empty((p.number, p.cells, p.channels))
    codes = torch.empty_like(regions, dtype=parameters[0].dtype)
    hidden = sums.new_empty((p.number, len(grids), p.channels))
    parts = sums.new_empty((p.chunks, p.number, p.channels))
    sizes = p.number, p.channels
    conv_w, conv_b, aggregate_w, aggregate_b, distribute_w, distribute_b = p.parts
    tile = p.products(p.number * max(grids) ** 2)
    tile.pop("DEPTH")
    row_blocks = sum(blocks(p.number * k * k, tile["ROWS"]) for k in grids)
    tables: tuple[Any, ...] = sums, regions, conv_w, conv_b, valid, height, width, *sizes, p.entries, p.cells
    launch(encode, row_blocks * blocks(p.channels, tile["VALUES"]), *tables, LAST=p.last(0), MEAN=mean, **tile)
    tile = p.products(p.number)
    row_blocks = blocks(p.number, tile["ROWS"])
    tables = regions, None, parts, aggregate_w, None, *sizes, p.cells
    tasks = p.chunks * row_blocks * blocks(p.channels, tile["VALUES"])
    launch(project_chunks, tasks, *tables, LAST=p.last(2), CHUNK=CHUNK, **tile)
    options = p.hidden()
    tasks = blocks(p.channels, options["CHANNELS"]) * len(grids) * blocks(p.number, options["IMAGES"])
    launch(finish_hidden, tasks, parts, hidden, aggregate_b, *sizes, **options)
    tables = hidden, None, codes, distribute_w, distribute_b, None, *sizes, p.cells
    tasks = row_blocks * sum(blocks(k * k * p.channels, tile["COLUMNS"]) for k in grids)
    launch(spread_hidden, tasks, *tables, LAST=p.last(4), **tile)
    return codes, regions, hidden


def region_codes_backward(
    grad: Tensor,
    sums: Tensor,
    parameters: list[Tensor],
    regions: Tensor,
    hidden: Tensor,
    grids: list[int],
    height: int,
    width: int,
    mean: bool,
    valid: Tensor | None,
) -> list[Tensor]:
    """The gradients of the sums and of every parameter, in their strides."""
    p = _Plan(sums, parameters, grids)
    grads = [torch.empty_like(parameter) for parameter in parameters]
    grad_sums = torch.empty_like(sums)
    of_conv_w, of_conv_b, of_aggregate_w, of_aggregate_b, of_distribute_w, of_distribute_b = (
        tuple(grads[part::6]) for part in range(6)
    )
    if p.number == 0:
        return [grad_sums, *(own.zero_() for own in grads)]
    parts = sums.new_empty((p.chunks, p.number, p.channels))
    before, grad_regions = torch.empty_like(hidden), torch.empty_like(regions)
    sizes = p.number, p.channels
    tile = p.products(p.number)
    row_blocks, value_blocks = blocks(p.number, tile["ROWS"]), blocks(p.channels, tile["VALUES"])
    column_blocks = sum(blocks(k * k * p.channels, tile["COLUMNS"]) for k in grids)
    tables: tuple[Any, ...] = grad, hidden, parts, p.parts[4], of_distribute_w, *sizes, p.cells
    tasks = value_blocks * (p.chunks * row_blocks + column_blocks)
    launch(project_chunks, tasks, *tables, LAST=p.last(4), CHUNK=CHUNK, **tile)
    options = p.hidden()
    tables = parts, hidden, before, grad, of_aggregate_b, of_distribute_b, *sizes, p.cells
    launch(finish_before, blocks(p.channels, options["CHANNELS"]) * len(grids), *tables, **options)
    tables = before, regions, grad_regions, p.parts[2], None, of_aggregate_w, *sizes, p.cells
    launch(spread_hidden, column_blocks * (row_blocks + value_blocks), *tables, LAST=p.last(2), **tile)
    tile = p.products(p.number * max(grids) ** 2)
    tasks = 0
    for k, _, _, taps, _ in p.grids:
        column_blocks = blocks(taps * p.channels, tile["COLUMNS"])
        tasks += column_blocks * (blocks(p.number * k * k, tile["ROWS"]) + value_blocks) + value_blocks
    tables = sums, grad_regions, grad_sums, p.parts[0], of_conv_w, of_conv_b, valid, height, width, *sizes
    launch(encode_backward, tasks, *tables, p.entries, p.cells, LAST=p.last(0), MEAN=mean, **tile)
    return [grad_sums, *grads]
