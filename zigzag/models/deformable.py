"""Deformable convolution and RoI pooling (Dai et al., Deformable Convolutional Networks, ICCV 2017)."""

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d
from torchvision.ops.poolers import LevelMapper

from zigzag.models.detection import RoIAlign, RoILevels
from zigzag.models.pyramid import NAMES, STRIDES, maps_of_images

# The paper's: gamma of Eq. 5's offsets, and the learning rate of the layer that gives them over that of the others.
GAMMA = 0.1
OFFSET_RATE = 0.01
PARTS = 7
"""Offsets of a region along an axis."""
SAMPLES = 2
"""Samples of a bin along an axis, as `RoIAlign` has them."""


class DeformableConv2d(nn.Conv2d):
    """A convolution whose every tap is moved by an offset of its own, from a convolution of the same form.

    Attributes:
        offset: nn.Conv2d to two offsets, y and x, for every tap; zero at first.
    """

    def __init__(self, like: nn.Conv2d) -> None:
        form = {name: getattr(like, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        super().__init__(like.in_channels, like.out_channels, groups=like.groups, bias=like.bias is not None, **form)
        self.weight, self.bias = like.weight, like.bias
        self.offset = nn.Conv2d(like.in_channels, 2 * self.kernel_size[0] * self.kernel_size[1], **form)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv2d's, but for samples and sums, which are float32 where x has two bytes.

        Where an offset is not finite, so is the result: torchvision's operation reads outside the map there.
        """
        offsets = self.offset(x)
        finite = offsets.nan_to_num(0, 0, 0)
        given = [at_least_float32(value) for value in (x, finite, self.weight)]
        bias = None if self.bias is None else at_least_float32(self.bias)
        with torch.autocast(x.device.type, enabled=False):
            moved = deform_conv2d(*given, bias, self.stride, self.padding, self.dilation)
        return cast(Tensor, moved.to(x.dtype) + nothing_unless_finite(offsets))


def at_least_float32(x: Tensor) -> Tensor:
    """In float32 where x has two bytes."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def nothing_unless_finite(offsets: Tensor) -> Tensor:
    """0 at places (N, 1, H, W) all of whose offsets (N, k, H, W) are finite, NaN at the others."""
    return (0 * offsets.detach()).sum(1, keepdim=True)


def deform_windows(stage: nn.Module) -> None:
    """Make every 3x3 convolution of a stage of a ResNet deformable; it keeps its weights and their names."""
    for block in list(stage.modules()):
        for name, child in list(block.named_children()):
            if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
                setattr(block, name, DeformableConv2d(child))


def deformable_roi_align(
    x: Tensor, boxes: Tensor, offsets: Tensor, size: int, scale: float, samples: int = SAMPLES
) -> Tensor:
    """RoIAlign whose bins are moved: the mean of bilinear samples of each (Eq. 5 with RoIAlign's mean).

    With offsets of 0 it is torchvision's ``roi_align(x, [boxes], size, scale, samples)``.

    Args:
        x: map of one image (1, C, H, W).
        boxes: (R, 4), x1, y1, x2, y2 in pixels.
        offsets: (R, 2, size, size), what every bin is moved by in x and y, in widths and heights of its box.
        size: bins along an axis.
        scale: steps of the map per pixel.
        samples: of a bin along an axis.

    Returns:
        (R, C, size, size), float32 for maps of two bytes.
    """
    x = at_least_float32(x)
    boxes = boxes.to(x.dtype) * scale
    extent = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    steps = (torch.arange(size * samples, device=x.device, dtype=x.dtype) + 0.5) / (size * samples)
    moved = offsets.to(x.dtype).repeat_interleave(samples, 2).repeat_interleave(samples, 3)
    grid = []
    inside = torch.ones((), dtype=torch.bool, device=x.device)
    for axis, length in enumerate((x.shape[3], x.shape[2])):
        at = steps if axis == 0 else steps[:, None]
        at = boxes[:, axis, None, None] + extent[:, axis, None, None] * (at + moved[:, axis])
        inside = inside & (at >= -1) & (at <= length)
        grid.append((2 * at.clamp(0, length - 1) + 1) / length - 1)
    points = torch.stack(grid, -1).flatten(0, 1)[None]
    with torch.autocast(x.device.type, enabled=False):
        sampled = F.grid_sample(x, points, padding_mode="border", align_corners=False)[0]
    sampled = sampled.reshape(x.shape[1], len(boxes), size, samples, size, samples)
    inside = inside.reshape(len(boxes), size, samples, size, samples)
    return (sampled * inside).mean((3, 5)).transpose(0, 1)


class DeformableRoIAlign(nn.Module):
    """Deformable RoI pooling: a plain RoIAlign, a layer that reads offsets from it, and a RoIAlign moved by them.

    The layer learns at a hundredth of the rate of the others (the paper's beta), its gradient being scaled.

    Args:
        output_size: side of what is pooled, a multiple of 7: the bins of one of 7 x 7 parts move together.
        channels: of the maps.
        levels: "box size" or "sum", as `DetectorConfig.roi_levels`.

    Attributes:
        offset: nn.Linear; zero at first.
    """

    def __init__(self, output_size: int, channels: int, levels: RoILevels) -> None:
        super().__init__()
        self.output_size, self.levels = output_size, levels
        self.plain = RoIAlign(PARTS, levels)
        self.map_levels = LevelMapper(2, 5)
        self.offset = nn.Linear(channels * PARTS**2, 2 * PARTS**2)
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)
            parameter.register_hook(lambda gradient: OFFSET_RATE * gradient)  # type: ignore[no-untyped-call]

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """As `RoIAlign.forward`: (n, C, size, size) for the boxes of all images, one image's after the other."""
        offsets = GAMMA * self.offset(self.plain(x, boxes, image_shapes).flatten(1)).view(-1, 2, PARTS, PARTS)
        repeats = self.output_size // PARTS
        offsets = offsets.repeat_interleave(repeats, 2).repeat_interleave(repeats, 3)
        images = zip(
            maps_of_images(x, image_shapes), boxes, torch.split(offsets, [len(box) for box in boxes]), strict=True
        )
        return torch.cat([self._of_image(*image) for image in images]) + nothing_unless_finite(offsets)

    def _of_image(self, maps: Mapping[str, Tensor], boxes: Tensor, offsets: Tensor) -> Tensor:
        levels = [(maps[name], 1 / stride) for name, stride in zip(NAMES[:-1], STRIDES[:-1], strict=True)]
        if self.levels == "sum":
            return torch.stack(
                [deformable_roi_align(own, boxes, offsets, self.output_size, scale) for own, scale in levels]
            ).sum(0)
        level = self.map_levels([boxes])
        members = [torch.nonzero(level == i)[:, 0] for i in range(len(levels))]
        pooled = [
            deformable_roi_align(own, boxes[some], offsets[some], self.output_size, scale)
            for some, (own, scale) in zip(members, levels, strict=True)
        ]
        return torch.cat(pooled)[torch.cat(members).argsort()]
