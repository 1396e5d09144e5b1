"""From settings to workloads: the photograph, the pyramid of its crop, and what is measured on it."""

from __future__ import annotations

from functools import cached_property

import torch
from PIL.Image import Image
from torch import Tensor

from zigzag.bench import model, pyramid
from zigzag.bench.registry import Subject, shared
from zigzag.bench.settings import Settings
from zigzag.bench.workload import FORMATS, Variant, Workload, build_neck


class Source:
    """What the workloads of one run are made from.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._original = pyramid.load_photograph(settings.image)
        self._backbone = pyramid.load_backbone(settings)

    @cached_property
    def photograph(self) -> Image:
        """The crop that is measured."""
        return pyramid.crop(self._original, self.settings.size)

    def maps(self, size: int, variant: Variant) -> list[Tensor]:
        """The backbone's maps of a crop of ``size`` pixels: ``batch`` times the same image, as ``variant`` has them."""
        image = pyramid.normalised(pyramid.crop(self._original, size))
        dtype, form = getattr(torch, variant.dtype), FORMATS[variant.layout]
        return [
            level.expand(self.settings.batch, -1, -1, -1).to(self.settings.device, dtype).contiguous(memory_format=form)
            for level in pyramid.features(self._backbone, image)
        ]

    def workload(self, subjects: list[Subject]) -> Workload:
        """The workload that serves ``subjects``, a group of the registry."""
        variant = shared(subjects[0].variant)
        assert variant.kernel is not None  # noqa: S101 - shared() has put one there
        maps = self.maps(self.settings.size, variant)
        neck = build_neck(maps, variant.kernel, stages=subjects[0].entry.stages, grids=variant.grids)
        small = pyramid.normalised(pyramid.crop(self._original, min(model.SIZE, self.settings.size)))
        images = torch.cat([small, small.flip(-1)])
        return Workload(maps, neck, images=images)
