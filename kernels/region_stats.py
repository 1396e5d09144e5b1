"""region_stats in Triton, forward and backward. See zigzag/ops/region_stats.py for what it computes.

Forward: a program walks down a strip of rows of one image. A row becomes the sums of all column lines (grid, cell, tap)
by one product with their 0/1 membership matrix; these are added to the row lines that the row lies in, one for every
grid and tap, in registers, and written when a line ends. Each pixel is read once. Where a map has several strips, a
second launch adds up what they have of each line. Backward: region_stats_backward.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from zigzag.kernels.geometry import entry_of, has_rows, image_size, line_span, lines, map_size, size_of
from zigzag.kernels.launch import accumulation, blocks, launch, odd, shape_of, tiles
from zigzag.kernels.region_stats_backward import region_stats_backward
from zigzag.kernels.region_stats_lines import COLUMNS, gather_rows, lines_of

__all__ = ["region_stats", "region_stats_backward", "region_sums"]

STRIP = 32
"""Rows of a strip. Fixed, as COLUMNS is: an image's sums must not depend on the map that it lies in."""
AHEAD_SIZES = (2,)
"""Bytes of values whose tiles are loaded to registers before the product of the tile before."""


@triton.jit
def _membership(low, high, w, dtype: tl.constexpr):
    """The 0/1 matrix of lines x columns."""
    return ((w[None, :] >= low[:, None]) & (w[None, :] < high[:, None])).to(dtype)


@triton.jit
def _pixels(row, offsets, c, channels, left):
    """A tile of pixels of a row, of which ``left`` are left; c of their channels."""
    inside = (tl.arange(0, offsets.shape[0]) < left)[:, None] & (c < channels)[None, :]
    return tl.load(row + offsets, mask=inside, other=0.0)


@triton.jit
def _add_tile(pixels, member, row_sums, power):
    """A tile's column lines, and its squares, added to those of the row and of the strip."""
    dtype: tl.constexpr = power.dtype
    row_sums = tl.dot(member, pixels, row_sums, input_precision="ieee", out_dtype=dtype)
    return row_sums, power + pixels.to(dtype) * pixels.to(dtype)


@triton.jit
def _row(x, offsets, c, channels, width, sw, low, high, power, NARROW: tl.constexpr, COLUMNS: tl.constexpr):
    """The sums of all column lines over a row, and its squares added to ``power``."""
    row_sums = tl.zeros([low.shape[0], c.shape[0]], power.dtype)
    for tile in range(1 if NARROW else tl.cdiv(width, COLUMNS)):
        at = tile * COLUMNS
        pixels = _pixels(x + tl.cast(at, tl.int64) * sw, offsets, c, channels, width - at)
        member = _membership(low, high, at + tl.arange(0, COLUMNS), pixels.dtype)
        row_sums, power = _add_tile(pixels, member, row_sums, power)
    return row_sums, power


@triton.jit
def _row_ahead(
    x, next_x, next_width, following, offsets, c, channels, width, sw, low, high, power,
    NARROW: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The same from a first tile that was loaded before, and the first tile of the next row.

    Not by the compiler's stages: on Hopper they copy over a tile that a product of two-byte values may still read.
    """
    row_sums = tl.zeros([low.shape[0], c.shape[0]], power.dtype)
    tiles = 1 if NARROW else tl.cdiv(width, COLUMNS)
    for tile in tl.range(tiles, num_stages=1):
        pixels, at = following, tile * COLUMNS
        if tile + 1 < tiles:
            row, left = x + tl.cast(at + COLUMNS, tl.int64) * sw, width - at - COLUMNS
        else:
            row, left = next_x, next_width
        following = _pixels(row, offsets, c, channels, left)
        member = _membership(low, high, at + tl.arange(0, COLUMNS), pixels.dtype)
        row_sums, power = _add_tile(pixels, member, row_sums, power)
    return row_sums, power, following


@triton.jit
def _store_rows(to, rows, channels, c, values, mask):
    tl.store(to + rows[:, None].to(tl.int64) * channels + c[None, :], values, mask=mask[:, None] & (c < channels)[None])


@triton.jit
def _sum_strip(
    x, shape, sums, powers, valid, n, strip, c, channels, size,
    GRIDS: tl.constexpr, TAPS: tl.constexpr, LINES: tl.constexpr, MOST: tl.constexpr, NARROW: tl.constexpr,
    WHOLE: tl.constexpr, STRIP: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """What one strip of image n has of every row line, into ``size`` rows of ``sums``, and of the squares."""
    height, width = map_size(shape)
    _, _, sn, sc, sh, sw = shape
    height, width = image_size(valid, n, height, width)
    line = tl.arange(0, LINES)
    cells, first, cell, tap, exists = lines(line, GRIDS, TAPS)
    low, high = line_span(cells, cell, tap, exists, width, TAPS)
    w = tl.arange(0, COLUMNS)
    x += n.to(tl.int64) * sn
    offsets = w[:, None].to(tl.int64) * sw + c[None, :].to(tl.int64) * sc
    sums += n.to(tl.int64) * size * channels
    power = tl.zeros([COLUMNS, c.shape[0]], ACC)
    parts = ()
    for _ in tl.static_range(TAPS):
        parts = parts + (tl.zeros([LINES, c.shape[0]], ACC),)
    end = tl.minimum((strip + 1) * STRIP, height)
    x += tl.cast(strip * STRIP, tl.int64) * sh
    if AHEAD:
        following = _pixels(x, offsets, c, channels, tl.where(strip * STRIP < end, width, 0))
    # With several taps no register is left for what stays the same from row to row.
    for p in tl.range(strip * STRIP, end, disable_licm=TAPS > 1):
        following_row = x + sh
        if AHEAD:
            left = tl.where(p + 1 < end, width, 0)
            row_sums, power, following = _row_ahead(
                x, following_row, left, following, offsets, c, channels, width, sw, low, high, power, NARROW, COLUMNS
            )
        else:
            row_sums, power = _row(x, offsets, c, channels, width, sw, low, high, power, NARROW, COLUMNS)
        x = following_row
        grown = ()
        for a in tl.static_range(TAPS):
            h = p - a + TAPS // 2
            within = exists & (h >= 0) & (h < height)
            y = h * cells // height
            part = parts[a] + tl.where(within[:, None], row_sums, 0.0)
            last = within & ((p + 1 == end) | ((h + 1) * cells >= (y + 1) * height))
            if WHOLE:
                _store_rows(sums, entry_of(first, cells, y, cell, a, tap, TAPS), channels, c, part, last)
            else:
                _store_rows(sums, ((y + strip) * TAPS + a) * LINES + line, channels, c, part, last)
            grown = grown + (tl.where(last[:, None], 0.0, part),)
        parts = grown
    tl.store(powers + tl.cast(n, tl.int64) * channels + c, tl.sum(power, 0), mask=c < channels)
    if WHOLE:
        if height < MOST * (TAPS // 2 + 1):  # a line may have no rows at all, and no row ends it
            for y in range(MOST):
                for a in tl.static_range(TAPS):
                    empty = exists & (y < cells) & (has_rows(y, a, height, cells, TAPS) == 0)
                    nothing = tl.zeros([LINES, c.shape[0]], ACC)
                    _store_rows(sums, entry_of(first, cells, y, cell, a, tap, TAPS), channels, c, nothing, empty)


@triton.jit(do_not_specialize=["number"])
def sum_strips(
    maps, shapes, results, powers, valids, sizes, number, channels,
    GRIDS: tl.constexpr, TAPS: tl.constexpr, LINES: tl.constexpr, MOST: tl.constexpr, NARROW: tl.constexpr,
    WHOLE: tl.constexpr, STRIP: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
    ACC: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Every strip of every map: into its own rows of ``results``, or straight to the sums of maps of one strip."""
    channel_blocks = tl.cdiv(channels, CHANNELS)
    block = tl.program_id(0) % channel_blocks
    task = tl.program_id(0) // channel_blocks
    c = block * CHANNELS + tl.arange(0, CHANNELS)
    for m in tl.static_range(len(maps)):
        height, _ = map_size(shapes[m])
        strips = tl.cdiv(height, STRIP)
        if (task >= 0) & (task < strips * number):
            n, strip = task // strips, task % strips
            _sum_strip(
                maps[m], shapes[m], results[m], powers[m] + strip * number * channels, valids[m], n, strip, c,
                channels, sizes[m], GRIDS, TAPS, LINES, MOST, NARROW[m], WHOLE[m], STRIP, COLUMNS, ACC, AHEAD,
            )  # fmt: skip
        task -= strips * number


@triton.jit
def _entries(e, GRIDS: tl.constexpr, TAPS: tl.constexpr):
    """Of the sums numbered e: K, cell (y, x), tap (a, b), the column line, and whether they exist."""
    cells = tl.full(e.shape, 1, tl.int32)
    line = tl.zeros(e.shape, tl.int32)
    within = tl.zeros(e.shape, tl.int32)
    exists = e < 0
    for g in tl.static_range(len(GRIDS)):
        own = (e >= GRIDS[g][2]) & (e < GRIDS[g][2] + GRIDS[g][0] * TAPS * GRIDS[g][0] * TAPS)
        cells = tl.where(own, GRIDS[g][0], cells)
        line = tl.where(own, GRIDS[g][1], line)
        within = tl.where(own, e - GRIDS[g][2], within)
        exists = exists | own
    b, a = within % TAPS, within // TAPS % TAPS
    x, y = within // (TAPS * TAPS) % cells, within // (TAPS * TAPS) // cells
    return cells, y, a, line + x * TAPS + b, exists


@triton.jit
def _add_strips(
    part, powers, to, to_power, valid, height, n, first, c, number, channels, size, entries,
    GRIDS: tl.constexpr, TAPS: tl.constexpr, LINES: tl.constexpr, STRIP: tl.constexpr, ENTRIES: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """ENTRIES of one image's sums from what its strips have of them, and with the first of them its power."""
    height, _ = image_size(valid, n, height, 1)
    e = first + tl.arange(0, ENTRIES)
    cells, y, a, line, exists = _entries(e, GRIDS, TAPS)
    low, high = line_span(cells, y, a, exists, height, TAPS)
    low, high = tl.maximum(low, 0), tl.minimum(high, height)
    part += n.to(tl.int64) * size * channels
    total = tl.zeros([ENTRIES, c.shape[0]], ACC)
    power = tl.zeros([c.shape[0]], ACC)
    for strip in range(tl.cdiv(height, STRIP)):
        own = (low < high) & (low < (strip + 1) * STRIP) & (high > strip * STRIP)
        total += gather_rows(part, ((y + strip) * TAPS + a) * LINES + line, channels, c, own)
        at = (strip * number + n).to(tl.int64) * channels
        power += tl.load(powers + at + c, mask=c < channels, other=0.0)
    _store_rows(to + n.to(tl.int64) * entries * channels, e, channels, c, total, exists)
    if first == 0:
        tl.store(to_power + n.to(tl.int64) * channels + c, power, mask=c < channels)


@triton.jit(do_not_specialize=["number"])
def add_strips(
    parts, powers, results, result_powers, valids, heights, sizes, number, channels, entries,
    GRIDS: tl.constexpr, TAPS: tl.constexpr, LINES: tl.constexpr, STRIP: tl.constexpr,
    CHANNELS: tl.constexpr, ENTRIES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The sums of every map from those of its strips, in their order."""
    channel_blocks = tl.cdiv(channels, CHANNELS)
    entry_blocks = tl.cdiv(entries, ENTRIES)
    c = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    task = tl.program_id(0) // channel_blocks
    first = task % entry_blocks * ENTRIES
    image = task // entry_blocks
    for m in tl.static_range(len(parts)):
        if (image >= m * number) & (image < (m + 1) * number):
            _add_strips(
                parts[m], powers[m], results[m], result_powers[m], valids[m], size_of(heights[m]), image - m * number,
                first, c, number, channels, sizes[m], entries, GRIDS, TAPS, LINES, STRIP, ENTRIES, ACC,
            )  # fmt: skip


def region_sums(
    maps: Sequence[Tensor], grids: Sequence[int], halo: int, valids: Sequence[Tensor | None]
) -> list[tuple[Tensor, Tensor]]:
    """`region_stats` of several maps of one N and C, in one launch, or two where a map has more rows than a strip."""
    lines = lines_of(grids, halo)
    number, channels = maps[0].shape[:2]
    dtype, acc = accumulation(maps[0].dtype)
    results = [
        (x.new_empty((number, lines.entries, channels), dtype=dtype), x.new_empty((number, channels), dtype=dtype))
        for x in maps
    ]
    whole = tuple(x.shape[2] <= STRIP for x in maps)
    parts, sizes = list(results), [lines.entries] * len(maps)
    for m, x in enumerate(maps):
        if not whole[m]:
            strips = blocks(x.shape[2], STRIP)
            sizes[m] = (lines.most + strips - 1) * lines.taps * lines.padded
            powers = x.new_empty((strips, number, channels), dtype=dtype)
            parts[m] = x.new_empty((number, sizes[m], channels), dtype=dtype), powers
    options = tiles("region_stats" if len(maps) == 1 else "region_stats.several", maps[0], 16)
    tasks = number * sum(blocks(x.shape[2], STRIP) for x in maps)
    geometry = {"GRIDS": lines.grids, "TAPS": lines.taps, "LINES": lines.padded, "STRIP": STRIP, "ACC": acc}
    launch(
        sum_strips,
        tasks * blocks(channels, options["CHANNELS"]),
        tuple(maps),
        tuple(map(shape_of, maps)),
        *(tuple(column) for column in zip(*parts, strict=True)),
        tuple(valids),
        tuple(sizes),
        number,
        channels,
        MOST=lines.most,
        NARROW=tuple(x.shape[3] <= COLUMNS for x in maps),
        WHOLE=whole,
        COLUMNS=COLUMNS,
        AHEAD=maps[0].element_size() in AHEAD_SIZES,
        **geometry,
        **options,
    )
    split = [m for m in range(len(maps)) if not whole[m]]
    if split:
        options = tiles("region_stats.add", maps[0])
        tasks = len(split) * number * blocks(lines.entries, options["ENTRIES"])
        launch(
            add_strips,
            tasks * blocks(channels, options["CHANNELS"]),
            *(tuple(found[m][i] for m in split) for found in (parts, results) for i in (0, 1)),
            tuple(valids[m] for m in split),
            tuple(odd(maps[m].shape[2]) for m in split),
            tuple(sizes[m] for m in split),
            number,
            channels,
            lines.entries,
            **geometry,
            **options,
        )
    return results


def region_stats(x: Tensor, grids: list[int], halo: int, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Shifted region sums (N, S, C) and power (N, C) of a map."""
    return region_sums([x], grids, halo, [valid])[0]
