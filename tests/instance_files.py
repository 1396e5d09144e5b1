"""A tiny data set of instances in COCO's format, and the command line on a tiny detector."""

from __future__ import annotations

import json

from segmentation_files import write_image

SIZE = (60, 40)  # width, height


def square(number, image=1, category=3, box=(5, 6, 20, 10), **fields):
    x, y, w, h = box
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        "id": number, "image_id": image, "category_id": category, "bbox": list(box), "area": w * h, "iscrowd": 0,
        "segmentation": [polygon], **fields,
    }  # fmt: skip


def crowd():
    """The left third of image 1, compressed by columns as COCO has it."""
    segmentation = {"size": [40, 60], "counts": [0, 800, 1600]}
    return square(3, segmentation=segmentation, iscrowd=1, box=(0, 0, 20, 40), category=7)


def instance_set(root, spoil=None):
    """Image 1: two instances, a crowd and a box without extent; 2: one instance, in two parts; 3: nothing."""
    parts = [[30, 4, 40, 4, 40, 9, 30, 9], [30, 14, 40, 14, 40, 20, 30, 20]]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": SIZE[0], "height": SIZE[1]} for n in (1, 2, 3)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            square(1),
            square(2, category=7, box=(30, 20, 40, 15)),
            crowd(),
            square(4, box=(9, 9, 0, 5)),
            square(5, image=2, box=(30, 4, 10, 16), segmentation=parts, area=110),
        ],
    }
    if spoil is not None:
        spoil(content)
    for split in ("train", "val"):
        for n in (1, 2, 3):
            write_image(root / split / f"{n}.png", n, SIZE)
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return root


TINY = [
    "--config=shapes_mask_rcnn",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
    "--trainer.accelerator=cpu",
    "--model.network.neck.channels=8",
    "--model.network.neck.norm_groups=2",
    "--model.network.neck.stages=1",
    "--model.network.neck.grids=[2]",
    "--model.network.backbone.norm=frozen",
    "--model.network.shorter=64",
    "--model.network.longer=64",
    "--model.network.proposals=[20,10]",
    "--model.network.regions=8",
    "--model.network.detections=3",
    "--model.recipe.warmup_steps=2",
    "--data.workers=0",
    "--data.batch_size=2",
]
"""`zigzag fit` on a detector of a few channels."""
