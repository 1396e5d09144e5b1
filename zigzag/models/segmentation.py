"""The network for semantic segmentation: backbone, neck, and a head on P^1."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn

from zigzag.models.backbones import Backbone, BackboneConfig, build_backbone
from zigzag.models.heads import SegmentationHead
from zigzag.models.necks import NeckOptions, build_neck


@dataclass(frozen=True)
class NetworkConfig:
    """A network for semantic segmentation.

    Attributes:
        backbone: what gives res2..res5.
        neck: what fuses them.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    neck: NeckOptions = field(default_factory=NeckOptions)


class SemanticSegmenter(nn.Module):
    """Scores of classes for every pixel.

    Args:
        config: backbone and neck.
        classes: number of classes.

    Attributes:
        backbone, neck, head: the parts.
    """

    def __init__(self, config: NetworkConfig, classes: int) -> None:
        super().__init__()
        self.backbone: Backbone = build_backbone(config.backbone)
        self.neck = build_neck(config.neck, self.backbone.channels)
        self.head = SegmentationHead(config.neck.channels, classes)

    def forward(self, images: Tensor, image_sizes: Any = None) -> Tensor:
        """Scores (N, classes, H, W).

        Args:
            images: (N, 3, H, W), normalised RGB.
            image_sizes: (N, 2) integers, every image's own height and width in a padded batch, or None.
        """
        maps = self.neck(self.backbone(images), image_sizes)
        return cast(Tensor, self.head(maps[0], (images.shape[2], images.shape[3])))

    def new_parameters(self) -> Iterator[nn.Parameter]:
        """Those that no ImageNet weights exist for: the neck's and the head's."""
        yield from self.neck.parameters()
        yield from self.head.parameters()
