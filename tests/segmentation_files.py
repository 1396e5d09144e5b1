"""Tiny data sets on disk, in the layouts that the loaders take, and the command line on tiny networks."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

SIZE = (40, 30)  # width, height
FEW = {"train": 7, "val": 3, "test": 3}
"""Images of the parts of the generated shapes, in the place of `zigzag.data.shapes.COUNTS`."""


def write_image(path, seed=0, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_mask(path, values, size=SIZE, mode="L"):
    """A mask with the values in vertical stripes, so that all of them occur."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = np.array(values, np.uint8)[np.arange(size[0]) * len(values) // size[0]]
    image = Image.fromarray(np.tile(row, (size[1], 1)), mode="L")
    if mode == "P":
        image.putpalette([value % 256 for value in range(768)])
    image.convert("RGB").save(path) if mode == "RGB" else image.save(path)


def folder_set(root, count=3, values=(0, 1, 2, 255)):
    for split in ("train", "val"):
        for i in range(count):
            write_image(root / "images" / split / f"{i}.png", i)
            write_mask(root / "masks" / split / f"{i}.png", values)
    return root


def voc_set(root, split="train", masks="SegmentationClass", values=(0, 5, 20, 255), names=("a", "b")):
    for i, name in enumerate(names):
        write_image(root / "JPEGImages" / f"{name}.jpg", i)
        write_mask(root / masks / f"{name}.png", values, mode="P")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def coco_set(root):
    """Image 1: a person, a bus over part of it, a crowd of cars; image 2: only a zebra, which is no class of VOC."""
    categories = {
        "airplane": 5, "bicycle": 2, "bird": 16, "boat": 9, "bottle": 44, "bus": 6, "car": 3, "cat": 17, "chair": 62,
        "cow": 21, "dining table": 67, "dog": 18, "horse": 19, "motorcycle": 4, "person": 1, "potted plant": 64,
        "sheep": 20, "couch": 63, "train": 7, "tv": 72, "zebra": 24,
    }  # fmt: skip
    for number in (1, 2):
        write_image(root / "val2017" / f"{number:012d}.jpg", number, (100, 80))

    def box(category, x, y, w, h):
        corners = [x, y, x + w, y, x + w, y + h, x, y + h]
        return {"category_id": categories[category], "segmentation": [corners], "area": w * h, "iscrowd": 0}

    crowd = np.zeros((80, 100), np.uint8)
    crowd[60:80, 0:20] = 1
    runs = np.diff(np.flatnonzero(np.diff(np.r_[0, crowd.T.ravel(), 0])), prepend=0).tolist()
    whole = {
        "category_id": 3,
        "segmentation": {"size": [80, 100], "counts": [*runs, 8000 - sum(runs)]},
        "area": 400,
        "iscrowd": 1,
    }
    instances = [box("person", 10, 10, 40, 40), box("bus", 30, 10, 50, 40), whole]
    annotations = [{**own, "id": i + 1, "image_id": 1, "bbox": [0, 0, 1, 1]} for i, own in enumerate(instances)]
    annotations.append({**box("zebra", 0, 0, 90, 70), "id": 9, "image_id": 2, "bbox": [0, 0, 1, 1]})
    entries = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 100, "height": 80} for n in (1, 2)]
    (root / "annotations").mkdir(parents=True)
    content = {
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for n, i in categories.items()],
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


TINY = [
    "--config=shapes_tiny",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
    "--trainer.accelerator=cpu",
    "--model.network.neck.channels=8",
    "--model.network.neck.norm_groups=2",
    "--model.network.neck.stages=2",
    "--model.network.neck.grids=[2,3]",
    "--model.recipe.warmup_steps=2",
    "--data.workers=0",
    "--data.batch_size=2",
    "--data.augmentation.crop=48",
]
"""`zigzag fit` on a network of a few channels."""
