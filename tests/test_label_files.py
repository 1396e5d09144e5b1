"""Files of predicted labels: our own readers read them back, and their palette is the legend's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")
pytest.importorskip("lightning", reason="lightning is not installed: zigzag[train]")
pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: zigzag[train]")
pytest.importorskip("pycocotools", reason="pycocotools is not installed: zigzag[train]")

from PIL import Image
from segmentation_files import SIZE, write_image, write_mask

from zigzag.data.classes import voc_palette
from zigzag.data.module import SegmentationData
from zigzag.data.sets import classes_of, open_source
from zigzag.data.source import read_mask
from zigzag.models import BackboneConfig, NeckOptions, NetworkConfig
from zigzag.tasks.semantic import SemanticSegmentation

MASKS = {
    "voc": ("SegmentationClass", "Segmentation"),
    "context59": ("SegmentationClassContext", "SegmentationContext"),
    "context60": ("SegmentationClassContext", "SegmentationContext"),
}


@pytest.fixture(params=MASKS)
def data(request, tmp_path):
    """One image whose mask has the first and the last label, and no void."""
    masks, lists = (tmp_path / "data" / name for name in (MASKS[request.param][0], "ImageSets"))
    write_image(tmp_path / "data" / "JPEGImages" / "a.jpg")
    write_mask(masks / "a.png", {"voc": (0, 1, 20), "context59": (1, 2, 59), "context60": (0, 1, 59)}[request.param])
    (lists / MASKS[request.param][1]).mkdir(parents=True)
    (lists / MASKS[request.param][1] / "val.txt").write_text("a\n")
    return SegmentationData(request.param, str(tmp_path / "data"))


@pytest.fixture
def task(data, tmp_path, monkeypatch):
    """Predicts the truth."""
    neck = NeckOptions(channels=4, norm_groups=1, stages=1, grids=(2,), lateral_kernel_size=1)
    network = NetworkConfig(BackboneConfig("resnet18"), neck)
    task = SemanticSegmentation(*classes_of(data.dataset), network=network, submission=True)
    task.trainer = SimpleNamespace(datamodule=data, default_root_dir=str(tmp_path / "run"), is_global_zero=True)
    truth = torch.from_numpy(open_source(data.dataset, data.root, "val").labels(0))
    monkeypatch.setattr(SemanticSegmentation, "_segment", lambda *_: truth)
    return task


def colours_of(path):
    """Of all values, (256, 3)."""
    with Image.open(path) as image:
        assert (image.mode, image.size) == ("P", SIZE)
        return np.array(image.getpalette("RGB")).reshape(-1, 3)


def test_what_predict_writes_is_what_the_data_set_reads(task, data, tmp_path):
    original = tmp_path / "data" / MASKS[data.dataset][0] / "a.png"
    task.predict_step({"image": torch.zeros(3, *SIZE[::-1], dtype=torch.uint8), "path": "a.jpg"}, 0)
    written = tmp_path / "run" / "predictions" / "a_labels.png"
    assert np.array_equal(read_mask(written), read_mask(original))
    source = open_source(data.dataset, data.root, "val")
    labels = source.labels(0)
    original.write_bytes(written.read_bytes())
    assert np.array_equal(source.labels(0), labels)


@pytest.mark.parametrize("colours", ["voc's", "others"])
def test_the_palette_is_the_legends(task, data, tmp_path, colours):
    if colours == "others":
        task.colours = [(label, 7, 9) for label in range(len(task.classes))]
    task.predict_step({"image": torch.zeros(3, *SIZE[::-1], dtype=torch.uint8), "path": "a.jpg"}, 0)
    written = tmp_path / "run" / "predictions" / "a_labels.png"
    palette, values = colours_of(written), read_mask(written)
    labels = open_source(data.dataset, data.root, "val").labels(0)
    assert np.array_equal(palette[values], np.array(task.colours)[labels])


def test_a_submission_has_the_data_sets_values_and_vocs_palette(task, data, tmp_path):
    task.colours = [(1, 2, 3)] * len(task.classes)
    truth = torch.from_numpy(open_source(data.dataset, data.root, "val").labels(0))
    image = torch.zeros(3, *SIZE[::-1], dtype=torch.uint8)
    batch = {"image": image, "labels": truth, "name": "a", "index": 0, "counts": False}
    task.test_step(batch, 0)
    written = tmp_path / "run" / "results" / "VOC2012" / "Segmentation" / "comp6_val_cls" / "a.png"
    assert np.array_equal(read_mask(written), read_mask(tmp_path / "data" / MASKS[data.dataset][0] / "a.png"))
    assert colours_of(written).flatten().tolist() == voc_palette()
