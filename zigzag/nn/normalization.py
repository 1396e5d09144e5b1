"""GroupNorm without a pass over the map: statistics of the map, and its scale and shift from them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zigzag.ops import region_norm, region_stats

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


def folded(
    norm: nn.GroupNorm,
    x: Tensor,
    sums: Tensor,
    power: Tensor,
    codes: Tensor | None,
    grids: Sequence[int],
    valid: Tensor | None,
) -> Affine:
    """`zigzag.ops.region_norm`: ``norm`` of x (N, C, H, W), or of x and the region codes added to it, as an affine."""
    height, width = x.shape[2:]
    return region_norm(
        sums,
        power,
        codes,
        grids,
        weight=norm.weight,
        bias=norm.bias,
        groups=norm.num_groups,
        height=height,
        width=width,
        eps=norm.eps,
        valid=valid,
    )
