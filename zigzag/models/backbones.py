"""Backbones: maps res2..res5 of an image, finest first, from torchvision, timm or transformers."""

from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from zigzag.errors import first_line
from zigzag.models.weights import WeightReport, load_backbone_weights

_STRIDES = (4, 8, 16, 32)
Norm = Literal["frozen", "batch", "sync"]
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_NORMS: dict[str, type[nn.Module]] = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d, "sync": nn.SyncBatchNorm}


@dataclass(frozen=True)
class BackboneConfig:
    """A backbone.

    Attributes:
        name: resnet18, resnet34, resnet50, resnet101 or resnet152 of torchvision; "timm:NAME" or "transformers:NAME"
            for any feature extractor of those libraries.
        weights: file with weights (torchvision's, detectron2's or Caffe2's names; .pth, .pkl, .safetensors), or the
            name of weights that torchvision has for it, such as IMAGENET1K_V1; None for random ones. Of timm and
            transformers: "pretrained" for the library's own, which it loads, and reports, itself; no file.
        stride_in_1x1: a bottleneck strides in its first 1x1 convolution (MSRA, Detectron), not in its 3x3.
        norm: "frozen" (statistics and parameters fixed), "batch", or "sync" (statistics over all processes; GPU).
        freeze_at: stages that do not train, nor count statistics: 1 is the stem, 2 the stem and res2, and so on; 0 for
            none.
    """

    name: str = "resnet50"
    weights: str | None = None
    stride_in_1x1: bool = False
    norm: Norm = "frozen"
    freeze_at: int = 0

    def __post_init__(self) -> None:
        library, _, rest = self.name.rpartition(":")
        if library not in ("", "timm", "transformers") or not rest or (library == "" and rest not in RESNETS):
            allowed = f"one of {', '.join(RESNETS)}, timm:NAME or transformers:NAME"
            raise ValueError(f"backbone.name must be {allowed}, got {self.name!r}")
        if self.norm not in _NORMS:
            raise ValueError(f"backbone.norm must be one of {', '.join(_NORMS)}, got {self.norm!r}")
        if not 0 <= self.freeze_at <= 5:
            raise ValueError(f"backbone.freeze_at must be 0 to 5, got {self.freeze_at}")


class Backbone(nn.Module):
    """Images (N, 3, H, W) to a list of maps, finest first.

    Attributes:
        channels: of every map.
        report: what became of the weights that were loaded; None for random ones.
    """

    channels: tuple[int, ...]
    report: WeightReport | None = None


class ResNet(Backbone):
    """A torchvision ResNet, its classifier left out: res2..res5 at strides 4 to 32, under torchvision's names."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        body = models.get_model(config.name, weights=None, norm_layer=_NORMS[config.norm])
        if config.stride_in_1x1:
            stride_in_first_convolution(body)
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = body.layer1, body.layer2, body.layer3, body.layer4
        self.channels = tuple(64 * getattr(body.layer1[0], "expansion", 1) << level for level in range(4))
        if config.weights is not None:
            self.report = load_backbone_weights(self, config.name, config.weights)
        self._freeze_at = config.freeze_at
        for module in self._frozen():
            module.requires_grad_(requires_grad=False)
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        """res2..res5."""
        return resnet_maps(self, images)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - as torch has it
        """As `torch.nn.Module.train`, but for what is frozen: its batch norms neither use nor count a batch's."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        stages = [(self.conv1, self.bn1), (self.layer1,), (self.layer2,), (self.layer3,), (self.layer4,)]
        return [module for stage in stages[: self._freeze_at] for module in stage]


class TimmBackbone(Backbone):
    """A feature extractor of timm, its four last maps."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        timm = _library("timm")
        name = config.name.partition(":")[2]
        if not timm.is_model(name):
            raise ValueError(f"backbone.name must name a model of timm, got {config.name!r}")
        self.body = timm.create_model(name, pretrained=config.weights == "pretrained", features_only=True)
        self.channels = tuple(self.body.feature_info.channels()[-4:])
        strides = tuple(self.body.feature_info.reduction()[-4:])
        if strides != _STRIDES:
            raise ValueError(f"backbone.name must name a model with maps at {_STRIDES}, got {config.name!r}: {strides}")

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps."""
        maps = list(self.body(images))[-4:]
        if maps[0].shape[1] != self.channels[0]:  # some of timm's give channels last
            maps = [x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last) for x in maps]
        return maps


class TransformersBackbone(Backbone):
    """An AutoBackbone of transformers, its four last maps."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        transformers = _library("transformers")
        name = config.name.partition(":")[2]
        try:
            settings = transformers.AutoConfig.from_pretrained(name, out_indices=[-4, -3, -2, -1])
            self.body = transformers.AutoBackbone.from_config(settings)
            if config.weights == "pretrained":  # AutoBackbone's own loading takes no folder
                self.body = type(self.body).from_pretrained(name, config=settings)
        except (OSError, ValueError) as error:
            why = first_line(error)
            expected = "backbone.name must name a backbone of transformers, or a folder with one"
            raise ValueError(f"{expected}, got {config.name!r}: {why}") from error
        self.channels = tuple(self.body.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps.

        Raises:
            ValueError: they are not at strides 4 to 32, which transformers does not say beforehand.
        """
        maps = list(self.body(images).feature_maps)
        if not torch.compiler.is_compiling() and not _at_strides(maps, images):
            sizes, size = [tuple(x.shape[2:]) for x in maps], tuple(images.shape[2:])
            raise ValueError(f"the backbone must give maps at the strides {_STRIDES}, got {sizes} for images of {size}")
        return maps


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone of ``config``, with its weights.

    Raises:
        WeightsError: the weights cannot be read, or do not fit.
        ModuleNotFoundError: its library is not installed.
        ValueError: a field that the library's models do not have, no such model, or none with maps at strides 4 to 32.
    """
    library = config.name.rpartition(":")[0]
    if not library:
        return ResNet(config)
    if config.stride_in_1x1 or config.freeze_at or config.norm != "batch" or config.weights not in (None, "pretrained"):
        raise ValueError(
            f"backbone {config.name!r} takes norm='batch', weights=None or 'pretrained' (no file), and neither "
            f"stride_in_1x1 nor freeze_at, got {config}"
        )
    try:
        return TimmBackbone(config) if library == "timm" else TransformersBackbone(config)
    except (OSError, RuntimeError) as error:
        summary = first_line(error)
        raise ValueError(f"backbone.name: {library} cannot make {config.name!r}: {summary}") from error


def _library(name: str) -> Any:
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} is not installed; a backbone '{name}:...' needs: pip install {name}"
        ) from error


def _at_strides(maps: list[Tensor], images: Tensor) -> bool:
    """Whether every map has a side's length over its stride, rounded either way."""
    if len(maps) != len(_STRIDES):
        return False
    pairs = zip(maps, _STRIDES, strict=True)
    sides = [(images.shape[axis], x.shape[axis], stride) for x, stride in pairs for axis in (2, 3)]
    return all(side // stride <= own <= -(-side // stride) for side, own, stride in sides)


def stride_in_first_convolution(body: nn.Module) -> None:
    """Move the stride of every bottleneck of a torchvision ResNet from its 3x3 to its first 1x1 convolution."""
    for block in body.modules():
        if hasattr(block, "conv3"):
            first, second = cast(nn.Conv2d, block.conv1), cast(nn.Conv2d, block.conv2)
            first.stride, second.stride = second.stride, first.stride


def resnet_maps(body: Any, images: Tensor) -> list[Tensor]:
    """res2..res5 of images (N, 3, H, W), finest first, of a module with torchvision's names."""
    x = body.maxpool(body.relu(body.bn1(body.conv1(images))))
    maps = []
    for layer in (body.layer1, body.layer2, body.layer3, body.layer4):
        x = layer(x)
        maps.append(x)
    return maps
