"""The data module of instances."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from zigzag.data.instances import InstanceSource, instance_classes, open_instances
from zigzag.data.module import ImageData, Item
from zigzag.data.order import draw_seed


class TrainingInstances(Dataset[Item]):
    """Images with their instances, mirrored at random: (index, draw) to what a detector trains on.

    An item holds image (3, H, W) float32 from 0 to 1; boxes (n, 4) float32, labels (n,) int64 and masks (n, H, W)
    uint8; and seed, a function of the seed and the draw, for what the network draws at random.
    """

    def __init__(self, source: InstanceSource, flip: float, seed: int) -> None:
        self.source, self.flip, self.seed = source, flip, seed

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """The image of a draw."""
        index, draw = key
        seed = draw_seed(self.seed, draw)
        pixels, found = np.array(self.source.image(index)), self.source.instances(index)
        boxes, masks = found.boxes.copy(), found.masks
        if torch.rand((), generator=torch.Generator().manual_seed(seed)).item() < self.flip:
            pixels, masks = pixels[:, ::-1], masks[:, :, ::-1]
            boxes[:, [0, 2]] = pixels.shape[1] - boxes[:, [2, 0]]
        return {
            "image": torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() / 255,
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(found.labels),
            "masks": torch.from_numpy(masks.copy()),
            "seed": seed,
        }


class WholeInstances(Dataset[Item]):
    """Images to evaluate: (index, counts) to image uint8 (3, H, W), name, image_id and counts."""

    def __init__(self, source: InstanceSource) -> None:
        self.source = source

    def __getitem__(self, key: tuple[int, bool]) -> Item:
        """An image."""
        index, counts = key
        pixels = np.array(self.source.image(index)).transpose(2, 0, 1)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(pixels)),
            "name": self.source.name(index),
            "image_id": self.source.image_id(index),
            "counts": counts,
        }


class InstanceData(ImageData):
    """A data set of instances.

    Args:
        dataset: "shapes" (generated), or "coco": ROOT/annotations/instances_SPLIT.json and the images in ROOT/SPLIT/.
        root: its folder.
        train: name of the part to train on.
        val: the part to validate on.
        test: the part to test on.
        class_names: names of the categories of a data set of one's own in COCO's format; COCO's 80 if there are none.
        only: ids of the images to use of every part; all if there are none.
        batch_size: images of a training step, over all processes.
        flip: probability of a mirror image in training.
        train_on_empty: train on images without instances, too.
        workers: processes that load images; 0 for none.
        seed: of the order, of the augmentation, and of what a network draws at random.
        check: look at every image before training starts: it exists, is whole and as large as its annotations say.
        images: photographs for `predict`.
    """

    def __init__(
        self,
        dataset: str = "shapes",
        root: str | None = None,
        train: str = "train",
        val: str = "val",
        test: str = "val",
        class_names: Sequence[str] = (),
        only: Sequence[int] = (),
        batch_size: int = 8,
        flip: float = 0.5,
        train_on_empty: bool = False,  # noqa: FBT001, FBT002 - a field of the configuration
        workers: int = 2,
        seed: int = 0,
        check: bool = True,  # noqa: FBT001, FBT002
        images: Sequence[str] = (),
    ) -> None:
        super().__init__(
            {"train": train, "val": val, "test": test}, batch_size, workers, seed, check=check, images=images
        )
        if not 0 <= flip <= 1:
            raise ValueError(f"data.flip must be a probability, got {flip}")
        self.dataset, self.root, self.class_names = dataset, root, tuple(class_names)
        self.only, self.flip, self.train_on_empty = tuple(only), flip, train_on_empty

    @staticmethod
    def classes_of(dataset: str, class_names: Sequence[str]) -> tuple[tuple[str, ...]]:
        """What the command line gives the model: the names of the classes."""
        return (instance_classes(dataset, class_names),)

    @staticmethod
    def collate(items: list[Item]) -> Any:
        """A batch is a list: images differ in size."""
        return items

    def open_part(self, part: str) -> InstanceSource:
        """As `ImageData.open_part`."""
        empty = part != "train" or self.train_on_empty
        return open_instances(self.dataset, self.root, self.splits[part], self.class_names, self.only, empty=empty)

    def training_images(self, source: InstanceSource) -> TrainingInstances:
        """Images with their instances, mirrored at random."""
        return TrainingInstances(source, self.flip, self.seed)

    def whole_images(self, source: InstanceSource) -> WholeInstances:
        """Images to evaluate."""
        return WholeInstances(source)
