"""Checks of what a network is called with; an error names the entry, its value and what was expected."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zigzag.ops.arguments import takes

Target = dict[str, Any]


def check_images(images: Sequence[Tensor], weight: Tensor) -> None:
    """Raise unless ``images`` is a list of one or more (3, H >= 1, W >= 1), in dtype and device as ``weight``."""
    if not isinstance(images, list | tuple) or not images:
        got = "an empty list" if isinstance(images, list | tuple) else type(images).__name__
        raise ValueError(f"images must be a list of one or more tensors (3, H, W), got {got}")
    for n, image in enumerate(images):
        if not isinstance(image, Tensor) or not image.is_floating_point():
            got = str(image.dtype) if isinstance(image, Tensor) else type(image).__name__
            raise TypeError(f"images[{n}] must be a floating-point tensor, got {got}")
        if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"images[{n}] must have the shape (3, H >= 1, W >= 1), got {tuple(image.shape)}")
        if image.dtype != weight.dtype:
            raise TypeError(f"images[{n}] must be {weight.dtype}, as the network's parameters are, got {image.dtype}")
        _check_device(f"images[{n}]", image, weight)


def check_batch(images: Tensor, weight: Tensor) -> None:
    """Raise unless ``images`` is (N, 3, H >= 1, W >= 1) on the device of ``weight``, of a dtype that it takes."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = str(images.dtype) if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating-point tensor (N, 3, H, W), got {got}")
    if images.dim() != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 1:
        raise ValueError(f"images must have the shape (N, 3, H >= 1, W >= 1), got {tuple(images.shape)}")
    if not takes(weight, images):
        raise TypeError(f"images must be {weight.dtype}, as the network's parameters are, got {images.dtype}")
    _check_device("images", images, weight)


def check_targets(targets: Sequence[Target] | None, images: Sequence[Tensor], classes: int) -> None:
    """Raise unless ``targets`` hold boxes, labels and masks for every one of ``images``, which were checked.

    Values are read once for all images, which waits for a GPU once; sampling regions does so for every image anyway.

    Args:
        targets: as `Detector.forward` takes them.
        images: the images.
        classes: number of classes, the background among them.
    """
    if not isinstance(targets, list | tuple) or len(targets) != len(images):
        got = f"{len(targets)}" if isinstance(targets, list | tuple) else type(targets).__name__
        raise ValueError(f"targets must be a list of a dict for each of {len(images)} images in training, got {got}")
    for n, (image, target) in enumerate(zip(images, targets, strict=True)):
        _check_form(f"targets[{n}]", target, image)
        seed = target.get("seed")
        if ("seed" in target) != ("seed" in targets[0]) or not isinstance(seed, int | None):
            raise TypeError(f"targets[{n}]['seed'] must be an int in every target, or be in none, got {seed!r}")
    wrong = [rows.any() for target in targets for _, _, rows, _ in _faults(target, classes)]
    if not torch.stack(wrong).any():
        return
    for n, target in enumerate(targets):
        for name, values, rows, expected in _faults(target, classes):
            if rows.any():
                row = int(rows.nonzero()[0])
                raise ValueError(f"targets[{n}][{name!r}] must {expected}, got {values[row].tolist()} in row {row}")


def _check_form(name: str, target: Target, image: Tensor) -> None:
    """Types, dtypes, shapes and devices of one image's target."""
    if not isinstance(target, dict):
        raise TypeError(f"{name} must be a dict of boxes, labels and masks, got {type(target).__name__}")
    dtypes = {"boxes": (image.dtype,), "labels": (torch.int64,), "masks": (torch.uint8, torch.bool)}
    for key, allowed in dtypes.items():
        value = target.get(key)
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}[{key!r}] must be a tensor, got {type(value).__name__}")
        if value.dtype not in allowed:
            expected = " or ".join(map(str, allowed)) + (", as its image is" if key == "boxes" else "")
            raise TypeError(f"{name}[{key!r}] must be {expected}, got {value.dtype}")
        _check_device(f"{name}[{key!r}]", value, image)
    boxes, labels, masks = (target[key] for key in dtypes)
    if labels.dim() != 1:
        raise ValueError(f"{name}['labels'] must have the shape (n,), got {tuple(labels.shape)}")
    count = len(labels)
    if boxes.shape != (count, 4) or masks.shape != (count, *image.shape[1:]):
        expected = f"({count}, 4) and {(count, *image.shape[1:])}, as its labels and image"
        got = f"{tuple(boxes.shape)} and {tuple(masks.shape)}"
        raise ValueError(f"{name} must have boxes and masks of the shapes {expected}, got {got}")


def _faults(target: Target, classes: int) -> Iterator[tuple[str, Tensor, Tensor, str]]:
    """(key, values to show (n, ...), which of the n are wrong, what they must be) of a target of the right form."""
    boxes, labels, highest = target["boxes"], target["labels"], target["masks"].flatten(1).amax(1)
    yield "boxes", boxes, ~boxes.isfinite().all(1), "be finite"
    yield "boxes", boxes, (boxes[:, 2:] <= boxes[:, :2]).any(1), "have x1 < x2 and y1 < y2"
    yield "labels", labels, (labels < 1) | (labels >= classes), f"be from 1 to {classes - 1}"
    yield "masks", highest, highest > 1, "be 0 or 1"


def _check_device(name: str, value: Tensor, like: Tensor) -> None:
    if value.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, as the network's parameters are, got {value.device}")
