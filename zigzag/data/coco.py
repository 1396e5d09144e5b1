"""COCO's instances as labels of VOC's 20 classes, for pre-training."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zigzag.data.annotations import read_annotations
from zigzag.data.classes import COCO_NAMES, VOID, Colour
from zigzag.data.source import DataError, Labels, image_problems, read_image

FEWEST_PIXELS = 1000
"""Of VOC's classes in an image that is used (Chen et al., DeepLab v2)."""


class CocoAsVoc:
    """Images of COCO with labels painted from their instances (a `Source`).

    A pixel that instances of several classes claim is void, and so is a crowd of any of the classes.

    Args:
        images: folder of the images.
        annotations: COCO's instances_SPLIT.json.
        classes: VOC's names, background first.
        colours: of every class.

    Raises:
        DataError: the annotations are missing or no annotations of COCO.
    """

    has_truth = True

    def __init__(self, images: Path, annotations: Path, classes: Sequence[str], colours: Sequence[Colour]) -> None:
        self.classes, self.colours, self._folder = classes, colours, images
        self._coco = read_annotations(annotations)
        own = {COCO_NAMES.get(entry["name"], entry["name"]): entry["id"] for entry in self._coco.dataset["categories"]}
        missing = [name for name in classes[1:] if name not in own]
        if missing:
            raise DataError(f"{annotations}: there is no category for {missing[0]!r}")
        self._label = {own[name]: label for label, name in enumerate(classes) if label > 0}
        self._ids = [image for image in sorted(self._coco.getImgIds()) if self._pixels(image) >= FEWEST_PIXELS]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._ids)

    def name(self, index: int) -> str:
        """As `zigzag.data.source.Source.name`."""
        return self._path(index).stem

    def image(self, index: int) -> Image.Image:
        """As `zigzag.data.source.Source.image`."""
        return read_image(self._path(index))

    def labels(self, index: int) -> Labels:
        """As `zigzag.data.source.Source.labels`."""
        entry = self._entry(index)
        labels = np.zeros((entry["height"], entry["width"]), np.uint8)
        for instance in self._instances(self._ids[index]):
            inside = self._coco.annToMask(instance).astype(bool)
            label = VOID if instance["iscrowd"] else self._label[instance["category_id"]]
            contested = inside & (labels != 0) & (labels != label)
            labels[inside] = label
            labels[contested] = VOID
        return labels

    def problems(self, index: int) -> Iterable[str]:
        """As `zigzag.data.source.Source.problems`: a missing or unreadable image, or one of another size."""
        entry = self._entry(index)
        return image_problems(self._path(index), entry["width"], entry["height"])

    def _entry(self, index: int) -> dict[str, Any]:
        entry: dict[str, Any] = self._coco.imgs[self._ids[index]]
        return entry

    def _path(self, index: int) -> Path:
        return self._folder / str(self._entry(index)["file_name"])

    def _instances(self, image: int) -> list[dict[str, Any]]:
        instances = self._coco.loadAnns(self._coco.getAnnIds(imgIds=[image]))
        return [instance for instance in instances if instance["category_id"] in self._label]

    def _pixels(self, image: int) -> float:
        return float(sum(instance["area"] for instance in self._instances(image) if not instance["iscrowd"]))
