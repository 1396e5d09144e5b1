"""What a data set is: pairs of an image and a mask, and the checks that find a bad file before training starts."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from zigzag.data.classes import VOID, Colour

Labels = npt.NDArray[np.uint8]

_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What PIL raises for a file that is no image, is broken, or has more pixels than PIL's limit."""

SHOWN = 5
"""Problems that an error lists; it says how many there are."""


class DataError(ValueError):
    """Files, or fields that choose them, that cannot be used; the message names them."""


class Source(Protocol):
    """Images with labels."""

    @property
    def classes(self) -> Sequence[str]:
        """Names, by label."""

    @property
    def colours(self) -> Sequence[Colour]:
        """Of every class."""

    def __len__(self) -> int:
        """Number of images."""

    @property
    def has_truth(self) -> bool:
        """Whether it has labels to train on and to score against; without, all are `VOID`."""

    def name(self, index: int) -> str:
        """What an image is called, without folder or suffix."""

    def image(self, index: int) -> Image.Image:
        """An image, RGB."""

    def labels(self, index: int) -> Labels:
        """Its labels (H, W): a class each, or `VOID`."""

    def problems(self, index: int) -> Iterable[str]:
        """What is wrong with an image's files, naming them."""


@dataclass(frozen=True)
class Pair:
    """Files of one image and its mask; no mask where the truth is kept back."""

    image: Path
    mask: Path | None


class MaskFiles:
    """Image files with indexed or grey masks of the same size (a `Source`).

    Args:
        pairs: the files.
        classes: names, by label.
        colours: of every class.
        void: values in the masks that count for nothing; every other value must be a label.
        offset: the value of label 0 in the masks; values below it are void.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        classes: Sequence[str],
        colours: Sequence[Colour],
        void: Iterable[int] = (VOID,),
        offset: int = 0,
    ) -> None:
        self.pairs, self.classes, self.colours = list(pairs), tuple(classes), tuple(colours)
        self._label = np.full(256, -1, np.int16)  # -1: a value that must not occur
        self._label[offset : offset + len(classes)] = np.arange(len(classes))
        self._label[[*void, *range(offset)]] = VOID
        self.has_truth = all(pair.mask is not None for pair in self.pairs)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pairs)

    def name(self, index: int) -> str:
        """As `Source.name`."""
        return self.pairs[index].image.stem

    def image(self, index: int) -> Image.Image:
        """As `Source.image`."""
        return read_image(self.pairs[index].image)

    def labels(self, index: int) -> Labels:
        """As `Source.labels`.

        Raises:
            DataError: a value that is no label, whether or not `problems` was asked before.
        """
        pair = self.pairs[index]
        if pair.mask is None:
            width, height = self.image(index).size
            return np.full((height, width), VOID, np.uint8)
        values = read_mask(pair.mask)
        labels = self._label[values]
        if labels.min() < 0:
            raise DataError(*self._wrong(pair.mask, values))
        return labels.astype(np.uint8)

    def problems(self, index: int) -> Iterable[str]:
        """As `Source.problems`: a missing or unreadable file, sizes that differ, a value that is no label."""
        pair = self.pairs[index]
        missing = [path for path in (pair.image, pair.mask) if path is not None and not path.is_file()]
        if missing:
            return [f"{path}: there is no such file" for path in missing]
        try:
            width, height = image_size(pair.image)
            if pair.mask is None:
                return []
            values = read_mask(pair.mask)
        except DataError as error:
            return [str(error)]
        if values.shape != (height, width):
            own = f"{values.shape[1]} x {values.shape[0]}"
            return [f"{pair.mask}: the mask is {own}, its image {pair.image} is {width} x {height}"]
        return self._wrong(pair.mask, values)

    def _wrong(self, mask: Path, values: Labels) -> list[str]:
        """The first value that is no label, in words."""
        wrong = [int(value) for value in np.unique(values) if self._label[value] < 0]
        return [f"{mask}: value {value} is no label: there are {len(self.classes)} classes" for value in wrong[:1]]


def root_folder(dataset: str, root: str | None) -> Path:
    """The folder ``data.root`` of a data set that is not generated.

    Raises:
        DataError: none is named, or there is no such folder.
    """
    if root is None:
        raise DataError(f"data.root must name the folder of {dataset!r}, got None")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"data.root: there is no folder {str(folder)!r}")
    return folder


_ORIENTATION = 0x0112
"""EXIF's tag."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by orientation. PIL's own way writes all tags anew, and fails where one is odd."""
_SIDEWAYS = (5, 6, 7, 8)


def read_image(path: Path) -> Image.Image:
    """An image file as RGB, upright.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            _check_depth(image)
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
            return (image if turn is None else image.transpose(turn)).convert("RGB")
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error


def _check_depth(image: Image.Image) -> None:
    """Refuse what the conversion to RGB would cut off at 255."""
    if image.mode == "F" or image.mode.startswith("I"):
        raise ValueError(f"its mode is {image.mode}, expected 8 bits a channel")


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as `read_image` gives it; its file is decoded to its end.

    Raises:
        DataError: it cannot be read, or is cut off.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            _check_depth(image)
            image.load()
            return (height, width) if image.getexif().get(_ORIENTATION) in _SIDEWAYS else (width, height)
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error


def image_problems(path: Path, width: int, height: int) -> list[str]:
    """What is wrong with an image that is annotated with this size."""
    if not path.is_file():
        return [f"{path}: there is no such file"]
    try:
        own = image_size(path)
    except DataError as error:
        return [str(error)]
    if own != (width, height):
        return [f"{path}: the image is {own[0]} x {own[1]}, annotated as {width} x {height}"]
    return []


def read_mask(path: Path) -> Labels:
    """The values (H, W) of an indexed or grey image.

    Raises:
        DataError: it cannot be read, or is in colour.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P"):
                raise DataError(f"{path}: the mask has mode {image.mode}, expected indexed (P) or grey (L)")
            return np.asarray(image)
    except _UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read as a mask: {error}") from error


class Checked(Protocol):
    """What `check` looks at."""

    def __len__(self) -> int:
        """Number of images."""

    def problems(self, index: int) -> Iterable[str]:
        """What is wrong with an image's files, naming them."""


def check(source: Checked, what: str, threads: int = 4) -> None:
    """Look at every file of a source.

    Raises:
        DataError: it is empty, or a file cannot be used; the first ones are named.
    """
    if len(source) == 0:
        raise DataError(f"{what}: there are no images")
    with ThreadPoolExecutor(threads) as pool:
        found = [problem for own in pool.map(source.problems, range(len(source))) for problem in own]
    if found:
        raise DataError(summary(f"{what}: {len(found)} of the files cannot be used", found))


def summary(what: str, found: Sequence[str]) -> str:
    """The text of an error that lists the first problems and counts the rest."""
    more = [f"... and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "\n  ".join([f"{what}:", *found[:SHOWN], *more])
