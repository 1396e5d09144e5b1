"""Whole networks: backbones, heads, and what joins them with a neck. They need torchvision (``zigzag[train]``)."""

from zigzag.models.backbones import BackboneConfig, build_backbone
from zigzag.models.deformable_rcnn import DeformableRCNN
from zigzag.models.detection import Detector, DetectorConfig
from zigzag.models.detectors import build_detector
from zigzag.models.fcis import FCIS
from zigzag.models.mask_rcnn import MaskRCNN
from zigzag.models.necks import NeckOptions, build_neck
from zigzag.models.pyramid import Pyramid
from zigzag.models.scripting import scripted
from zigzag.models.segmentation import NetworkConfig, SemanticSegmenter
from zigzag.models.weights import WeightReport, WeightsError

__all__ = [
    "FCIS",
    "BackboneConfig",
    "DeformableRCNN",
    "Detector",
    "DetectorConfig",
    "MaskRCNN",
    "NeckOptions",
    "NetworkConfig",
    "Pyramid",
    "SemanticSegmenter",
    "WeightReport",
    "WeightsError",
    "build_backbone",
    "build_detector",
    "build_neck",
    "scripted",
]
