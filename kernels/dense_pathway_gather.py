"""dense_pathway's gradients of sources in Triton, from those of their contexts; see kernels/dense_pathway.py."""

from __future__ import annotations

import triton
import triton.language as tl

from zigzag.kernels.dense_pathway_context import affine, channels_of, codes_at, pixel_offsets, times
from zigzag.kernels.geometry import image_size, map_size, readers, resize_tap, size_of, tap_weight


@triton.jit
def store_sum(parts, row, number, n, c, channels, values):
    """What one program has of a sum over an image's pixels, for `add_parts`."""
    at = (row * number + n).to(tl.int64) * channels
    tl.store(parts + at + c, tl.sum(values, 0), mask=c < channels)


@triton.jit(do_not_specialize=["number"])
def add_parts(parts, results, counts, number, channels, CHANNELS: tl.constexpr, ACC: tl.constexpr):
    """The sums over an image from those of its programs, in their order."""
    channel_blocks = tl.cdiv(channels, CHANNELS)
    c = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.program_id(0) // channel_blocks % number
    slot = tl.program_id(0) // (channel_blocks * number)
    first, end = 0, 0
    for index in tl.static_range(len(results)):
        first += tl.where(index < slot, size_of(counts[index]), 0)
        end += tl.where(index <= slot, size_of(counts[index]), 0)
    total = tl.zeros([CHANNELS], ACC)
    for part in range(first, end):
        at = tl.cast(part, tl.int64) * number + n
        total += tl.load(parts + at * channels + c, mask=c < channels, other=0.0)
    for index in tl.static_range(len(results)):
        if slot == index:
            tl.store(results[index] + n.to(tl.int64) * channels + c, total, mask=c < channels)


@triton.jit
def _row_of(
    d, r, own_height, to_height, length,
    WALKED: tl.constexpr, NEAREST: tl.constexpr, INDEX: tl.constexpr, STRIP: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Where target row d (or strip d) has what it gives to source row r, whether it does, and with which weight."""
    if WALKED:
        top, _, _ = resize_tap(tl.cast(d * STRIP, INDEX), own_height, to_height, NEAREST, False, INDEX, ACC)
        last = tl.minimum(d * STRIP + STRIP, to_height) - 1
        bottom, rows, _ = resize_tap(tl.cast(last, INDEX), own_height, to_height, NEAREST, False, INDEX, ACC)
        row = d * (length // tl.cdiv(to_height, STRIP)) + r - top
        reads = (top <= r) & (r < bottom + rows)
        weight = tl.full([], 1.0, ACC)
    else:
        row = d
        top, rows, first = resize_tap(tl.cast(d, INDEX), own_height, to_height, NEAREST, True, INDEX, ACC)
        reads = (top <= r) & (r < top + rows)
        weight = tap_weight(r - top, rows, first)
    return tl.cast(row, tl.int64), reads, weight


@triton.jit
def _gathered(
    change, length, r, low, high, w, own_height, own_width, to_height, to_width, width, c, channels, mask,
    WALKED: tl.constexpr, NEAREST: tl.constexpr, INDEX: tl.constexpr, STRIP: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What all target pixels give to pixels w of source row r, which columns low to high - 1 read."""
    first, last = readers(tl.cast(r, INDEX), own_height, to_height, NEAREST, INDEX)
    if WALKED:
        first, last = first // STRIP, tl.cdiv(last, STRIP)
    total = tl.zeros([w.shape[0], c.shape[0]], ACC)
    for m in tl.range(0, tl.max(high - low, 0), disable_licm=True):
        e = low + m
        start, count, weight = resize_tap(
            tl.minimum(e, to_width - 1), own_width, to_width, NEAREST, not WALKED, INDEX, ACC
        )
        reads = (e < high) & (start <= w) & (w < start + count)
        weight = tl.where(reads, tap_weight(w - start, count, weight), 0.0)
        column = tl.zeros([w.shape[0], c.shape[0]], ACC)
        for d in range(first, last):
            row, row_reads, row_weight = _row_of(
                d, r, own_height, to_height, length, WALKED, NEAREST, INDEX, STRIP, ACC
            )
            at = row * width * channels + pixel_offsets(e, c, channels, 1)
            own = mask & (reads & row_reads)[:, None]
            column += row_weight * tl.load(change + at, mask=own, other=0.0).to(ACC)
        total += weight[:, None] * column
    return total


@triton.jit
def _gather(
    change, length, source, codes, scale, shift, gain, grad, parts, valid, source_valid, shape, to_shape, target, n,
    begin, w, c, part, first, number, channels, cells,
    GRIDS: tl.constexpr, WALKED: tl.constexpr, LAST: tl.constexpr, NEAREST: tl.constexpr, INDEX: tl.constexpr,
    STRIP: tl.constexpr, ROWS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A tile of one source's gradient. Of one that is walked also its affine's sums (and gain's), from ``first`` on.

    With a_j and b_j at its own pixels they are what they are at the target's, for the weights of a pixel add up to 1.
    """
    height, width = map_size(shape)
    _, _, sn, sc, sh, sw = shape
    _, _, to_n, to_c, to_h, to_w = to_shape
    own_height, own_width = image_size(source_valid, n, height, width)
    target_height, target_width = map_size(target)
    to_height, to_width = image_size(valid, n, target_height, target_width)
    low, high = readers(tl.minimum(w, own_width - 1), own_width, to_width, NEAREST, INDEX)
    mask = (w < own_width)[:, None] & (c < channels)[None, :]
    stored = (w < width)[:, None] & (c < channels)[None, :]
    n = n.to(tl.int64)
    change += n * length * target_width * channels
    source += n * sn
    grad += n * to_n + pixel_offsets(w, c, to_w, to_c)
    end = tl.minimum(begin + ROWS, height)
    nothing = tl.zeros(mask.shape, ACC)
    of_scale, of_shift, of_gain = nothing, nothing, nothing
    for r in tl.range(begin, tl.minimum(end, own_height), disable_licm=True):
        total = _gathered(
            change, length, r, low, high, w, own_height, own_width, to_height, to_width, target_width, c, channels,
            mask, WALKED, NEAREST, INDEX, STRIP, ACC,
        )  # fmt: skip
        if WALKED:
            at = tl.cast(r, tl.int64) * sh + pixel_offsets(w, c, sw, sc)
            pixels = tl.load(source + at, mask=mask, other=0.0).to(ACC)
            if codes is not None:
                of_image = codes + n * cells * channels
                pixels += codes_at(of_image, r, w, c, mask, own_height, own_width, channels, GRIDS, ACC)
            if gain is not None:
                of_gain += total * affine(pixels, scale, shift, n, c, channels)
                total = times(total, gain, c, channels)
            if scale is not None:
                of_scale += total * pixels
                of_shift += total
                total = times(total, scale + n * channels, c, channels)
        to = grad + tl.cast(r, tl.int64) * to_h
        tl.store(to, tl.where(mask, total, 0.0).to(to.dtype.element_ty), mask=stored)
    for r in range(tl.maximum(begin, own_height), end):
        to = grad + tl.cast(r, tl.int64) * to_h
        tl.store(to, nothing.to(to.dtype.element_ty), mask=stored)
    if WALKED:
        count = tl.cdiv(height, ROWS) * tl.cdiv(width, w.shape[0])
        if scale is not None:
            store_sum(parts, first + part, number, n, c, channels, of_scale)
            store_sum(parts, first + count + part, number, n, c, channels, of_shift)
            first += 2 * count
        if LAST and gain is not None:
            store_sum(parts, first + part, number, n, c, channels, of_gain)


@triton.jit(do_not_specialize=["number"])
def gather(
    changes, sources, codes, scales, shifts, gain, grads, parts, valid, valids, shapes, to_shapes, lengths, firsts,
    target, number, channels, cells,
    GRIDS: tl.constexpr, WALKS: tl.constexpr, NEAREST: tl.constexpr, INDEX: tl.constexpr,
    STRIP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The gradients of all sources: of every pixel what the target pixels that read it give to it."""
    c = channels_of(channels, CHANNELS)
    task = tl.program_id(0) // tl.cdiv(channels, CHANNELS)
    for j in tl.static_range(len(grads)):
        height, width = map_size(shapes[j])
        tiles = tl.cdiv(width, COLUMNS)
        count = tiles * tl.cdiv(height, ROWS)
        if (task >= 0) & (task < count * number):
            w = task % tiles * COLUMNS + tl.arange(0, COLUMNS)
            part = task % count
            _gather(
                changes[j], size_of(lengths[j]), sources[j], codes[j], scales[j], shifts[j], gain, grads[j], parts,
                valid, valids[j], shapes[j], to_shapes[j], target, task // count, part // tiles * ROWS, w, c, part,
                size_of(firsts[j]), number, channels, cells, GRIDS, WALKS[j], j == len(grads) - 1, NEAREST, INDEX,
                STRIP, ROWS, ACC,
            )  # fmt: skip
        task -= count * number
