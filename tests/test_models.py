"""Backbones, weights under three namings and from hostile files, necks and the network for semantic segmentation."""

from __future__ import annotations

import os
import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")

from torchvision import models as torchvision_models

from zigzag.models import (
    BackboneConfig,
    NeckOptions,
    NetworkConfig,
    SemanticSegmenter,
    WeightsError,
    build_backbone,
    build_neck,
)
from zigzag.models.weights import IMAGE_DEVIATION, IMAGE_MEAN, read_weights, to_torchvision

SMALL = NeckOptions(channels=16, norm_groups=4, stages=2, grids=(2, 3))


@pytest.fixture(scope="module")
def resnet50():
    torch.manual_seed(0)
    model = torchvision_models.resnet50()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.4, 0.8)
            module.bias.data.normal_(std=0.1)
    return model.eval()


def images(size=64, number=1):
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(0))


def saved(state, path):
    if path.suffix == ".pkl":
        path.write_bytes(
            pickle.dumps({"model": {key: value.numpy() for key, value in state.items()}, "__author__": "x"})
        )
    else:
        torch.save(state, path)
    return str(path)


def by_stock(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    maps = []
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = layer(x)
        maps.append(x)
    return maps


def detectron2_names(state):
    def renamed(key):
        key = key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        for i in (1, 2, 3):
            key = key.replace(f"bn{i}.", f"conv{i}.norm.")
        if key.startswith("layer"):
            return f"res{int(key[5]) + 1}{key[6:]}"
        return f"stem.{key}"

    return {renamed(key): value for key, value in state.items() if "fc." not in key and "num_batches" not in key}


class TestBackbones:
    @pytest.mark.parametrize(
        ("name", "channels"), [("resnet18", (64, 128, 256, 512)), ("resnet50", (256, 512, 1024, 2048))]
    )
    def test_maps_at_strides_4_to_32(self, name, channels):
        backbone = build_backbone(BackboneConfig(name))
        assert backbone.channels == channels
        assert [tuple(x.shape[1:]) for x in backbone(images(65))] == [
            (c, s, s) for c, s in zip(channels, (17, 9, 5, 3), strict=True)
        ]

    @pytest.mark.parametrize("norm", ["frozen", "batch"])
    def test_torchvisions_names_and_results(self, resnet50, tmp_path, norm):
        path = saved(resnet50.state_dict(), tmp_path / "weights.pth")
        backbone = build_backbone(BackboneConfig("resnet50", weights=path, norm=norm)).eval()
        assert backbone.report.unexpected == ("fc.weight", "fc.bias")
        assert not backbone.report.missing
        assert len(backbone.report.loaded) == 265
        for own, stock in zip(backbone(images()), by_stock(resnet50, images()), strict=True):
            assert_close(own, stock)

    def test_stride_in_the_first_convolution(self, resnet50, tmp_path):
        path = saved(resnet50.state_dict(), tmp_path / "weights.pth")
        backbone = build_backbone(BackboneConfig("resnet50", weights=path, stride_in_1x1=True))
        block = backbone.layer2[0]
        assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
        assert [x.shape[2] for x in backbone(images())] == [16, 8, 4, 2]

    @pytest.mark.parametrize("suffix", ["pth", "pkl"])
    def test_detectron2s_names(self, resnet50, tmp_path, suffix):
        path = saved(detectron2_names(resnet50.state_dict()), tmp_path / f"weights.{suffix}")
        backbone = build_backbone(BackboneConfig("resnet50", weights=path))
        assert backbone.report.unexpected == ()
        assert "no pixel_mean and pixel_std: taken as for RGB" in str(backbone.report)
        for key, value in backbone.state_dict().items():
            assert torch.equal(value, resnet50.state_dict()[key]), key

    @pytest.mark.parametrize("order", ["BGR", "RGB"])
    def test_detectron2s_pixels_are_converted_where_the_file_has_them(self, resnet50, order):
        flip = (lambda x, axis: x.flip(axis)) if order == "BGR" else (lambda x, _: x)
        mean, deviation = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([1.0, 2.0, 3.0])
        given = {f"backbone.bottom_up.{key}": value for key, value in detectron2_names(resnet50.state_dict()).items()}
        given |= {"pixel_mean": flip(mean, 0).view(3, 1, 1), "pixel_std": flip(deviation, 0).view(3, 1, 1)}
        state = to_torchvision(given)
        pixels = 255 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        own = (pixels / 255 - torch.tensor(IMAGE_MEAN).view(3, 1, 1)) / torch.tensor(IMAGE_DEVIATION).view(3, 1, 1)
        theirs = flip((pixels - mean.view(3, 1, 1)) / deviation.view(3, 1, 1), 1)
        expected = nn.functional.conv2d(theirs, resnet50.conv1.weight, padding=3)
        found = nn.functional.conv2d(own, state["conv1.weight"], padding=3)
        assert_close(found, expected, rtol=1e-4, atol=1e-3)
        given["pixel_mean"] = given["pixel_mean"] + 1
        with pytest.raises(WeightsError, match="pixel_mean must be"):
            to_torchvision(given)

    def test_caffe2s_names_pixels_and_folded_norms(self, resnet50):
        """The converted network sees RGB as the original sees BGR less its mean, and gives the same."""
        own = detectron2_names(resnet50.state_dict())
        caffe2 = {}
        for key, value in own.items():
            if key.endswith(("running_mean", "running_var")):
                continue
            part = {"weight": "s" if ".norm." in key else "w", "bias": "b"}[key.rpartition(".")[2]]
            if key.startswith("stem"):
                caffe2["conv1_w" if part == "w" else f"res_conv1_bn_{part}"] = value
                continue
            stage, block, layer = key.split(".")[:3]
            branch = "1" if layer == "shortcut" else f"2{'abc'[int(layer[-1]) - 1]}"
            caffe2[f"{stage}_{block}_branch{branch}{'_bn' * (part != 'w')}_{part}"] = value
        state = to_torchvision(caffe2)
        assert {key for key in state if "fc" not in key} == {
            key for key in resnet50.state_dict() if "fc" not in key and "num_batches" not in key
        }
        pixels = 255 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        mean, deviation = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        original = nn.functional.conv2d((pixels - 255 * mean).flip(1), caffe2["conv1_w"])
        converted = nn.functional.conv2d((pixels / 255 - mean) / deviation, state["conv1.weight"])
        assert_close(converted, original, rtol=1e-4, atol=1e-2)
        assert_close(state["bn1.running_var"] + 1e-5, torch.ones(64))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [({"name": "vgg16"}, "backbone.name"), ({"norm": "none"}, "norm"), ({"freeze_at": 6}, "freeze_at")],
    )
    def test_what_is_refused(self, fields, message):
        with pytest.raises(ValueError, match=message):
            BackboneConfig(**fields)


class Planted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestWeights:
    @pytest.mark.parametrize("suffix", ["pth", "pkl", "ckpt"])
    def test_a_file_runs_no_code(self, tmp_path, suffix):
        path = tmp_path / f"weights.{suffix}"
        content = {"model": {"conv1.weight": Planted(tmp_path / "ran")}}
        path.write_bytes(pickle.dumps(content)) if suffix == "pkl" else torch.save(content, path)
        with pytest.raises(WeightsError, match="cannot be read safely"):
            read_weights(path)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"nothing", "cannot be read"), ([1], "holds no tensors"), ({"a": 1}, "holds int as 'a'")],
    )
    def test_files_that_hold_no_weights(self, tmp_path, content, message):
        path = tmp_path / "weights.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(WeightsError, match=message):
            read_weights(path)

    def test_detectrons_blobs(self, tmp_path):
        content = {"blobs": {"conv1_w": np.ones((2, 3, 1, 1), np.float32), "conv1_w_momentum": np.ones(1)}, "cfg": "x"}
        (tmp_path / "weights.pkl").write_bytes(pickle.dumps(content))
        state = read_weights(tmp_path / "weights.pkl")
        assert sorted(state) == ["conv1_w", "conv1_w_momentum"]
        assert list(to_torchvision(state)) == ["conv1.weight"]

    def test_arrays_that_torch_has_not(self, tmp_path):
        (tmp_path / "weights.pkl").write_bytes(pickle.dumps({"a": np.ones(2, np.longdouble)}))
        with pytest.raises(WeightsError, match=r"weights\.pkl' holds an array of .*, which torch has not, as 'a'"):
            read_weights(tmp_path / "weights.pkl")

    def test_a_missing_file(self):
        with pytest.raises(WeightsError, match=r"there is no file 'no/such.pth'"):
            build_backbone(BackboneConfig("resnet18", weights="no/such.pth"))

    def test_every_key_that_does_not_fit_is_named(self, tmp_path):
        state = torchvision_models.resnet18().state_dict()
        del state["layer1.0.conv1.weight"]
        state["conv1.weight"] = torch.zeros(1, 3, 7, 7)
        state["extra"] = torch.zeros(1)
        with pytest.raises(WeightsError) as caught:
            build_backbone(BackboneConfig("resnet18", weights=saved(state, tmp_path / "weights.pth")))
        for words in (
            "layer1.0.conv1.weight",
            "conv1.weight is (1, 3, 7, 7), expected (64, 3, 7, 7)",
            "extra",
            "fc.bias",
        ):
            assert words in str(caught.value)

    def test_weights_that_timm_cannot_fetch(self, monkeypatch):
        def refuse(name, **_options):
            raise RuntimeError(f"{name} cannot be fetched\nand more")

        fake = SimpleNamespace(is_model=lambda _: True, create_model=refuse)
        monkeypatch.setattr("zigzag.models.backbones._library", lambda _: fake)
        message = "backbone.name: timm cannot make 'timm:nothing': nothing cannot be fetched$"
        with pytest.raises(ValueError, match=message):
            build_backbone(BackboneConfig("timm:nothing", norm="batch", weights="pretrained"))

    def test_unknown_weights_of_torchvision(self):
        with pytest.raises(WeightsError, match="resnet18 has IMAGENET1K_V1"):
            build_backbone(BackboneConfig("resnet18", weights="IMAGENET9"))


class TestNecks:
    def test_eager_and_fused_are_one_network(self):
        torch.manual_seed(0)
        fused, eager = (
            build_neck(NeckOptions(kind=kind, channels=16, norm_groups=4), (4, 5, 6)).double()
            for kind in ("zigzag", "eager")
        )
        eager.load_state_dict(fused.state_dict())
        features = [torch.randn(1, 4 + i, 12 >> i, 10 >> i, dtype=torch.float64) for i in range(3)]
        for own, other in zip(fused(features), eager(features), strict=True):
            assert_close(own, other)

    def test_options_come_to_the_configs_fields(self):
        config = build_neck(NeckOptions(preset="paper", scheme="successive", pool="mean", channels=8), (4, 5)).config
        assert (config.stages, config.exchange, config.fusion_norm, config.pool, config.out_channels) == (
            1,
            False,
            False,
            "mean",
            8,
        )

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"kind": "eager", "context": "zoom_out"}, "context must be 'rce' for kind 'eager', got 'zoom_out'"),
            ({"kind": "fpn", "channels": 0}, "channels must be 1 or more, got 0"),
            (
                {"kind": "fpn", "scheme": "top_down", "resize": "nearest"},
                "kind 'fpn' takes channels alone, expected scheme='zigzag', resize=None, "
                "got scheme='top_down', resize='nearest'",
            ),
        ],
    )
    def test_fields_that_do_not_go_together(self, fields, message):
        with pytest.raises(ValueError, match=f"^neck.{re.escape(message)}$"):
            NeckOptions(**fields)

    def test_fpn(self):
        neck = build_neck(NeckOptions(kind="fpn", channels=8), (4, 5), 1)
        assert [tuple(x.shape) for x in neck([torch.randn(1, 4, 8, 8), torch.randn(1, 5, 4, 4)])] == [(1, 8, 8, 8)]
        with pytest.raises(ValueError, match="image_sizes"):
            neck([], torch.tensor([[1, 1]]))


@pytest.mark.parametrize("reads", ["finest", "all"])
@pytest.mark.parametrize("kind", ["zigzag", "fpn"])
def test_network_scores_every_pixel_and_every_parameter_learns(kind, reads):
    torch.manual_seed(0)
    neck = SMALL if kind == "zigzag" else NeckOptions(kind="fpn", channels=16)
    network = SemanticSegmenter(NetworkConfig(BackboneConfig("resnet18", norm="batch"), neck, reads), 3)
    scores = network(images(70, 2))
    assert scores.shape == (2, 3, 70, 70)
    scores.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None or not parameter.requires_grad, name
    new = {id(parameter) for parameter in network.new_parameters()}
    assert all((id(p) in new) != name.startswith("backbone.") for name, p in network.named_parameters())


@pytest.mark.parametrize(
    ("options", "std"),
    [
        (NeckOptions(channels=64, preset="gated"), 64**-0.5),
        (NeckOptions(channels=64, preset="paper"), 0.01),
        (NeckOptions(channels=64, fusion=False), 0.01),
        (NeckOptions(channels=64, kind="fpn"), 0.01),
    ],
    ids=["gated", "paper", "no fusion", "fpn"],
)
def test_the_head_starts_by_the_scale_of_the_map_that_it_reads(options, std):
    torch.manual_seed(0)
    network = SemanticSegmenter(NetworkConfig(BackboneConfig(name="resnet18"), options), 50)
    assert network.head.classifier.weight.std().item() == pytest.approx(std, rel=0.1)
