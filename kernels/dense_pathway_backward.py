"""dense_pathway's gradients in Triton; see kernels/dense_pathway.py for the whole of it."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from zigzag.kernels.dense_pathway_context import (
    affine,
    channels_of,
    column_taps,
    contexts,
    index_type,
    no_codes,
    pathway_constants,
    pixel_offsets,
    place,
    programs,
    shape_of,
)
from zigzag.kernels.geometry import image_size, readers, resize_tap, tap_weight
from zigzag.kernels.launch import accumulation, blocks, launch, tiles
from zigzag.kernels.region_stats import region_sums

OptionalTensors = list[Tensor | None]


@triton.jit
def _around(values, scales, shifts, n, c, channels, PRODUCT: tl.constexpr, ACC: tl.constexpr):
    """Per source the product of all other contexts, from both ends, and the product (or sum) of all of them."""
    after = ()
    total = tl.full(values[0].shape, 1.0 if PRODUCT else 0.0, ACC)
    for j in tl.static_range(len(values) - 1, -1, -1):
        context = affine(values[j], scales[j], shifts[j], n, c, channels)
        after = (total,) + after
        total = total * context if PRODUCT else total + context
    others = ()
    before = tl.full(values[0].shape, 1.0, ACC)
    for j in tl.static_range(len(values)):
        others = others + (before * after[j] if PRODUCT else before,)
        if PRODUCT:
            before = before * affine(values[j], scales[j], shifts[j], n, c, channels)
    return others, total


@triton.jit
def _read(x, strides, n, row, w, c, mask, ACC: tl.constexpr):
    """A row of a tile of a map; zeros where there is none."""
    if x is None:
        pixels = tl.zeros(mask.shape, ACC)
    else:
        at = n * strides[0] + row * strides[2] + pixel_offsets(w, c, strides[3], strides[1])
        pixels = tl.load(x + at, mask=mask, other=0.0).to(ACC)
    return pixels


@triton.jit
def _times(values, factors, c, channels):
    return values * tl.load(factors + c, mask=c < channels, other=0.0)[None, :]


@triton.jit
def _through(change, x, scale, shift, n, c, channels, RELU: tl.constexpr):
    """What the ReLU behind base's affine lets through."""
    through = change
    if RELU:
        through = tl.where(affine(x, scale, shift, n, c, channels) <= 0, 0.0, change)
    return through


@triton.jit
def _store_sum(parts, slot, part, count, number, n, c, channels, values):
    at = ((slot * count + part) * number + n).to(tl.int64) * channels
    tl.store(parts + at + c, tl.sum(values, 0), mask=c < channels)


@triton.jit
def _store_sums(
    parts, part, count, number, n, c, channels, base_scale, gain, scales, of_scale, of_shift, of_gain, of_affines
):
    """A base affine's two sums, the gain's and two for every source's affine, as far as they exist, in this order."""
    slot = 0
    if base_scale is not None:
        _store_sum(parts, slot, part, count, number, n, c, channels, of_scale)
        _store_sum(parts, slot + 1, part, count, number, n, c, channels, of_shift)
        slot += 2
    if gain is not None:
        _store_sum(parts, slot, part, count, number, n, c, channels, of_gain)
        slot += 1
    for j in tl.static_range(len(scales)):
        if scales[j] is not None:
            _store_sum(parts, slot, part, count, number, n, c, channels, of_affines[j][0])
            _store_sum(parts, slot + 1, part, count, number, n, c, channels, of_affines[j][1])
            slot += 2


@triton.jit
def spread(
    grad, grad_sum, base, sources, codes, base_scale, base_shift, scales, shifts, gain, valid, valids, grad_base,
    changes, parts, shape, grad_strides, grad_sum_strides, base_strides, to_strides, shapes, number, channels, cells,
    count,
    GRIDS: tl.constexpr, FEW: tl.constexpr, RELU: tl.constexpr, PRODUCT: tl.constexpr, NEAREST: tl.constexpr,
    INDEX: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Of a tile of the output: base's gradient, that of every context before its affine, sums for the small tensors.

    ``changes`` are maps (N, H, W, C), ``parts`` (sums, programs, N, C).
    """
    n, begin, w, c, part = place(shape, channels, ROWS, COLUMNS, CHANNELS)
    height, width = shape
    n = n.to(tl.int64)
    own_height, own_width = image_size(valid, n, height, width)
    mask = (w < own_width)[:, None] & (c < channels)[None, :]
    stored = (w < width)[:, None] & (c < channels)[None, :]
    taps = column_taps(shapes, valids, n, w, own_width, NEAREST, INDEX, ACC)
    known = no_codes(shapes, w, c, ACC)
    nothing = tl.zeros([COLUMNS, CHANNELS], ACC)
    of_scale, of_shift, of_gain = nothing, nothing, nothing
    of_affines = ()
    for _ in tl.static_range(len(sources)):
        of_affines = of_affines + ((nothing, nothing),)
    end = tl.minimum(begin + ROWS, height)
    for d in range(begin, tl.minimum(end, own_height)):
        row = tl.cast(d, tl.int64)
        change = _read(grad, grad_strides, n, row, w, c, mask, ACC)
        change += _read(grad_sum, grad_sum_strides, n, row, w, c, mask, ACC)
        through = change
        if base is not None:
            x = _read(base, base_strides, n, row, w, c, mask, ACC)
            through = _through(change, x, base_scale, base_shift, n, c, channels, RELU)
            of_scale += through * x
            of_shift += through
            if base_scale is not None:
                through = _times(through, base_scale + n * channels, c, channels)
        to = n * to_strides[0] + row * to_strides[2] + pixel_offsets(w, c, to_strides[3], to_strides[1])
        tl.store(grad_base + to, through.to(grad_base.dtype.element_ty), mask=stored)
        if len(sources) > 0:
            values, known = contexts(
                sources, shapes, codes, taps, known, n, row, c, own_height, mask, channels, cells, GRIDS, FEW, NEAREST,
                INDEX, ACC,
            )  # fmt: skip
            others, total = _around(values, scales, shifts, n, c, channels, PRODUCT, ACC)
            if gain is not None:
                of_gain += change * total
                change = _times(change, gain, c, channels)
            grown = ()
            at = (n * height + row) * width * channels + pixel_offsets(w, c, channels, 1)
            for j in tl.static_range(len(sources)):
                own = change * others[j]
                of_own_scale, of_own_shift = of_affines[j]
                if scales[j] is not None:
                    of_own_scale += tl.where(mask, own * values[j], 0.0)
                    of_own_shift += own
                    own = _times(own, scales[j] + n * channels, c, channels)
                grown = grown + ((of_own_scale, of_own_shift),)
                tl.store(changes[j] + at, own.to(grad_base.dtype.element_ty), mask=mask)
            of_affines = grown
    for d in range(tl.maximum(begin, own_height), end):
        to = n * to_strides[0] + tl.cast(d, tl.int64) * to_strides[2]
        to += pixel_offsets(w, c, to_strides[3], to_strides[1])
        tl.store(grad_base + to, nothing.to(grad_base.dtype.element_ty), mask=stored)
    _store_sums(
        parts, part, count, number, n, c, channels, base_scale, gain, scales, of_scale, of_shift, of_gain, of_affines
    )


@triton.jit
def add_parts(parts, results, number, channels, count, CHANNELS: tl.constexpr, ACC: tl.constexpr):
    """The sums over an image from those of its programs, in their order."""
    channel_blocks = tl.cdiv(channels, CHANNELS)
    c = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.program_id(0) // channel_blocks % number
    slot = tl.program_id(0) // (channel_blocks * number)
    total = tl.zeros([CHANNELS], ACC)
    for part in range(count):
        at = (slot * count + part).to(tl.int64) * number + n
        total += tl.load(parts + at * channels + c, mask=c < channels, other=0.0)
    for index in tl.static_range(len(results)):
        if slot == index:
            tl.store(results[index] + n.to(tl.int64) * channels + c, total, mask=c < channels)


@triton.jit
def _gather(
    change, grad, valid, source_valid, shape, target, n, begin, w, c, channels,
    NEAREST: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A tile of one source's gradient: of every pixel the target pixels that read it, each with its weight."""
    height, width, sn, sc, sh, sw = shape
    own_height, own_width = image_size(source_valid, n, height, width)
    to_height, to_width = image_size(valid, n, target[0], target[1])
    low, high = readers(tl.minimum(w, own_width - 1), own_width, to_width, NEAREST, INDEX)
    mask = (w < own_width)[:, None] & (c < channels)[None, :]
    stored = (w < width)[:, None] & (c < channels)[None, :]
    change += n.to(tl.int64) * target[0] * target[1] * channels
    grad += n.to(tl.int64) * sn
    offsets = pixel_offsets(w, c, sw, sc)
    end = tl.minimum(begin + ROWS, height)
    most = tl.max(high - low, 0)
    for r in range(begin, tl.minimum(end, own_height)):
        first, last = readers(tl.cast(r, INDEX), own_height, to_height, NEAREST, INDEX)
        total = tl.zeros([w.shape[0], c.shape[0]], ACC)
        for m in range(most):
            e = low + m
            start, count, weight = resize_tap(tl.minimum(e, to_width - 1), own_width, to_width, NEAREST, INDEX, ACC)
            reads = (e < high) & (start <= w) & (w < start + count)
            weight = tl.where(reads, tap_weight(w - start, count, weight), 0.0)
            column = tl.zeros([w.shape[0], c.shape[0]], ACC)
            for d in range(first, last):
                row = tl.cast(d, tl.int64)
                top, rows, row_weight = resize_tap(tl.cast(d, INDEX), own_height, to_height, NEAREST, INDEX, ACC)
                row_weight = tap_weight(r - top, rows, row_weight)
                row_weight = tl.where((top <= r) & (r < top + rows), row_weight, 0.0)
                at = row * target[1] * channels + pixel_offsets(e, c, channels, 1)
                column += row_weight * tl.load(change + at, mask=mask & reads[:, None], other=0.0).to(ACC)
            total += weight[:, None] * column
        to = grad + tl.cast(r, tl.int64) * sh + offsets
        tl.store(to, tl.where(mask, total, 0.0).to(grad.dtype.element_ty), mask=stored)
    for r in range(tl.maximum(begin, own_height), end):
        nothing = tl.zeros([w.shape[0], c.shape[0]], grad.dtype.element_ty)
        tl.store(grad + tl.cast(r, tl.int64) * sh + offsets, nothing, mask=stored)


@triton.jit
def gather(
    changes, grads, valid, valids, shapes, target, number, channels,
    NEAREST: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """The gradients of all sources."""
    c = channels_of(channels, CHANNELS)
    task = tl.program_id(0) // tl.cdiv(channels, CHANNELS)
    for j in tl.static_range(len(grads)):
        tiles, strips = tl.cdiv(shapes[j][1], COLUMNS), tl.cdiv(shapes[j][0], ROWS)
        if (task >= 0) & (task < tiles * strips * number):
            w = task % tiles * COLUMNS + tl.arange(0, COLUMNS)
            n, begin = task // (tiles * strips), task // tiles % strips * ROWS
            _gather(
                changes[j],
                grads[j],
                valid,
                valids[j],
                shapes[j],
                target,
                n,
                begin,
                w,
                c,
                channels,
                NEAREST,
                INDEX,
                ROWS,
                ACC,
            )
        task -= tiles * strips * number


def dense_pathway_backward(
    grad: Tensor | None,
    grad_sum: Tensor | None,
    base: Tensor | None,
    sources: list[Tensor],
    codes: OptionalTensors,
    base_scale: Tensor | None,
    base_shift: Tensor | None,
    scales: OptionalTensors,
    shifts: OptionalTensors,
    gain: Tensor | None,
    valid: Tensor | None,
    source_valid: OptionalTensors,
    grids: list[int],
    relu: bool,
    product: bool,
    nearest: bool,
) -> list[Tensor]:
    """The gradients of base, its scale and shift, gain, and of every source, its codes, scale and shift."""
    like = next(x for x in (base, grad, grad_sum) if x is not None)
    number, channels, height, width = like.shape
    dtype, acc = accumulation(like.dtype)

    def table(given: Tensor | None) -> Tensor:
        return like.new_empty((0,) if given is None else (number, channels), dtype=dtype)

    grad_base = torch.empty_like(like)
    of_base = table(base_scale), table(base_shift), table(gain)
    of_affines = [(table(scale), table(shift)) for scale, shift in zip(scales, shifts, strict=True)]
    grads = [torch.empty_like(source) for source in sources]
    results = [x for x in (*of_base, *(x for pair in of_affines for x in pair)) if x.ndim == 2]
    changes = [like.new_empty((number, height, width, channels)) for _ in sources]
    options = tiles("dense_pathway_backward", like)
    count, tasks = programs(like, options)
    parts = like.new_empty((len(results), count, number, channels), dtype=dtype)
    strides = tuple(None if x is None else x.stride() for x in (grad, grad_sum, base))
    small = tuple(codes), base_scale, base_shift, tuple(scales), tuple(shifts), gain, valid, tuple(source_valid)
    shapes = tuple(shape_of(source) for source in sources)
    launch(
        spread,
        tasks,
        grad,
        grad_sum,
        base,
        tuple(sources),
        *small,
        grad_base,
        tuple(changes),
        parts,
        (height, width),
        *strides,
        grad_base.stride(),
        shapes,
        number,
        channels,
        sum(k * k for k in grids),
        count,
        RELU=relu,
        PRODUCT=product,
        **pathway_constants(like, sources, valid, source_valid, grids, nearest),
        **options,
    )
    if results:
        options = tiles("dense_pathway_backward.add", like)
        tasks = len(results) * number * blocks(channels, options["CHANNELS"])
        launch(add_parts, tasks, parts, tuple(results), number, channels, count, ACC=acc, **options)
    if sources:
        options = tiles("dense_pathway_backward.gather", like)
        tasks = sum(programs(source, options)[1] for source in sources)
        maps = tuple(changes), tuple(grads), valid, tuple(source_valid), tuple(shape_of(own) for own in grads)
        launch(
            gather,
            tasks,
            *maps,
            (height, width),
            number,
            channels,
            NEAREST=nearest,
            INDEX=index_type(like, sources),
            ACC=acc,
            **options,
        )
    of_codes = _gradients_of_codes(grads, codes, source_valid, grids)
    found: list[Any] = [grad_base, *of_base]
    for own, code, pair in zip(grads, of_codes, of_affines, strict=True):
        found += [own, like.new_empty((0,), dtype=dtype) if code is None else code, *pair]
    return found


def _gradients_of_codes(
    grads: list[Tensor], codes: OptionalTensors, source_valid: OptionalTensors, grids: list[int]
) -> OptionalTensors:
    """A code is added to every pixel of its cell: its gradient is the sum of theirs."""
    coded = [j for j, own in enumerate(codes) if own is not None]
    found: OptionalTensors = [None] * len(codes)
    if coded:
        sums = region_sums([grads[j] for j in coded], grids, 0, [source_valid[j] for j in coded])
        for j, (total, _) in zip(coded, sums, strict=True):
            found[j] = total
    return found
