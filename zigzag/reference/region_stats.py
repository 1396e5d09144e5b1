"""Shifted region sums of a map: what Eq. 5 needs of F once convolution and sum have commuted (spec section 4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zigzag.geometry import crop_images, membership


def region_stats(
    x: Tensor, grids: Sequence[int] = (3, 5, 7), halo: int = 1, *, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sums of x over every cell of every grid, shifted by every tap, and the sum of squares of every channel.

        sums[grid K, cell S, tap (a, b)] = sum over (h, w) in S of x[h + a - halo, w + b - halo], zero outside the map
        power                            = sum over (h, w) of x[h, w]^2

    Args:
        x: map (N, C, H, W), any floating dtype; channels_last is read without a copy.
        grids: K of every K x K partition of the map.
        halo: reach of the taps, 1 for 3x3 convolutions and 0 for 1x1.
        valid: (N, 2) integers, every image's own height and width; what lies outside is not read.

    Returns:
        sums (N, S, C) with S = sum of K*K*(2*halo + 1)^2, in the order grid, cell (row-major), tap (row-major), and
        power (N, C); both float32, or float64 for float64 maps.
    """
    if valid is not None and x.shape[0] > 0:
        images = [region_stats(image, grids, halo) for image in crop_images(x, valid)]
        return torch.cat([sums for sums, _ in images]), torch.cat([power for _, power in images])

    pixels = x.permute(0, 2, 3, 1)  # (N, H, W, C)
    if x.dtype != torch.float64:
        pixels = pixels.float()
    n, height, width, channels = pixels.shape
    taps = 2 * halo + 1

    # One product per row sums the columns for all grids and taps; the rows follow grid by grid, on much less.
    columns = torch.cat([membership(width, cells, halo, pixels.dtype, x.device) for cells in grids])
    sums = []
    with torch.autocast(x.device.type, enabled=False):  # these products are sums: never in low precision
        column_sums = columns @ pixels
        for cells, part in zip(grids, torch.split(column_sums, [cells * taps for cells in grids], 2), strict=True):
            rows = membership(height, cells, halo, pixels.dtype, x.device)
            by_axis = (rows @ part.flatten(2)).view(n, cells, taps, cells, taps, channels)
            sums.append(by_axis.transpose(2, 3).reshape(n, cells * cells * taps * taps, channels))
    return torch.cat(sums, 1), pixels.square().sum((1, 2))
