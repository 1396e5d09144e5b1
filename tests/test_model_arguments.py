"""Bad input of networks: one clear error that names the entry, its value and what was expected."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")

from detector_cases import detector_of, pictures

from zigzag.models import BackboneConfig, NeckOptions, NetworkConfig, SemanticSegmenter
from zigzag.models.arguments import check_targets


@pytest.fixture(scope="module")
def model():
    return detector_of("mask_rcnn", proposals=(10, 5), regions=4).train()


def image(n, value):
    return lambda images, _: images.__setitem__(n, value)


def target(n, **changes):
    return lambda _, targets: targets[n].update(changes)


def boxes(*first):
    return {"boxes": torch.tensor([first, (44, 4, 60, 60)], dtype=torch.float32)}


def labels(*values, dtype=torch.int64):
    return {"labels": torch.tensor(values, dtype=dtype)}


IMAGES = [
    (lambda images, _: images.clear(), ValueError, "images", "an empty list"),
    (image(0, None), TypeError, "images[0]", "NoneType"),
    (image(0, torch.ones(3, 9, 9).byte()), TypeError, "images[0]", "torch.uint8"),
    (image(1, torch.ones(2, 9, 9)), ValueError, "images[1]", "(2, 9, 9)"),
    (image(1, torch.ones(3, 0, 9)), ValueError, "images[1]", "(3, 0, 9)"),
    (image(1, torch.ones(1, 3, 9, 9)), ValueError, "images[1]", "(1, 3, 9, 9)"),
    (image(2, torch.ones(3, 48, 64).double()), TypeError, "images[2]", "torch.float64"),
    (image(0, torch.ones(3, 64, 64).bfloat16()), TypeError, "images[0]", "torch.bfloat16"),
    (image(1, torch.ones(3, 64, 96, device="meta")), ValueError, "images[1]", "meta"),
]
TARGETS = [
    (lambda _, targets: targets.pop(), ValueError, "targets", "3 images in training, got 2"),
    (lambda _, targets: targets.__setitem__(1, None), TypeError, "targets[1]", "NoneType"),
    (lambda _, targets: targets[1].pop("masks"), TypeError, "targets[1]['masks']", "NoneType"),
    (target(1, boxes=[[1, 2, 3, 4]]), TypeError, "targets[1]['boxes']", "list"),
    (target(0, boxes=torch.ones(2, 4).long()), TypeError, "targets[0]['boxes']", "torch.int64"),
    (target(0, boxes=torch.ones(2, 4).double()), TypeError, "targets[0]['boxes']", "torch.float64"),
    (target(0, boxes=torch.ones(2, 4, device="meta")), ValueError, "targets[0]['boxes']", "meta"),
    (target(0, boxes=torch.ones(1, 4)), ValueError, "targets[0]", "(1, 4)"),
    (target(0, **boxes(8, float("nan"), 40, 44)), ValueError, "targets[0]['boxes']", "nan"),
    (target(0, **boxes(8, 12, float("inf"), 44)), ValueError, "targets[0]['boxes']", "inf"),
    (target(0, **boxes(8, 12, 8, 44)), ValueError, "targets[0]['boxes']", "[8.0, 12.0, 8.0, 44.0]"),
    (target(0, **labels(1, 0)), ValueError, "targets[0]['labels']", "got 0 in row 1"),
    (target(1, **labels(-1)), ValueError, "targets[1]['labels']", "got -1 in row 0"),
    (target(1, **labels(9)), ValueError, "targets[1]['labels']", "from 1 to 2, got 9"),
    (target(1, labels=torch.tensor(1)), ValueError, "targets[1]['labels']", "()"),
    (target(1, **labels(1, dtype=torch.int32)), TypeError, "targets[1]['labels']", "torch.int32"),
    (target(1, **labels(1, dtype=torch.float32)), TypeError, "targets[1]['labels']", "torch.float32"),
    (target(1, masks=torch.ones(1, 64, 64).byte()), ValueError, "targets[1]", "(1, 64, 64)"),
    (target(1, masks=torch.ones(1, 64, 96)), TypeError, "targets[1]['masks']", "torch.float32"),
    (target(1, masks=torch.full((1, 64, 96), 255).byte()), ValueError, "targets[1]['masks']", "0 or 1, got 255"),
]


@pytest.mark.parametrize(
    ("spoil", "error", "name", "shown"), IMAGES + TARGETS, ids=[f"{row[2]}-{row[3]}" for row in IMAGES + TARGETS]
)
def test_a_detector_refuses(model, spoil, error, name, shown):
    images, targets = pictures()
    spoil(images, targets)
    with pytest.raises(error, match=rf"^{re.escape(name)} must ") as raised:
        model(images, targets)
    assert shown in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_seeds_are_in_every_target_or_in_none(model):
    images, targets = pictures()
    targets[0]["seed"] = 3
    with pytest.raises(
        TypeError, match=r"targets\[1\]\['seed'\] must be an int in every target, or be in none, got None"
    ):
        model(images, targets)
    for target in targets:
        target["seed"] = 1.5
    with pytest.raises(TypeError, match=r"targets\[0\]\['seed'\] must be an int .* got 1\.5"):
        model(images, targets)


@pytest.mark.parametrize("targets", [None, {}, torch.ones(3)], ids=["None", "dict", "tensor"])
def test_targets_must_be_a_list(model, targets):
    with pytest.raises(ValueError, match=r"targets must be a list of a dict for each of 3 images in training, got \w+"):
        model(pictures()[0], targets)


def test_a_batch_in_one_tensor_is_no_list_of_images(model):
    with pytest.raises(ValueError, match=r"images must be a list of one or more tensors .* got Tensor"):
        model.detect(torch.ones(2, 3, 64, 64))


def test_values_are_read_once_for_all_images(model, monkeypatch):
    """Each reading would make a GPU's queue run empty."""
    images, targets = pictures()
    read = []
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda own: read.append(own) or own.item())
    check_targets(targets, images, 3)
    assert len(read) == 1


@pytest.fixture(scope="module")
def segmenter():
    neck = NeckOptions(channels=8, norm_groups=2, stages=1, grids=(2,), lateral_kernel_size=1)
    return SemanticSegmenter(NetworkConfig(BackboneConfig("resnet18"), neck), 3)


BATCHES = [
    (torch.ones(3, 64, 64), ValueError, "(3, 64, 64)"),
    (torch.ones(1, 4, 64, 64), ValueError, "(1, 4, 64, 64)"),
    (torch.ones(1, 3, 0, 64), ValueError, "(1, 3, 0, 64)"),
    (torch.ones(1, 3, 64, 64).long(), TypeError, "torch.int64"),
    (torch.ones(1, 3, 64, 64).double(), TypeError, "torch.float64"),
    ([torch.ones(3, 64, 64)], TypeError, "list"),
    (torch.ones(1, 3, 64, 64, device="meta"), ValueError, "meta"),
]


@pytest.mark.parametrize(("images", "error", "shown"), BATCHES, ids=[row[2] for row in BATCHES])
def test_the_semantic_network_refuses(segmenter, images, error, shown):
    with pytest.raises(error, match=r"^images must ") as raised:
        segmenter(images)
    assert shown in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
