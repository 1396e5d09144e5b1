"""region_norm in Triton, forward and backward. See zigzag/ops/region_norm.py for what it computes.

One program folds one group of one image, a few channels at a time, all of it in float64 as everywhere. The pixels that
cells share are counted where they are multiplied; no table of them exists.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from zigzag.kernels.geometry import cells_of, image_size, line_span
from zigzag.kernels.launch import blocks, launch, power_of_two, tiles


@triton.jit
def _shared(first, own_first, end, own_end):
    """Rows (or columns) that two cells share."""
    common = tl.minimum(end[:, None], own_end[None, :]) - tl.maximum(first[:, None], own_first[None, :])
    return tl.maximum(common, 0).to(tl.float64)


@triton.jit
def _spans(s, height, width, GRIDS: tl.constexpr):
    """First and last row, first and last column of the cells numbered s; no pixels for numbers past the last."""
    cells, y, x, exists = cells_of(s, GRIDS)
    top, bottom = line_span(cells, y, 0, exists, height, 1)
    left, right = line_span(cells, x, 0, exists, width, 1)
    return top, bottom, left, right


@triton.jit
def _table(values, s, c, rows, stride, real):
    """Rows s of one image's table (S, C), in float64."""
    mask = (s < rows)[:, None] & real[None, :]
    return tl.load(values + s[:, None] * stride + c[None, :], mask=mask, other=0.0).to(tl.float64)


@triton.jit
def _region_sums(
    sums, codes, s, c, real, rows, row_stride, channels, height, width,
    GRIDS: tl.constexpr, CELLS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """T, the sums of R over the cells numbered s: those of F, and all cells' codes as often as they share a pixel."""
    total = _table(sums, s, c, rows, row_stride, real)
    if codes is not None:
        top, bottom, left, right = _spans(s, height, width, GRIDS)
        for chunk in range(CELLS // CHUNK):
            other = chunk * CHUNK + tl.arange(0, CHUNK)
            other_top, other_bottom, other_left, other_right = _spans(other, height, width, GRIDS)
            pixels = _shared(top, other_top, bottom, other_bottom) * _shared(left, other_left, right, other_right)
            q = _table(codes, other, c, rows, channels, real)
            total = tl.dot(pixels, q, total, out_dtype=tl.float64)
    return total


@triton.jit(do_not_specialize=["height", "width"])
def fold(
    sums, power, codes, weight, bias, scale, shift, moments, valid, height, width, channels, size, rows, core,
    image_stride, row_stride,
    EPS: tl.constexpr, GRIDS: tl.constexpr, CELLS: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Scale, shift, mean and variance of one group of one image."""
    groups = channels // size
    group = tl.program_id(0) % groups
    n = (tl.program_id(0) // groups).to(tl.int64)
    height, width = image_size(valid, n, height, width)
    sums += n * image_stride
    total = tl.zeros([CHANNELS], tl.float64)
    square = tl.zeros([CHANNELS], tl.float64)
    for block in range(tl.cdiv(size, CHANNELS)):
        own = block * CHANNELS + tl.arange(0, CHANNELS)
        real, c = own < size, group * size + own
        square += tl.load(power + n * channels + c, mask=real, other=0.0).to(tl.float64)
        for part in range(CELLS // ROWS):
            s = part * ROWS + tl.arange(0, ROWS)
            if codes is None:
                region = _region_sums(
                    sums, codes, s, c, real, rows, row_stride, channels, height, width, GRIDS, CELLS, CHUNK
                )
            else:
                of_image = codes + n * rows * channels
                region = _region_sums(
                    sums, of_image, s, c, real, rows, row_stride, channels, height, width, GRIDS, CELLS, CHUNK
                )
                both = region + _table(sums, s, c, rows, row_stride, real)
                square += tl.sum(_table(of_image, s, c, rows, channels, real) * both, 0)
            total += tl.sum(tl.where((s < core)[:, None], region, 0.0), 0)
    values = height.to(tl.float64) * width * size
    mean = tl.sum(total, 0) / values
    variance = tl.sum(square, 0) / values - mean * mean
    deviation = tl.sqrt(tl.maximum(variance, 0.0) + EPS)
    tl.store(moments + n * 2 * groups + group, mean)
    tl.store(moments + n * 2 * groups + groups + group, variance)
    for block in range(tl.cdiv(size, CHANNELS)):
        own = block * CHANNELS + tl.arange(0, CHANNELS)
        real, c = own < size, group * size + own
        factor = tl.load(weight + c, mask=real, other=0.0).to(tl.float64) / deviation
        offset = tl.load(bias + c, mask=real, other=0.0).to(tl.float64) - mean * factor
        tl.store(scale + n * channels + c, factor.to(scale.dtype.element_ty), mask=real)
        tl.store(shift + n * channels + c, offset.to(shift.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["number", "height", "width"])
def unfold(
    grad_scale, grad_shift, sums, codes, weight, moments, grad_sums, grad_power, grad_codes, by_image, number, valid,
    height, width, channels, size, rows, core, image_stride, row_stride,
    EPS: tl.constexpr, GRIDS: tl.constexpr, CELLS: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradients of one group of one image; ``by_image`` (2, N, C) is what it gives to weight and bias."""
    groups = channels // size
    group = tl.program_id(0) % groups
    n = (tl.program_id(0) // groups).to(tl.int64)
    height, width = image_size(valid, n, height, width)
    mean = tl.load(moments + n * 2 * groups + group)
    variance = tl.load(moments + n * 2 * groups + groups + group)
    deviation = tl.sqrt(tl.maximum(variance, 0.0) + EPS)
    of_mean = tl.zeros([CHANNELS], tl.float64)
    of_deviation = tl.zeros([CHANNELS], tl.float64)
    for block in range(tl.cdiv(size, CHANNELS)):
        own = block * CHANNELS + tl.arange(0, CHANNELS)
        real, c = own < size, group * size + own
        offset = tl.load(grad_shift + n * channels + c, mask=real, other=0.0).to(tl.float64)
        factor = tl.load(grad_scale + n * channels + c, mask=real, other=0.0).to(tl.float64)
        factor = (factor - offset * mean) / deviation
        tl.store(by_image + n * channels + c, factor, mask=real)
        tl.store(by_image + (number + n) * channels + c, offset, mask=real)
        by_deviation = tl.load(weight + c, mask=real, other=0.0).to(tl.float64) / deviation
        of_mean -= offset * by_deviation
        of_deviation -= factor * by_deviation
    of_variance = tl.where(variance < 0, 0.0, tl.sum(of_deviation, 0) / (2 * deviation))
    values = height.to(tl.float64) * width * size
    of_total = (tl.sum(of_mean, 0) - 2 * mean * of_variance) / values
    of_square = of_variance / values

    for block in range(tl.cdiv(size, CHANNELS)):
        own = block * CHANNELS + tl.arange(0, CHANNELS)
        real, c = own < size, group * size + own
        for part in range(CELLS // ROWS):
            s = part * ROWS + tl.arange(0, ROWS)
            at = (n * rows + s[:, None]) * channels + c[None, :]
            mask = (s < rows)[:, None] & real[None, :]
            of_sums = tl.where((s < core)[:, None], of_total, 0.0) + tl.zeros([ROWS, CHANNELS], tl.float64)
            if codes is not None:
                of_image = codes + n * rows * channels
                of_sums += 2 * of_square * _table(of_image, s, c, rows, channels, real)
                region = _region_sums(
                    sums + n * image_stride, of_image, s, c, real, rows, row_stride, channels, height, width, GRIDS,
                    CELLS, CHUNK,
                )  # fmt: skip
                top, bottom, left, right = _spans(s, height, width, GRIDS)
                areas = (bottom - top).to(tl.float64) * (right - left)
                of_codes = areas[:, None] * of_total + 2 * of_square * region
                tl.store(grad_codes + at, of_codes.to(grad_codes.dtype.element_ty), mask=mask)
            tl.store(grad_sums + at, of_sums.to(grad_sums.dtype.element_ty), mask=mask)
        square = tl.zeros([CHANNELS], tl.float64) + of_square
        tl.store(grad_power + n * channels + c, square.to(grad_power.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["number"])
def add_images(by_image, grad_weight, grad_bias, number, channels, CHANNELS: tl.constexpr):
    """The gradients of weight and bias, from those of every image in their order."""
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    of_weight = tl.zeros([CHANNELS], tl.float64)
    of_bias = tl.zeros([CHANNELS], tl.float64)
    for n in range(number):
        at = tl.cast(n, tl.int64) * channels
        of_weight += tl.load(by_image + at + c, mask=c < channels, other=0.0)
        of_bias += tl.load(by_image + tl.cast(number, tl.int64) * channels + at + c, mask=c < channels, other=0.0)
    tl.store(grad_weight + c, of_weight.to(grad_weight.dtype.element_ty), mask=c < channels)
    tl.store(grad_bias + c, of_bias.to(grad_bias.dtype.element_ty), mask=c < channels)


def _geometry(sums: Tensor, grids: list[int], groups: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Sizes and strides as both kernels take them, and the constants."""
    channels, rows = sums.shape[2], sums.shape[1]
    cells = power_of_two(rows, 16)
    sizes = channels, channels // groups, rows, grids[0] ** 2, sums.stride(0), sums.stride(1)
    first = [sum(k * k for k in grids[:g]) for g in range(len(grids))]
    options = tiles("region_norm", sums, 8)
    options["CHUNK"], options["ROWS"] = min(options["CHUNK"], cells), min(options["ROWS"], cells)
    return sizes, {"GRIDS": tuple(zip(grids, first, strict=True)), "CELLS": cells, **options}


def region_norm(
    sums: Tensor,
    power: Tensor,
    codes: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    grids: list[int],
    groups: int,
    height: int,
    width: int,
    eps: float,
    valid: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale and shift (N, C), and the mean and variance of every group (N, 2, groups)."""
    number, _, channels = sums.shape
    scale, shift = weight.new_empty((number, channels)), weight.new_empty((number, channels))
    moments = sums.new_empty((number, 2, groups), dtype=torch.float64)
    sizes, constants = _geometry(sums, grids, groups)
    tables = sums, power, codes, weight, bias, scale, shift, moments, valid
    launch(fold, number * groups, *tables, height, width, *sizes, EPS=eps, **constants)
    return scale, shift, moments


def region_norm_backward(
    grad_scale: Tensor,
    grad_shift: Tensor,
    sums: Tensor,
    codes: Tensor | None,
    weight: Tensor,
    moments: Tensor,
    grids: list[int],
    height: int,
    width: int,
    eps: float,
    valid: Tensor | None,
) -> list[Tensor]:
    """The gradients of sums, power, weight, bias and, where there are, codes."""
    number, rows, channels = sums.shape
    grads = [sums.new_empty((number, rows, channels)), sums.new_empty((number, channels))]
    grads += [torch.empty_like(weight), torch.empty_like(weight)]
    if codes is not None:
        grads.append(torch.empty_like(codes))
    by_image = moments.new_empty((2, number, channels))
    sizes, constants = _geometry(sums, grids, moments.shape[2])
    tables: tuple[Any, ...] = grad_scale, grad_shift, sums, codes, weight, moments, *grads[:2]
    tables = *tables, grads[4] if codes is not None else None, by_image, number, valid
    launch(unfold, number * moments.shape[2], *tables, height, width, *sizes, EPS=eps, **constants)
    options = tiles("region_norm.add", sums)
    launch(add_images, blocks(channels, options["CHANNELS"]), by_image, *grads[2:4], number, channels, **options)
    return grads
