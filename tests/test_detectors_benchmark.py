"""The benchmark of detectors: run here on tiny images, every kind; it compares losses before it times anything."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")

from zigzag.models import DetectorConfig

FOLDER = Path(__file__).parents[1] / "benchmarks"
TINY = ["--backbone=resnet18", "--channels=32", "--shorter=64", "--batch=2", "--rounds=2", "--device=cpu"]

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the source tree")


@pytest.fixture
def detectors(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    script = importlib.import_module("detectors")
    monkeypatch.setattr(script, "DetectorConfig", partial(DetectorConfig, proposals=(50, 20), regions=8))
    yield script
    sys.modules.pop("detectors", None)


@pytest.mark.parametrize("kind", ["mask_rcnn", "deformable_rcnn", "fcis"])
def test_both_sides_agree_and_are_timed(detectors, kind, capsys):
    status = detectors.main([f"--kind={kind}", *TINY])
    printed = capsys.readouterr().out
    assert status == 0, printed
    lines = printed.splitlines()
    assert lines[0] == f"{kind}, resnet18, 2 images of 64, cpu"
    assert [line.split()[0] for line in lines[2:]] == ["fused", "eager", "eager"]
    assert "MiB" in lines[2]
    assert "memory" in lines[4]


def test_other_losses_are_not_timed(detectors, capsys, monkeypatch):
    right, factors = detectors.losses, iter([1, 1.01])
    monkeypatch.setattr(detectors, "losses", lambda *arguments: next(factors) * right(*arguments))
    assert detectors.main(["--kind=mask_rcnn", *TINY]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("WRONG: the losses are")
    assert len(printed.splitlines()) == 1
