"""Backbones: frozen stages, and models of timm and transformers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")

from zigzag.models import BackboneConfig, build_backbone


def images(size=64, number=1):
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(0))


class TestFrozenStages:
    def test_they_do_not_learn(self):
        backbone = build_backbone(BackboneConfig("resnet18", freeze_at=2))
        learning = {name.partition(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
        assert learning == {"layer2", "layer3", "layer4"}

    @pytest.mark.parametrize("freeze_at", [0, 1, 3])
    @pytest.mark.parametrize("said", [True, False], ids=["train", "as made"])
    def test_their_statistics_stay(self, freeze_at, said):
        backbone = build_backbone(BackboneConfig("resnet18", norm="batch", freeze_at=freeze_at))
        network = nn.Sequential(backbone)
        if said:
            network.eval()
            network.train()
        before = {name: value.clone() for name, value in backbone.named_buffers()}
        backbone(images(number=2))
        changed = {name.partition(".")[0] for name, x in backbone.named_buffers() if not torch.equal(x, before[name])}
        assert changed == {"layer4", "layer3", "layer2", "layer1", "bn1"} - set(["bn1", "layer1", "layer2"][:freeze_at])
