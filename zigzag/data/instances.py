"""Instances: what a data set of them is, COCO's, and the generated shapes'."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from zigzag.data.annotations import Entry, indexed, read_annotations
from zigzag.data.classes import COCO, SHAPES
from zigzag.data.shapes import Shapes
from zigzag.data.source import DataError, image_problems, read_image, root_folder


@dataclass(frozen=True)
class Instances:
    """The instances of an image that count.

    Attributes:
        boxes: (n, 4) float32, x1, y1, x2, y2 in pixels, within the image, x1 < x2 and y1 < y2.
        labels: (n,) int64, from 1.
        masks: (n, H, W) uint8, 0 or 1.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    masks: npt.NDArray[np.uint8]


class InstanceSource(Protocol):
    """Images with instances."""

    @property
    def classes(self) -> Sequence[str]:
        """Names, by label; the first is the background."""

    @property
    def category_ids(self) -> Mapping[int, int]:
        """The truth's category of every label but the background's."""

    def __len__(self) -> int:
        """Number of images."""

    def name(self, index: int) -> str:
        """What an image is called, without folder or suffix."""

    def image_id(self, index: int) -> int:
        """Its id in the truth."""

    def image(self, index: int) -> Image.Image:
        """An image, RGB."""

    def instances(self, index: int) -> Instances:
        """Its instances; crowds and what has no extent are left out."""

    def problems(self, index: int) -> Iterable[str]:
        """What is wrong with an image's files, naming them."""

    def truth(self) -> Any:
        """All annotations, as a pycocotools.coco.COCO."""


class CocoInstances:
    """Images with annotations in COCO's format (an `InstanceSource`).

    Args:
        images: folder of the images.
        annotations: a file as COCO's instances_SPLIT.json.
        classes: names of its categories, after the background's.
        only: ids of the images to use; all if there are none.
        empty: keep images without an instance that counts, too.

    Raises:
        DataError: the annotations are missing or broken, their categories are others, or there is no image of an id.
    """

    def __init__(
        self, images: Path, annotations: Path, classes: Sequence[str], only: Sequence[int] = (), *, empty: bool
    ) -> None:
        self.classes, self._folder = tuple(classes), images
        self._coco = read_annotations(annotations)
        if only:
            self._coco = _with_images(self._coco, only, annotations)
        ids = {entry["name"]: entry["id"] for entry in self._coco.dataset["categories"]}
        for name in sorted(ids.keys() ^ set(classes[1:])):
            known = f"is none of the {len(classes) - 1} classes" if name in ids else "is no category of it"
            raise DataError(f"{annotations}: {name!r} {known}; data.class_names must name its categories")
        self.category_ids = {label: ids[name] for label, name in enumerate(classes) if label > 0}
        self._labels = {category: label for label, category in self.category_ids.items()}
        self._ids = [image for image in sorted(self._coco.imgs) if empty or self._counting(image)]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._ids)

    def name(self, index: int) -> str:
        """As `InstanceSource.name`."""
        return self._path(index).stem

    def image_id(self, index: int) -> int:
        """As `InstanceSource.image_id`."""
        return int(self._ids[index])

    def image(self, index: int) -> Image.Image:
        """As `InstanceSource.image`."""
        return read_image(self._path(index))

    def instances(self, index: int) -> Instances:
        """As `InstanceSource.instances`."""
        entry = self._coco.imgs[self._ids[index]]
        found = [(own, box, self._coco.annToMask(own)) for own, box in self._counting(self._ids[index])]
        found = [(own, box, mask) for own, box, mask in found if mask.any()]
        return Instances(
            np.array([box for _, box, _ in found], np.float32).reshape(-1, 4),
            np.array([self._labels[own["category_id"]] for own, _, _ in found], np.int64),
            np.array([mask for _, _, mask in found], np.uint8).reshape(-1, entry["height"], entry["width"]),
        )

    def problems(self, index: int) -> Iterable[str]:
        """As `InstanceSource.problems`: a missing or unreadable image, or one of another size."""
        entry = self._coco.imgs[self._ids[index]]
        return image_problems(self._path(index), entry["width"], entry["height"])

    def truth(self) -> Any:
        """As `InstanceSource.truth`."""
        return self._coco

    def _path(self, index: int) -> Path:
        return self._folder / str(self._coco.imgs[self._ids[index]]["file_name"])

    def _counting(self, image: int) -> list[tuple[Entry, list[float]]]:
        """The annotations of an image that are no crowds, with their boxes within it, where these have an extent."""
        entry = self._coco.imgs[image]
        found = []
        for own in self._coco.imgToAnns[image]:
            left, top, width, height = own["bbox"]
            box = [max(left, 0), max(top, 0), min(left + width, entry["width"]), min(top + height, entry["height"])]
            if not own["iscrowd"] and box[2] - box[0] >= SMALLEST and box[3] - box[1] >= SMALLEST:
                found.append((own, box))
        return found


def _with_images(truth: Any, ids: Sequence[int], annotations: Path) -> Any:
    """What is annotated of the images of these ids."""
    if missing := [number for number in ids if number not in truth.imgs]:
        raise DataError(f"{annotations}: data.only: there is no image {missing[0]}")
    images = [entry for entry in truth.dataset["images"] if entry["id"] in ids]
    instances = [entry for entry in truth.dataset["annotations"] if entry["image_id"] in ids]
    return indexed({**truth.dataset, "images": images, "annotations": instances})


SMALLEST = 1e-2
"""Pixels; a narrower box cannot be told from nothing in float32."""


class ShapeInstances(Shapes):
    """The generated shapes with their instances (an `InstanceSource`)."""

    def __init__(self, split: str) -> None:
        super().__init__(split)
        self.category_ids = {label: label for label in range(1, len(SHAPES))}

    def image_id(self, index: int) -> int:
        """As `InstanceSource.image_id`."""
        return index + 1

    def instances(self, index: int) -> Instances:
        """As `InstanceSource.instances`: what is seen of every shape."""
        labels, numbers = self.labels(index), self.numbers(index)
        masks = [numbers == number for number in range(1, int(numbers.max()) + 1)]
        masks = [mask for mask in masks if mask.any()]
        return Instances(
            np.array([_box_of(mask) for mask in masks], np.float32).reshape(-1, 4),
            np.array([labels[mask][0] for mask in masks], np.int64),
            np.array(masks, np.uint8).reshape(-1, *labels.shape),
        )

    def truth(self) -> Any:
        """As `InstanceSource.truth`."""
        from pycocotools import mask as masks

        images: list[Entry] = []
        annotations: list[Entry] = []
        for index in range(len(self)):
            found = self.instances(index)
            height, width = found.masks.shape[1:]
            images.append({"id": index + 1, "file_name": f"{self.name(index)}.png", "height": height, "width": width})
            for box, label, mask in zip(found.boxes.tolist(), found.labels.tolist(), found.masks, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": label,
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "area": float(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": masks.encode(np.asfortranarray(mask)),
                    }
                )
        categories = [{"id": label, "name": name} for label, name in enumerate(SHAPES) if label > 0]
        return indexed({"images": images, "annotations": annotations, "categories": categories})


def _box_of(mask: npt.NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


DATASETS = ("shapes", "coco")


def open_instances(
    dataset: str,
    root: str | None,
    split: str,
    classes: Sequence[str] = (),
    only: Sequence[int] = (),
    *,
    empty: bool,
) -> InstanceSource:
    """A data set's part ``split``.

    Args:
        dataset: "shapes", or "coco" for ROOT/annotations/instances_SPLIT.json and ROOT/SPLIT/.
        root: its folder; None for the one that is generated.
        split: name of the part.
        classes: names of the categories, of a data set of one's own.
        only: ids of the images to use; all if there are none.
        empty: keep images without an instance that counts, too.

    Raises:
        DataError: there is no such part, folder or file, its annotations are broken, there is no image of an id, or
            ids are of the generated data set.
        ValueError: an unknown data set.
    """
    names = instance_classes(dataset, classes)
    if dataset == "shapes":
        if only:
            raise DataError(f"data.only is for COCO's format, got {list(only)} with data.dataset 'shapes'")
        return ShapeInstances(split)
    folder = root_folder(dataset, root)
    return CocoInstances(folder / split, folder / "annotations" / f"instances_{split}.json", names, only, empty=empty)


def instance_classes(dataset: str, classes: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of a data set's classes, by label, the background first; no file is read.

    Args:
        dataset: "shapes" or "coco".
        classes: names of the categories of a data set of one's own in COCO's format; COCO's 80 if there are none.

    Raises:
        DataError: names that are not unique, or with the generated data set.
        ValueError: an unknown data set.
    """
    if dataset not in DATASETS:
        raise ValueError(f"data.dataset must be one of {', '.join(DATASETS)} for instances, got {dataset!r}")
    if dataset == "shapes" and classes:
        raise DataError(f"data.class_names is for COCO's format, got {list(classes)} with data.dataset 'shapes'")
    if twice := [name for name, count in Counter(("background", *classes)).items() if count > 1]:
        raise DataError(f"data.class_names must differ from each other and from 'background', got {twice[0]!r} twice")
    return tuple(SHAPES) if dataset == "shapes" else ("background", *(classes or COCO))
