"""Whole networks: backbones, heads, and what joins them with a neck. They need torchvision (``zigzag[train]``)."""

from zigzag.models.backbones import BackboneConfig, build_backbone
from zigzag.models.necks import NeckOptions, build_neck
from zigzag.models.segmentation import NetworkConfig, SemanticSegmenter
from zigzag.models.weights import WeightReport, WeightsError

__all__ = [
    "BackboneConfig",
    "NeckOptions",
    "NetworkConfig",
    "SemanticSegmenter",
    "WeightReport",
    "WeightsError",
    "build_backbone",
    "build_neck",
]
