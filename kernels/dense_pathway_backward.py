"""dense_pathway's gradients in Triton; see kernels/dense_pathway.py for the whole of it."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from zigzag.kernels.dense_pathway_context import (
    affine,
    column_taps,
    contexts,
    no_codes,
    pathway_constants,
    pixel_offsets,
    place,
    programs,
    times,
)
from zigzag.kernels.dense_pathway_gather import add_parts, gather, store_sum
from zigzag.kernels.geometry import image_size, map_size, resize_tap, size_of
from zigzag.kernels.launch import accumulation, blocks, launch, odd, shape_of, tiles
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
def _store_row(to, row, values, width, w, c, channels, mask):
    at = tl.cast(row, tl.int64) * width * channels + pixel_offsets(w, c, channels, 1)
    tl.store(to + at, values.to(to.dtype.element_ty), mask=mask)


@triton.jit
def _store_own(to, scale, row, own, width, n, w, c, channels, mask):
    if scale is not None:
        own = times(own, scale + n * channels, c, channels)
    _store_row(to, row, own, width, w, c, channels, mask)


@triton.jit
def _first_states(
    changes, taps, lengths, n, begin, height, width, nothing, channels,
    WALKS: tl.constexpr, NEAREST: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Per source what goes from row to row, and where in its changes row 0 is, or would be if its strip had it.

    Of a source that is walked `_add_row` says what; else it is its affine's two sums.
    """
    states, to = (), ()
    for j in tl.static_range(len(changes)):
        length = size_of(lengths[j])
        first = changes[j] + n * length * width * channels
        if WALKS[j]:
            top, _, _ = resize_tap(begin.to(INDEX), taps[j][0], height, NEAREST, False, INDEX, ACC)
            slot = begin // ROWS * (length // tl.cdiv(height, ROWS)) - top
            states = states + ((top, nothing, nothing),)
            to = to + (first + slot.to(tl.int64) * width * channels,)
        else:
            states = states + ((nothing, nothing),)
            to = to + (first,)
    return states, to


@triton.jit
def _add_row(to, state, rows, own, width, w, c, channels, mask):
    """What a target row gives to the two source rows that it reads; a row that no later one reads is written.

    The state: the upper of the two rows, and what both have so far.
    """
    top, _, weight = rows
    row, upper, lower = state
    if top > row:
        _store_row(to, row, upper, width, w, c, channels, mask)
        upper = lower
        lower = tl.zeros(lower.shape, lower.dtype)
    return top, upper + weight * own, lower + (1 - weight) * own


@triton.jit
def _store_last(to, state, rows, width, w, c, channels, mask):
    """The rows that are left when a program is done."""
    row, upper, lower = state
    _store_row(to, row, upper, width, w, c, channels, mask)
    if rows[1] == 2:
        _store_row(to, row + 1, lower, width, w, c, channels, mask)


@triton.jit
def _change(grad, grad_strides, grad_sum, grad_sum_strides, n, row, w, c, mask, ACC: tl.constexpr):
    """A row of the output's gradient."""
    change = _read(grad, grad_strides, n, row, w, c, mask, ACC)
    return change + _read(grad_sum, grad_sum_strides, n, row, w, c, mask, ACC)


@triton.jit
def _spread_base(
    grad, grad_strides, grad_sum, grad_sum_strides, base, base_strides, base_scale, base_shift, grad_base, to_strides,
    parts, first, count, number, n, begin, end, own_height, w, c, channels, mask, stored,
    RELU: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Of a tile of the output: base's gradient, and the sums for its affine."""
    of_scale, of_shift = tl.zeros(mask.shape, ACC), tl.zeros(mask.shape, ACC)
    to_offsets = n * to_strides[0] + pixel_offsets(w, c, to_strides[3], to_strides[1])
    for d in range(begin, tl.minimum(end, own_height)):
        row = tl.cast(d, tl.int64)
        through = _change(grad, grad_strides, grad_sum, grad_sum_strides, n, row, w, c, mask, ACC)
        if base is not None:
            x = _read(base, base_strides, n, row, w, c, mask, ACC)
            if RELU:  # what the ReLU behind the affine lets through
                through = tl.where(affine(x, base_scale, base_shift, n, c, channels) <= 0, 0.0, through)
            if base_scale is not None:
                of_scale += through * x
                of_shift += through
                through = times(through, base_scale + n * channels, c, channels)
        tl.store(grad_base + row * to_strides[2] + to_offsets, through.to(grad_base.dtype.element_ty), mask=stored)
    for d in range(tl.maximum(begin, own_height), end):
        nothing = tl.zeros(mask.shape, grad_base.dtype.element_ty)
        tl.store(grad_base + tl.cast(d, tl.int64) * to_strides[2] + to_offsets, nothing, mask=stored)
    if base_scale is not None:
        store_sum(parts, first, number, n, c, channels, of_scale)
        store_sum(parts, first + count, number, n, c, channels, of_shift)


@triton.jit
def _spread_contexts(
    grad, grad_strides, grad_sum, grad_sum_strides, sources, codes, scales, shifts, gain, changes, parts, first, count,
    shape, taps, shapes, lengths, number, n, begin, end, own_height, w, c, channels, cells, mask,
    GRIDS: tl.constexpr, FEW: tl.constexpr, WALKS: tl.constexpr, PRODUCT: tl.constexpr,
    NEAREST: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Of a tile of the output: the gradient of every context before its affine, and the sums for gain and affines."""
    height, width = map_size(shape)
    known = no_codes(shapes, w, c, ACC)
    of_gain = tl.zeros(mask.shape, ACC)
    states, to = _first_states(
        changes, taps, lengths, n, begin, height, width, of_gain, channels, WALKS, NEAREST, INDEX, ROWS, ACC
    )
    for d in tl.range(begin, tl.minimum(end, own_height), disable_licm=True):
        row = tl.cast(d, tl.int64)
        values, known = contexts(
            sources, shapes, codes, taps, known, n, row, c, own_height, mask, channels, cells, GRIDS, FEW, NEAREST,
            INDEX, ACC,
        )  # fmt: skip
        others, total = _around(values, scales, shifts, n, c, channels, PRODUCT, ACC)
        change = _change(grad, grad_strides, grad_sum, grad_sum_strides, n, row, w, c, mask, ACC)
        if gain is not None:
            of_gain += change * total
            change = times(change, gain, c, channels)
        grown = ()
        for j in tl.static_range(len(sources)):
            own = change * others[j]
            if WALKS[j]:
                rows = resize_tap(row, taps[j][0], own_height, NEAREST, False, INDEX, ACC)
                state = _add_row(to[j], states[j], rows, own, width, w, c, channels, mask)
            else:
                _store_own(to[j], scales[j], row, own, width, n, w, c, channels, mask)
                state = states[j][0] + tl.where(mask, own * values[j], 0.0), states[j][1] + own
            grown = grown + (state,)
        states = grown
    if gain is not None:
        store_sum(parts, first, number, n, c, channels, of_gain)
        first += count
    for j in tl.static_range(len(sources)):
        if WALKS[j]:
            last = tl.minimum(begin, height - ROWS) + (ROWS - 1)  # end - 1, not kept in a register for it
            rows = resize_tap(last.to(INDEX), taps[j][0], own_height, NEAREST, False, INDEX, ACC)
            _store_last(to[j], states[j], rows, width, w, c, channels, mask)
        elif scales[j] is not None:
            store_sum(parts, first, number, n, c, channels, states[j][0])
            store_sum(parts, first + count, number, n, c, channels, states[j][1])
            first += 2 * count


@triton.jit(do_not_specialize=["number", "count"])
def spread(
    grad, grad_sum, base, sources, codes, base_scale, base_shift, scales, shifts, gain, valid, valids, grad_base,
    changes, parts, shape, grad_strides, grad_sum_strides, base_strides, to_strides, shapes, lengths, number, channels,
    cells, count,
    GRIDS: tl.constexpr, FEW: tl.constexpr, WALKS: tl.constexpr, RELU: tl.constexpr,
    PRODUCT: tl.constexpr, NEAREST: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A tile of the output: base first, then its contexts, for registers do not hold what both at once would keep.

    The gradient is read twice for that, the second time from a cache.
    ``changes`` are maps (N, length, W, C) of target rows or, of sources that are walked, of what each strip of target
    rows gives to source rows, ``parts`` (sums, N, C): those of base's affine, gain, affines of sources not walked.
    """
    n, begin, w, c, part = place(shape, channels, ROWS, COLUMNS, CHANNELS)
    height, width = map_size(shape)
    n = n.to(tl.int64)
    own_height, own_width = image_size(valid, n, height, width)
    mask = (w < own_width)[:, None] & (c < channels)[None, :]
    stored = (w < width)[:, None] & (c < channels)[None, :]
    end = tl.minimum(begin + ROWS, height)
    _spread_base(
        grad, grad_strides, grad_sum, grad_sum_strides, base, base_strides, base_scale, base_shift, grad_base,
        to_strides, parts, part, count, number, n, begin, end, own_height, w, c, channels, mask, stored, RELU, ACC,
    )  # fmt: skip
    if len(sources) > 0:
        taps = column_taps(shapes, valids, n, w, own_width, FEW, NEAREST, INDEX, ACC)
        first = part if base_scale is None else part + 2 * count
        _spread_contexts(
            grad, grad_strides, grad_sum, grad_sum_strides, sources, codes, scales, shifts, gain, changes, parts, first,
            count, shape, taps, shapes, lengths, number, n, begin, end, own_height, w, c, channels, cells, mask, GRIDS,
            FEW, WALKS, PRODUCT, NEAREST, INDEX, ROWS, ACC,
        )  # fmt: skip


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
    constants = pathway_constants(like, sources, valid, source_valid, grids, nearest)
    walks = tuple(few and source.shape[2] <= height for few, source in zip(constants["FEW"], sources, strict=True))
    # What a walked source collects, before gain and affine, float16 need not hold where it holds the gradients.
    wide = torch.float32 if like.dtype == torch.float16 else like.dtype
    options = tiles("dense_pathway_backward", like, itemsize=wide.itemsize)
    to_options = tiles("dense_pathway_backward.gather", like)
    count, tasks = programs(like, options)
    lengths = tuple(
        _slots(source.shape[2], height, options["ROWS"]) * blocks(height, options["ROWS"]) if walked else height
        for source, walked in zip(sources, walks, strict=True)
    )
    changes = [
        like.new_empty((number, length, width, channels), dtype=wide if walked else like.dtype)
        for length, walked in zip(lengths, walks, strict=True)
    ]
    # What a product's gain adds up over target pixels is also a sum over those of any source: gather takes the last's.
    later = gain is not None and product and sources and all(walks)
    # Of every sum: its result, and how many programs have a part of it; spread's come first, then each source's.
    summed = [(x, count) for x in (of_base[:2] if later else of_base) if x.ndim == 2]
    for pair, walked in zip(of_affines, walks, strict=True):
        summed += [(x, count) for x in pair if x.ndim == 2 and not walked]
    firsts = []
    for source, pair, walked in zip(sources, of_affines, walks, strict=True):
        firsts.append(sum(own for _, own in summed))
        summed += [(x, programs(source, to_options)[0]) for x in pair if x.ndim == 2 and walked]
    if later:
        summed.append((of_base[2], programs(sources[-1], to_options)[0]))
    parts = like.new_empty((sum(own for _, own in summed), number, channels), dtype=dtype)
    strides = tuple(None if x is None else x.stride() for x in (grad, grad_sum, base))
    small = tuple(codes), base_scale, base_shift, tuple(scales), tuple(shifts)
    shape, shapes = shape_of(like)[:2], tuple(shape_of(source) for source in sources)
    sizes = tuple(map(odd, lengths))
    launch(
        spread,
        tasks,
        grad,
        grad_sum,
        base,
        tuple(sources),
        *small,
        None if later else gain,
        valid,
        tuple(source_valid),
        grad_base,
        tuple(changes),
        parts,
        shape,
        *strides,
        grad_base.stride(),
        shapes,
        sizes,
        number,
        channels,
        sum(k * k for k in grids),
        count,
        WALKS=walks,
        RELU=relu,
        PRODUCT=product,
        **constants,
        **options,
    )
    if sources:
        launch(
            gather,
            sum(programs(source, to_options)[1] for source in sources),
            tuple(changes),
            tuple(sources),
            tuple(codes),
            tuple(scales),
            tuple(shifts),
            gain if later else None,
            tuple(grads),
            parts,
            valid,
            tuple(source_valid),
            shapes,
            tuple(shape_of(own) for own in grads),
            sizes,
            tuple(map(odd, firsts)),
            shape,
            number,
            channels,
            sum(k * k for k in grids),
            GRIDS=constants["GRIDS"],
            WALKS=walks,
            NEAREST=nearest,
            INDEX=constants["INDEX"],
            STRIP=options["ROWS"],
            ACC=acc,
            **to_options,
        )
    if summed:
        options = tiles("dense_pathway_backward.add", like)
        results, counts = zip(*summed, strict=True)
        tasks = len(results) * number * blocks(channels, options["CHANNELS"])
        launch(add_parts, tasks, parts, results, tuple(map(odd, counts)), number, channels, ACC=acc, **options)
    of_codes = _gradients_of_codes(grads, codes, source_valid, grids)
    found: list[Any] = [grad_base, *of_base]
    for own, code, pair in zip(grads, of_codes, of_affines, strict=True):
        found += [own, like.new_empty((0,), dtype=dtype) if code is None else code, *pair]
    return found


def _slots(source: int, target: int, strip: int) -> int:
    """The most source rows that a strip of target rows reads, of which there are as many or more."""
    return (strip - 1) * source // target + 3


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
