"""Position-sensitive RoI pooling by the rounding rules of FCIS (Li et al., CVPR 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zigzag import cost, reference
from zigzag.backends import select
from zigzag.ops import flops
from zigzag.ops.arguments import check_map, check_rois, check_size, check_valid, dense, sizes
from zigzag.ops.registration import Arguments, Operation


def position_sensitive_pool(
    x: Tensor,
    rois: Tensor,
    size: int = 21,
    groups: int = 7,
    *,
    stride: int,
    valid: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The mean of x over every bin of every RoI, each bin reading the channels of the cell that it lies in.

        pooled[r, d, p, q] = mean over (h, w) in bin (p, q) of x[n_r, (d*groups + i)*groups + j, h, w]
        with the cell i = floor(p*groups/size), j = floor(q*groups/size); 0 where a bin is empty

    The rules are those of the official code: corners are rounded to pixels, halves away from zero, and both belong to
    the RoI, which is at least a tenth of a step of the map high and wide; a bin is widened to whole steps and cut to
    the map. They are evaluated in integers (`zigzag.geometry.roi_bins`), where that code rounds float32. With
    ``groups=1`` all bins read the same channels.

    Args:
        x: maps (N, D*groups*groups, H, W); float64, float32, bfloat16 or float16.
        rois: (R, 5), float32 or float64: the index of an image and the corners x1, y1, x2, y2 in pixels. No gradient.
        size: bins of an RoI along an axis.
        groups: cells of an RoI along an axis, each with channels of its own.
        stride: pixels per step of the map.
        valid: (N, 2) integers, every image's own height and width in the map; what lies outside is not read.
        backend: name of the backend; None for that of `use_backend`, or else the fastest that can run.

    Returns:
        (R, D, size, size) in the dtype of x, channels_last; sums are float32, or float64 for float64 maps.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: an argument has a wrong shape or value. Values of ``rois`` on a GPU are not read: there an RoI of no
            image, or with a corner that is NaN, pools nothing and is 0.
        RuntimeError: the backend that was named cannot run.
    """
    check_map("x", x)
    for name, value in (("size", size), ("groups", groups), ("stride", stride)):
        check_size(name, value)
    if x.shape[1] % groups**2 != 0:
        raise ValueError(f"x must have a multiple of groups^2 = {groups**2} channels, got {x.shape[1]}")
    check_rois("rois", rois, x)
    if valid is not None:
        check_valid("valid", valid, x.shape[0], x.shape[2], x.shape[3])
    name = select(backend, "position_sensitive_pool", x)
    if name != "reference":
        pooled: Tensor = operation.on(name)(dense(x), rois.detach().contiguous(), size, groups, stride, sizes(valid, x))
        return pooled.permute(0, 3, 1, 2)
    return reference.position_sensitive_pool(x, rois.detach(), size, groups, stride=stride, valid=valid)


def _fake(x: Tensor, rois: Tensor, size: int, groups: int, stride: int, valid: Tensor | None) -> Tensor:  # noqa: ARG001
    return x.new_empty((rois.shape[0], size, size, x.shape[1] // groups**2))


def _fake_backward(
    grad: Tensor, _rois: Tensor, number: int, height: int, width: int, channels_last: Any, groups: int, *_: Any
) -> Tensor:
    channels = grad.shape[3] * groups**2
    return grad.new_empty((number, height, width, channels) if channels_last else (number, channels, height, width))


def _setup_context(ctx: Any, args: Arguments, _: Any) -> None:
    x, rois, _, ctx.groups, ctx.stride, valid = args
    ctx.save_for_backward(rois, valid)  # not x: a convolution that wrote it does not keep it either
    ctx.sizes = x.shape[0], x.shape[2], x.shape[3]
    ctx.channels_last = x.is_contiguous(memory_format=torch.channels_last)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rois, valid = ctx.saved_tensors
    gradient = _gradient.on(ctx.backend)
    written = gradient(grad.contiguous(), rois, *ctx.sizes, ctx.channels_last, ctx.groups, ctx.stride, valid)
    return written.permute(0, 3, 1, 2) if ctx.channels_last else written, None, None, None, None, None


# Pooled values and their gradient are (R, size, size, D), a gradient of maps (N, H, W, C) or (N, C, H, W).
_gradient = Operation(
    "position_sensitive_pool_backward(Tensor grad, Tensor rois, SymInt number, SymInt height, SymInt width,"
    " bool channels_last, int groups, int stride, Tensor? valid) -> Tensor",
    _fake_backward,
)
operation = Operation(
    "position_sensitive_pool(Tensor x, Tensor rois, int size, int groups, int stride, Tensor? valid) -> Tensor",
    _fake,
    _setup_context,
    _backward,
)


def _flops(x: Any, rois: Any, size: int, groups: int, *_: Any, **__: Any) -> int:
    return cost.position_sensitive_pool(x, rois[0], size, groups).flops


def _flops_backward(grad: Any, _: Any, number: int, height: int, width: int, *rest: Any, **__: Any) -> int:
    rois, size, _, outputs = grad
    groups = rest[1]
    shape = number, outputs * groups**2, height, width
    return cost.position_sensitive_pool(shape, rois, size, groups, backward=True).flops


flops.register(operation, _flops)
flops.register(_gradient, _flops_backward)
