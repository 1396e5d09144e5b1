"""Lightning's data modules: they open and check a data set, and load it in the order of `zigzag.data.order`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from zigzag.data.order import Shard, StepBatches, draw_seed
from zigzag.data.sets import classes_of, open_source
from zigzag.data.source import DataError, Source, check, image_size, read_image
from zigzag.data.transforms import Augmentation, normalised, training_transform

Item = dict[str, Any]


class TrainingImages(Dataset[Item]):
    """Augmented crops: (index, draw) to {"image": (3, H, W) float32, "labels": (H, W) uint8}."""

    def __init__(self, source: Source, augmentation: Augmentation, seed: int) -> None:
        self.source, self.seed = source, seed
        self.transform = training_transform(augmentation)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """The crop of a draw; another draw of the image gives another crop."""
        index, draw = key
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw_seed(self.seed, draw))
            image, labels = self.transform(_image(self.source, index), tv_tensors.Mask(_labels(self.source, index)))
        return {"image": normalised(image), "labels": labels.as_subclass(Tensor)}


class WholeImages(Dataset[Item]):
    """Whole images with labels: (index, counts) to image uint8 (3, H, W), labels uint8 (H, W), name, index, counts."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, key: tuple[int, bool]) -> Item:
        """An image."""
        index, counts = key
        return {
            "image": _image(self.source, index).as_subclass(Tensor),
            "labels": _labels(self.source, index),
            "name": self.source.name(index),
            "index": index,
            "counts": counts,
        }


class Photographs(Dataset[Item]):
    """Image files: image uint8 (3, H, W), and path."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        """An image."""
        pixels = np.array(read_image(self.paths[index]))
        return {"image": torch.from_numpy(pixels).permute(2, 0, 1), "path": self.paths[index]}


class ImageData(pl.LightningDataModule):
    """What the data sets of all tasks share: parts that are opened once and checked, and their order.

    Args:
        splits: name of the part to train on, to validate on and to test on, by "train", "val" and "test".
        batch_size: images of a training step, over all processes.
        workers: processes that load images; 0 for none.
        seed: of the order and of the augmentation.
        check: look at every file before training starts.
        images: photographs for `predict`.
    """

    collate: Callable[[list[Item]], Any] | None = None

    def __init__(
        self, splits: Mapping[str, str], batch_size: int, workers: int, seed: int, *, check: bool, images: Sequence[str]
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size must be 1 or more, got {batch_size}")
        if workers < 0:
            raise ValueError(f"data.workers must be 0 or more, got {workers}")
        self.splits, self.batch_size, self.workers, self.seed = dict(splits), batch_size, workers, seed
        self.check, self.images = check, [Path(path) for path in images]
        self.sources: dict[str, Any] = {}

    def open_part(self, part: str) -> Any:
        """The part "train", "val" or "test", opened.

        Raises:
            DataError: files that cannot be used.
        """
        raise NotImplementedError

    def training_images(self, source: Any) -> Dataset[Item]:
        """Of (index, draw): what is trained on."""
        raise NotImplementedError

    def whole_images(self, source: Any) -> Dataset[Item]:
        """Of (index, counts): what is evaluated."""
        raise NotImplementedError

    def source(self, part: str) -> Any:
        """The part "train", "val" or "test", opened and checked.

        Raises:
            DataError: files that cannot be used.
        """
        if part not in self.sources:
            source = self.open_part(part)
            if self.check:
                check(source, self.splits[part])
            self.sources[part] = source
        return self.sources[part]

    def setup(self, stage: str) -> None:
        """Open and check what ``stage`` needs.

        Raises:
            DataError: files that cannot be used.
        """
        for part in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ()):
            self.source(part)
        if stage == "predict":
            if not self.images:
                raise DataError("predict: name one or more photographs")
            names: dict[str, Path] = {}
            for path in self.images:
                if path.stem in names:
                    both = f"{names[path.stem]} and {path}"
                    raise DataError(f"predict: the pictures of {both} would have one name, {path.stem}.png")
                names[path.stem] = path
            for path in self.images:
                if path.is_dir():
                    raise DataError(f"predict: {path} is a folder; name the photographs in it")
                image_size(path)

    def train_dataloader(self) -> DataLoader[Item]:
        """Training images, from the step at which the trainer stands to its last."""
        trainer: Any = self.trainer
        source = self.source("train")
        accumulated = trainer.accumulate_grad_batches
        if trainer.max_steps < 0:
            raise DataError(f"trainer.max_steps must be 0 or more: how many steps to train, got {trainer.max_steps}")
        batches = StepBatches(
            len(source),
            self.batch_size,
            lambda: trainer.global_step * accumulated,
            trainer.max_steps * accumulated,
            self.seed,
            trainer.global_rank,
            trainer.world_size,
        )
        images = self.training_images(source)
        return DataLoader(images, batch_sampler=batches, collate_fn=self.collate, **self._options())

    def val_dataloader(self) -> DataLoader[Item]:
        """Whole images, one by one."""
        return self._whole("val")

    def test_dataloader(self) -> DataLoader[Item]:
        """Whole images, one by one."""
        return self._whole("test")

    def predict_dataloader(self) -> DataLoader[Item]:
        """This process's photographs, one by one."""
        trainer: Any = self.trainer
        own = range(trainer.global_rank, len(self.images), trainer.world_size)
        return DataLoader(Photographs(self.images), batch_size=None, sampler=own)

    def _whole(self, part: str) -> DataLoader[Item]:
        trainer: Any = self.trainer
        source = self.source(part)
        shard = Shard(len(source), trainer.global_rank, trainer.world_size)
        return DataLoader(self.whole_images(source), batch_size=None, sampler=shard, **self._options())

    def _options(self) -> dict[str, Any]:
        return {"num_workers": self.workers, "pin_memory": torch.cuda.is_available()}


class SegmentationData(ImageData):
    """A data set for semantic segmentation.

    Args:
        dataset: shapes (generated), voc, context59, context60, camvid, coco (VOC's classes), or folder.
        root: its folder.
        train: name of the part to train on, as the data set's lists or folders call it; VOC's augmented 10,582
            images are "trainaug".
        val: the part to validate on.
        test: the part to test on.
        class_names: of a folder's classes, in the order of their labels.
        batch_size: images of a training step, over all processes.
        augmentation: what training images go through.
        workers: processes that load images; 0 for none.
        seed: of the order and of the augmentation.
        check: look at every file before training starts: it exists, is whole, sizes fit, labels are in range.
        images: photographs for `predict`.
    """

    classes_of = staticmethod(classes_of)

    def __init__(
        self,
        dataset: str = "shapes",
        root: str | None = None,
        train: str = "train",
        val: str = "val",
        test: str = "val",
        class_names: Sequence[str] = (),
        batch_size: int = 16,
        augmentation: Augmentation = Augmentation(),  # noqa: B008 - it is frozen
        workers: int = 2,
        seed: int = 0,
        check: bool = True,  # noqa: FBT001, FBT002 - a field of the configuration
        images: Sequence[str] = (),
    ) -> None:
        super().__init__(
            {"train": train, "val": val, "test": test}, batch_size, workers, seed, check=check, images=images
        )
        self.dataset, self.root, self.class_names = dataset, root, tuple(class_names)
        self.augmentation = augmentation

    def open_part(self, part: str) -> Source:
        """As `ImageData.open_part`; only a test can do without labels."""
        source = open_source(self.dataset, self.root, self.splits[part], self.class_names)
        if part != "test" and not source.has_truth:
            raise DataError(f"data.{part}: {self.splits[part]!r} of {self.dataset!r} has no masks")
        return source

    def training_images(self, source: Source) -> TrainingImages:
        """Augmented crops."""
        return TrainingImages(source, self.augmentation, self.seed)

    def whole_images(self, source: Source) -> WholeImages:
        """Whole images with labels."""
        return WholeImages(source)


def _image(source: Source, index: int) -> tv_tensors.Image:
    return tv_tensors.Image(torch.from_numpy(np.array(source.image(index))).permute(2, 0, 1))


def _labels(source: Source, index: int) -> Tensor:
    return torch.from_numpy(np.array(source.labels(index)))
