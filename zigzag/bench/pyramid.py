"""A photograph through a ResNet: the pyramid res2..res5 that the neck is measured on."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zigzag.bench.settings import SEED, BenchError, Settings
from zigzag.errors import first_line

if TYPE_CHECKING:
    from PIL.Image import Image

INSTALL = 'install the benchmark\'s requirements: pip install "zigzag[bench]"'

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def load_photograph(path: Path | str | None) -> Image:
    """The image at ``path``, or matplotlib's sample photograph of Grace Hopper, in RGB.

    Raises:
        BenchError: a requirement is not installed, or the file cannot be read as an image.
    """
    try:
        from matplotlib.cbook import get_sample_data
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise BenchError(f"{error.name} is not installed; {INSTALL}") from error
    try:
        if path is None:
            path = get_sample_data("grace_hopper.jpg", asfileobj=False)
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BenchError(f"--image: {str(path)!r} cannot be read as an image: {error}") from error


def crop(image: Image, size: int) -> Image:
    """The largest centred square of an image, at ``size`` x ``size`` pixels."""
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def normalised(image: Image) -> Tensor:
    """An RGB image as ImageNet-normalised float32 (1, 3, H, W)."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
    scaled = (pixels.float() / 255 - torch.tensor(_MEAN)) / torch.tensor(_DEVIATION)
    return scaled.permute(2, 0, 1)[None]


def load_backbone(settings: Settings) -> nn.Module:
    """The ResNet that ``settings`` names, with its weights or with seeded random ones.

    Raises:
        BenchError: torchvision is missing, it has no such ResNet, or the weights do not fit.
    """
    try:
        from torchvision import models

        from zigzag.models.backbones import stride_in_first_convolution
    except ImportError as error:
        raise BenchError(f"{error.name or 'torchvision'} is not installed; {INSTALL}") from error
    names = [name for name in models.list_models(module=models) if "resne" in name]
    if settings.backbone not in names:
        raise BenchError(f"--backbone must be one of {', '.join(names)}, got {settings.backbone!r}")
    torch.manual_seed(SEED)
    model: nn.Module = models.get_model(settings.backbone, weights=None)
    if settings.weights is not None:
        _load_weights(model, settings.weights)
    if settings.stride_in_1x1:
        stride_in_first_convolution(model)
    # Random weights have no running statistics worth the name: normalise by the image's own, or the maps would explode.
    return model.train(settings.weights is None)


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        summary = first_line(error)
        raise BenchError(f"--weights: {str(path)!r} cannot be loaded as a state dict: {summary}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BenchError(f"--weights: {str(path)!r} holds no state dict (a mapping from names to tensors)")
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise BenchError(f"--weights: {str(path)!r} does not fit the backbone: {error}") from error
    missing = [name for name in missing if not name.startswith("fc.") and not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        first = (missing or unexpected)[0]
        kind = "lacks" if missing else "has an unknown"
        raise BenchError(f"--weights: {str(path)!r} does not fit the backbone: it {kind} {first!r}")


@torch.no_grad()
def features(backbone: nn.Module, image: Tensor) -> list[Tensor]:
    """The maps res2..res5 of a normalised image (1, 3, H, W), finest first, channels_last."""
    from zigzag.models.backbones import resnet_maps

    return resnet_maps(backbone, image.to(memory_format=torch.channels_last))
