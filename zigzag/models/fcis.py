"""FCIS (Li et al., CVPR 2017) on a ZigZag pyramid: detection and mask of a region from the same score maps."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, project_masks_on_boxes
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from zigzag.models.arguments import Target
from zigzag.models.backbones import build_backbone
from zigzag.models.detection import Detector, DetectorConfig
from zigzag.models.position_sensitive import BINS, PositionSensitiveScores
from zigzag.models.pyramid import Pyramid, Sizes
from zigzag.ops.arguments import accumulation_dtype

# The official code's, where the paper is silent.
BOX_WEIGHTS = (5.0, 5.0, 2.0, 2.0)
MASK_WEIGHT = 10.0
MASK_THRESHOLD = 0.4
# The paper's: regions that overlap a detection by as much (IoU) vote for its mask.
VOTING_IOU = 0.5
SMALLEST = 0.01
"""Side in pixels below which a region is no candidate, as torchvision has it."""


class FCIS(Detector):
    """Regions of interest read position-sensitive inside and outside score maps, which hold both class and mask.

    Args:
        config: the network.
        classes: number of classes, the background among them.
    """

    def __init__(self, config: DetectorConfig, classes: int) -> None:
        pyramid = Pyramid(build_backbone(config.backbone), config.neck)
        super().__init__(pyramid, FCISHeads(config, classes), config, classes)


class Reading(NamedTuple):
    """What the score maps say of R regions.

    Attributes:
        pairs: (R, classes, 2, 21, 21), the outside and the inside score of every class at every bin.
        classes: (R, classes), logits: the better of the two scores, averaged over the bins.
        deltas: (R, 4), a box regression that knows no classes.
    """

    pairs: Tensor
    classes: Tensor
    deltas: Tensor


class FCISHeads(RoIHeads):  # type: ignore[misc]
    """In the place of torchvision's RoIHeads, whose matching and sampling of regions it keeps.

    Args:
        config: the network.
        classes: number of classes, the background among them.
    """

    def __init__(self, config: DetectorConfig, classes: int) -> None:
        super().__init__(
            None,
            None,
            None,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=config.regions,
            positive_fraction=0.25,
            bbox_reg_weights=BOX_WEIGHTS,
            score_thresh=config.score_threshold,
            nms_thresh=config.nms_threshold,
            detections_per_img=config.detections,
        )
        self.classes = classes
        self.scores = PositionSensitiveScores(config.neck.channels, 2 * classes + 4, config.roi_levels)

    def forward(
        self,
        features: Mapping[str, Tensor],
        proposals: list[Tensor],
        image_shapes: Sizes,
        targets: list[Target] | None = None,
    ) -> tuple[list[Target], dict[str, Tensor]]:
        """As `Detector` calls it: detections with masks (n, 1, 21, 21), or losses in training."""
        if self.training:
            return [], self._losses(features, proposals, image_shapes, cast(list[Target], targets))
        first = self._read(features, proposals, image_shapes)
        counts = [len(boxes) for boxes in proposals]
        refined = list(torch.split(self.box_coder.decode(first.deltas, proposals)[:, 0], counts))
        refined = [clip_boxes_to_image(boxes, size) for boxes, size in zip(refined, image_shapes, strict=True)]
        second = self._read(features, refined, image_shapes)
        # Of every image both rounds: its boxes, what they read, and of what class they are.
        rounds = [
            zip(boxes, torch.split(read.pairs, counts), torch.split(read.classes, counts), strict=True)
            for boxes, read in ((proposals, first), (refined, second))
        ]
        return [self._detections(*map(torch.cat, zip(*image, strict=True))) for image in zip(*rounds, strict=True)], {}

    def _read(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor], sizes: Sizes) -> Reading:
        scores = self.scores(features, boxes, sizes)
        scores = scores.to(accumulation_dtype(scores.dtype))
        pairs = scores[:, :-4].unflatten(1, (self.classes, 2))
        return Reading(pairs, pairs.amax(2).mean((2, 3)), scores[:, -4:].mean((2, 3)))

    def _losses(
        self, features: Mapping[str, Tensor], proposals: list[Tensor], sizes: Sizes, targets: list[Target]
    ) -> dict[str, Tensor]:
        """Softmax over classes; of objects also smooth L1 on the box and a softmax per pixel on the mask of the class.

        Each is averaged over all regions that were sampled, so that images without objects train too.
        """
        boxes, matched, labels, box_targets = self.select_training_samples(proposals, targets)
        read = self._read(features, boxes, sizes)
        label = torch.cat(labels)
        objects = label > 0
        masks = [
            project_masks_on_boxes(target["masks"], own[kind > 0], index[kind > 0], BINS)
            for target, own, index, kind in zip(targets, boxes, matched, labels, strict=True)
        ]
        inside = (torch.cat(masks) >= MASK_THRESHOLD).long()
        mask = F.cross_entropy(read.pairs[objects, label[objects]], inside, reduction="none").mean((1, 2)).sum()
        box = F.smooth_l1_loss(read.deltas[objects], torch.cat(box_targets)[objects], reduction="sum")
        return {
            "loss_classifier": F.cross_entropy(read.classes, label),
            "loss_box_reg": box / len(label),
            "loss_mask": MASK_WEIGHT * mask / len(label),
        }

    def _detections(self, boxes: Tensor, pairs: Tensor, logits: Tensor) -> Target:
        """Of one image, from its proposals and what they were refined to: the best of each place, their masks voted."""
        scores = logits.softmax(1)
        large = ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST).all(1)
        region, label = ((scores[:, 1:] > self.score_thresh) & large[:, None]).nonzero().unbind(1)
        label = label + 1
        keep = batched_nms(boxes[region], scores[region, label], label, self.nms_thresh)[: self.detections_per_img]
        region, label = region[keep], label[keep]
        masks = vote(boxes[large], pairs[large], scores[large], boxes[region], label)
        return {"boxes": boxes[region], "labels": label, "scores": scores[region, label], "masks": masks}


def vote(boxes: Tensor, pairs: Tensor, scores: Tensor, detections: Tensor, labels: Tensor) -> Tensor:
    """Masks of detections: those that the regions around each have for its class, averaged by their scores for it.

    The paper averages pixels of the image; here it is the bins of the detection's box, bounded in memory.

    Args:
        boxes: regions (R, 4).
        pairs: their scores (R, classes, 2, M, M), outside and inside.
        scores: their probabilities of the classes (R, classes).
        detections: boxes (D, 4), each one of the regions.
        labels: their classes (D,).

    Returns:
        Probabilities (D, 1, M, M) over the boxes of the detections.
    """
    size = pairs.shape[-1]
    detection, region = (box_iou(detections, boxes) >= VOTING_IOU).nonzero().unbind(1)
    label = labels[detection]
    own = pairs[region, label]
    masks = (own[:, 1] - own[:, 0]).sigmoid()
    centres = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size
    corner, side = detections[detection, None, :2], (detections[:, 2:] - detections[:, :2])[detection, None]
    points = corner + side * centres[:, None]  # (pairs, M, 2), x and y
    voter, voter_side = boxes[region, None, :2], (boxes[:, 2:] - boxes[:, :2])[region, None]
    at = 2 * (points - voter) / voter_side - 1
    grid = torch.stack([at[:, None, :, 0].expand(-1, size, -1), at[:, :, None, 1].expand(-1, -1, size)], -1)
    seen = F.grid_sample(masks[:, None], grid.to(masks.dtype), padding_mode="border", align_corners=False)
    seen = seen * (grid.abs() <= 1).all(-1)[:, None]
    weights = scores[region, label]
    counts = torch.bincount(detection, minlength=len(detections)).tolist()
    voted = [
        torch.einsum("p,pcij->cij", weight / weight.sum(), mask)
        for weight, mask in zip(torch.split(weights, counts), torch.split(seen, counts), strict=True)
    ]
    return torch.stack(voted) if voted else seen.new_zeros(0, 1, size, size)
