"""What the detectors share: torchvision's interface, region proposals and RoIAlign, each image as if it were alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.rpn import (
    AnchorGenerator,
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from zigzag.geometry import inside, sizes_at
from zigzag.models.arguments import Target, check_images, check_targets
from zigzag.models.backbones import BackboneConfig
from zigzag.models.necks import NeckOptions
from zigzag.models.pyramid import NAMES, STRIDES, Pyramid, Strides, maps_of_images
from zigzag.models.weights import IMAGE_DEVIATION, IMAGE_MEAN

Kind = Literal["mask_rcnn", "deformable_rcnn", "fcis"]
RoILevels = Literal["box size", "sum"]


@dataclass(frozen=True)
class DetectorConfig:
    """A detector; the defaults are torchvision's and, for the sizes, the paper's.

    Attributes:
        kind: "mask_rcnn", "deformable_rcnn" or "fcis".
        backbone: what gives res2..res5.
        neck: what fuses them.
        roi_levels: the level that a region is pooled from: by "box size" (the paper; Lin et al., FPN, CVPR 2017), or
            the "sum" over all levels (the authors' code).
        shorter: side in pixels that images are resized to.
        longer: greatest length of the other side, which a wide image is resized to instead.
        anchor_sizes: side in pixels of the anchors of every level, each at ratios 1:2, 1:1 and 2:1.
        proposals: regions kept of an image's proposals, in training and in evaluation.
        regions: regions of an image that the heads train on, a quarter of them objects.
        score_threshold: detections with a lower score are dropped.
        nms_threshold: detections of a class that overlap a better one by more (IoU) are dropped.
        detections: kept of an image, the best ones.
    """

    kind: Kind = "mask_rcnn"
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    neck: NeckOptions = field(default_factory=NeckOptions)
    roi_levels: RoILevels = "box size"
    shorter: int = 800
    longer: int = 1333
    anchor_sizes: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    proposals: tuple[int, int] = (2000, 1000)
    regions: int = 512
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections: int = 100

    def __post_init__(self) -> None:
        for name in ("shorter", "longer", "regions", "detections"):
            if getattr(self, name) < 1:
                raise ValueError(f"network.{name} must be 1 or more, got {getattr(self, name)}")
        if self.longer < self.shorter:
            raise ValueError(f"network.longer must be at least shorter = {self.shorter}, got {self.longer}")
        if len(self.anchor_sizes) != len(STRIDES) or min(self.anchor_sizes) < 1:
            raise ValueError(f"network.anchor_sizes must be {len(STRIDES)} sizes >= 1, got {self.anchor_sizes}")
        if len(self.proposals) != 2 or min(self.proposals) < 1:
            raise ValueError(f"network.proposals must be two numbers >= 1, got {self.proposals}")
        for name in ("score_threshold", "nms_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"network.{name} must be from 0 to 1, got {getattr(self, name)}")


class Detector(GeneralizedRCNN):  # type: ignore[misc]
    """torchvision's interface of a detector, on a `Pyramid`; an image's detections do not depend on its batch-mates.

    Args:
        pyramid: gives the maps.
        roi_heads: called with the maps, the proposals (a tensor (n, 4) for every image), every image's own height and
            width, and the targets or None; gives detections, a dict of boxes (n, 4), labels, scores and masks
            (n, 1, m, m), probabilities over the box, for every image, and losses by name. Detections are empty in
            training, and losses in evaluation.
        config: sizes and thresholds.
        classes: number of classes, the background among them.

    Attributes:
        backbone: the `Pyramid`.
        transform, rpn, roi_heads: as torchvision's.
    """

    def __init__(self, pyramid: Pyramid, roi_heads: nn.Module, config: DetectorConfig, classes: int) -> None:
        proposals = _region_proposals(pyramid.out_channels, config)
        super().__init__(pyramid, proposals, roi_heads, Resizing(config.shorter, config.longer))
        self.classes = classes
        for part in (self.rpn, self.roi_heads):
            part.fg_bg_sampler = Sampler(part.fg_bg_sampler.batch_size_per_image, part.fg_bg_sampler.positive_fraction)

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> Any:
        """Losses by name in training, detections in evaluation.

        Args:
            images: RGB (3, H, W) from 0 to 1, each of any size, in the dtype and on the device of the parameters.
            targets: for every image boxes (n, 4) in its dtype, x1, y1, x2, y2 in pixels, x1 < x2 and y1 < y2; labels
                (n,) int64 from 1; masks (n, H, W) uint8 or bool, 0 or 1. n may be 0. Needed in training. They may also
                hold a seed, an int, by which the anchors and regions of the image are drawn that are trained on: an
                image's draws then depend on nothing else. Without seeds torch's global generator draws.

        Returns:
            In training a dict of scalars. In evaluation for every image a dict of boxes (n, 4) in its pixels, labels
            (n,), scores (n,), best first, and masks (n, 1, H, W), probabilities.

        Raises:
            TypeError, ValueError: images or targets; the message names the entry.
        """
        check_images(images, next(self.parameters()))
        if self.training:
            check_targets(targets, images, self.classes)
            with self._seeded(cast(list[Target], targets)):
                return self._run(images, targets)[1]
        found, _ = self._run(images, None)
        for image, own in zip(images, found, strict=True):
            own["masks"] = paste_masks_in_image(own["masks"], own["boxes"], tuple(image.shape[1:]))
        return found

    def detect(self, images: list[Tensor]) -> list[Target]:
        """As `forward` in evaluation, but for the masks: (n, 1, m, m) over each box, not yet pasted into the image.

        Raises:
            TypeError, ValueError: images; the message names the entry.
        """
        check_images(images, next(self.parameters()))
        return self._run(images, None)[0]

    def new_parameters(self) -> list[nn.Parameter]:
        """Those that no ImageNet weights exist for: all but the backbone's."""
        old = set(self.backbone.backbone.parameters())
        return [parameter for parameter in self.parameters() if parameter not in old]

    @contextmanager
    def _seeded(self, targets: list[Target]) -> Iterator[None]:
        if "seed" not in targets[0]:
            yield
            return
        samplers = [part.fg_bg_sampler for part in (self.rpn, self.roi_heads)]
        device = next(self.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for sampler in samplers:
                sampler.seeds = [target["seed"] for target in targets]
            try:
                yield
            finally:
                for sampler in samplers:
                    sampler.seeds = None

    def _run(self, images: list[Tensor], targets: list[Target] | None) -> tuple[list[Target], dict[str, Tensor]]:
        batch, targets = self.transform(images, targets)
        maps = self.backbone(batch.tensors, batch.image_sizes)
        proposals, losses = self.rpn(batch, maps, targets)
        detections, own_losses = self.roi_heads(maps, proposals, batch.image_sizes, targets)
        for image, size, found in zip(images, batch.image_sizes, detections, strict=not self.training):
            found["boxes"] = resize_boxes(found["boxes"], size, image.shape[1:])
        return detections, {**losses, **own_losses}


class Resizing(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's normalisation and padding, to multiples of 64, after a resize that leaves no side without pixels.

    Args:
        shorter: side in pixels that images are resized to.
        longer: greatest length of the other side, which a wide image is resized to instead.
    """

    def __init__(self, shorter: int, longer: int) -> None:
        super().__init__(shorter, longer, list(IMAGE_MEAN), list(IMAGE_DEVIATION), size_divisible=STRIDES[-1])
        self.shorter, self.longer = shorter, longer

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Image (3, H, W) and target at the size of the network: images bilinearly, masks to the nearest pixel."""
        height, width = image.shape[1:]
        scale = min(self.shorter / min(height, width), self.longer / max(height, width))
        size = [max(1, int(round(side * scale))) for side in [height, width]]  # noqa: RUF046 - TorchScript's is a float
        image = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        if target is not None:
            target = target.copy()
            masks = F.interpolate(target["masks"][:, None].float(), size=size, mode="nearest-exact")
            target["masks"] = masks[:, 0].byte()
            target["boxes"] = resize_boxes(target["boxes"], [height, width], size)
        return image, target


class Sampler(BalancedPositiveNegativeSampler):  # type: ignore[misc]
    """torchvision's random choice of what trains; with ``seeds``, one for every image, each image's by its own."""

    seeds: Sequence[int] | None = None

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's: for every image masks of what was chosen of the objects, and of the rest."""
        if self.seeds is None:
            return cast(tuple[list[Tensor], list[Tensor]], super().__call__(matched_idxs))
        objects, others = [], []
        for own, seed in zip(matched_idxs, self.seeds, strict=True):
            torch.manual_seed(seed)
            chosen = super().__call__([own])
            objects += chosen[0]
            others += chosen[1]
        return objects, others


class RegionProposals(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's region proposals, anchors outside an image left out: they neither propose nor train."""

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """As torchvision's: a tensor (n, 4) of boxes for every image, best first, and losses in training."""
        maps = list(features.values())
        by_level, deltas_by_level = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        outside = _anchors_outside(images.image_sizes, by_level)
        counts = [x[0].numel() for x in by_level]
        objectness, deltas = concat_box_prediction_layers(by_level, deltas_by_level)
        # Under autocast too: a box in pixels has more digits than two bytes hold.
        objectness, deltas = objectness.to(images.tensors.dtype), deltas.to(images.tensors.dtype)
        boxes = self.box_coder.decode(deltas.detach(), anchors).view(outside.shape[0], outside.shape[1], 4)
        boxes = boxes.masked_fill(outside[..., None], 0)  # empty, which the filter drops
        ranked = objectness.detach().view(outside.shape).masked_fill(outside, -torch.inf)
        proposals, _ = self.filter_proposals(boxes, ranked, images.image_sizes, counts)
        if self.training:
            return proposals, self._losses(objectness, deltas, anchors, outside, targets)
        return proposals, {}

    @torch.jit.unused
    def _losses(
        self,
        objectness: Tensor,
        deltas: Tensor,
        anchors: list[Tensor],
        outside: Tensor,
        targets: list[dict[str, Tensor]] | None,
    ) -> dict[str, Tensor]:
        labels, matched = self.assign_targets_to_anchors(anchors, cast(list[Target], targets))
        labels = [label.masked_fill(own, -1) for label, own in zip(labels, outside, strict=True)]
        losses = self.compute_loss(objectness, deltas, labels, self.box_coder.encode(matched, anchors))
        return dict(zip(("loss_objectness", "loss_rpn_box_reg"), losses, strict=True))


class RoIAlign(nn.Module):
    """torchvision's RoIAlign over levels, from every image's own maps; their scales do not depend on the images.

    Args:
        output_size: side of what is pooled.
        levels: "box size" or "sum", as `DetectorConfig.roi_levels`.
    """

    def __init__(self, output_size: int, levels: RoILevels) -> None:
        super().__init__()
        self.output_size, self.levels = output_size, levels
        self.names, self.scales = list(NAMES[:-1]), [1 / stride for stride in STRIDES[:-1]]
        self.by_box_size = MultiScaleRoIAlign(self.names, output_size, sampling_ratio=2)
        self.by_box_size.scales, self.by_box_size.map_levels = self.scales, LevelMapper(2, 5)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """(n, C, size, size) for the boxes of all images, in pixels, one image's after the other."""
        own = maps_of_images(x, image_shapes)
        return torch.cat([self._of_image(*image) for image in zip(own, boxes, image_shapes, strict=True)])

    def _of_image(self, maps: dict[str, Tensor], boxes: Tensor, shape: tuple[int, int]) -> Tensor:
        if self.levels == "box size":
            pooled: Tensor = self.by_box_size(maps, [boxes], [shape])
            return pooled
        samples = self.by_box_size.sampling_ratio
        levels = [
            roi_align(maps[name], [boxes], self.output_size, scale, samples)
            for name, scale in zip(self.names, self.scales, strict=True)
        ]
        return torch.stack(levels).sum(0)


def _region_proposals(channels: int, config: DetectorConfig) -> RegionProposals:
    """With torchvision's thresholds."""
    ratios = ((0.5, 1.0, 2.0),) * len(STRIDES)
    anchors = AnchorGenerator(tuple((size,) for size in config.anchor_sizes), ratios)
    kept = dict(zip(("training", "testing"), config.proposals, strict=True))
    return RegionProposals(
        anchors,
        RPNHead(channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n=kept,
        post_nms_top_n=kept,
        nms_thresh=0.7,
    )


def _anchors_outside(
    image_sizes: list[tuple[int, int]], objectness: list[Tensor], strides: Strides = STRIDES
) -> Tensor:
    """True for anchors at places outside their image: (N, anchors of all levels)."""
    sizes = sizes_at(torch.tensor([list(size) for size in image_sizes]), list(strides))
    sizes = sizes.to(objectness[0].device, non_blocking=True)
    levels = []
    for x, valid in zip(objectness, sizes.unbind(), strict=True):
        own = inside(valid, x.shape[2], x.shape[3])[:, 0, :, :, None]
        levels.append(own.expand(-1, -1, -1, x.shape[1]).flatten(1))
    return ~torch.cat(levels, 1)
