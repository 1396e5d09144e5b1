"""The detectors by name."""

from collections.abc import Callable

from zigzag.models.deformable_rcnn import DeformableRCNN
from zigzag.models.detection import Detector, DetectorConfig
from zigzag.models.fcis import FCIS
from zigzag.models.mask_rcnn import MaskRCNN

DETECTORS: dict[str, Callable[[DetectorConfig, int], Detector]] = {
    "mask_rcnn": MaskRCNN,
    "deformable_rcnn": DeformableRCNN,
    "fcis": FCIS,
}


def build_detector(config: DetectorConfig, classes: int) -> Detector:
    """The detector of ``config`` for so many classes, the background among them.

    Raises:
        ValueError: there is no such detector, or too few classes.
        WeightsError: the backbone's weights cannot be read, or do not fit.
    """
    if config.kind not in DETECTORS:
        raise ValueError(f"network.kind must be one of {', '.join(DETECTORS)}, got {config.kind!r}")
    if classes < 2:
        raise ValueError(f"classes must be 2 or more, the background among them, got {classes}")
    return DETECTORS[config.kind](config, classes)
