"""What FCIS and Deformable R-CNN have in common with torchvision's detectors: losses, forms, images of any kind."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")

from detector_cases import CLASSES, check_detections, detector_of, picture, pictures, train

from zigzag.models import BackboneConfig
from zigzag.models.position_sensitive import CELLS

KINDS = pytest.mark.parametrize("kind", ["deformable_rcnn", "fcis"])
LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}


@KINDS
def test_losses_fall_and_detections_have_their_form(kind):
    model = detector_of(kind)
    history = train(model, 8)
    assert all(set(losses) == LOSSES for losses in history)
    totals = torch.tensor([sum(losses.values()) for losses in history])
    assert bool(totals.isfinite().all())
    assert totals[-3:].mean() < totals[:3].mean()
    images, _ = pictures()
    with torch.no_grad():
        found = model.eval()(images)
    check_detections(images, found)
    assert any(len(own["boxes"]) for own in found)


@pytest.mark.parametrize("kind", ["mask_rcnn", "deformable_rcnn", "fcis"])
def test_autocast_trains_and_boxes_keep_their_digits(kind):
    model = detector_of(kind, proposals=(20, 5)).train()
    images, targets = pictures()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, targets)
    assert all(loss.dtype == torch.float32 and bool(loss.isfinite()) for loss in losses.values())
    sum(losses.values()).backward()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = model.eval()(images)
    check_detections(images, found)
    boxes = torch.cat([own["boxes"] for own in found])
    assert boxes.dtype == torch.float32
    assert not torch.equal(boxes, boxes.bfloat16().float())


@pytest.mark.parametrize("kind", ["mask_rcnn", "deformable_rcnn", "fcis"])
def test_images_without_objects_train_the_background(kind):
    """A step down the gradient makes every region more like the background, and every anchor less like an object."""
    model = detector_of(kind).train()
    image, target = picture(64, 64)
    losses = model([image], [target])
    assert bool(torch.stack(list(losses.values())).isfinite().all())
    assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_box_reg"] == 0
    sum(losses.values()).backward()
    if kind == "fcis":  # scores outside and inside for every class, then the box
        by_class = model.roi_heads.scores.convolution.bias.grad.view(-1, CELLS**2)[:-4].view(CLASSES, -1).sum(1)
    else:
        by_class = model.roi_heads.box_predictor.cls_score.bias.grad
    assert by_class[0] < 0
    assert bool((by_class[1:] > 0).all())
    assert bool((model.rpn.head.cls_logits.bias.grad > 0).all())


@pytest.mark.parametrize("kind", ["mask_rcnn", "deformable_rcnn", "fcis"])
def test_an_images_draws_are_functions_of_its_own_seed(kind, monkeypatch):
    """In one process or in two: the losses of equally many anchors and regions are the mean of the images'."""
    model = detector_of(kind, backbone=BackboneConfig("resnet18"), regions=4).double().train()
    monkeypatch.setattr(model.rpn.fg_bg_sampler, "batch_size_per_image", 8)
    found = [picture(64, 64, (8, 12, 40, 44, 1)), picture(64, 64, (20, 4, 60, 30, 2))]
    images = [image.double() for image, _ in found]
    targets = [
        {**own, "boxes": own["boxes"].double(), "seed": seed} for seed, (_, own) in zip((5, 7), found, strict=True)
    ]
    before = torch.get_rng_state()
    together, *alone = (model(images[some], targets[some]) for some in (slice(0, 2), slice(0, 1), slice(1, 2)))
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("loss_objectness", "loss_classifier"):
        torch.testing.assert_close(together[name], (alone[0][name] + alone[1][name]) / 2)
    other = model(images[:1], [{**targets[0], "seed": 6}])
    assert other["loss_objectness"] != alone[0]["loss_objectness"]


@KINDS
@pytest.mark.parametrize("size", [(1, 1), (3, 200)], ids=str)
def test_tiny_and_wide_images(kind, size):
    model = detector_of(kind).eval()
    image = torch.rand(3, *size)
    with torch.no_grad():
        check_detections([image], model([image]))


@KINDS
def test_nothing_above_the_threshold(kind):
    model = detector_of(kind, score_threshold=1.0).eval()
    image = torch.rand(3, 64, 64)
    with torch.no_grad():
        found = model([image])
    check_detections([image], found)
    assert len(found[0]["boxes"]) == 0


@KINDS
@pytest.mark.parametrize("levels", ["box size", "sum"])
def test_batch_mates_change_nothing(kind, levels):
    """In float64: convolutions of a library may sum in another order for another size.

    Norms give something from nothing, as trained ones do, so that padding shows, and offsets move what they move.
    """
    model = detector_of(kind, roi_levels=levels, proposals=(20, 5)).double().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or ".offset." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    images = [image.double() for image in pictures()[0]]
    with torch.no_grad():
        together = model(images)
        for image, own in zip(images, together, strict=True):
            torch.testing.assert_close(model([image])[0], own, rtol=1e-6, atol=1e-8)
            assert len(own["boxes"]) > 0


@pytest.mark.parametrize("kind", ["mask_rcnn", "deformable_rcnn", "fcis"])
def test_the_pyramid_is_exported(kind):
    """The part of torchvision's detectors that torch.export takes: their NMS asks for the number of boxes."""
    pyramid = detector_of(kind).backbone.eval()
    images = torch.rand(1, 3, 64, 128)
    exported = torch.export.export(pyramid, (images,), strict=False).module()
    for name, x in exported(images).items():
        torch.testing.assert_close(x, pyramid(images)[name])
