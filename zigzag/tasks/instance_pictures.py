"""Pictures of instances: a colour, an outline, a class and a score each."""

from collections.abc import Iterable, Sequence
from colorsys import hsv_to_rgb
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from zigzag.tasks.pictures import Pixels

_STRENGTH = 0.45
_GOLDEN = 0.6180339887498949


class Shown(NamedTuple):
    """One instance of a picture.

    Attributes:
        label: of its class.
        score: from 0 to 1.
        box: x1, y1, x2, y2 in pixels.
        mask: (H, W).
    """

    label: int
    score: float
    box: Sequence[float]
    mask: npt.NDArray[np.bool_]


def drawn(image: Pixels, instances: Iterable[Shown], classes: Sequence[str]) -> Image.Image:
    """An image (H, W, 3) with its instances painted and outlined, the class and the score of each at its box.

    Args:
        image: RGB.
        instances: in the order they are painted; their masks are taken one at a time.
        classes: names, by label.
    """
    pixels, captions = image.copy(), []
    for place, own in enumerate(instances):
        colour = _colour(place)
        mixed = (1 - _STRENGTH) * pixels[own.mask] + _STRENGTH * np.array(colour)
        pixels[own.mask] = mixed.round().astype(np.uint8)
        pixels[outline(own.mask)] = colour
        captions.append((own.box, f"{classes[own.label]} {own.score:.2f}", colour))
    result = Image.fromarray(pixels)
    draw, font = ImageDraw.Draw(result), ImageFont.load_default(12)
    for box, text, colour in captions:
        width, height = font.getlength(text) + 4, 16
        left = min(max(box[0], 0), max(image.shape[1] - width, 0))
        top = min(max(box[1] - height, 0), max(image.shape[0] - height, 0))
        draw.rectangle([left, top, left + width, top + height - 1], fill=colour)
        draw.text((left + 2, top), text, fill=(0, 0, 0), font=font)
    return result


def outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pixels of a mask (H, W) that have a neighbour, up, down, left or right, outside it or outside the image."""
    framed = np.pad(mask, 1)
    inner = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return mask & ~inner


def _colour(place: int) -> tuple[int, int, int]:
    """Bright colours, neighbours far apart in hue."""
    red, green, blue = hsv_to_rgb(place * _GOLDEN % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
