"""Backbones: frozen stages, and models of timm and transformers."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")

from zigzag.data.transforms import normalised
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


class TestTimm:
    @pytest.fixture(autouse=True)
    def timm(self):
        return pytest.importorskip("timm", reason="timm is not installed")

    def test_maps(self):
        backbone = build_backbone(BackboneConfig("timm:resnet18", norm="batch"))
        assert [x.shape[1] for x in backbone(images())] == list(backbone.channels) == [64, 128, 256, 512]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("no_such_model", r"backbone\.name must name a model of timm, got 'timm:no_such_model'"),
            ("vit_tiny_patch16_224", r"must name a model with maps at \(4, 8, 16, 32\), got .*: \(16, 16, 16\)"),
            ("maxvit_pico_rw_256", r"backbone\.name: timm cannot run an image .* through 'timm:maxvit_pico_rw_256': w"),
        ],
    )
    def test_models_that_are_refused(self, name, message):
        with pytest.raises(ValueError, match=message):
            build_backbone(BackboneConfig(f"timm:{name}", norm="batch"))

    @pytest.mark.parametrize(
        ("name", "mean", "deviation"), [("mobilenetv4_conv_small_035", 0.5, 0.5), ("mobilevit_xxs", 0.0, 1.0)]
    )
    def test_images_are_normalised_as_the_models_own(self, name, mean, deviation):
        """At the borders, too, where convolutions read zeros."""
        torch.manual_seed(0)
        backbone = build_backbone(BackboneConfig(f"timm:{name}", norm="batch")).eval()
        pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        expected = backbone.body((pixels - mean) / deviation)[-4:]
        for own, other in zip(backbone(normalised(255 * pixels)), expected, strict=True):
            assert_close(own, other, rtol=1e-3, atol=1e-5)
        assert not any(name.startswith("to_own") for name in backbone.state_dict())

    def test_images_stay_as_they_are_for_imagenets_own(self):
        backbone = build_backbone(BackboneConfig("timm:resnet18", norm="batch")).eval()
        assert backbone.to_own is None
        assert all(torch.equal(*pair) for pair in zip(backbone(images()), backbone.body(images())[-4:], strict=True))

    def test_channels_last_where_the_height_is_that_of_the_channels(self):
        backbone = build_backbone(BackboneConfig("timm:mambaout_femto", norm="batch")).eval()
        assert backbone.channels[0] == 48
        assert [tuple(x.shape[1:]) for x in backbone(images(192))] == [
            (channels, side, side) for channels, side in zip(backbone.channels, (48, 24, 12, 6), strict=True)
        ]

    @pytest.mark.parametrize("size", [(1, 1), (20, 96), (64, 31)])
    def test_images_smaller_than_a_stride(self, size):
        """Of a model whose kernels are larger than what is left of them."""
        backbone = build_backbone(BackboneConfig("timm:convnext_atto", norm="batch")).eval()
        maps = backbone(torch.zeros(1, 3, *size))
        assert [tuple(x.shape[2:]) for x in maps] == [tuple(-(-n // s) for n in size) for s in (4, 8, 16, 32)]

    def test_weights_that_are_loaded_are_reported(self, timm, tmp_path, monkeypatch):
        """Of the body alone; what else the file has is unexpected, a classifier among it."""
        state = timm.create_model("resnet18").state_dict()
        del state["layer2.0.conv1.weight"]
        torch.save(state | {"extra": torch.zeros(1)}, tmp_path / "weights.pth")
        overlay = {"file": str(tmp_path / "weights.pth")}
        monkeypatch.setattr(timm, "create_model", partial(timm.create_model, pretrained_cfg_overlay=overlay))
        load = torch.nn.Module.load_state_dict
        backbone = build_backbone(BackboneConfig("timm:resnet18", norm="batch", weights="pretrained"))
        assert backbone.report.source == "timm:resnet18"
        assert backbone.report.missing == ("layer2.0.conv1.weight",)
        assert backbone.report.unexpected == ("extra",)
        names = {name for name in state if not name.startswith("fc.") and not name.endswith("num_batches_tracked")}
        assert set(backbone.report.loaded) == names
        assert torch.nn.Module.load_state_dict is load
        torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "weights.pth")
        with pytest.raises(ValueError, match=r"backbone\.name: timm cannot make 'timm:resnet18': "):
            build_backbone(BackboneConfig("timm:resnet18", norm="batch", weights="pretrained"))
        assert torch.nn.Module.load_state_dict is load

    def test_training_draws_nothing(self):
        """Of a model with drop paths of its own."""
        backbone = build_backbone(BackboneConfig("timm:focalnet_tiny_srf", norm="batch")).train()
        before = torch.get_rng_state()
        backbone(images())
        assert torch.equal(torch.get_rng_state(), before)


class TestTransformers:
    @pytest.fixture
    def transformers(self):
        return pytest.importorskip("transformers", reason="transformers is not installed")

    @pytest.fixture
    def swin(self, transformers, tmp_path):
        """A model that drops, with parameters that no map depends on, and a checkpoint that lacks a key."""
        settings = transformers.SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4, hidden_dropout_prob=0.3,
            attention_probs_dropout_prob=0.3, drop_path_rate=0.5, out_features=["stage1", "stage2", "stage3", "stage4"],
        )  # fmt: skip
        transformers.SwinBackbone(settings).save_pretrained(tmp_path)
        return f"transformers:{tmp_path}"

    def test_maps(self, transformers, tmp_path):
        """From a folder, random or with its weights: no network."""
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
        torch.manual_seed(0)
        own = transformers.ResNetBackbone(transformers.ResNetConfig(**sizes, out_indices=[1, 2, 3, 4])).eval()
        own.save_pretrained(tmp_path)
        name, x = f"transformers:{tmp_path}", images(65)
        backbone = build_backbone(BackboneConfig(name, weights="pretrained", norm="batch")).eval()
        assert backbone.channels == (8, 16, 24, 32)
        for found, expected, side in zip(backbone(x), own(x).feature_maps, (17, 9, 5, 3), strict=True):
            assert found.shape[2:] == (side, side)
            assert_close(found, expected)
        torch.manual_seed(1)
        drawn = build_backbone(BackboneConfig(name, norm="batch")).eval()
        assert not torch.equal(drawn(x)[0], backbone(x)[0])

    def test_training_draws_nothing(self, swin):
        backbone = build_backbone(BackboneConfig(swin, norm="batch")).train()
        before = torch.get_rng_state()
        backbone(images())
        assert torch.equal(torch.get_rng_state(), before)

    def test_what_no_map_depends_on_does_not_train(self, swin):
        backbone = build_backbone(BackboneConfig(swin, norm="batch")).train()
        sum(x.sum() for x in backbone(images())).backward()
        without = {name for name, parameter in backbone.named_parameters() if parameter.grad is None}
        assert without
        assert without == {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}

    def test_weights_that_are_loaded_are_reported_and_train(self, swin, tmp_path):
        file = tmp_path / "model.safetensors"
        safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
        state = safetensors.load_file(file)
        del state[sorted(state)[0]]
        safetensors.save_file(state | {"extra": torch.zeros(1)}, file, {"format": "pt"})
        backbone = build_backbone(BackboneConfig(swin, norm="batch", weights="pretrained"))
        assert (len(backbone.report.missing), backbone.report.unexpected) == (1, ("extra",))
        assert {*backbone.report.loaded, *backbone.report.missing} == backbone.body.state_dict().keys()
        assert backbone.body.training
        safetensors.save_file({key: value[:1] for key, value in state.items()}, file, {"format": "pt"})
        with pytest.raises(ValueError, match=r"backbone\.name must name a backbone of transformers"):
            build_backbone(BackboneConfig(swin, norm="batch", weights="pretrained"))

    def test_images_are_normalised_as_the_folder_says(self, swin, tmp_path):
        said = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
        backbone = build_backbone(BackboneConfig(swin, norm="batch")).eval()
        pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in said.values())
        expected = backbone.body((pixels - mean) / deviation).feature_maps
        for own, other in zip(backbone(normalised(255 * pixels)), expected, strict=True):
            assert_close(own, other, rtol=1e-3, atol=1e-5)

    def test_models_that_are_refused(self, transformers, tmp_path):
        sizes = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
        transformers.Dinov2Config(**sizes).save_pretrained(tmp_path)
        message = (
            r"backbone\.name must name a model with maps at \(4, 8, 16, 32\), got 'transformers:.*': \[\(8, 12\), "
        )
        with pytest.raises(ValueError, match=message):
            build_backbone(BackboneConfig(f"transformers:{tmp_path}", norm="batch"))
        with pytest.raises(
            ValueError,
            match=r"must name a backbone of transformers, or a folder with one, got 'transformers:.*nothing': ",
        ):
            build_backbone(BackboneConfig(f"transformers:{tmp_path / 'nothing'}", norm="batch"))


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match="pip install timm"):
        build_backbone(BackboneConfig("timm:resnet18", norm="batch"))
