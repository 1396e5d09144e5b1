"""Shifted region sums and the power of a map (spec sections 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from zigzag import reference
from zigzag.backends import select
from zigzag.ops.arguments import autocast, check_grids, check_map, check_valid, without_autocast


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
    cells = check_grids(grids)
    if type(halo) is not int:
        raise TypeError(f"halo must be an integer, got {halo!r}")
    if halo < 0:
        raise ValueError(f"halo must be >= 0, got {halo}")
    if valid is not None:
        check_valid("valid", valid, x.shape[0], x.shape[2], x.shape[3])
    select(backend, x.device.type)
    if autocast(x):
        with without_autocast(x):
            return reference.region_stats(x, cells, halo, valid=valid)
    return reference.region_stats(x, cells, halo, valid=valid)
