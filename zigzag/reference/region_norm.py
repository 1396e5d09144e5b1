"""A GroupNorm of the region context without a pass over the map: scale and shift from region sums (spec section 4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zigzag.geometry import overlap


def region_norm(
    sums: Tensor,
    power: Tensor,
    codes: Tensor | None = None,
    grids: Sequence[int] = (3, 5, 7),
    *,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    height: int,
    width: int,
    eps: float = 1e-5,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scale and shift with which ``scale * R + shift`` is a GroupNorm of R = F + sum_K Q_K, from what is known of F.

        T_s      = S_s + sum_s' |s, s'| Q_s'             the sum of R over cell s; |s, s'| pixels are in both cells
        sum(R)   = sum_s T_s                             over the cells of the first grid
        sum(R^2) = sum(F^2) + sum_s Q_s (S_s + T_s)      over the cells of all grids
        mean = sum(R) / n,  var = sum(R^2) / n - mean^2  over the n values in a group of channels
        scale = weight / sqrt(var + eps),  shift = bias - mean * scale

    All of it in float64: a variance is the difference of two sums, which in float32 would lose its digits where the
    mean is large beside the deviation.

    Args:
        sums: S, the sums of F over every cell, (N, sum K*K, C).
        power: sum(F^2), (N, C).
        codes: Q, (N, sum K*K, C) as `region_codes` returns them; None where R is F itself.
        grids: K of every grid.
        weight: of the GroupNorm, (C,).
        bias: (C,), in the dtype of ``weight``.
        groups: into which the channels are divided.
        height: H of the map F.
        width: W of it.
        eps: added to the variance.
        valid: (N, 2) integers, every image's own height and width, in the place of ``height`` and ``width``.

    Returns:
        (scale, shift), (N, C) each; float64 for float64 parameters, float32 for all others.
    """
    rows: int | Tensor = height
    columns: int | Tensor = width
    if valid is not None:
        rows, columns = valid.to(sums.device, torch.int64).unbind(1)
    sums, power = sums.double(), power.double()
    region = sums
    if codes is not None:
        codes = codes.double()
        region = sums + overlap(rows, columns, grids, sums.device).double() @ codes
        power = power + (codes * (sums + region)).sum(1)
    total = region[:, : grids[0] ** 2].sum(1)

    images, channels = power.shape
    size = channels // groups
    values = rows * columns * size
    if isinstance(values, Tensor):
        values = values[:, None, None]
    mean, square = (moment.view(images, groups, size).sum(2, keepdim=True) / values for moment in (total, power))
    variance = square - mean.square()
    variance = variance.where(variance >= 0, 0)  # the gradient of a clamp at 0 is one thing or another
    scale = weight.double().view(groups, size) / (variance + eps).sqrt()
    shift = bias.double().view(groups, size) - mean * scale
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return scale.view(images, channels).to(dtype), shift.view(images, channels).to(dtype)
