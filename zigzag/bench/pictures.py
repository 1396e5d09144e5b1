"""The photograph beside what the neck makes of it."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 473


def principal(values: Tensor) -> Image:
    """A map (1, C, H, W) as colours: the first three principal components of its pixels' directions."""
    pixels = torch.nn.functional.normalize(values[0].flatten(1).t().double(), dim=1)
    pixels = pixels - pixels.mean(0)
    _, vectors = torch.linalg.eigh(pixels.t() @ pixels)
    directions = vectors[:, -3:].flip(1)
    # An eigenvector's sign is arbitrary: let most of its weight be positive, so that two runs give one picture.
    directions = directions * directions.sum(0).sign()
    return _image((pixels @ directions).view(*values.shape[2:], 3))


def energy(values: Tensor) -> Image:
    """A map (1, C, H, W) as grey levels: the logarithm of the norm over the channels."""
    norm = torch.linalg.vector_norm(values[0].double(), dim=0)
    return _image(norm.clamp(min=1e-12).log()[..., None].expand(-1, -1, 3))


def _image(values: Tensor) -> Image:
    """Values (H, W, 3) between their 1st and 99th percentile, as an image."""
    from PIL import Image

    flat = values.reshape(-1, 3)
    low, high = (torch.quantile(flat, q, dim=0) for q in (0.01, 0.99))
    scaled = ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    image = Image.fromarray((scaled * 255).round().to(torch.uint8).numpy())
    return image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)


def side_by_side(images: list[Image]) -> Image:
    """Images of any size in one row, at one height."""
    from PIL import Image

    gap = 12
    canvas = Image.new("RGB", (len(images) * (_SIDE + gap) - gap, _SIDE), "white")
    for i, image in enumerate(images):
        canvas.paste(image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), (i * (_SIDE + gap), 0))
    return canvas


def data_uri(image: Image) -> str:
    """The image as JPEG inside a URL, for a page without other files."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
