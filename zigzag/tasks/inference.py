"""Prediction of whole images: several scales, mirror images, a sliding window, and memory that stays within bounds.

Class probabilities (softmax) are averaged: over mirror images, over the windows that see a pixel, then over scales.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from zigzag.data.transforms import normalised

Network = Callable[[Tensor], Tensor]

LARGEST_SCALE = 16  # a larger one is a slip, and would only end where memory does
PAPER_SCALES = (0.6, 0.8, 1.0, 1.2, 1.4)


@dataclass(frozen=True)
class Inference:
    """How an image is predicted.

    Attributes:
        scales: factors whose predictions are averaged; the paper's are 0.6, 0.8, 1.0, 1.2 and 1.4.
        flip: average with the mirror image's too.
        window: side in pixels of what the network sees at a time, where a scaled image is larger; None for all of it,
            however large. The paper's is the crop that it trains on.
        overlap: least share of a window that the next one sees again.
        memory: MiB for the rows of an image that are softened, resized and averaged at a time. `probabilities` says
            what comes on top.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: int | None = 1024
    overlap: float = 1 / 3
    memory: int = 512

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= LARGEST_SCALE for scale in self.scales):  # NaN is neither
            wanted = f"one or more factors above 0 and at most {LARGEST_SCALE}"
            raise ValueError(f"inference.scales must be {wanted}, got {self.scales}")
        if self.window is not None and self.window < 32:
            raise ValueError(f"inference.window must be 32 pixels or more, or null, got {self.window}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"inference.overlap must be from 0 to below 1, got {self.overlap}")
        if self.memory < 1:
            raise ValueError(f"inference.memory must be 1 MiB or more, got {self.memory}")


def segment(network: Network, image: Tensor, classes: int, settings: Inference) -> Tensor:
    """The most probable label of every pixel, (H, W) uint8; arguments are those of `probabilities`.

    With windows it goes along the longer side, so that what is held grows with the shorter one alone.
    """
    sideways = settings.window is not None and image.shape[2] > image.shape[1]
    bands = probabilities(network, image, classes, settings, sideways=sideways)
    labels = torch.cat([band.argmax(0).byte() for band in bands])
    return labels.mT.contiguous() if sideways else labels


@torch.no_grad()
def probabilities(
    network: Network, image: Tensor, classes: int, settings: Inference, *, sideways: bool = False
) -> Iterator[Tensor]:
    """The probabilities of all classes, (classes, rows, W) float32, band of rows after band from the top.

    The network runs once for every scale, window and mirror image, whatever ``settings.memory`` is; the results are the
    same. Beside the network's own memory and ``settings.memory`` for a band, there are in floats

    - with a window: of every scale the sum over a row of windows, classes x window x the scale's width, and of one at a
      time what the next row sees again. Scales go side by side, and nothing of this grows with the image's height;
    - without: of one scale at a time the network's scores, classes x its height x its width, and those of the mirror
      image. With several scales their sum, classes x H x W; one scale comes after the other.

    Sideways, columns take the place of rows and the height that of the width.

    Args:
        network: (1, 3, h, w) float32 to scores (1, classes, h, w).
        image: RGB (3, H, W) uint8.
        classes: number of classes.
        settings: scales, windows, memory.
        sideways: bands of columns, (classes, columns, H), from the left.
    """
    sight = _Sight(network, settings.flip, sideways)
    height, width = sight.turned(image).shape[1:]
    pixels = width * max(1.0, *settings.scales) ** 2
    step = max(1, int(settings.memory * 2**20 / (4 * _HELD * classes * pixels)))
    bands = [range(top, min(top + step, height)) for top in range(0, height, step)]
    scales = [_Scale(sight, image, factor, classes, settings, step) for factor in settings.scales]
    if settings.window is not None or len(scales) == 1:
        for band in bands:
            total = image.new_zeros((classes, len(band), width), dtype=torch.float32)
            for scale in scales:
                total += scale.resized(band)
            yield total / len(scales)
        return
    total = image.new_zeros((classes, height, width), dtype=torch.float32)
    while scales:
        scale = scales.pop(0)  # what it holds goes with it
        for band in bands:
            total[:, band.start : band.stop] += scale.resized(band)
    for band in bands:
        yield total[:, band.start : band.stop] / len(settings.scales)


_HELD = 6
"""Arrays of a band's size, in the largest scale's pixels, that are alive at once while it is softened and resized."""


_ALIGNED = 16
"""Rows; softmax rounds differently where its pixels fill no vector, and so strips of these alone have the same bits."""


@dataclass(frozen=True)
class _Sight:
    """What a network says of an image, given upright or, sideways, with its columns for rows."""

    network: Network
    flip: bool
    sideways: bool

    def turned(self, image: Tensor) -> Tensor:
        """From upright to the way that is asked for, or back."""
        return image.mT if self.sideways else image

    def strips(self, image: Tensor, step: int) -> Iterator[Tensor]:
        """The probabilities (classes, rows, w) of an image (3, h, w) that is seen whole, some rows at a time."""
        pixels = normalised(self.turned(image))[None].contiguous(memory_format=torch.channels_last)
        scores = self.turned(self.network(pixels)[0])
        mirrored = self.turned(self.network(pixels.flip(3))[0]) if self.flip else None
        del pixels
        if mirrored is not None and self.sideways:
            mirrored = mirrored.flip(1)  # at once: of strips from the end upwards softmax rounds some bits differently
        step = _ALIGNED * ceil(step / _ALIGNED)
        for top in range(0, image.shape[1], step):
            own = scores[:, top : top + step].float().softmax(0)
            if mirrored is not None:
                other = mirrored[:, top : top + step].float().softmax(0)
                own = (own + (other if self.sideways else other.flip(2))) / 2
            yield own


class _Scale:
    """The probabilities of a scaled image, which the network sees from the top down, as their rows are asked for."""

    def __init__(
        self, sight: _Sight, image: Tensor, factor: float, classes: int, settings: Inference, step: int
    ) -> None:
        self._size, self._device = sight.turned(image).shape[1:], image.device
        image = sight.turned(_resized(image, factor))
        self._height, self._width = image.shape[1:]
        if settings.window is None or max(self._height, self._width) <= settings.window:
            self._strips = sight.strips(image, step)
        else:
            self._strips = _slid(sight, image, classes, step, settings)
        self._held, self._start = image.new_empty((classes, 0, self._width), dtype=torch.float32), 0

    def resized(self, band: range) -> Tensor:
        """Some rows at the image's size, (classes, len(band), W); each band begins where the one before it ended."""
        height, width = self._size
        low, high, share = _between(band, height, self._height, self._device)
        first = int(low[0])
        rows = self._rows(first, int(high[-1]) + 1)
        rows = _mixed(rows, 1, low - first, high - first, share[:, None])
        return _mixed(rows, 2, *_between(range(width), width, self._width, self._device))

    def _rows(self, first: int, last: int) -> Tensor:
        """Rows of the scaled image; of these, the next call can ask for no more than the last two again."""
        strips, end = [self._held], self._start + self._held.shape[1]
        while end < last:
            strips.append(next(self._strips))
            end += strips[-1].shape[1]
        held = torch.cat(strips, 1)
        rows = held[:, first - self._start : last - self._start]
        kept = max(self._start, last - 2)
        self._held, self._start = held[:, kept - self._start :].clone(), kept
        return rows


def _slid(sight: _Sight, image: Tensor, classes: int, step: int, settings: Inference) -> Iterator[Tensor]:
    """The same, averaged over windows: rows are done when the windows below see them no more."""
    down, across = windows(image.shape[1], settings), windows(image.shape[2], settings)
    side = down[0][1]
    total = image.new_zeros((classes, side, image.shape[2]), dtype=torch.float32)
    count = image.new_zeros((side, image.shape[2]), dtype=torch.float32)
    for (top, bottom), after in zip(down, [*(top for top, _ in down[1:]), image.shape[1]], strict=True):
        for left, right in across:
            (own,) = sight.strips(image[:, top:bottom, left:right], side)
            total[:, :, left:right] += own
            count[:, left:right] += 1
        for start in range(0, after - top, step):
            done = slice(start, min(start + step, after - top))
            yield total[:, done] / count[done]
        _scroll(total, 1, after - top)
        _scroll(count, 0, after - top)


def _scroll(values: Tensor, axis: int, rows: int) -> None:
    """Move what is below the first rows of an axis to its beginning, and zeros up from its end."""
    kept = values.shape[axis] - rows
    values.narrow(axis, 0, kept).copy_(values.narrow(axis, rows, kept).clone())
    values.narrow(axis, kept, rows).zero_()


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
