"""Position-sensitive score maps of a pyramid, and what regions read from them (Li et al., CVPR 2017)."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops.poolers import LevelMapper

from zigzag.geometry import level_sizes
from zigzag.models.detection import RoILevels
from zigzag.models.pyramid import NAMES, STRIDES, Sizes
from zigzag.ops import position_sensitive_pool

CELLS = 7
"""k: an RoI has k x k cells, each with score maps of its own."""
BINS = 21


class PositionSensitiveScores(nn.Module):
    """A 1x1 convolution to k^2 score maps for every output, shared by all levels, pooled over 21 x 21 bins of a region.

    Convolution and pooling are linear and commute, exactly. Where that takes fewer products, which it does wherever
    a map has more than nine pixels for a region, the map is pooled first, and the weights of each cell meet its bins:
    score maps of 49 channels for every output (7,938 in FCIS on COCO) never exist.

    Args:
        channels: of the maps.
        outputs: scores of every bin.
        levels: that a region reads, by "box size" or the "sum" over all of them.
    """

    def __init__(self, channels: int, outputs: int, levels: RoILevels) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, outputs * CELLS**2, 1)
        nn.init.normal_(self.convolution.weight, std=0.01)
        nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]
        self.levels = levels
        self.map_levels = LevelMapper(2, 5)

    def forward(self, maps: Mapping[str, Tensor], boxes: Sequence[Tensor], image_sizes: Sizes) -> Tensor:
        """(R, outputs, 21, 21) for the boxes of all images, one image's after the other.

        Args:
            maps: "0".."3", (N, C, H_i, W_i) at strides 4 to 32.
            boxes: (n, 4) for every image: x1, y1, x2, y2 in pixels, x2 and y2 outside the box.
            image_sizes: every image's own height and width in pixels.
        """
        index = torch.cat([box.new_full((len(box), 1), n) for n, box in enumerate(boxes)])
        corners = torch.cat(list(boxes))
        rois = torch.cat([index, corners[:, :2], corners[:, 2:] - 1], 1)  # pooling's last corner lies inside
        strides = STRIDES[:-1]
        valid = level_sizes(image_sizes, strides, rois.device)
        levels = list(zip([maps[name] for name in NAMES[:-1]], strides, valid, strict=True))
        if self.levels == "sum":
            return torch.stack([self.at_level(x, rois, stride, own) for x, stride, own in levels]).sum(0)
        level = self.map_levels(list(boxes))
        members = [torch.nonzero(level == i)[:, 0] for i in range(len(levels))]
        scores = [self.at_level(x, rois[own], stride, v) for own, (x, stride, v) in zip(members, levels, strict=True)]
        return torch.cat(scores)[torch.cat(members).argsort()]

    def at_level(self, x: Tensor, rois: Tensor, stride: int, valid: Tensor) -> Tensor:
        """As `forward`, of one map (N, C, H, W), for RoIs (R, 5) as `position_sensitive_pool` takes them."""
        number, _, height, width = x.shape
        if len(rois) * BINS**2 < number * height * width * CELLS**2:
            return self.pooled_first(x, rois, stride, valid)
        return position_sensitive_pool(self.convolution(x), rois, BINS, CELLS, stride=stride, valid=valid)

    def pooled_first(self, x: Tensor, rois: Tensor, stride: int, valid: Tensor) -> Tensor:
        """The same as pooling the score maps, which are not made."""
        bias = cast(Tensor, self.convolution.bias)
        pooled = position_sensitive_pool(x, rois, BINS, 1, stride=stride, valid=valid)
        ones = x.new_ones(1).expand(x.shape[0], 1, *x.shape[2:])
        filled = position_sensitive_pool(ones, rois, BINS, 1, stride=stride, valid=valid)  # 0 where a bin is empty
        repeats = BINS // CELLS
        cells = pooled.permute(0, 2, 3, 1).reshape(-1, CELLS, repeats, CELLS, repeats, x.shape[1])
        weight = self.convolution.weight.view(-1, CELLS, CELLS, x.shape[1])
        scores = torch.einsum("rapbqc,oabc->rapbqo", cells, weight).reshape(-1, BINS, BINS, len(weight))
        shift = bias.view(-1, CELLS, CELLS).repeat_interleave(repeats, 1).repeat_interleave(repeats, 2)
        return scores.permute(0, 3, 1, 2) + (filled * shift).to(scores.dtype)
