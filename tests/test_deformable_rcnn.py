"""Deformable convolution and RoI pooling: by loops, by torchvision where nothing is moved, and what they learn."""

from __future__ import annotations

from math import floor

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")

from detector_cases import config_of
from torch import nn
from torchvision.ops import roi_align

from zigzag.models import DeformableRCNN, deformable, deformable_rcnn
from zigzag.models.deformable import DeformableConv2d, DeformableRoIAlign, deformable_roi_align
from zigzag.models.detection import RoIAlign

BOXES = torch.tensor([[3.0, 2, 17, 21], [-9, -6, 8, 5], [20, 9, 60, 70], [5, 5, 5.5, 5.5]], dtype=torch.float64)


def map_of(height=7, width=9):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 2, height, width, generator=generator, dtype=torch.float64)


def random_offsets(size, scale=0.3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(BOXES), 2, size, size, generator=generator, dtype=torch.float64) * scale


def bilinear(x, row, column):
    """Of a map (C, H, W), RoIAlign's rules: 0 from a step outside on, the border's value up to there."""
    height, width = x.shape[1:]
    if not (-1 <= row <= height and -1 <= column <= width):
        return np.zeros(len(x))
    row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
    top, left = floor(row), floor(column)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = x[:, top, left] * (left + 1 - column) + x[:, top, right] * (column - left)
    lower = x[:, bottom, left] * (left + 1 - column) + x[:, bottom, right] * (column - left)
    return upper * (top + 1 - row) + lower * (row - top)


def by_loops(x, boxes, offsets, size, scale, samples):
    pooled = np.zeros((len(boxes), x.shape[0], size, size))
    for r, (x1, y1, x2, y2) in enumerate(boxes * scale):
        width, height = max(x2 - x1, 1), max(y2 - y1, 1)
        for p, q, a, b in np.ndindex(size, size, samples, samples):
            column = x1 + width * ((q + (b + 0.5) / samples) / size + offsets[r, 0, p, q])
            row = y1 + height * ((p + (a + 0.5) / samples) / size + offsets[r, 1, p, q])
            pooled[r, :, p, q] += bilinear(x, row, column) / samples**2
    return pooled


def test_moved_bins_by_loops():
    x, offsets = map_of(), random_offsets(3)
    found = deformable_roi_align(x, BOXES, offsets, 3, 0.25)
    expected = by_loops(x[0].numpy(), BOXES.numpy(), offsets.numpy(), 3, 0.25, 2)
    torch.testing.assert_close(found, torch.from_numpy(expected))


@pytest.mark.parametrize("sizes", [(7, 9), (1, 1)], ids=str)
def test_unmoved_it_is_torchvisions(sizes):
    x = map_of(*sizes)
    found = deformable_roi_align(x, BOXES, torch.zeros(len(BOXES), 2, 7, 7), 7, 0.25)
    torch.testing.assert_close(found, roi_align(x, [BOXES], 7, 0.25, 2))


def test_gradients_of_map_and_offsets():
    x, offsets = map_of(4, 5).requires_grad_(), random_offsets(2).requires_grad_()
    call = lambda *given: deformable_roi_align(given[0], BOXES, given[1], 2, 0.25)  # noqa: E731
    assert torch.autograd.gradcheck(call, (x, offsets))


def test_no_regions():
    assert deformable_roi_align(map_of(), BOXES[:0], random_offsets(7)[:0], 7, 0.25).shape == (0, 2, 7, 7)


def test_convolution_is_the_plain_one_at_first_and_learns_its_offsets():
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
    moved = DeformableConv2d(plain)
    x = torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(moved(x), plain(x))
    assert set(moved.state_dict()) == {"weight", "offset.weight", "offset.bias"}
    moved(x).square().sum().backward()
    assert all(parameter.grad.any() for parameter in moved.parameters())


def pyramid_maps(channels):
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.randn(2, channels, 64 // stride, 64 // stride, generator=generator)
        for name, stride in zip(("0", "1", "2", "3", "pool"), (4, 8, 16, 32, 64), strict=True)
    }


IMAGES = [(64, 64), (40, 52)]
REGIONS = [torch.tensor([[3.0, 4, 40, 30], [0, 0, 63, 64]]), torch.tensor([[5.0, 5, 50, 39]])]


@pytest.mark.parametrize("levels", ["box size", "sum"])
@pytest.mark.parametrize("size", [7, 14])
def test_pooling_is_the_plain_one_at_first(size, levels):
    maps = pyramid_maps(2)
    found = DeformableRoIAlign(size, 2, levels)(maps, REGIONS, IMAGES)
    torch.testing.assert_close(found, RoIAlign(size, levels)(maps, REGIONS, IMAGES))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_offsets_that_are_not_finite_show(value):
    """torchvision's operation would read outside the map."""
    moved = DeformableConv2d(nn.Conv2d(2, 4, 3, padding=1))
    moved.offset.bias.data[3] = value
    result = moved(map_of().float())
    assert bool(result.isnan().all())
    result.sum().backward()
    pool = DeformableRoIAlign(7, 2, "box size")
    pool.offset.bias.data[3] = value  # of x, the fourth part of the first row
    pooled = pool(pyramid_maps(2), REGIONS, IMAGES)
    assert bool(pooled[:, :, 0, 3].isnan().all())
    assert int(pooled.isnan().sum()) == 3 * 2


def test_offsets_learn_at_a_hundredth_of_the_rate(monkeypatch):
    gradients = []
    for rate in (deformable.OFFSET_RATE, 1.0):
        monkeypatch.setattr(deformable, "OFFSET_RATE", rate)
        pool = DeformableRoIAlign(7, 2, "box size")
        pool(pyramid_maps(2), REGIONS, IMAGES).square().sum().backward()
        gradients.append(pool.offset.weight.grad)
    assert gradients[0].any()
    torch.testing.assert_close(100 * gradients[0], gradients[1])


def test_res5_alone_is_deformable():
    model = DeformableRCNN(config_of("deformable_rcnn"), 3)
    moved = {name for name, module in model.named_modules() if isinstance(module, DeformableConv2d)}
    assert moved == {f"backbone.backbone.layer4.{block}.conv{i}" for block in (0, 1) for i in (1, 2)}


def test_a_backbone_without_res5_is_an_error(monkeypatch):
    monkeypatch.setattr(deformable_rcnn, "build_backbone", lambda _: nn.Identity())
    with pytest.raises(ValueError, match=r"backbone\.name must be a ResNet .* got 'resnet18'"):
        DeformableRCNN(config_of("deformable_rcnn"), 3)
