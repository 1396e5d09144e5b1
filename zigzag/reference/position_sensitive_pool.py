"""Position-sensitive RoI pooling by the rounding rules of FCIS (Li et al., CVPR 2017)."""

import torch
from torch import Tensor

from zigzag.geometry import cell_index, nearest_pixel, roi_bins


def position_sensitive_pool(
    x: Tensor, rois: Tensor, size: int = 21, groups: int = 7, *, stride: int, valid: Tensor | None = None
) -> Tensor:
    """The mean of x over every bin of every RoI, each bin reading the channels of the cell that it lies in.

        pooled[r, d, p, q] = mean over (h, w) in bin (p, q) of x[n_r, (d*groups + i)*groups + j, h, w]
        with the cell i = floor(p*groups/size), j = floor(q*groups/size); 0 where a bin is empty

    Args:
        x: maps (N, D*groups*groups, H, W), any floating dtype.
        rois: (R, 5), the index of an image and the corners x1, y1, x2, y2 in pixels, which belong to the RoI.
        size: bins of an RoI along an axis.
        groups: cells of an RoI along an axis, each with channels of its own.
        stride: pixels per step of the map.
        valid: (N, 2) integers, every image's own height and width in the map; bins are cut to it.

    Returns:
        (R, D, size, size), in the dtype of x.
    """
    number, channels, height, width = x.shape
    if valid is None:
        valid = torch.tensor([[height, width]] * number, dtype=torch.int64).reshape(-1, 2)
    image = rois[:, 0].long()
    left, top, right, bottom = nearest_pixel(rois[:, 1:]).unbind(1)
    heights, widths = valid.to(rois.device, torch.int64)[image].unbind(1)
    rows, row_counts = _membership(*roi_bins(top, bottom, size, stride, heights), height, groups)
    columns, column_counts = _membership(*roi_bins(left, right, size, stride, widths), width, groups)
    cells = x.reshape(number, channels // groups**2, groups, groups, height, width)
    if x.dtype != torch.float64:
        cells = cells.float()
    pooled = [x[:0, :1, :1, :1].expand(0, channels // groups**2, size, size)]
    with torch.autocast(x.device.type, enabled=False):  # these products are sums: never in low precision
        for r, n in enumerate(image.tolist()):
            own = cells[n, :, :, :, : heights[r], : widths[r]]
            over_rows = torch.einsum("dijhw,pih->djwp", own, rows[r, :, :, : heights[r]].to(own.dtype))
            sums = torch.einsum("djwp,qjw->dpq", over_rows, columns[r, :, :, : widths[r]].to(own.dtype))
            areas = row_counts[r, :, None] * column_counts[r]
            pooled.append((sums / areas.clamp(min=1)).to(x.dtype)[None])
    return torch.cat(pooled)


def _membership(first: Tensor, end: Tensor, size: int, groups: int) -> tuple[Tensor, Tensor]:
    """(R, bins, groups, size), true for the rows of a bin in the cell of the bin, and (R, bins) how many they are."""
    row = torch.arange(size, device=first.device)
    inside = (row >= first[..., None]) & (row < end[..., None])
    bins = first.shape[1]
    own = cell_index(bins, groups, first.device)[:, None] == torch.arange(groups, device=first.device)
    return inside[:, :, None, :] & own[..., None], inside.sum(-1)
