"""Shifted region sums and the power of a map (spec sections 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zigzag import cost, reference
from zigzag.backends import select
from zigzag.ops import flops
from zigzag.ops.arguments import (
    accumulation_dtype,
    autocast,
    check_grids,
    check_map,
    check_valid,
    dense,
    sizes,
    without_autocast,
)
from zigzag.ops.registration import Arguments, Operation


def region_stats(
    x: Tensor,
    grids: Sequence[int] = (3, 5, 7),
    halo: int = 1,
    *,
    valid: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums of x over every cell of every grid, shifted by every tap, and the sum of squares of every channel.

        sums[grid K, cell S, tap (a, b)] = sum over (h, w) in S of x[h + a - halo, w + b - halo], zero outside the map
        power                            = sum over (h, w) of x[h, w]^2

    They are all that Eq. 5 needs of the map, convolution and sum being exchanged: a region convolution's sum over a
    cell is a product of its weight with the cell's shifted sums.

    Args:
        x: map (N, C, H, W); float64, float32, bfloat16 or float16.
        grids: K of every K x K partition of the map; row h is in cell floor(h*K/H).
        halo: reach of the taps in pixels, 1 for 3x3 convolutions and 0 for 1x1.
        valid: (N, 2) integers, every image's own height and width in pixels; what lies outside is not read.
        backend: name of the backend; None for that of `use_backend`, or else the fastest that can run.

    Returns:
        sums (N, S, C) with S = sum of K*K*(2*halo + 1)^2, in the order grid, cell (row-major), tap (row-major), and
        power (N, C); both float32, or float64 for float64 maps, under autocast too.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: an argument has a wrong shape or value.
        RuntimeError: the backend that was named cannot run.
    """
    check_map("x", x)
    cells, halo = check_statistics(grids, halo, "")
    if valid is not None:
        check_valid("valid", valid, x.shape[0], x.shape[2], x.shape[3])
    name = select(backend, "region_stats", x)
    if name != "reference":
        results: tuple[Tensor, Tensor] = operation.on(name)(dense(x), cells, halo, sizes(valid, x))
        return results
    if autocast(x):
        with without_autocast(x):
            return reference.region_stats(x, cells, halo, valid=valid)
    return reference.region_stats(x, cells, halo, valid=valid)


def check_statistics(grids: Any, halo: Any, prefix: str) -> tuple[list[int], int]:
    """The grids as a list of integers, and the halo; raises unless they are that, and calls them ``prefix`` grids."""
    cells = check_grids(grids, f"{prefix}grids")
    if type(halo) is not int:
        raise TypeError(f"{prefix}halo must be an integer, got {halo!r}")
    if halo < 0:
        raise ValueError(f"{prefix}halo must be >= 0, got {halo}")
    return cells, halo


def fake(x: Tensor, grids: list[int], halo: int, valid: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """The results of the operation as shapes and dtypes."""
    number, channels = x.shape[:2]
    rows = sum(cells * cells for cells in grids) * cost.taps(halo)
    dtype = accumulation_dtype(x.dtype)
    return x.new_empty((number, rows, channels), dtype=dtype), x.new_empty((number, channels), dtype=dtype)


def _fake_backward(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _setup_context(ctx: Any, args: Arguments, _: Any) -> None:
    x, ctx.grids, ctx.halo, valid = args
    ctx.save_for_backward(x, valid)


def _backward(
    ctx: Any, grad_sums: Tensor, grad_power: Tensor, others: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    """``others``: the gradient of x by what else read it, added before the sum is rounded."""
    x, valid = ctx.saved_tensors
    gradient = _gradient.on(ctx.backend)
    rest = None if others is None else dense(others.to(x.dtype))
    grad = gradient(x, grad_sums.contiguous(), grad_power.contiguous(), ctx.grids, ctx.halo, valid, rest)
    return grad, None, None, None


_gradient = Operation(
    "region_stats_backward(Tensor x, Tensor grad_sums, Tensor grad_power, int[] grids, int halo, Tensor? valid,"
    " Tensor? others) -> Tensor",
    _fake_backward,
)
operation = Operation(
    "region_stats(Tensor x, int[] grids, int halo, Tensor? valid) -> (Tensor, Tensor)",
    fake,
    _setup_context,
    _backward,
)


def _flops(x: Any, grids: list[int], halo: int, *_: Any, **__: Any) -> int:
    return cost.region_stats(x, grids, halo).flops


def _flops_backward(
    x: Any, _sums: Any, _power: Any, grids: list[int], halo: int, _valid: Any, others: Any, **_: Any
) -> int:
    return cost.region_stats(x, grids, halo, backward=True, others=others is not None).flops


flops.register(operation, _flops)
flops.register(_gradient, _flops_backward)
