"""Prediction of whole images: scales, mirror images, windows, how often the network runs, and what memory it takes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")

from spies import Allocated
from torchvision.transforms.v2 import functional as transforms

from zigzag.data.transforms import normalised
from zigzag.tasks.inference import Inference, probabilities, segment, windows


class Local(nn.Module):
    """A network whose scores at a pixel are a function of the pixels around it."""

    def __init__(self, classes=4):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, classes, 3, padding=1)
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape[2:]))
        return self.conv(images)


class Constant:
    """A network that takes no memory but for its scores."""

    def __init__(self, classes):
        self.classes = classes

    def __call__(self, images):
        return images.new_zeros((1, self.classes, *images.shape[2:]))


def picture(height=57, width=83):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), np.uint8))


def scaled(image, factor):
    size = [round(side * factor) for side in image.shape[1:]]
    return image if factor == 1 else transforms.resize(image, size, antialias=True)


def whole(network, image, settings, *, sideways=False):
    found = torch.cat(list(probabilities(network, image, 4, settings, sideways=sideways)), 1)
    return found.mT if sideways else found


def plainly(network, image, settings):
    """The same with everything held at once: the specification."""
    height, width = image.shape[1:]
    total = torch.zeros(4, height, width)
    for small in (scaled(image, factor) for factor in settings.scales):
        own, count = torch.zeros(4, *small.shape[1:]), torch.zeros(small.shape[1:])
        for top, bottom in windows(small.shape[1], settings):
            for left, right in windows(small.shape[2], settings):
                pixels = normalised(small[:, top:bottom, left:right])[None]
                seen = network(pixels).softmax(1)
                if settings.flip:
                    seen = (seen + network(pixels.flip(3)).softmax(1).flip(3)) / 2
                own[:, top:bottom, left:right] += seen[0]
                count[top:bottom, left:right] += 1
        total += nn.functional.interpolate((own / count)[None], (height, width), mode="bilinear")[0]
    return total / len(settings.scales)


class TestResults:
    def test_one_scale_is_the_network_itself(self):
        network = Local()
        expected = network(normalised(picture())[None])[0].argmax(0).byte()
        assert torch.equal(segment(network, picture(), 4, Inference()), expected)

    @pytest.mark.parametrize("shape", [(57, 83), (90, 20), (1, 70)])
    @pytest.mark.parametrize("scales", [(1.0,), (0.6, 1.0, 1.4)])
    @pytest.mark.parametrize("flip", [False, True])
    @pytest.mark.parametrize(("window", "overlap"), [(None, 1 / 3), (32, 1 / 3), (32, 0.7)])
    @pytest.mark.parametrize("sideways", [False, True])
    @torch.no_grad()
    def test_bands_windows_and_scales_give_what_holding_everything_does(
        self, shape, scales, flip, window, overlap, sideways, monkeypatch
    ):
        network, image = Local(), picture(*shape)
        settings = Inference(scales, flip, window, overlap)
        found = whole(network, image, settings, sideways=sideways)
        assert_close(found, plainly(network, image, settings))
        height, width = shape[::-1] if sideways else shape
        monkeypatch.setattr("zigzag.tasks.inference._HELD", 512 * 2**20 / (4 * 4 * 5 * width))  # some rows at a time
        assert len(list(probabilities(network, image, 4, settings, sideways=sideways))) >= height / 5
        assert torch.equal(whole(network, image, settings, sideways=sideways), found)

    @pytest.mark.parametrize("size", [1, 32, 33, 100, 101])
    def test_windows_cover_an_axis(self, size):
        found = windows(size, Inference(window=32))
        assert {place for start, end in found for place in range(start, end)} == set(range(size))
        assert all(end - start == min(size, 32) for start, end in found)
        assert all(later[0] <= earlier[1] - 32 // 3 + 1 for earlier, later in pairwise(found))

    @pytest.mark.parametrize("shape", [(57, 83), (83, 57)])
    @pytest.mark.parametrize("flip", [False, True])
    @torch.no_grad()
    def test_labels_are_those_of_the_largest_probability(self, shape, flip):
        network, image, settings = Local(), picture(*shape), Inference((0.6, 1.0), flip, 32)
        expected = plainly(network, image, settings)
        labels = segment(network, image, 4, settings).long()
        assert_close(expected.gather(0, labels[None])[0], expected.amax(0))  # of two that are alike, either
        assert labels.is_contiguous()

    def test_a_mirror_image_gives_the_mirrored_result(self):
        network, settings = Local(), Inference(flip=True)
        mirrored = segment(network, picture().flip(2), 4, settings)
        assert torch.equal(mirrored.flip(1), segment(network, picture(), 4, settings))


class TestBounds:
    @pytest.mark.parametrize("flip", [False, True])
    @pytest.mark.parametrize("window", [None, 64, 200])
    def test_the_network_runs_once_for_every_window_scale_and_mirror_image(self, flip, window, monkeypatch):
        monkeypatch.setattr("zigzag.tasks.inference._HELD", 2**20)  # a row at a time
        network, image, settings = Local(), picture(130, 90), Inference((0.6, 1.0, 1.4), flip, window, memory=1)
        segment(network, image, 4, settings)
        sizes = [scaled(image, factor).shape[1:] for factor in settings.scales]
        expected = [len(windows(height, settings)) * len(windows(width, settings)) for height, width in sizes]
        assert len(network.seen) == sum(expected) * (1 + flip)
        assert max(max(seen) for seen in network.seen) == (window if window == 64 else 182)

    @staticmethod
    def peak(shape, settings, classes=20):
        image = picture(*shape)
        with Allocated() as allocated:
            segment(Constant(classes), image, classes, settings)
        return allocated.peak

    @pytest.mark.parametrize("scales", [(1.0,), (0.6, 1.0, 1.4)])
    @pytest.mark.parametrize("sideways", [False, True])
    def test_with_windows_memory_does_not_grow_with_the_longer_side(self, scales, sideways):
        """But for the image's scaled copies and the labels, of a byte a value."""
        settings, side = Inference(scales, True, 64, memory=1), 100
        shapes = [(side, longer) if sideways else (longer, side) for longer in (200, 500)]
        small, large = (self.peak(shape, settings) for shape in shapes)
        assert large - small <= 2 * 300 * side * (1 + 3 * sum(factor**2 for factor in scales if factor != 1))

    @pytest.mark.parametrize("flip", [False, True])
    @pytest.mark.parametrize("scales", [(1.0,), (0.6, 1.0, 1.4)])
    @pytest.mark.parametrize("window", [None, 64])
    def test_what_is_held_is_what_is_said(self, scales, flip, window):
        height, width, classes, factor = 300, 200, 20, max(scales)
        image = height * width
        if window is None:
            held = classes * image * ((1 + flip) * factor**2 + (len(scales) > 1))
        else:
            held = classes * window * width * (sum(scales) + factor)
            held += 5 * classes * window**2  # a window itself
        bytes_of_images = image * (3 + 3 * sum(scale**2 for scale in scales) + 2 * 3 * 4 * factor**2)
        found = self.peak((height, width), Inference(scales, flip, window, memory=1), classes)
        assert found <= 4 * held + 2**20 + bytes_of_images
        assert found >= 4 * held / 2


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"scales": ()}, "scales"),
        ({"scales": (1.0, float("inf"))}, "scales"),
        ({"window": 3}, "window"),
        ({"overlap": 1.0}, "overlap"),
        ({"memory": 0}, "memory"),
    ],
)
def test_what_is_refused(fields, name):
    with pytest.raises(ValueError, match=f"inference.{name}"):
        Inference(**fields)
