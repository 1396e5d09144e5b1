"""Data sets for semantic segmentation and instances: images, masks, checks, augmentation, and their order."""

from zigzag.data.instance_data import InstanceData
from zigzag.data.module import SegmentationData
from zigzag.data.source import DataError, MaskFiles, Source

__all__ = ["DataError", "InstanceData", "MaskFiles", "SegmentationData", "Source"]
