"""From region sums to region codes: the small middle of Region Context Encoding (Eqs. 5, 6; spec sections 2 and 4)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zigzag.geometry import cell_areas


def region_codes(
    sums: Tensor,
    branches: Sequence[Sequence[Tensor]],
    grids: Sequence[int] = (3, 5, 7),
    *,
    height: int,
    width: int,
    pool: Literal["sum", "mean"] = "sum",
    valid: Tensor | None = None,
) -> Tensor:
    """Codes Q_K of every grid from the shifted region sums of the map.

        region[S] = sum over taps of W[tap] . sums[S, tap] + |S| b    (pool "sum"; Eq. 5, convolution and sum commuted)
        region[S] = the same / |S|                                    (pool "mean"; an empty cell gives 0 under both)
        Q_K       = deconvolution_KxK(relu(convolution_KxK(region)))  (Eq. 6)

    Args:
        sums: (N, S, C) as `region_stats` returns them; the halo follows from the size of the region kernel.
        branches: for each K (conv_w (C, C, k, k), conv_b (C,), aggregate_w (C, C, K, K), aggregate_b (C,),
            distribute_w (C, C, K, K), distribute_b (C,)), as in nn.Conv2d, nn.Conv2d and nn.ConvTranspose2d;
            contiguous or channels_last, neither is copied.
        grids: K of every branch.
        height: H of the map that the sums were taken over.
        width: W of it.
        pool: what the branch takes over a cell.
        valid: (N, 2) integers, every image's own height and width, in the place of ``height`` and ``width``.

    Returns:
        Codes (N, sum K*K, C) in the order grid, cell (row-major), in the dtype of the branches.
    """
    n, _, channels = sums.shape
    if valid is None:
        areas = cell_areas(height, width, grids, sums.device)[None]
    else:
        areas = cell_areas(valid[:, 0], valid[:, 1], grids).to(sums.device)
    taps = [branch[0].shape[2] * branch[0].shape[3] for branch in branches]
    cells = [k * k for k in grids]
    parts = torch.split(sums, [c * t for c, t in zip(cells, taps, strict=True)], 1)
    codes = []
    for k, tap, part, area, branch in zip(grids, taps, parts, torch.split(areas, cells, 1), branches, strict=True):
        conv_w, conv_b, aggregate_w, aggregate_b, distribute_w, distribute_b = branch
        area = area[..., None].to(part.dtype)
        if pool == "mean":
            part = part / area.clamp(min=1).repeat_interleave(tap, 1)
            area = area.clamp(max=1)
        windows = part.reshape(n * k * k, tap, channels).to(conv_w.dtype)
        region = _convolve(windows, conv_w).view(n, k * k, channels) + area.to(conv_w.dtype) * conv_b
        encoded = F.relu(_convolve(region, aggregate_w) + aggregate_b)
        codes.append(_deconvolve(encoded, distribute_w) + distribute_b)
    return torch.cat(codes, 1)


def _convolve(windows: Tensor, weight: Tensor) -> Tensor:
    """A convolution whose kernel covers its whole input, in the memory order of the weight: (M, k*k, C) -> (M, O)."""
    if weight.is_contiguous():
        return F.linear(windows.transpose(1, 2).flatten(1), weight.flatten(1))
    return F.linear(windows.flatten(1), weight.permute(0, 2, 3, 1).flatten(1))


def _deconvolve(vectors: Tensor, weight: Tensor) -> Tensor:
    """A transposed convolution of one pixel, in the memory order of the weight: (N, C) -> (N, K*K, O)."""
    n, outputs, k = vectors.shape[0], weight.shape[1], weight.shape[2]
    if weight.is_contiguous():
        return (vectors @ weight.flatten(1)).view(n, outputs, k * k).transpose(1, 2)
    return (vectors @ weight.permute(0, 2, 3, 1).flatten(1)).view(n, k * k, outputs)
