"""Pictures of results: an overlay with a legend, and a contact sheet of images, truths and predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from zigzag.data.classes import VOID, Colour
from zigzag.files import whole

Pixels = npt.NDArray[np.uint8]

_PAPER, _INK, _FAINT = (255, 255, 255), (25, 25, 25), (120, 120, 120)
_EDGE = 8
_ROW = 22
_STRENGTH = 0.6
_BAND = 64
"""Rows that are mixed at once, in floats."""
_SHEET = 100
"""Width of a column without a picture."""


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture, whole or not at all, and make its folder where there is none.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        picture.save(temporary)


def painted(labels: Pixels, colours: Sequence[Colour]) -> Pixels:
    """Labels (H, W) in their colours (H, W, 3); void is white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colours)] = colours
    return table[labels]


def overlay(image: Pixels, labels: Pixels, colours: Sequence[Colour]) -> Pixels:
    """An image (H, W, 3) under its labels' colours, a line between regions; void and what is black stay as they are."""
    plain = np.zeros(256, bool)
    plain[: len(colours)] = ~np.any(colours, axis=1)
    plain[VOID] = True
    result = image.copy()
    for top in range(0, len(labels), _BAND):
        rows = slice(top, top + _BAND)
        mixed = (1 - _STRENGTH) * image[rows] + _STRENGTH * painted(labels[rows], colours)
        np.copyto(result[rows], mixed.round().astype(np.uint8), where=~plain[labels[rows], None])
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    np.copyto(result, np.uint8(255), where=border[..., None])
    return result


def with_legend(image: Pixels, labels: Pixels, classes: Sequence[str], colours: Sequence[Colour]) -> Image.Image:
    """The overlay of an image above a legend of the classes that occur, each with its share, the largest first."""
    found, counts = np.unique(labels, return_counts=True)
    order = [int(label) for label in found[np.argsort(-counts, kind="stable")] if label < len(classes)]
    share = dict(zip(found.tolist(), (counts / labels.size).tolist(), strict=True))
    entries = [f"{classes[label]}  {100 * share[label]:.1f}%" for label in order]
    font = ImageFont.load_default(14)
    height, width = labels.shape
    step = max([_ROW + 16 + int(font.getlength(entry)) for entry in entries], default=1)
    columns = max(1, (width - 2 * _EDGE) // step)
    rows = -(-len(entries) // columns)
    sheet = Image.new("RGB", (max(width, step + 2 * _EDGE), height + rows * _ROW + 2 * _EDGE), _PAPER)
    sheet.paste(Image.fromarray(overlay(image, labels, colours)), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for place, (label, entry) in enumerate(zip(order, entries, strict=True)):
        x, y = _EDGE + place % columns * step, height + _EDGE + place // columns * _ROW
        draw.rectangle([x, y + 3, x + 14, y + 17], fill=colours[label], outline=_INK)
        draw.text((x + _ROW, y + 2), entry, fill=_INK, font=font)
    return sheet


@dataclass(frozen=True)
class Case:
    """One row of a contact sheet.

    Attributes:
        title: what is written above it.
        image: (H, W, 3).
        truth: labels (H, W).
        prediction: labels (H, W).
    """

    title: str
    image: Pixels
    truth: Pixels
    prediction: Pixels


def thumbnail(case: Case, width: int = 300) -> Case:
    """The case at most ``width`` wide."""
    height = max(1, round(case.image.shape[0] * width / case.image.shape[1]))
    if width >= case.image.shape[1]:
        return case
    box, nearest = Image.Resampling.BOX, Image.Resampling.NEAREST
    arrays = ((case.image, box), (case.truth, nearest), (case.prediction, nearest))
    return Case(case.title, *(np.asarray(Image.fromarray(x).resize((width, height), how)) for x, how in arrays))


def contact_sheet(sections: Sequence[tuple[str, Sequence[Case]]], colours: Sequence[Colour]) -> Image.Image:
    """Rows of image, truth, prediction, and where they differ (red), under the headings of their sections."""
    cases = [case for _, own in sections for case in own]
    width = max([case.image.shape[1] for case in cases], default=_SHEET)
    columns = ("image", "truth", "prediction", "wrong")
    heading = ImageFont.load_default(18)
    text = ImageFont.load_default(13)
    height = sum(_EDGE + 2 * _ROW + sum(case.image.shape[0] + _ROW for case in own) for _, own in sections)
    sheet = Image.new("RGB", (len(columns) * (width + _EDGE) + _EDGE, height + _EDGE), _PAPER)
    draw = ImageDraw.Draw(sheet)
    y = 0
    for title, own in sections:
        draw.text((_EDGE, y + _EDGE), title, fill=_INK, font=heading)
        y += _EDGE + _ROW
        for place, name in enumerate(columns):
            draw.text((_EDGE + place * (width + _EDGE), y), name, fill=_FAINT, font=text)
        y += _ROW
        for case in own:
            draw.text((_EDGE, y), case.title, fill=_INK, font=text)
            y += _ROW - 2
            for place, pixels in enumerate(_cells(case, colours)):
                sheet.paste(Image.fromarray(pixels), (_EDGE + place * (width + _EDGE), y))
            y += case.image.shape[0] + 2
    return sheet


def _cells(case: Case, colours: Sequence[Colour]) -> list[Pixels]:
    grey = case.image.mean(2, keepdims=True).repeat(3, 2).astype(np.uint8)
    wrong = (case.truth != case.prediction) & (case.truth != VOID)
    grey[wrong] = (220, 30, 30)
    return [case.image, painted(case.truth, colours), painted(case.prediction, colours), grey]
