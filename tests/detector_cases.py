"""Detectors small enough for tests, and pictures for them: a bright rectangle or two on noise."""

from __future__ import annotations

import torch

from zigzag.models import BackboneConfig, DetectorConfig, NeckOptions, build_detector

CLASSES = 3


def config_of(kind, **changes):
    fields = {
        "backbone": BackboneConfig("resnet18", norm="batch"),
        "neck": NeckOptions(channels=16, stages=1, grids=(2,), norm_groups=4, lateral_kernel_size=1),
        "shorter": 64,
        "longer": 96,
        "anchor_sizes": (8, 16, 32, 64, 128),
        "proposals": (40, 20),
        "regions": 16,
        "score_threshold": 0.0,
    }
    return DetectorConfig(kind, **fields | changes)


def detector_of(kind, **changes):
    torch.manual_seed(0)
    return build_detector(config_of(kind, **changes), CLASSES)


def picture(height, width, *boxes):
    """(image, target): boxes are (x1, y1, x2, y2, label)."""
    generator = torch.Generator().manual_seed(height)
    image = torch.rand(3, height, width, generator=generator) * 0.3
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2, label) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
        image[label, y1:y2, x1:x2] = 1
    corners = torch.tensor([box[:4] for box in boxes], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([box[4] for box in boxes], dtype=torch.int64)
    return image, {"boxes": corners, "labels": labels, "masks": masks}


def pictures():
    """Of two sizes; one with two objects, one with one and one without any."""
    found = [
        picture(64, 64, (8, 12, 40, 44, 1), (44, 4, 60, 60, 2)),
        picture(64, 96, (20, 10, 80, 50, 2)),
        picture(48, 64),
    ]
    return [image for image, _ in found], [target for _, target in found]


def train(model, steps, rate=2e-3):
    """The losses of every step."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    images, targets = pictures()
    model.train()
    history = []
    for step in range(steps):
        torch.manual_seed(step)
        losses = model(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    return history


def check_detections(images, found):
    """torchvision's form, whatever was found."""
    assert len(found) == len(images)
    for image, own in zip(images, found, strict=True):
        height, width = image.shape[1:]
        count = len(own["boxes"])
        assert own["boxes"].shape == (count, 4)
        assert own["labels"].shape == own["scores"].shape == (count,)
        assert own["masks"].shape == (count, 1, height, width)
        assert own["labels"].dtype == torch.int64
        assert bool(((own["labels"] >= 1) & (own["labels"] < CLASSES)).all())
        assert bool(own["scores"].diff().le(0).all())
        for name in ("scores", "masks"):
            assert bool(((own[name] >= 0) & (own[name] <= 1)).all())
        assert bool((own["boxes"] >= 0).all())
        assert bool((own["boxes"] <= torch.tensor([width, height] * 2)).all())
