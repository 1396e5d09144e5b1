"""dense_pathway in Triton, forward and backward. See zigzag/ops/dense_pathway.py for what it computes.

Forward is one launch: a program walks down the rows of a tile of the output and evaluates every source where it is
read. What depends on columns alone is found once, and codes are mixed anew only where a row of cells begins.
Backward gathers. One launch walks the output's tiles as forward does, recomputes the contexts and writes, besides the
gradient of base, that of each source's resized context; products are taken from both ends, nothing is divided. One
launch gathers these for the pixels of all sources. What is summed over pixels is summed per program and added up by one
more launch; the gradients of codes are region sums of those of the sources.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zigzag.kernels.dense_pathway_backward import dense_pathway_backward
from zigzag.kernels.dense_pathway_context import (
    affine,
    column_taps,
    contexts,
    no_codes,
    pathway_constants,
    pixel_offsets,
    place,
    programs,
    with_affines,
)
from zigzag.kernels.geometry import image_size, map_size
from zigzag.kernels.launch import launch, shape_of, tiles

__all__ = ["dense_pathway", "dense_pathway_backward"]

OptionalTensors = list[Tensor | None]


@triton.jit
def _combined(values, gain, c, channels, PRODUCT: tl.constexpr):
    """Gain * the product, or the sum, of the contexts."""
    total = values[0]
    for j in tl.static_range(1, len(values)):
        if PRODUCT:
            total = total * values[j]
        else:
            total = total + values[j]
    if gain is not None:
        total = total * tl.load(gain + c, mask=c < channels, other=0.0)[None, :]
    return total


@triton.jit
def evaluate(
    base, sources, codes, base_scale, base_shift, scales, shifts, gain, residual, valid, valids, output, output_sum,
    shape, shapes, residual_strides, to_strides, channels, cells,
    GRIDS: tl.constexpr, FEW: tl.constexpr, RELU: tl.constexpr, PRODUCT: tl.constexpr, NEAREST: tl.constexpr,
    INDEX: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A tile of the output, row by row."""
    n, begin, w, c, _ = place(shape, channels, ROWS, COLUMNS, CHANNELS)
    height, width = map_size(shape)
    _, _, sn, sc, sh, sw = shape
    own_height, own_width = image_size(valid, n, height, width)
    mask = (w < own_width)[:, None] & (c < channels)[None, :]
    stored = (w < width)[:, None] & (c < channels)[None, :]
    offsets = n.to(tl.int64) * sn + pixel_offsets(w, c, sw, sc)
    to_offsets = n.to(tl.int64) * to_strides[0] + pixel_offsets(w, c, to_strides[3], to_strides[1])
    taps = column_taps(shapes, valids, n, w, own_width, FEW, NEAREST, INDEX, ACC)
    known = no_codes(shapes, w, c, ACC)
    end = tl.minimum(begin + ROWS, height)
    for d in tl.range(begin, tl.minimum(end, own_height), disable_licm=True):
        row = tl.cast(d, tl.int64)
        result = affine(
            tl.load(base + row * sh + offsets, mask=mask, other=0.0).to(ACC), base_scale, base_shift, n, c, channels
        )
        if RELU:
            result = tl.where(result < 0, 0.0, result)
        if len(sources) > 0:
            values, known = contexts(
                sources, shapes, codes, taps, known, n, row, c, own_height, mask, channels, cells, GRIDS, FEW, NEAREST,
                INDEX, ACC,
            )  # fmt: skip
            result += _combined(with_affines(values, scales, shifts, n, c, channels), gain, c, channels, PRODUCT)
        to = row * to_strides[2] + to_offsets
        tl.store(output + to, tl.where(mask, result, 0.0).to(output.dtype.element_ty), mask=stored)
        if residual is not None:
            at = n.to(tl.int64) * residual_strides[0] + row * residual_strides[2]
            at += pixel_offsets(w, c, residual_strides[3], residual_strides[1])
            result += tl.load(residual + at, mask=mask, other=0.0).to(ACC)
            tl.store(output_sum + to, tl.where(mask, result, 0.0).to(output.dtype.element_ty), mask=stored)
    for d in range(tl.maximum(begin, own_height), end):
        to = tl.cast(d, tl.int64) * to_strides[2] + to_offsets
        nothing = tl.zeros([COLUMNS, CHANNELS], output.dtype.element_ty)
        tl.store(output + to, nothing, mask=stored)
        if residual is not None:
            tl.store(output_sum + to, nothing, mask=stored)


def dense_pathway(
    base: Tensor,
    sources: list[Tensor],
    codes: OptionalTensors,
    base_scale: Tensor | None,
    base_shift: Tensor | None,
    scales: OptionalTensors,
    shifts: OptionalTensors,
    gain: Tensor | None,
    residual: Tensor | None,
    valid: Tensor | None,
    source_valid: OptionalTensors,
    grids: list[int],
    relu: bool,
    product: bool,
    nearest: bool,
) -> list[Tensor]:
    """The output and, with a residual, their sum; in base's strides."""
    results = [torch.empty_like(base) for _ in range(1 if residual is None else 2)]
    options = tiles("dense_pathway", base)
    launch(
        evaluate,
        programs(base, options)[1],
        base,
        tuple(sources),
        tuple(codes),
        base_scale,
        base_shift,
        tuple(scales),
        tuple(shifts),
        gain,
        residual,
        valid,
        tuple(source_valid),
        results[0],
        results[-1],
        shape_of(base),
        tuple(shape_of(source) for source in sources),
        None if residual is None else residual.stride(),
        results[0].stride(),
        base.shape[1],
        sum(k * k for k in grids),
        RELU=relu,
        PRODUCT=product,
        **pathway_constants(base, sources, valid, source_valid, grids, nearest),
        **options,
    )
    return results
