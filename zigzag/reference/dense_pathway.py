"""The dense pathway: a map plus the combined region contexts of other levels (Eqs. 1, 3; spec section 5)."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zigzag.geometry import cell_index, crop_images, membership, pad_images

Affine = tuple[Tensor, Tensor]


def dense_pathway(
    base: Tensor,
    sources: Sequence[Tensor],
    codes: Sequence[Tensor | None] | None = None,
    grids: Sequence[int] = (3, 5, 7),
    *,
    base_affine: Affine | None = None,
    base_relu: bool = False,
    source_affine: Sequence[Affine | None] | None = None,
    gain: Tensor | None = None,
    combine: Literal["product", "sum"] = "product",
    resize: Literal["linear", "nearest"] = "linear",
    residual: Tensor | None = None,
    valid: Tensor | None = None,
    source_valid: Sequence[Tensor | None] | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """act(base) + gain * combine_j resize(a_j * (sources[j] + codes[j][cell]) + b_j).

    sources[j] + codes[j][cell] is R^j (Eq. 6); with their product this is Eq. 1 and Eq. 3.

    Args:
        base: map P (N, C, H, W).
        sources: maps F^j (N, C, H_j, W_j) of other levels, in base's dtype; with none of them nothing is added.
        codes: per source (N, sum K*K, C) as `region_codes` returns them, or None.
        grids: K of every grid of the codes.
        base_affine: scale and shift (N, C) each, applied to base (a GroupNorm folded).
        base_relu: apply a ReLU to base, after the affine.
        source_affine: per source scale and shift (N, C) each, or None.
        gain: (C,), multiplies what is added.
        combine: how the sources are joined.
        resize: "linear" (bilinear with half-pixel centres up, area mean down, axis by axis) or "nearest".
        residual: map (N, C, H, W), for the second result.
        valid: (N, 2) integers, every image's own height and width in base; the results are 0 outside.
        source_valid: per source (N, 2) integers, or None.

    Returns:
        The map F (N, C, H, W) in base's dtype; with ``residual`` the pair (F, F + residual).
    """
    count = len(sources)
    codes = codes or [None] * count
    source_affine = source_affine or [None] * count
    pathway = partial(_pathway, grids=grids, base_relu=base_relu, gain=gain, combine=combine, resize=resize)
    if (valid is None and source_valid is None) or base.shape[0] == 0:
        output = pathway(base, sources, codes, base_affine, source_affine)
    else:
        source_valid = source_valid or [None] * count
        crops = [_crop(source, own) for source, own in zip(sources, source_valid, strict=True)]
        images = []
        for n, image in enumerate(_crop(base, valid)):
            own_codes = [None if code is None else code[n : n + 1] for code in codes]
            own_affine = [_of_image(affine, n) for affine in source_affine]
            own_sources = [crop[n] for crop in crops]
            images.append(pathway(image, own_sources, own_codes, _of_image(base_affine, n), own_affine))
        output = pad_images(images, base.shape[2], base.shape[3])
    if residual is None:
        return output
    if valid is not None and base.shape[0] > 0:
        residual = pad_images(crop_images(residual, valid), base.shape[2], base.shape[3])
    return output, output + residual


def _pathway(
    base: Tensor,
    sources: Sequence[Tensor],
    codes: Sequence[Tensor | None],
    base_affine: Affine | None,
    source_affine: Sequence[Affine | None],
    *,
    grids: Sequence[int],
    base_relu: bool,
    gain: Tensor | None,
    combine: Literal["product", "sum"],
    resize: Literal["linear", "nearest"],
) -> Tensor:
    """The equation of `dense_pathway`, for images that fill their maps."""
    height, width = base.shape[2:]
    output = base if base_affine is None else _affine(base, base_affine)
    output = F.relu(output) if base_relu else output
    contexts = []
    for source, code, affine in zip(sources, codes, source_affine, strict=True):
        region = source if code is None else _add_codes(source, code, grids)
        region = region if affine is None else _affine(region, affine)
        contexts.append(resize_map(region, height, width, resize))
    if not contexts:
        return output
    context = reduce(torch.mul if combine == "product" else torch.add, contexts)
    if gain is None:
        return output + context
    return torch.addcmul(output, context, gain.to(output.dtype)[:, None, None])


def resize_map(x: Tensor, height: int, width: int, resize: Literal["linear", "nearest"]) -> Tensor:
    """A map x (N, C, H, W) at another size, axis by axis (spec section 1).

    "linear": bilinear with half-pixel centres where an axis grows; where it shrinks the mean over the source rows
    floor(d*s/D)..ceil((d+1)*s/D) - 1. "nearest": source index floor(d*s/D), in integers.
    """
    if resize == "nearest":
        rows, columns = cell_index(height, x.shape[2], x.device), cell_index(width, x.shape[3], x.device)
        return x.permute(0, 2, 3, 1).index_select(2, columns).index_select(1, rows).permute(0, 3, 1, 2)
    up = (max(height, x.shape[2]), max(width, x.shape[3]))
    if x.shape[2:] != up:
        x = F.interpolate(x, up, mode="bilinear", align_corners=False)
    if up != (height, width):
        x = F.adaptive_avg_pool2d(x, (height, width))  # here its overlapping bins are the ones wanted
    return x


def _add_codes(source: Tensor, codes: Tensor, grids: Sequence[int]) -> Tensor:
    """R(h, w) = F(h, w) + sum_K Q_K(cell of (h, w)), Eq. 6.

    The rows are spread grid by grid, on small tensors; one product per row spreads all grids along it and adds F.
    """
    n, channels, height, width = source.shape
    codes = codes.to(source.dtype)
    by_row = []
    for cells, part in zip(grids, torch.split(codes, [cells * cells for cells in grids], 1), strict=True):
        row = cell_index(height, cells, source.device)
        by_row.append(part.view(n, cells, cells, channels).index_select(1, row))
    spread = torch.cat(by_row, 2).flatten(0, 1)  # (N*H, sum K, C)
    columns = torch.cat([membership(width, cells, 0, source.dtype, source.device) for cells in grids]).t()
    pixels = source.permute(0, 2, 3, 1)
    with torch.autocast(source.device.type, enabled=False):  # this product is a gather: in the map's own dtype
        region = torch.baddbmm(pixels.flatten(0, 1), columns.expand(n * height, -1, -1), spread)
    return region.view(pixels.shape).permute(0, 3, 1, 2)


def _affine(x: Tensor, affine: Affine) -> Tensor:
    scale, shift = (values.to(x.dtype)[:, :, None, None] for values in affine)
    return torch.addcmul(shift, x, scale)


def _crop(batch: Tensor, valid: Tensor | None) -> Sequence[Tensor]:
    return torch.split(batch, 1) if valid is None else crop_images(batch, valid)


def _of_image(affine: Affine | None, image: int) -> Affine | None:
    return None if affine is None else (affine[0][image : image + 1], affine[1][image : image + 1])
