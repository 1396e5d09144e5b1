"""Mask R-CNN (He et al., ICCV 2017) on a ZigZag pyramid, of torchvision's parts."""

import torch
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads

from zigzag.models.backbones import build_backbone
from zigzag.models.detection import Detector, DetectorConfig, RoIAlign
from zigzag.models.pyramid import Pyramid

BOX_CHANNELS = 1024
MASK_CHANNELS = 256


class MaskRCNN(Detector):
    """Boxes and classes by two fully connected layers on 7 x 7 regions, masks by four convolutions on 14 x 14.

    Args:
        config: the network.
        classes: number of classes, the background among them.
    """

    def __init__(self, config: DetectorConfig, classes: int) -> None:
        pyramid = Pyramid(build_backbone(config.backbone), config.neck)
        super().__init__(pyramid, box_and_mask_heads(config, classes), config, classes)


class BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """torchvision's, in float32 under autocast too: a box in pixels has more digits than two bytes hold."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (n, classes) and box deltas (n, 4 * classes) from x (n, C)."""
        x = x.to(self.cls_score.weight.dtype)
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self._layers(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._layers(x)

    def _layers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)


def box_and_mask_heads(config: DetectorConfig, classes: int) -> RoIHeads:
    """The heads of torchvision with its thresholds, pooling as ``config`` says."""
    channels = config.neck.channels
    return RoIHeads(
        RoIAlign(7, config.roi_levels),
        TwoMLPHead(channels * 7**2, BOX_CHANNELS),
        BoxPredictor(BOX_CHANNELS, classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.regions,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=config.score_threshold,
        nms_thresh=config.nms_threshold,
        detections_per_img=config.detections,
        mask_roi_pool=RoIAlign(14, config.roi_levels),
        mask_head=MaskRCNNHeads(channels, (MASK_CHANNELS,) * 4, dilation=1),
        mask_predictor=MaskRCNNPredictor(MASK_CHANNELS, MASK_CHANNELS, classes),
    )
