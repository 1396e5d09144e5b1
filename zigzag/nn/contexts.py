"""Encoders of context in place of RCE, after the methods that the paper's Table 2 compares it with.

Each gives R = F + what it reads from F, so that `zigzag.ops.dense_pathway` joins it like RCE's. Those whose context is
constant over the cells of a grid give codes and run fused; the convolutional ones write R. The paper does not spell out
how it fitted these methods into its network: sizes are those of their own papers, named at each class.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zigzag.config import NeckConfig
from zigzag.geometry import cell_areas
from zigzag.nn.region_context import RegionContext, parts_of
from zigzag.ops import dense_pathway, region_context, region_norm, region_stats
from zigzag.ops.arguments import accumulation_dtype
from zigzag.ops.region_context import Affine, widened


class GridContext(nn.Module):
    """R(h, w) = F(h, w) + sum_K Q_K(cell of (h, w)), with codes Q from the means over cells.

    Attributes:
        grids: K of every K x K grid.
    """

    grids: tuple[int, ...] = (1,)

    def encode(
        self, x: Tensor, valid: Tensor | None = None, norm: nn.GroupNorm | None = None
    ) -> tuple[Tensor, Tensor, Affine | None]:
        """As `RegionContext.encode`: x (N, C, H, W), codes (N, sum K*K, C), and a norm of R folded."""
        sums, power = region_stats(widened(x), self.grids, 0, valid=valid)
        height, width = x.shape[2:]
        rows, columns = (height, width) if valid is None else (valid[:, 0], valid[:, 1])
        areas = cell_areas(rows, columns, self.grids, None if valid is not None else x.device)
        means = sums / areas.to(sums).view(-1, sums.shape[1], 1).clamp(min=1)
        codes = self.codes(means.to(accumulation_dtype(x.dtype)))
        if norm is None:
            return x, codes, None
        weight, bias, groups, eps = parts_of(norm)
        affine = region_norm(
            sums,
            power,
            codes,
            self.grids,
            weight=weight,
            bias=bias,
            groups=groups,
            eps=eps,
            height=height,
            width=width,
            valid=valid,
        )
        return x, codes, affine

    def codes(self, means: Tensor) -> Tensor:
        """Codes (N, sum K*K, C) from the means over cells, of the same shape."""
        raise NotImplementedError


class ZoomOut(GridContext):
    """Fully connected layers on the mean of the image, Q = W2 relu(W1 mean F) (Mostajabi et al., CVPR 2015)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))

    def codes(self, means: Tensor) -> Tensor:
        """As `GridContext.codes`."""
        return cast(Tensor, self.layers(means))


class ParseNet(GridContext):
    """The image's mean at unit length, scaled per channel, Q = W (s * mean F / |mean F|) (Liu et al., 2015).

    ParseNet concatenates it with F before a convolution; the layer here is that convolution's share of it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 10.0))  # the paper's initial scale
        self.layer = nn.Linear(channels, channels)

    def codes(self, means: Tensor) -> Tensor:
        """As `GridContext.codes`."""
        return cast(Tensor, self.layer(self.scale * F.normalize(means, dim=2)))


class PyramidPooling(GridContext):
    """A layer and ReLU on the means over 1, 2 x 2, 3 x 3 and 6 x 6 cells (Zhao et al., CVPR 2017).

    PSPNet resizes them bilinearly; here each is constant over its cell, as RCE's codes are.
    """

    grids = (1, 2, 3, 6)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(channels, channels) for _ in self.grids)

    def codes(self, means: Tensor) -> Tensor:
        """As `GridContext.codes`."""
        parts = torch.split(means, [k * k for k in self.grids], 1)
        return torch.cat([F.relu(layer(part)) for layer, part in zip(self.layers, parts, strict=True)], 1)


class MapContext(nn.Module):
    """R = F + layers(F), a map of its own."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """R (N, C, H, W), 0 outside ``valid``, from x of the same shape, 0 there too."""
        region = x + self.context(x)
        return region if valid is None else cast(Tensor, dense_pathway(region, [], valid=valid))

    def encode(
        self, x: Tensor, valid: Tensor | None = None, norm: nn.GroupNorm | None = None
    ) -> tuple[Tensor, None, Affine | None]:
        """As `RegionContext.encode`: R itself (N, C, H, W) in the place of x, no codes, and a norm of R folded."""
        region = self(x, valid)
        if norm is None:
            return region, None, None
        region, _, affine = region_context(region, norm=parts_of(norm), valid=valid)
        return region, None, affine

    def context(self, x: Tensor) -> Tensor:
        """What is added to x (N, C, H, W)."""
        raise NotImplementedError


class LargeKernel(MapContext):
    """Separable 15 x 15 convolutions, (15 x 1, 1 x 15) + (1 x 15, 15 x 1) (Peng et al., CVPR 2017)."""

    def __init__(self, channels: int, size: int = 15) -> None:
        super().__init__()
        pad = size // 2  # no bias inside: what lies outside an image must stay 0 for the second convolution
        self.tall_first = nn.Sequential(
            nn.Conv2d(channels, channels, (size, 1), padding=(pad, 0), bias=False),
            nn.Conv2d(channels, channels, (1, size), padding=(0, pad)),
        )
        self.wide_first = nn.Sequential(
            nn.Conv2d(channels, channels, (1, size), padding=(0, pad), bias=False),
            nn.Conv2d(channels, channels, (size, 1), padding=(pad, 0)),
        )

    def context(self, x: Tensor) -> Tensor:
        """As `MapContext.context`."""
        return cast(Tensor, self.tall_first(x) + self.wide_first(x))


class AtrousPyramid(MapContext):
    """The sum of 3 x 3 convolutions at rates 6, 12, 18 and 24 (Chen et al., DeepLab v2, TPAMI 2017)."""

    def __init__(self, channels: int, rates: tuple[int, ...] = (6, 12, 18, 24)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=r, dilation=r) for r in rates)

    def context(self, x: Tensor) -> Tensor:
        """As `MapContext.context`."""
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


Encoder = RegionContext | GridContext | MapContext

_ENCODERS: dict[str, type[ZoomOut | ParseNet | PyramidPooling | LargeKernel | AtrousPyramid]] = {
    "zoom_out": ZoomOut,
    "parse_net": ParseNet,
    "pyramid_pooling": PyramidPooling,
    "large_kernel": LargeKernel,
    "atrous_pyramid": AtrousPyramid,
}


def grids_of(config: NeckConfig) -> tuple[int, ...]:
    """K of every grid of the codes of ``config.context``."""
    if config.context == "rce":
        return config.grids
    encoder = _ENCODERS[config.context]
    return encoder.grids if issubclass(encoder, GridContext) else (1,)


def context_of(config: NeckConfig) -> Encoder:
    """The encoder that ``config.context`` names, with weights of its own."""
    if config.context == "rce":
        return RegionContext(config.out_channels, config.grids, config.kernel_size, config.pool)
    encoder: Encoder = _ENCODERS[config.context](config.out_channels)
    return encoder
