"""Integer geometry: regions, overlaps, membership matrices and images inside a padded batch (spec sections 1, 2 and 5).

The only copy of these formulas in Python. All are integer expressions of the sizes: float32 index arithmetic picks
wrong cells (H = 123, K = 3). A size is an ``int`` (symbolic while tracing) or, where a function says so, an integer
tensor with one size per image.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Device = torch.device | str | None


def cell_index(size: int, cells: int, device: Device = None) -> Tensor:
    """The cell of every row: floor(h * cells / size), (size,) int64.

    The source index of a nearest resize, floor(d * source / target), is the same function:
    ``cell_index(target, source)``.
    """
    return torch.arange(size, device=device) * cells // size


def cell_starts(size: int | Tensor, cells: int, device: Device = None) -> Tensor:
    """First row of every cell and the end: ceil(y * size / cells) for y = 0..cells, (..., cells + 1) int64.

    Cell y holds rows starts[y]..starts[y + 1] - 1; with size < cells some are empty. ``size``: an int, or an integer
    tensor (...,), whose device is then used.
    """
    if isinstance(size, Tensor):
        size, device = size.long()[..., None], size.device
    return (torch.arange(cells + 1, device=device) * size + cells - 1) // cells


def cell_areas(height: int | Tensor, width: int | Tensor, grids: Sequence[int], device: Device = None) -> Tensor:
    """|S|, the pixels in every cell: (..., sum K*K) int64 in the order grid, cell (row-major).

    ``height`` and ``width``: ints, or integer tensors (...,) with one size per image.
    """
    areas = []
    for cells in grids:
        rows = cell_starts(height, cells, device).diff()
        columns = cell_starts(width, cells, device).diff()
        areas.append((rows[..., :, None] * columns[..., None, :]).flatten(-2))
    return torch.cat(areas, -1)


def overlap(height: int | Tensor, width: int | Tensor, grids: Sequence[int], device: Device = None) -> Tensor:
    """Pixels that two cells (of any two grids) share: (..., S, S) int64, S = sum K*K, ordered as `cell_areas`.

    Separable: the rows that two cells share times the columns. ``height`` and ``width`` as in `cell_areas`.
    """
    return _shared_axis(height, grids, device, axis=0) * _shared_axis(width, grids, device, axis=1)


def _shared_axis(size: int | Tensor, grids: Sequence[int], device: Device, axis: int) -> Tensor:
    """Rows (axis 0) or columns (axis 1) that two cells share: (..., S, S)."""
    first, end = [], []
    for cells in grids:
        starts = cell_starts(size, cells, device)
        cell = torch.arange(cells * cells, device=starts.device)
        index = cell // cells if axis == 0 else cell % cells
        first.append(starts[..., index])
        end.append(starts[..., index + 1])
    firsts, ends = torch.cat(first, -1), torch.cat(end, -1)
    lowest_end = torch.minimum(ends[..., :, None], ends[..., None, :])
    return (lowest_end - torch.maximum(firsts[..., :, None], firsts[..., None, :])).clamp(min=0)


def membership(size: int, cells: int, halo: int, dtype: torch.dtype, device: Device = None) -> Tensor:
    """0/1 matrix that sums an axis over every cell, shifted by every tap: (cells * (2*halo + 1), size).

    Row y * (2*halo + 1) + a has a one at p where row h = p - a + halo exists and lies in cell y, so that
    ``membership @ x`` is the sum over h in cell y of x[h + a - halo], zero outside the map (spec section 4).
    """
    taps = torch.arange(2 * halo + 1, device=device)
    row = torch.arange(size, device=device) - taps[:, None] + halo
    cell = row * cells // size  # below 0 or at least `cells` where the row does not exist: it matches no cell
    return (cell == torch.arange(cells, device=device)[:, None, None]).flatten(0, 1).to(dtype)


def level_sizes(
    image_sizes: Tensor | Sequence[Sequence[int]], strides: Sequence[int], device: Device = None
) -> list[Tensor]:
    """Height and width of every image at every level, ceil(pixels / stride): a list of (N, 2) int64, one per stride."""
    sizes = torch.as_tensor(image_sizes, dtype=torch.int64).reshape(-1, 2)
    at_levels = sizes_at(sizes, list(strides))
    return list(at_levels.to(device, non_blocking=sizes.device.type == "cpu").unbind())


def sizes_at(sizes: Tensor, strides: list[int]) -> Tensor:
    """As `level_sizes`, all in one tensor (levels, N, 2), from integers (N, 2); TorchScript."""
    return torch.stack([(sizes + stride - 1) // stride for stride in strides])


def nearest_pixel(coordinates: Tensor) -> Tensor:
    """Coordinates rounded to int64, halves away from zero as C's ``round``; within +-2^30, beyond any map."""
    whole = coordinates.trunc()
    rounded = whole + ((coordinates - whole).abs() >= 0.5) * coordinates.sign()
    return rounded.clamp(-(2.0**30), 2.0**30).long()


def roi_bins(first: Tensor, last: Tensor, bins: int, stride: int, size: int | Tensor) -> tuple[Tensor, Tensor]:
    """The rows first..end - 1 of a map that every bin of an RoI pools along one axis: a pair (first, end) of (R, bins).

    Li et al. (CVPR 2017), official code: the RoI covers its first to its last pixel, both included, at least a tenth of
    a row of the map; a bin is widened to whole rows and cut to the map. In integers, in units of 1 / (10 bins stride)
    of a row, where that code rounds float32.

    Args:
        first: (R,) int64, the RoIs' first pixel, from `nearest_pixel`.
        last: their last pixel, likewise.
        bins: that each is cut into.
        stride: pixels per row.
        size: rows of the map, an int, or (R,) those of each RoI's own image.
    """
    length = (10 * (last + 1 - first)).clamp(min=stride)
    edges = 10 * bins * first[:, None] + length[:, None] * torch.arange(bins + 1, device=first.device)
    unit = 10 * bins * stride
    most = torch.as_tensor(size, device=first.device).reshape(-1, 1)
    starts, ends = edges[:, :-1] // unit, (edges[:, 1:] + unit - 1) // unit
    return starts.clamp(min=0).minimum(most), ends.clamp(min=0).minimum(most)


def inside(valid: Tensor, height: int, width: int) -> Tensor:
    """True where a pixel of a padded batch is its image's: (N, 1, height, width), from ``valid`` (N, 2)."""
    rows = torch.arange(height, device=valid.device)[None, :, None] < valid[:, 0, None, None]
    columns = torch.arange(width, device=valid.device)[None, None, :] < valid[:, 1, None, None]
    return (rows & columns)[:, None]


def crop_images(batch: Tensor, valid: Tensor) -> list[Tensor]:
    """Each image of a padded batch (N, C, H, W) alone: N views (1, C, h, w), with (h, w) from ``valid`` (N, 2)."""
    return [batch[n : n + 1, :, :h, :w] for n, (h, w) in enumerate(valid.tolist())]


def pad_images(images: Sequence[Tensor], height: int, width: int) -> Tensor:
    """The inverse of `crop_images`: N images (1, C, h, w) in a batch (N, C, height, width) that is 0 outside them."""
    return torch.cat([F.pad(image, (0, width - image.shape[3], 0, height - image.shape[2])) for image in images])
