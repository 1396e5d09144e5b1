"""A generated data set: coloured shapes on a textured ground. It needs no file and no download."""

from collections.abc import Iterable
from colorsys import hsv_to_rgb
from functools import cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from zigzag.data.classes import SHAPES, voc_colour
from zigzag.data.source import DataError, Labels

SIZE = 96
COUNTS = {"train": 512, "val": 48, "test": 48}
_SEEDS = {"train": 1, "val": 2, "test": 3}
_HUES = {"circle": 0.0, "ring": 0.0, "square": 0.35, "cross": 0.35, "triangle": 0.65}
_DRAWN_LARGER = 4


class Shapes:
    """Images of `SIZE` pixels with one to four shapes (a `Source`). The same index gives the same image, always.

    The ground is grey. Circles and rings share a hue, and so do squares and crosses: colour tells some classes, and
    form the others.

    Args:
        split: "train", "val" or "test".

    Raises:
        DataError: another split.
    """

    has_truth = True

    def __init__(self, split: str) -> None:
        if split not in COUNTS:
            raise DataError(f"a part of the data set shapes must be one of {', '.join(COUNTS)}, got {split!r}")
        self.classes = SHAPES
        self.colours = [voc_colour(label) for label in range(len(SHAPES))]
        self._split, self._seed = split, _SEEDS[split]

    def __len__(self) -> int:
        """Number of images."""
        return COUNTS[self._split]

    def name(self, index: int) -> str:
        """As `zigzag.data.source.Source.name`."""
        return f"{self._split}_{index:04d}"

    def image(self, index: int) -> Image.Image:
        """As `zigzag.data.source.Source.image`."""
        return _drawn(self._seed, index)[0]

    def labels(self, index: int) -> Labels:
        """As `zigzag.data.source.Source.labels`."""
        return _drawn(self._seed, index)[1]

    def numbers(self, index: int) -> Labels:
        """Of every pixel (H, W) the number of the shape it shows, from 1; 0 for the ground."""
        return _drawn(self._seed, index)[2]

    def problems(self, index: int) -> Iterable[str]:  # noqa: ARG002
        """As `zigzag.data.source.Source.problems`: none."""
        return []


@cache
def _drawn(seed: int, index: int) -> tuple[Image.Image, Labels, Labels]:
    """Image, labels and numbers of one index; what was drawn once is kept."""
    random = np.random.default_rng([seed, index])
    ground = random.uniform(60, 200) + random.normal(0, 15, (SIZE // 8, SIZE // 8, 3))
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    labels, numbers = Image.new("L", (SIZE, SIZE), 0), Image.new("L", (SIZE, SIZE), 0)
    for number in range(1, 1 + random.integers(1, 5)):
        label = int(random.integers(1, len(SHAPES)))
        mask = _shape(SHAPES[label], random)
        hue = (_HUES[SHAPES[label]] + random.uniform(-0.06, 0.06)) % 1
        colour = hsv_to_rgb(hue, random.uniform(0.6, 1), random.uniform(0.5, 1))
        image.paste(Image.new("RGB", image.size, tuple(round(255 * value) for value in colour)), mask=mask)
        whole = mask.point(lambda value: 255 if value >= 128 else 0)
        labels.paste(label, mask=whole)
        numbers.paste(number, mask=whole)
    noisy = np.asarray(image, np.float64) + random.normal(0, 8, (SIZE, SIZE, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), np.array(labels), np.array(numbers)


def _shape(name: str, random: np.random.Generator) -> Image.Image:
    """A shape's coverage, 0 to 255, at a random place, size and angle."""
    side = SIZE * _DRAWN_LARGER
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    radius = random.uniform(0.12, 0.26) * side
    x, y = random.uniform(0.1, 0.9, 2) * side
    turn = random.uniform(0, 2 * pi)
    if name in ("circle", "ring"):
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
        if name == "ring":
            hole = 0.55 * radius
            draw.ellipse([x - hole, y - hole, x + hole, y + hole], fill=0)
    elif name == "cross":
        for angle in (turn, turn + pi / 2):
            draw.polygon(_rectangle(x, y, radius, 0.32 * radius, angle), fill=255)
    else:
        corners = 3 if name == "triangle" else 4
        angles = [turn + 2 * pi * corner / corners for corner in range(corners)]
        draw.polygon([(x + radius * cos(angle), y + radius * sin(angle)) for angle in angles], fill=255)
    return mask.resize((SIZE, SIZE), Image.Resampling.BOX)


def _rectangle(x: float, y: float, length: float, width: float, angle: float) -> list[tuple[float, float]]:
    along, across = (cos(angle), sin(angle)), (-sin(angle), cos(angle))
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    return [
        (x + a * length * along[0] + b * width * across[0], y + a * length * along[1] + b * width * across[1])
        for a, b in signs
    ]
