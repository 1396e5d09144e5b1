"""The network for semantic segmentation: backbone, neck, and a head on P^1."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from torch import Tensor, nn

from zigzag.models.arguments import check_batch
from zigzag.models.backbones import Backbone, BackboneConfig, build_backbone
from zigzag.models.heads import SegmentationHead
from zigzag.models.necks import NeckOptions, build_neck
from zigzag.nn import ZigZagNeck
from zigzag.ops import dense_pathway


@dataclass(frozen=True)
class NetworkConfig:
    """A network for semantic segmentation.

    Attributes:
        backbone: what gives res2..res5.
        neck: what fuses them.
        reads: what the head reads: "finest", P^1; or "all", the sum of all P^i resized to P^1's size. With one stage,
            P^1 knows nothing of the sweep up, so that comparing the schemes of Figure 1 needs "all".
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    neck: NeckOptions = field(default_factory=NeckOptions)
    reads: Literal["finest", "all"] = "finest"


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
        self.neck = build_neck(config.neck, self.backbone.channels, 1 if config.reads == "finest" else None)
        normalised = isinstance(self.neck, ZigZagNeck) and self.neck.config.fusion and self.neck.config.fusion_norm
        self.head = SegmentationHead(config.neck.channels, classes, normalised=normalised)

    def forward(self, images: Tensor, image_sizes: Any = None) -> Tensor:
        """Scores (N, classes, H, W).

        Args:
            images: (N, 3, H, W), normalised RGB.
            image_sizes: (N, 2) integers, every image's own height and width in a padded batch, or None.

        Raises:
            TypeError: types or dtypes.
            ValueError: shapes, or sizes that do not fit into the batch.
        """
        check_batch(images, self.head.classifier.weight)
        maps = self.neck(self.backbone(images), image_sizes)
        finest, *coarser = maps
        if coarser:
            finest = dense_pathway(finest, coarser, combine="sum")
        return cast(Tensor, self.head(finest, (images.shape[2], images.shape[3])))

    def new_parameters(self) -> Iterator[nn.Parameter]:
        """Those that no ImageNet weights exist for: the neck's and the head's."""
        yield from self.neck.parameters()
        yield from self.head.parameters()
