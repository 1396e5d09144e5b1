"""Augmentation as the paper's: flip, scale 0.5 to 2, rotation within 10 degrees, crop. Masks never get a new label."""

from dataclasses import dataclass
from math import ceil, cos, inf, radians, sin
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from zigzag.data.classes import VOID
from zigzag.models.weights import IMAGE_DEVIATION, IMAGE_MEAN


@dataclass(frozen=True)
class Augmentation:
    """What training images go through.

    Attributes:
        crop: side in pixels of what is trained on; what lies outside an image is the mean colour, and void.
        scale: least and greatest factor; the factor is uniform between them.
        rotation: degrees, either way.
        flip: probability of a mirror image.
    """

    crop: int = 473
    scale: tuple[float, float] = (0.5, 2.0)
    rotation: float = 10.0
    flip: float = 0.5

    def __post_init__(self) -> None:
        if self.crop < 32:
            raise ValueError(f"augmentation.crop must be 32 pixels or more, got {self.crop}")
        if not 0 < self.scale[0] <= self.scale[1] < inf:
            raise ValueError(f"augmentation.scale must be two finite factors > 0, the lesser first, got {self.scale}")
        if not 0 <= self.rotation <= 90:
            raise ValueError(f"augmentation.rotation must be 0 to 90 degrees, got {self.rotation}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"augmentation.flip must be a probability, got {self.flip}")


class RandomScale(v2.Transform):  # type: ignore[misc]
    """Resize by a uniform factor: images bilinearly, with antialiasing; masks (H, W) to the nearest pixel's centre."""

    def __init__(self, scale: tuple[float, float]) -> None:
        super().__init__()
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The size to resize to."""
        height, width = v2.functional.get_size(flat_inputs[0])
        factor = torch.empty(()).uniform_(*self.scale).item()
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The input, resized."""
        if not isinstance(inpt, tv_tensors.Mask):
            return self._call_kernel(v2.functional.resize, inpt, size=params["size"], antialias=True)
        # Its own way with masks, NEAREST, takes the pixel half a pixel up and left of the image's.
        exact = v2.InterpolationMode.NEAREST_EXACT
        resized = v2.functional.resize(inpt.as_subclass(Tensor)[None], params["size"], interpolation=exact)
        return tv_tensors.wrap(resized[0], like=inpt)


def training_transform(augmentation: Augmentation) -> v2.Transform:
    """From an image (tv_tensors.Image) and its labels (tv_tensors.Mask) to a crop of both, from torch's generator.

    The crop is cut once before the rotation, as large as the rotation can need, so that little is rotated in vain.
    """
    crop = augmentation.crop
    angle = radians(min(augmentation.rotation, 45))
    before = ceil(crop * (cos(angle) + sin(angle)))
    fill: Any = {tv_tensors.Image: [round(255 * value) for value in IMAGE_MEAN], tv_tensors.Mask: VOID}
    bilinear = v2.InterpolationMode.BILINEAR
    steps: list[Any] = [RandomScale(augmentation.scale), v2.RandomCrop(before, pad_if_needed=True, fill=fill)]
    if augmentation.rotation > 0:
        steps.append(v2.RandomRotation(augmentation.rotation, interpolation=bilinear, fill=fill))
    return v2.Compose([*steps, v2.CenterCrop(crop), v2.RandomHorizontalFlip(augmentation.flip)])


def denormalised(image: Tensor) -> Tensor:
    """The image (..., 3, H, W) uint8 that `normalised` gives this one for, but for rounding."""
    mean, deviation = _moments(image)
    return ((image.float() * deviation + mean) * 255).round().clamp(0, 255).byte()


def normalised(image: Tensor) -> Tensor:
    """An RGB image (..., 3, H, W) of uint8, or of floats from 0 to 255, as the networks take it, float32."""
    mean, deviation = _moments(image)
    return (image.float() / 255 - mean) / deviation


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = (
        torch.tensor(values, device=image.device).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_DEVIATION)
    )
    return mean, deviation
