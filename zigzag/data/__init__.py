"""Data sets for semantic segmentation: images, masks, their checks, augmentation, and the order they come in."""

from zigzag.data.module import SegmentationData
from zigzag.data.source import DataError, MaskFiles, Source

__all__ = ["DataError", "MaskFiles", "SegmentationData", "Source"]
