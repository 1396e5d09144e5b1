"""torchvision's own Mask R-CNN on our pyramid, with equal weights: what it finds and what it learns, ours does too."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")

from detector_cases import CLASSES, config_of, detector_of, picture
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.rpn import AnchorGenerator

# An image of the network's own size, a multiple of 64, so that nothing is resized nor padded.
IMAGE, TARGET = picture(64, 128, (8, 12, 40, 44, 1), (70, 4, 120, 60, 2))


@pytest.fixture(scope="module")
def both():
    """(ours, torchvision's), one pyramid in both."""
    fields = {"longer": 128, "proposals": (200, 100), "regions": 32}
    config, ours = config_of("mask_rcnn", **fields), detector_of("mask_rcnn", **fields).double()
    for name, parameter in ours.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    (kept, tested), sizes = config.proposals, tuple((size,) for size in config.anchor_sizes)
    theirs = MaskRCNN(
        ours.backbone,
        CLASSES,
        config.shorter,
        config.longer,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        rpn_pre_nms_top_n_train=kept,
        rpn_post_nms_top_n_train=kept,
        rpn_pre_nms_top_n_test=tested,
        rpn_post_nms_top_n_test=tested,
        box_score_thresh=config.score_threshold,
        box_nms_thresh=config.nms_threshold,
        box_detections_per_img=config.detections,
        box_batch_size_per_image=config.regions,
    ).double()
    theirs.load_state_dict(ours.state_dict())
    theirs.transform.torch_choice = lambda sizes: sizes[0]  # it would draw one of one size
    return ours, theirs


def test_the_same_is_found(both):
    with torch.no_grad():
        ours, theirs = (model.eval()([IMAGE.double()])[0] for model in both)
    assert len(ours["boxes"]) > 10
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert_close(ours[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_the_same_is_learned(both):
    target = {**TARGET, "boxes": TARGET["boxes"].double()}
    losses, gradients = [], []
    for model in both:
        model.train().zero_grad()
        torch.manual_seed(0)
        own = model([IMAGE.double()], [target])
        sum(own.values()).backward()
        losses.append(own)
        # The one pyramid is given the gradients of each in turn.
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert all(bool(loss > 0) for loss in losses[0].values())
    assert_close(*losses)
    assert_close(*gradients)
