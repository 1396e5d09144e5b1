"""FCIS: score maps that need not exist, the loss of masks, voting."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")

from detector_cases import detector_of, picture
from pool_cases import random_rois

from zigzag.models.fcis import vote
from zigzag.models.position_sensitive import BINS, CELLS, PositionSensitiveScores
from zigzag.ops import position_sensitive_pool


def scores_of(**options):
    torch.manual_seed(0)
    scores = PositionSensitiveScores(4, 3, **{"levels": "box size"} | options).double()
    torch.nn.init.normal_(scores.convolution.bias)
    return scores


def maps_of(number, sizes, channels=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(number, channels, *size, generator=generator, dtype=torch.float64) for size in sizes]


def test_pooling_first_is_the_same_as_pooling_score_maps():
    """Values and gradients; some bins are empty, where there is no bias either."""
    scores = scores_of()
    (x,) = maps_of(2, [(6, 5)])
    x.requires_grad_()
    valid = torch.tensor([[6, 5], [4, 3]])
    rois = random_rois(torch.Generator().manual_seed(0), 7, 2, 24, 20, torch.float64)
    literal = position_sensitive_pool(scores.convolution(x), rois, BINS, CELLS, stride=4, valid=valid)
    first = scores.pooled_first(x, rois, 4, valid)
    assert (literal == 0).any()
    torch.testing.assert_close(first, literal)
    weights = torch.randn(literal.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    given = [x, *scores.parameters()]
    torch.testing.assert_close(*(torch.autograd.grad(way, given, weights) for way in (first, literal)))


@pytest.mark.parametrize(("count", "first"), [(1, True), (9, False)])
def test_the_way_with_fewer_products_is_taken(count, first, monkeypatch):
    scores = scores_of()
    (x,) = maps_of(1, [(6, 5)])
    taken = []
    monkeypatch.setattr(scores, "pooled_first", lambda *arguments: taken.append(arguments))
    scores.at_level(x, torch.tensor([[0.0, 1, 1, 9, 9]] * count), 4, torch.tensor([[6, 5]]))
    assert bool(taken) == first


def test_regions_are_read_from_the_level_of_their_size():
    """In the order of the images; a box of 224 pixels belongs to the third of four levels (Lin et al., FPN)."""
    sizes = [(64, 64), (32, 32), (16, 16), (8, 8)]
    maps = [torch.full((2, 4, *size), float(i), dtype=torch.float64) for i, size in enumerate(sizes)]
    scores = scores_of()
    torch.nn.init.ones_(scores.convolution.weight)
    torch.nn.init.zeros_(scores.convolution.bias)
    boxes = [torch.tensor([[0.0, 0, 240, 240], [0, 0, 10, 10]]), torch.tensor([[0.0, 0, 120, 120]])]
    named = {str(i): x for i, x in enumerate(maps)}
    image_sizes = [(256, 256), (256, 256)]
    found = scores(named, [box.double() for box in boxes], image_sizes)
    assert found[:, 0, 0, 0].tolist() == [8.0, 0.0, 4.0]
    scores.levels = "sum"
    assert scores(named, [box.double() for box in boxes], image_sizes)[:, 0, 0, 0].tolist() == [24.0] * 3


def test_masks_are_learned_from_the_class_and_the_object_of_a_region():
    """The loss of a mask is that of the target's class alone, and none without objects."""
    model = detector_of("fcis").train()
    heads = model.roi_heads
    (image, target), (empty, nothing) = picture(64, 64, (8, 8, 40, 40, 2)), picture(64, 64)
    proposals = [target["boxes"].clone()]
    maps = {str(i): torch.ones(1, 16, 64 // s, 64 // s) for i, s in enumerate((4, 8, 16, 32))}
    losses = heads(maps, proposals, [(64, 64)], [target])[1]
    losses["loss_mask"].backward()
    gradient = heads.scores.convolution.weight.grad.unflatten(0, (-1, CELLS**2)).abs().sum((1, 2, 3, 4))
    assert gradient.nonzero()[:, 0].tolist() == [4, 5]  # outside and inside of class 2
    assert image.shape == empty.shape
    losses = heads(maps, proposals, [(64, 64)], [nothing])[1]
    assert losses["loss_mask"] == losses["loss_box_reg"] == 0


def test_a_mask_is_voted_by_the_regions_around_a_detection():
    """The second region reaches twice as far down, and is inside there alone; the third is too far away."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 40, 10, 50]])
    pairs = torch.zeros(3, 2, 2, 21, 21)
    pairs[:, 1, 1] = 50.0
    pairs[1, 1, 1, :11] = -50.0
    scores = torch.tensor([[0.2, 0.6], [0.8, 0.2], [0.0, 1.0]])
    masks = vote(boxes, pairs, scores, boxes[:2], torch.tensor([1, 1]))
    assert masks.shape == (2, 1, 21, 21)
    torch.testing.assert_close(masks[0, 0, :20], torch.full((20, 21), 0.75))
    # The first region says nothing of the lower half of the second's box.
    torch.testing.assert_close(masks[1, 0, :10], torch.full((10, 21), 0.75))
    torch.testing.assert_close(masks[1, 0, 12:], torch.full((9, 21), 0.25))


def test_nothing_found_is_no_mask():
    nothing = torch.zeros(0, 4)
    masks = vote(nothing, torch.zeros(0, 2, 2, 21, 21), torch.zeros(0, 2), nothing, torch.zeros(0, dtype=torch.int64))
    assert masks.shape == (0, 1, 21, 21)
