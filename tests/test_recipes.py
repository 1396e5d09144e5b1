"""What the configurations train by, that training learns, and that gradients are clipped."""

from __future__ import annotations

import math

import pytest
import torch
import yaml

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")
pytest.importorskip("lightning", reason="lightning is not installed: zigzag[train]")
pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: zigzag[train]")
pytest.importorskip("tensorboard", reason="tensorboard is not installed: zigzag[train]")

from runs import fit
from segmentation_files import TINY

from zigzag.data import shapes
from zigzag.tasks import curves
from zigzag.tasks.cli import CONFIGS
from zigzag.tasks.recipe import Recipe

SEMANTIC = ("voc12_resnet101", "context59_resnet101", "coco_resnet101")
DETECTORS = [f"coco_{kind}_resnet{depth}" for kind in ("mask_rcnn", "fcis", "deformable_rcnn") for depth in (101, 152)]


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(shapes, "COUNTS", {"train": 8, "val": 1, "test": 1})


def rates(name):
    """(learning rate of a step, steps, batch, fields of the recipe) of a configuration."""
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    fields = content["model"]["recipe"]
    recipe = Recipe(**{**fields, "milestones": tuple(fields["milestones"])})
    steps = content["trainer"]["max_steps"]
    return lambda step: recipe.learning_rate * recipe.factor(step, steps), steps, content["data"]["batch_size"], recipe


@pytest.mark.parametrize("name", SEMANTIC)
def test_the_papers_recipe_for_semantic_segmentation(name):
    rate, steps, batch, recipe = rates(name)
    assert (steps, batch, recipe.momentum, recipe.weight_decay, recipe.warmup_steps) == (120_000, 16, 0.9, 1e-4, 1000)
    assert [rate(step) for step in (1000, 59_999, 60_000, 119_999)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    assert 0 < rate(0) < rate(500) < rate(999) < 1e-3


@pytest.mark.parametrize("name", DETECTORS)
def test_the_papers_recipe_for_detectors(name):
    rate, steps, batch, recipe = rates(name)
    assert (steps, batch, recipe.momentum, recipe.weight_decay, recipe.warmup_steps) == (300_000, 8, 0.9, 1e-4, 1000)
    changes = (1000, 199_999, 200_000, 259_999, 260_000, 299_999)
    assert [rate(step) for step in changes] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4])


def gradient(folder, *words):
    """The norm of the gradient of a first step, from the optimiser's momentum."""
    plain = ["--model.recipe.weight_decay=0", "--model.recipe.warmup_steps=0", *words]
    assert fit(TINY, folder, *plain, steps=1, every=1) == 0
    (optimizer,) = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"]
    return math.sqrt(sum(own["momentum_buffer"].square().sum().item() for own in optimizer["state"].values()))


def test_gradients_are_clipped_by_their_joint_norm(tmp_path):
    assert gradient(tmp_path / "free") > 0.1
    assert gradient(tmp_path / "clipped", "--trainer.gradient_clip_val=0.01") == pytest.approx(0.01, rel=1e-3)


def test_training_learns_generated_shapes(tmp_path):
    assert fit(TINY, tmp_path, steps=30, every=30) == 0
    losses = [loss for _, loss in curves.read(tmp_path, "train/loss")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
