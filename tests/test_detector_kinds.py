"""What FCIS and Deformable R-CNN have in common with torchvision's detectors: losses, forms, images of any kind."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")

from detector_cases import check_detections, detector_of, picture, pictures, train

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


@KINDS
def test_images_without_objects_train(kind):
    model = detector_of(kind).train()
    image, target = picture(64, 64)
    losses = model([image], [target])
    assert bool(torch.stack(list(losses.values())).isfinite().all())
    assert losses["loss_mask"] == losses["loss_box_reg"] == 0
    sum(losses.values()).backward()


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
