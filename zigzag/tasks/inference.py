"""Prediction of whole images: several scales, mirror images, a sliding window, and memory that stays within bounds.

Class probabilities (softmax) are averaged: over mirror images, over the windows that see a pixel, then over scales.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from zigzag.data.transforms import normalised

Network = Callable[[Tensor], Tensor]

PAPER_SCALES = (0.6, 0.8, 1.0, 1.2, 1.4)


@dataclass(frozen=True)
class Inference:
    """How an image is predicted.

    Attributes:
        scales: factors whose predictions are averaged; the paper's are 0.6, 0.8, 1.0, 1.2 and 1.4.
        flip: average with the mirror image's too.
        window: side in pixels of what the network sees at a time, where a scaled image is larger; None for all of it.
        overlap: least share of a window that the next one sees again.
        memory: MiB for the probabilities of all classes that are held at a time, and so for an image of any size.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: int | None = None
    overlap: float = 1 / 3
    memory: int = 512

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"inference.scales must be one or more factors > 0, got {self.scales}")
        if self.window is not None and self.window < 32:
            raise ValueError(f"inference.window must be 32 pixels or more, or null, got {self.window}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"inference.overlap must be from 0 to below 1, got {self.overlap}")
        if self.memory < 1:
            raise ValueError(f"inference.memory must be 1 MiB or more, got {self.memory}")


@torch.no_grad()
def segment(network: Network, image: Tensor, classes: int, settings: Inference) -> Tensor:
    """The most probable label of every pixel, (H, W) uint8.

    A large image is done in bands of rows, each as high as ``settings.memory`` allows; the result is the same.

    Args:
        network: (1, 3, h, w) float32 to scores (1, classes, h, w).
        image: RGB (3, H, W) uint8.
        classes: number of classes.
        settings: scales, windows, memory.
    """
    height, width = image.shape[1:]
    widest = ceil(width * max(1.0, *settings.scales))
    rows = max(1, int(settings.memory * 2**20 / (4 * _HELD * classes * widest)))
    scaled = [_resized(image, factor) for factor in settings.scales]
    bands = [
        probabilities(network, scaled, (height, width), range(top, min(top + rows, height)), classes, settings)
        .argmax(0)
        .byte()
        for top in range(0, height, rows)
    ]
    return torch.cat(bands)


_HELD = 4
"""Arrays of a band's size that are alive at once: the average, a scale's sum, and two while it is resized."""


def probabilities(
    network: Network, scaled: list[Tensor], size: tuple[int, int], rows: range, classes: int, settings: Inference
) -> Tensor:
    """The probabilities (classes, len(rows), W) of some rows of an image of ``size``, from its scaled copies."""
    height, width = size
    total = scaled[0].new_zeros((classes, len(rows), width), dtype=torch.float32)
    for image in scaled:
        low, high, share = _between(rows, height, image.shape[1], image.device)
        seen = range(int(low[0]), int(high[-1]) + 1)
        band = _band(network, image, seen, classes, settings)
        band = _mixed(band, 1, low - seen.start, high - seen.start, share[:, None])
        total += _mixed(band, 2, *_between(range(width), width, image.shape[2], image.device))
    return total / len(scaled)


def _band(network: Network, image: Tensor, rows: range, classes: int, settings: Inference) -> Tensor:
    """The probabilities (classes, len(rows), w) of some rows of a scaled image (3, h, w): the windows' average."""
    total = image.new_zeros((classes, len(rows), image.shape[2]), dtype=torch.float32)
    count = image.new_zeros((len(rows), image.shape[2]), dtype=torch.float32)
    for top, bottom in windows(image.shape[1], settings):
        first, last = max(top, rows.start), min(bottom, rows.stop)
        if first >= last:
            continue
        for left, right in windows(image.shape[2], settings):
            own = _window(network, image[:, top:bottom, left:right], flip=settings.flip)
            inside = slice(first - rows.start, last - rows.start), slice(left, right)
            total[:, *inside] += own[:, first - top : last - top]
            count[inside] += 1
    return total.div_(count)


def _window(network: Network, image: Tensor, *, flip: bool) -> Tensor:
    """The probabilities (classes, h, w) of an image (3, h, w) that the network sees whole."""
    pixels = normalised(image)[None].contiguous(memory_format=torch.channels_last)
    result = network(pixels).float().softmax(1)
    if flip:
        result = (result + network(pixels.flip(3)).float().softmax(1).flip(3)) / 2
    return result[0]


def windows(size: int, settings: Inference) -> list[tuple[int, int]]:
    """First row and end of every window along an axis; the last one ends at the border."""
    if settings.window is None or size <= settings.window:
        return [(0, size)]
    step = max(1, int(settings.window * (1 - settings.overlap)))
    count = 1 + ceil((size - settings.window) / step)
    starts = [min(i * step, size - settings.window) for i in range(count)]
    return [(start, start + settings.window) for start in starts]


def _resized(image: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return image
    size = [max(1, round(side * factor)) for side in image.shape[1:]]
    resized: Tensor = transforms.resize(image, size, antialias=True)
    return resized


def _between(rows: range, target: int, source: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Bilinear resizing along an axis (half-pixel centres): the two source rows of each row, and the second's share."""
    place = (torch.arange(rows.start, rows.stop, device=device, dtype=torch.float64) + 0.5) * source / target - 0.5
    place = place.clamp(0, source - 1)
    low = place.long()
    return low, (low + 1).clamp(max=source - 1), (place - low).float()


def _mixed(band: Tensor, axis: int, low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(band.index_select(axis, low), band.index_select(axis, high), share)
