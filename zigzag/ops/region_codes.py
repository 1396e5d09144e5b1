"""From region sums to region codes (Eqs. 5 and 6; spec sections 2, 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from zigzag import reference
from zigzag.backends import select
from zigzag.ops.arguments import (
    autocast,
    check_grids,
    check_option,
    check_shape,
    check_tensor,
    check_valid,
    without_autocast,
)

PARTS = ("conv_w", "conv_b", "aggregate_w", "aggregate_b", "distribute_w", "distribute_b")


def region_codes(
    sums: Tensor,
    branches: Sequence[Sequence[Tensor]],
    grids: Sequence[int] = (3, 5, 7),
    *,
    height: int,
    width: int,
    pool: Literal["sum", "mean"] = "sum",
    valid: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Codes Q_K of every grid from the shifted region sums of a map.

        region[S] = sum over taps of W[tap] . sums[S, tap] + |S| b    (pool "sum"; Eq. 5, convolution and sum exchanged)
        region[S] = the same / |S|                                    (pool "mean"; an empty cell gives 0 under both)
        Q_K       = deconvolution_KxK(relu(convolution_KxK(region)))  (Eq. 6)

    Args:
        sums: (N, S, C) as `region_stats` returns them, S = sum of K*K*k*k for region kernels of k x k.
        branches: for each K (conv_w (C, C, k, k), conv_b (C,), aggregate_w (C, C, K, K), aggregate_b (C,),
            distribute_w (C, C, K, K), distribute_b (C,)) in the layouts of nn.Conv2d, nn.Conv2d and
            nn.ConvTranspose2d and one dtype; contiguous and channels_last weights are read as they are.
        grids: K of every branch.
        height: H in pixels of the map that the sums were taken over.
        width: W of it.
        pool: what a branch takes over a cell.
        valid: (N, 2) integers, every image's own height and width, in the place of ``height`` and ``width``.
        backend: name of the backend; None for that of `use_backend`, or else the fastest that can run.

    Returns:
        Codes (N, sum K*K, C) in the order grid, cell (row-major), in the dtype of the branches, under autocast too:
        to read weights once costs less than to cast them.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: an argument has a wrong shape or value.
        RuntimeError: the backend that was named cannot run.
    """
    check_tensor("sums", sums)
    cells = check_grids(grids)
    _check_branches(sums, branches, cells)
    for name, size in (("height", height), ("width", width)):
        if size < 1:
            raise ValueError(f"{name} must be >= 1, got {size}")
    check_option("pool", pool, ("sum", "mean"))
    if valid is not None:
        check_valid("valid", valid, sums.shape[0], height, width)
    select(backend, sums.device.type)
    if autocast(sums):
        with without_autocast(sums):
            return reference.region_codes(sums, branches, cells, height=height, width=width, pool=pool, valid=valid)
    return reference.region_codes(sums, branches, cells, height=height, width=width, pool=pool, valid=valid)


def _check_branches(sums: Tensor, branches: Any, grids: list[int]) -> None:
    """Six parameters for each grid, of shapes that fit each other and the sums."""
    if sums.ndim != 3 or sums.shape[2] < 1:
        raise ValueError(f"sums must have the shape (N, S, C) with C >= 1, got {tuple(sums.shape)}")
    channels = sums.shape[2]
    if not isinstance(branches, (list, tuple)):
        raise TypeError(f"branches must be a list with one entry per grid, got {type(branches).__name__}")
    if len(branches) != len(grids):
        raise ValueError(f"branches must have one entry for each of {len(grids)} grids, got {len(branches)}")
    first, rows = None, 0
    for index, (branch, grid) in enumerate(zip(branches, grids, strict=True)):
        if len(branch) != len(PARTS):
            raise ValueError(f"branches[{index}] must be ({', '.join(PARTS)}), got {len(branch)} entries")
        for part, value in zip(PARTS, branch, strict=True):
            check_tensor(f"branches[{index}].{part}", value, sums.device)
            first = value if first is None else first
            if value.dtype != first.dtype:
                raise TypeError(
                    f"branches[{index}].{part} must be {first.dtype}, as the first parameter, got {value.dtype}"
                )
        kernel = branch[0].shape[-1] if branch[0].ndim else 0
        if kernel % 2 == 0:
            expected = "(C, C, k, k) with k odd"
            raise ValueError(f"branches[{index}].conv_w must have the shape {expected}, got {tuple(branch[0].shape)}")
        for position, (part, taps) in enumerate(zip(PARTS[::2], (kernel, grid, grid), strict=True)):
            weight, bias = branch[2 * position], branch[2 * position + 1]
            check_shape(f"branches[{index}].{part}", weight, (channels, channels, taps, taps), "(C, C, K, K)")
            check_shape(f"branches[{index}].{PARTS[2 * position + 1]}", bias, (channels,), "(C,)")
        rows += grid * grid * kernel * kernel
    if sums.shape[1] != rows:
        raise ValueError(f"sums must have {rows} rows for grids {grids} and these kernels, got {tuple(sums.shape)}")
