"""GroupNorm without a pass over the map: folded to a scale and a shift from each channel's sum and sum of squares.

All of it is small and in float64: a variance is the difference of two sums, which in float32 would lose its digits
where the mean is large beside the deviation (and float32 products may be rounded by autocast or TF32).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zigzag.ops import region_stats

Affine = tuple[Tensor, Tensor]

FEW_PIXELS = 64
"""Maps of at most so many pixels are summed in float64: the few values of a group are often close to each other."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of small tensors beside maps of ``dtype``: float64 for float64, else float32."""
    return torch.promote_types(dtype, torch.float32)


def statistics(x: Tensor, grids: Sequence[int], halo: int, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """`zigzag.ops.region_stats` of x (N, C, H, W), float64 for maps of few pixels: (sums, power)."""
    few = x.shape[2] * x.shape[3] <= FEW_PIXELS
    return region_stats(x.double() if few else x, grids, halo, valid=valid)


def folded_group_norm(
    total: Tensor, power: Tensor, pixels: int | Tensor, norm: nn.GroupNorm, dtype: torch.dtype
) -> Affine:
    """The scale and shift with which ``scale * x + shift`` is ``norm(x)``.

        mean = total / n,  var = power / n - mean^2           over the n values in a group of channels
        scale = weight / sqrt(var + eps),  shift = bias - mean * scale

    Args:
        total: sum of x over the pixels of every channel, (N, C).
        power: sum of squares, (N, C).
        pixels: how many pixels were summed; an int, or integers (N, 1, 1), one for every image of a padded batch.
        norm: groups, eps, weight (C,) and bias (C,).
        dtype: of the result.

    Returns:
        (scale, shift), (N, C) each.
    """
    images, channels = power.shape
    size = channels // norm.num_groups
    moments = torch.stack((total, power)).view(2, images, norm.num_groups, size)
    mean, square = (moments.sum(3, keepdim=True, dtype=torch.float64) / (pixels * size)).unbind()
    deviation = torch.addcmul(square, mean, mean, value=-1).clamp(min=0).add(norm.eps).sqrt()
    scale = norm.weight.view(-1, size) / deviation
    shift = norm.bias.view(-1, size) - mean * scale
    return scale.view(power.shape).to(dtype), shift.view(power.shape).to(dtype)


def region_context_moments(
    sums: Tensor, power: Tensor, codes: Tensor, overlap: Tensor, first: int
) -> tuple[Tensor, Tensor]:
    """Sum and sum of squares of every channel of R = F + sum_K Q_K, from those of F (spec section 4).

        T_s      = S_s + sum_s' |s, s'| Q_s'             the sum of R over cell s
        sum(R)   = sum_s T_s                             over the cells of one grid
        sum(R^2) = sum(F^2) + sum_s Q_s (S_s + T_s)      over the cells of all grids

    Args:
        sums: S, the sums of F over every cell, (N, S, C).
        power: sum(F^2), (N, C).
        codes: Q, (N, S, C).
        overlap: |s, s'|, pixels that two cells share, (S, S) or (N, S, S), float64.
        first: how many cells the first grid has.

    Returns:
        (sum, sum of squares) of R, (N, C) each, float64.
    """
    sums, codes = sums.double(), codes.double()
    region = torch.baddbmm(sums, overlap.expand(len(sums), -1, -1), codes)
    return region[:, :first].sum(1), power + (codes * (sums + region)).sum(1)
