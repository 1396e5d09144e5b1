"""position_sensitive_pool in Triton, forward and backward. See zigzag/ops/position_sensitive_pool.py for what it is.

A first kernel finds the bins of all RoIs. Forward: a program computes a row of an RoI's bins, all columns at once, some
channels of their cells. Backward: a program owns some pixels of one row of a map in one cell's channels, and adds up
what every RoI's bins give to them, in the RoIs' order: no atomics, and the same bits whatever the launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zigzag.kernels.geometry import cell_start, image_size, map_size, nearest_pixel, roi_bin
from zigzag.kernels.launch import accumulation, blocks, launch, power_of_two, shape_of, tiles


@triton.jit(do_not_specialize=["height", "width", "number"])
def find_bins(
    rois, images, spans, valid, height, width, number, stride, BINS: tl.constexpr, PADDED: tl.constexpr
):  # fmt: skip
    """The image of an RoI, and its bins' first rows, their ends, first columns and their ends, (4, BINS).

    Values are not checked on a GPU: of an RoI of no image, or with a corner that is NaN, all bins are empty.
    """
    r = tl.program_id(0)
    n, x1, y1 = tl.load(rois + 5 * r), tl.load(rois + 5 * r + 1), tl.load(rois + 5 * r + 2)
    x2, y2 = tl.load(rois + 5 * r + 3), tl.load(rois + 5 * r + 4)
    exists = (n >= 0) & (n < number) & (x1 == x1) & (y1 == y1) & (x2 == x2) & (y2 == y2)
    image = tl.where(exists, n, 0.0).to(tl.int32)
    height, width = image_size(valid, image, height, width)
    height = tl.where(exists, height, 0)
    p = tl.arange(0, PADDED)
    top, bottom = roi_bin(p, nearest_pixel(y1), nearest_pixel(y2), BINS, stride, height)
    left, right = roi_bin(p, nearest_pixel(x1), nearest_pixel(x2), BINS, stride, width)
    to = spans + r * (4 * BINS) + p
    tl.store(images + r, image)
    tl.store(to, top, mask=p < BINS)
    tl.store(to + BINS, bottom, mask=p < BINS)
    tl.store(to + 2 * BINS, left, mask=p < BINS)
    tl.store(to + 3 * BINS, right, mask=p < BINS)


@triton.jit
def pool_rois(
    x, images, spans, pooled, strides, outputs,
    BINS: tl.constexpr, COLUMNS: tl.constexpr, GROUPS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A row of bins of one RoI, CHANNELS outputs of each."""
    sn, sc, sh, sw = strides
    channel_blocks = tl.cdiv(outputs, CHANNELS)
    c = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    task = tl.program_id(0) // channel_blocks
    p, r = task % BINS, task // BINS
    spans += r * (4 * BINS)
    q = tl.arange(0, COLUMNS)
    top, bottom = tl.load(spans + p), tl.load(spans + BINS + p)
    left = tl.load(spans + 2 * BINS + q, mask=q < BINS, other=0)
    right = tl.load(spans + 3 * BINS + q, mask=q < BINS, other=0)
    cell = p * GROUPS // BINS * GROUPS + q * GROUPS // BINS
    channel = c[None, :] * (GROUPS * GROUPS) + cell[:, None]
    x += tl.load(images + r).to(tl.int64) * sn
    offsets = channel.to(tl.int64) * sc + left[:, None].to(tl.int64) * sw
    real = (c < outputs)[None, :]
    total = tl.zeros([COLUMNS, CHANNELS], ACC)
    longest = tl.max(right - left, 0)
    for h in range(top, bottom):
        for w in range(longest):
            inside = (left + w < right)[:, None] & real
            at = x + tl.cast(h, tl.int64) * sh + offsets + tl.cast(w, tl.int64) * sw
            total += tl.load(at, mask=inside, other=0.0).to(ACC)
    area = (bottom - top) * (right - left)
    mean = total / tl.maximum(area, 1).to(ACC)[:, None]
    to = pooled + (tl.cast(task * BINS, tl.int64) + q[:, None]) * outputs + c[None, :]
    tl.store(to, mean.to(pooled.dtype.element_ty), mask=(q < BINS)[:, None] & real)


@triton.jit(do_not_specialize=["count"])
def spread_rois(
    grad, images, spans, grad_x, shape, count, outputs,
    BINS: tl.constexpr, COLUMNS: tl.constexpr, GROUPS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The gradient of COLUMNS pixels of a row, of CHANNELS channels of one cell."""
    height, width = map_size(shape)
    _, _, sn, sc, sh, sw = shape
    channel_blocks = tl.cdiv(outputs, CHANNELS)
    c = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    task = tl.program_id(0) // channel_blocks
    y, x = task // GROUPS % GROUPS, task % GROUPS
    task = task // (GROUPS * GROUPS)
    column_blocks = tl.cdiv(width, COLUMNS)
    begin = task % column_blocks * COLUMNS
    w = begin + tl.arange(0, COLUMNS)
    h = task // column_blocks % height
    own = task // column_blocks // height
    real = c < outputs
    total = tl.zeros([COLUMNS, CHANNELS], ACC)
    first_p, end_p = cell_start(y, BINS, GROUPS), cell_start(y + 1, BINS, GROUPS)
    first_q, end_q = cell_start(x, BINS, GROUPS), cell_start(x + 1, BINS, GROUPS)
    for r in range(count):
        if tl.load(images + r) == own:
            for p in range(first_p, end_p):
                top, bottom = tl.load(spans + p), tl.load(spans + BINS + p)
                if (top <= h) & (h < bottom):
                    for q in range(first_q, end_q):
                        left, right = tl.load(spans + 2 * BINS + q), tl.load(spans + 3 * BINS + q)
                        if (left < begin + COLUMNS) & (begin < right) & (left < right):
                            at = (tl.cast(r * BINS + p, tl.int64) * BINS + q) * outputs
                            share = tl.load(grad + at + c, mask=real, other=0.0).to(ACC)
                            share = share / ((bottom - top) * (right - left)).to(ACC)
                            inside = (w >= left) & (w < right)
                            total += tl.where(inside[:, None], share[None, :], 0.0)
        spans += 4 * BINS
    channel = c * (GROUPS * GROUPS) + y * GROUPS + x
    to = grad_x + tl.cast(own, tl.int64) * sn + tl.cast(h, tl.int64) * sh
    to += w[:, None].to(tl.int64) * sw + channel[None, :].to(tl.int64) * sc
    tl.store(to, total.to(grad_x.dtype.element_ty), mask=(w < width)[:, None] & real[None, :])


def _bins_of(
    rois: Tensor, number: int, height: int, width: int, size: int, stride: int, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What `find_bins` finds of all RoIs: (R,) and (R, 4, size), int32."""
    images = rois.new_empty(rois.shape[0], dtype=torch.int32)
    spans = rois.new_empty((rois.shape[0], 4, size), dtype=torch.int32)
    launch(
        find_bins,
        rois.shape[0],
        rois,
        images,
        spans,
        valid,
        height,
        width,
        number,
        stride,
        BINS=size,
        PADDED=power_of_two(size),
        num_warps=1,
    )
    return images, spans


def position_sensitive_pool(
    x: Tensor, rois: Tensor, size: int, groups: int, stride: int, valid: Tensor | None
) -> Tensor:
    """The pooled values (R, size, size, D)."""
    number, channels, height, width = x.shape
    outputs = channels // groups**2
    if number == 0:  # RoIs of no image, and no image's size to read
        return x.new_zeros((rois.shape[0], size, size, outputs))
    images, spans = _bins_of(rois, number, height, width, size, stride, valid)
    pooled = x.new_empty((rois.shape[0], size, size, outputs))
    options = _tiles("position_sensitive_pool", x, outputs)
    launch(
        pool_rois,
        rois.shape[0] * size * blocks(outputs, options["CHANNELS"]),
        x,
        images,
        spans,
        pooled,
        x.stride(),
        outputs,
        BINS=size,
        COLUMNS=power_of_two(size),
        GROUPS=groups,
        ACC=accumulation(x.dtype)[1],
        **options,
    )
    return pooled


def position_sensitive_pool_backward(
    grad: Tensor,
    rois: Tensor,
    number: int,
    height: int,
    width: int,
    channels_last: bool,
    groups: int,
    stride: int,
    valid: Tensor | None,
) -> Tensor:
    """The gradient of the maps, (N, H, W, C) if ``channels_last`` and (N, C, H, W) if not."""
    count, size, _, outputs = grad.shape
    channels = outputs * groups**2
    written = grad.new_empty((number, height, width, channels) if channels_last else (number, channels, height, width))
    grad_x = written.permute(0, 3, 1, 2) if channels_last else written
    if number == 0:
        return written
    images, spans = _bins_of(rois, number, height, width, size, stride, valid)
    options = _tiles("position_sensitive_pool_backward", grad_x, outputs)
    tasks = number * height * blocks(width, options["COLUMNS"]) * groups**2
    launch(
        spread_rois,
        tasks * blocks(outputs, options["CHANNELS"]),
        grad,
        images,
        spans,
        grad_x,
        shape_of(grad_x),
        count,
        outputs,
        BINS=size,
        GROUPS=groups,
        ACC=accumulation(grad.dtype)[1],
        **options,
    )
    return written


def _tiles(kernel: str, maps: Tensor, outputs: int) -> dict[str, int]:
    """A tile, no wider than there are outputs."""
    options = tiles(kernel, maps)
    options["CHANNELS"] = min(options["CHANNELS"], power_of_two(outputs))
    return options
