"""Mask R-CNN as TorchScript: what the detector finds, bit for bit, the saved file finds, for images of any sizes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")

from detector_cases import detector_of

import zigzag
from zigzag.models import NeckOptions, scripted

NEEDS_KERNELS = pytest.mark.skipif(not zigzag.backends()["cpu"].available, reason=str(zigzag.backends()["cpu"].reason))
# The pyramid is traced on images of 64 x 64, where all levels but the finest are summed in float64; in others fewer.
BATCHES = [[(64, 64)], [(48, 80), (80, 30)], [(1, 1)], [(3, 200), (200, 4), (64, 64)]]
IN_ANOTHER_PROCESS = """
import sys, torch, torchvision, zigzag
torch.set_num_threads(1)  # as here: sums are cut by their number
model = torch.jit.load(sys.argv[1])
with torch.no_grad():
    torch.save([model(images) for images in torch.load(sys.argv[2])], sys.argv[3])
assert not any(name.startswith("zigzag.models") for name in sys.modules)
"""


def batches():
    generator = torch.Generator().manual_seed(0)
    return [[torch.rand(3, *size, generator=generator) for size in sizes] for sizes in BATCHES]


def check_equal(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert torch.equal(ours[name], value), name


@pytest.fixture(scope="module")
def both():
    detector = detector_of("mask_rcnn").eval()
    return detector, scripted(detector)


@NEEDS_KERNELS
def test_the_detections_are_the_detectors(both):
    detector, script = both
    with torch.no_grad():
        for images in batches():
            expected = detector(images)
            assert all(len(own["boxes"]) > 10 for own in expected)
            check_equal(script(images), expected)


@NEEDS_KERNELS
def test_a_file_of_it_needs_none_of_our_classes(both, tmp_path):
    detector, script = both
    files = [tmp_path / name for name in ("model.pt", "images.pt", "found.pt")]
    script.save(files[0])
    torch.save(batches(), files[1])
    root = str(Path(zigzag.__file__).parents[1])
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, *map(str, files)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": root})
    with torch.no_grad():
        for found, images in zip(torch.load(files[2]), batches(), strict=True):
            check_equal(found, detector(images))


@NEEDS_KERNELS
@pytest.mark.parametrize(
    "neck",
    [
        NeckOptions(channels=8, stages=2, grids=(2, 3), norm_groups=2, context_norm=False, kernel_size=1),
        NeckOptions("fpn", channels=8),
    ],
    ids=lambda neck: neck.kind,
)
def test_other_options_and_nothing_found(neck):
    detector = detector_of("mask_rcnn", neck=neck, roi_levels="sum", score_threshold=0.4).eval()
    script = scripted(detector)
    images = batches()[3]
    with torch.no_grad():
        check_equal(script(images), detector(images))
        detector.roi_heads.box_predictor.cls_score.bias[0] = 100  # background, everywhere; the parameters are shared
        expected = detector(images)
        assert [tuple(own["masks"].shape) for own in expected] == [(0, 1, *image.shape[1:]) for image in images]
        check_equal(script(images), expected)


@NEEDS_KERNELS
@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images must be a list of one or more tensors"),
        ([torch.zeros(3, 4, 4), torch.zeros(3, 0, 4)], r"images\[1\] must have the shape"),
        ([torch.zeros(3, 4, 4, dtype=torch.float64)], r"images\[0\] must have the dtype of the parameters"),
    ],
)
def test_images_that_are_refused(both, images, message):
    with pytest.raises(torch.jit.Error, match=message):
        both[1](images)


def test_detectors_that_are_refused():
    with pytest.raises(TypeError, match="detector must be a MaskRCNN, got FCIS"):
        scripted(detector_of("fcis").eval())
    with pytest.raises(ValueError, match="detector must be in evaluation mode"):
        scripted(detector_of("mask_rcnn"))
    with pytest.raises(ValueError, match="detector must have a neck of the kind 'zigzag' or 'fpn', got 'eager'"):
        scripted(detector_of("mask_rcnn", neck=NeckOptions("eager", channels=8, norm_groups=2)).eval())
    with zigzag.use_backend("reference"), pytest.raises(RuntimeError, match="detector needs a backend with kernels"):
        scripted(detector_of("mask_rcnn").eval())
