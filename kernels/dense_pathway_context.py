"""What dense_pathway's kernels read of a source, row by row of the target: the source and its codes, resized."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from zigzag.kernels.geometry import image_size, map_size, resize_tap, tap_weight
from zigzag.kernels.launch import accumulation, blocks

OptionalTensors = list[Tensor | None]


def pathway_constants(
    target: Tensor,
    sources: list[Tensor],
    valid: Tensor | None,
    valids: OptionalTensors,
    grids: list[int],
    nearest: bool,
) -> dict[str, Any]:
    """The constants that both passes share."""
    known = valid is None and all(own is None for own in valids)
    few = tuple(
        known and (nearest or all(s <= t for s, t in zip(x.shape[2:], target.shape[2:], strict=True))) for x in sources
    )
    first = [sum(k * k for k in grids[:g]) for g in range(len(grids))]
    return {
        "GRIDS": tuple(zip(grids, first, strict=True)),
        "FEW": few,
        "NEAREST": nearest,
        "INDEX": index_type(target, sources),
        "ACC": accumulation(target.dtype)[1],
    }


def index_type(target: Tensor, sources: list[Tensor]) -> Any:
    """int32 where it holds twice the product of any two sizes (and some more), else int64, which is slow to divide."""
    longest = max(size for x in (target, *sources) for size in x.shape[2:])
    return tl.int32 if 4 * longest * (longest + 1) < 2**31 else tl.int64


def programs(target: Tensor, options: dict[str, Any]) -> tuple[int, int]:
    """Programs per block of channels of an image, and all of them."""
    parts = blocks(target.shape[2], options["ROWS"]) * blocks(target.shape[3], options["COLUMNS"])
    return parts, parts * target.shape[0] * blocks(target.shape[1], options["CHANNELS"])


@triton.jit
def channels_of(channels, CHANNELS: tl.constexpr):
    """The block of channels of this program: neighbours work on one pixel's."""
    return tl.program_id(0) % tl.cdiv(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)


@triton.jit
def place(shape, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr):
    """What this program works on: image, first row, columns, channels; and its number among those of the image."""
    c = channels_of(channels, CHANNELS)
    task = tl.program_id(0) // tl.cdiv(channels, CHANNELS)
    height, width = map_size(shape)
    tiles, strips = tl.cdiv(width, COLUMNS), tl.cdiv(height, ROWS)
    w = task % tiles * COLUMNS + tl.arange(0, COLUMNS)
    part = task % (tiles * strips)
    return task // (tiles * strips), part // tiles * ROWS, w, c, part


@triton.jit
def pixel_offsets(w, c, sw, sc):
    """Offsets of pixels w of a row, channels c."""
    return w[:, None].to(tl.int64) * sw + c[None, :].to(tl.int64) * sc


@triton.jit
def codes_at(codes, r, q, c, mask, height, width, channels, GRIDS: tl.constexpr, ACC: tl.constexpr):
    """The sum of all grids' codes at row r, columns q of a source."""
    total = tl.zeros([q.shape[0], c.shape[0]], ACC)
    for g in tl.static_range(len(GRIDS)):
        cell = GRIDS[g][1] + r * GRIDS[g][0] // height * GRIDS[g][0] + q * GRIDS[g][0] // width
        total += tl.load(codes + cell[:, None].to(tl.int64) * channels + c[None, :], mask=mask, other=0.0)
    return total


@triton.jit
def _slot(r, height, GRIDS: tl.constexpr):
    """A number that changes from row r - 1 to row r where a cell of any grid begins."""
    slot = r * 0
    for g in tl.static_range(len(GRIDS)):
        slot += r * GRIDS[g][0] // height
    return slot


@triton.jit
def column_taps(
    shapes, valids, n, w, own_width, FEW: tl.constexpr, NEAREST: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr
):
    """Per source: its own height and width, and of every target column the start, the count and the first weight."""
    taps = ()
    for j in tl.static_range(len(shapes)):
        height, width = map_size(shapes[j])
        height, width = image_size(valids[j], n, height, width)
        columns = resize_tap(tl.minimum(w, own_width - 1), width, own_width, NEAREST, not FEW[j], INDEX, ACC)
        taps = taps + ((height, width, columns),)
    return taps


@triton.jit
def no_codes(shapes, w, c, ACC: tl.constexpr):
    """Per source the codes of no row yet: their slot, and the codes."""
    codes = ()
    for _ in tl.static_range(len(shapes)):
        codes = codes + ((-1, tl.zeros([w.shape[0], c.shape[0]], ACC)),)
    return codes


@triton.jit
def _columns_of_codes(codes, r, taps, c, mask, channels, GRIDS: tl.constexpr, ACC: tl.constexpr):
    """The codes along row r, mixed for the target's columns."""
    height, width, columns = taps
    start, _, first = columns
    left = codes_at(codes, r, start, c, mask, height, width, channels, GRIDS, ACC)
    right = codes_at(codes, r, start + (first < 1), c, mask, height, width, channels, GRIDS, ACC)
    return first[:, None] * left + (1 - first)[:, None] * right


@triton.jit
def _few_taps(source, shape, codes, taps, known, rows, c, mask, channels, GRIDS: tl.constexpr, ACC: tl.constexpr):
    """The context where neither axis shrinks: two rows and two columns. Codes are kept until their rows change."""
    _, _, _, sc, sh, sw = shape
    height, _, columns = taps
    start, _, first = columns
    top, row_count, weight = rows
    bottom = top + row_count - 1
    slot, code = known
    if codes is not None:
        top_slot, bottom_slot = _slot(top, height, GRIDS), _slot(bottom, height, GRIDS)
        if (slot != top_slot) | (top_slot != bottom_slot):
            code = _columns_of_codes(codes, top, taps, c, mask, channels, GRIDS, ACC)
            if top_slot != bottom_slot:
                lower_code = _columns_of_codes(codes, bottom, taps, c, mask, channels, GRIDS, ACC)
                code = weight * code + (1 - weight) * lower_code
        slot = tl.where(top_slot == bottom_slot, top_slot, -1)
    left, right = pixel_offsets(start, c, sw, sc), pixel_offsets(start + (first < 1), c, sw, sc)
    above, below = source + top.to(tl.int64) * sh, source + bottom.to(tl.int64) * sh
    value = code
    value += (weight * first)[:, None] * tl.load(above + left, mask=mask, other=0.0).to(ACC)
    value += (weight * (1 - first))[:, None] * tl.load(above + right, mask=mask, other=0.0).to(ACC)
    value += ((1 - weight) * first)[:, None] * tl.load(below + left, mask=mask, other=0.0).to(ACC)
    value += ((1 - weight) * (1 - first))[:, None] * tl.load(below + right, mask=mask, other=0.0).to(ACC)
    return value, (slot, code)


@triton.jit
def _all_taps(source, shape, codes, taps, rows, c, mask, channels, GRIDS: tl.constexpr, ACC: tl.constexpr):
    """The context in any case: every row and column that the target pixels read."""
    _, _, _, sc, sh, sw = shape
    height, width, columns = taps
    start, count, first = columns
    top, row_count, row_first = rows
    value = tl.zeros([start.shape[0], c.shape[0]], ACC)
    for m in range(tl.max(count, 0)):
        q = tl.minimum(start + m, width - 1)
        weight = tl.where(m < count, tap_weight(m, count, first), 0.0)
        own = mask & (m < count)[:, None]
        offsets = pixel_offsets(q, c, sw, sc)
        column = tl.zeros([start.shape[0], c.shape[0]], ACC)
        for k in range(row_count):
            r = top + k
            pixels = tl.load(source + tl.cast(r, tl.int64) * sh + offsets, mask=own, other=0.0).to(ACC)
            if codes is not None:
                pixels += codes_at(codes, r, q, c, own, height, width, channels, GRIDS, ACC)
            column += tap_weight(k, row_count, row_first) * pixels
        value += weight[:, None] * column
    return value


@triton.jit
def contexts(
    sources, shapes, codes, taps, known, n, d, c, own_height, mask, channels, cells,
    GRIDS: tl.constexpr, FEW: tl.constexpr, NEAREST: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Of target row d: per source its resized R before the affine, and the codes to be kept for the next row."""
    values = ()
    kept = ()
    for j in tl.static_range(len(sources)):
        rows = resize_tap(d, taps[j][0], own_height, NEAREST, not FEW[j], INDEX, ACC)
        source = sources[j] + n.to(tl.int64) * shapes[j][2]
        if codes[j] is None:
            own_codes = None
        else:
            own_codes = codes[j] + n.to(tl.int64) * cells * channels
        if FEW[j]:
            value, keep = _few_taps(
                source, shapes[j], own_codes, taps[j], known[j], rows, c, mask, channels, GRIDS, ACC
            )
        else:
            value = _all_taps(source, shapes[j], own_codes, taps[j], rows, c, mask, channels, GRIDS, ACC)
            keep = known[j]
        values = values + (value,)
        kept = kept + (keep,)
    return values, kept


@triton.jit
def with_affines(values, scales, shifts, n, c, channels):
    """Per source a_j * value + b_j, where it has an affine."""
    found = ()
    for j in tl.static_range(len(values)):
        found = found + (affine(values[j], scales[j], shifts[j], n, c, channels),)
    return found


@triton.jit
def affine(value, scale, shift, n, c, channels):
    """Value * scale + shift of image n; None leaves it."""
    result = value
    if scale is not None:
        at = n.to(tl.int64) * channels + c
        factor = tl.load(scale + at, mask=c < channels, other=0.0)
        result = value * factor[None, :] + tl.load(shift + at, mask=c < channels, other=0.0)[None, :]
    return result


@triton.jit
def times(values, factors, c, channels):
    """Values times the factors (C,)."""
    return values * tl.load(factors + c, mask=c < channels, other=0.0)[None, :]
