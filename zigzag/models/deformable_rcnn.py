"""Deformable R-CNN (Dai et al., ICCV 2017) on a ZigZag pyramid, with the box and mask heads of Mask R-CNN."""

from zigzag.models.backbones import ResNet, build_backbone
from zigzag.models.deformable import DeformableRoIAlign, deform_windows
from zigzag.models.detection import Detector, DetectorConfig
from zigzag.models.mask_rcnn import box_and_mask_heads
from zigzag.models.pyramid import Pyramid


class DeformableRCNN(Detector):
    """Deformable 3x3 convolutions in res5, and deformable RoI pooling before either head.

    Args:
        config: the network.
        classes: number of classes, the background among them.

    Raises:
        ValueError: the backbone is no ResNet, so that it has no res5.
    """

    def __init__(self, config: DetectorConfig, classes: int) -> None:
        backbone = build_backbone(config.backbone)
        if not isinstance(backbone, ResNet):
            raise ValueError(
                f"network.backbone.name must be a ResNet for deformable_rcnn, got {config.backbone.name!r}"
            )
        deform_windows(backbone.layer4)
        heads = box_and_mask_heads(config, classes)
        heads.box_roi_pool = DeformableRoIAlign(7, config.neck.channels, config.roi_levels)
        heads.mask_roi_pool = DeformableRoIAlign(14, config.neck.channels, config.roi_levels)
        super().__init__(Pyramid(backbone, config.neck), heads, config, classes)
