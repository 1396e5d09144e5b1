"""What detectors read: a ResNet's maps through a neck, and a pooled fifth level, each image as if it were alone."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from zigzag.geometry import inside, level_sizes, sizes_at
from zigzag.models.backbones import Backbone, ResNet
from zigzag.models.necks import NeckOptions, build_neck

Sizes = Sequence[tuple[int, int]]

Strides = tuple[int, int, int, int, int]
STRIDES: Strides = (4, 8, 16, 32, 64)
NAMES = ("0", "1", "2", "3", "pool")
"""Of the levels, finest first, as torchvision calls them."""


class Pyramid(nn.Module):
    """A backbone and a neck, in the place of torchvision's BackboneWithFPN.

    In a padded batch a convolution with a window sees its padding, which is zero before the first one only. With
    ``image_sizes`` the maps of a ResNet are set to zero outside every image wherever such a convolution reads them, and
    the neck is given the sizes: the maps are those of the image alone, without any padding. Backbones of other
    libraries see their padding, and so does a plain FPN; norms in training see it too.

    Args:
        backbone: gives four maps at strides 4 to 32.
        neck: options of the neck on them.

    Attributes:
        out_channels: of every map, as torchvision asks for it.
    """

    def __init__(self, backbone: Backbone, neck: NeckOptions) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = build_neck(neck, backbone.channels)
        self.out_channels = neck.channels
        self._told_apart = neck.kind != "fpn"
        self._padding: _Padding | None = None
        for module in _read_by_windows(backbone):
            module.register_forward_hook(self._outside_to_zero)

    def forward(self, images: Tensor, image_sizes: Sizes | None = None) -> dict[str, Tensor]:
        """Maps "0".."3" and "pool" at strides 4 to 64, finest first; with ``image_sizes`` 0 outside every image.

        Args:
            images: (N, 3, H, W), normalised RGB, 0 outside every image; H and W multiples of 64.
            image_sizes: every image's own height and width in pixels; None where they all fill the batch.
        """
        batch = (images.shape[2], images.shape[3])
        if image_sizes is not None and all(tuple(size) == batch for size in image_sizes):
            image_sizes = None
        return OrderedDict(zip(NAMES, self.maps(images, image_sizes), strict=True))

    def maps(self, images: Tensor, image_sizes: Sizes | Tensor | None) -> list[Tensor]:
        """As `forward`, which looks at the values of ``image_sizes`` first: this does not, and can be traced."""
        self._padding = None if image_sizes is None else _Padding(image_sizes, images.shape[2])
        try:
            maps = self.backbone(images)
        finally:
            self._padding = None
        fused = self.neck(maps, image_sizes if self._told_apart else None)
        return [*fused, F.max_pool2d(fused[-1], kernel_size=1, stride=2)]

    def _outside_to_zero(self, _module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """The hook of modules in the backbone."""
        return output if self._padding is None else self._padding.to_zero(output)


class _Padding:
    """What lies outside the images of a batch that is ``height`` high."""

    def __init__(self, image_sizes: Sizes | Tensor, height: int) -> None:
        self.image_sizes, self.height = image_sizes, height
        self.masks: dict[int, Tensor] = {}

    def to_zero(self, x: Tensor) -> Tensor:
        """A map of the batch at any stride, 0 outside the images, in place."""
        stride = int(self.height // x.shape[2])  # while tracing a symbol, of one value
        if stride not in self.masks:
            (valid,) = level_sizes(self.image_sizes, [stride], x.device)
            self.masks[stride] = inside(valid, x.shape[2], x.shape[3])
        return x.mul_(self.masks[stride])


def _read_by_windows(backbone: nn.Module) -> Iterator[nn.Module]:
    """The modules of a ResNet whose results, through a ReLU or a sum, convolutions with a window read.

    A bottleneck's 3x3 convolution reads its first norm; a basic block's read its first and, the blocks' sums, all.
    """
    if isinstance(backbone, ResNet):
        yield from (backbone.bn1, backbone.maxpool)
    for block in backbone.modules():
        if isinstance(block, Bottleneck):
            yield block.bn1
        elif isinstance(block, BasicBlock):
            yield from (module for name, module in block.named_modules() if name in ("bn1", "bn2", "downsample.1"))


def maps_of_images(
    maps: dict[str, Tensor], image_sizes: list[tuple[int, int]], strides: Strides = STRIDES
) -> list[dict[str, Tensor]]:
    """Every image's maps (1, C, h, w) alone, without the padding of the batch: what pools regions reads these.

    A sample between an image's last row and the padding would mix the two; past a map's last row it is that row.
    """
    sizes = torch.tensor([list(size) for size in image_sizes])
    levels: list[list[list[int]]] = sizes_at(sizes, list(strides)).tolist()
    images: list[dict[str, Tensor]] = [{} for _ in image_sizes]
    for (name, batch), of_images in zip(maps.items(), levels, strict=True):
        for own, x, (height, width) in zip(images, torch.split(batch, 1), of_images, strict=True):
            own[name] = x[:, :, :height, :width]
    return images
