"""Backbones: maps res2..res5 of an image, finest first, from torchvision, timm or transformers."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from zigzag.errors import first_line
from zigzag.models.weights import IMAGE_DEVIATION, IMAGE_MEAN, State, WeightReport, compare, load_backbone_weights

_STRIDES = (4, 8, 16, 32)
_SIZE = (64, 96)
"""Height and width of the image that a library's model is tried with: unlike each other, and few models' own size."""
Norm = Literal["frozen", "batch", "sync"]
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_NORMS: dict[str, type[nn.Module]] = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d, "sync": nn.SyncBatchNorm}


@dataclass(frozen=True)
class BackboneConfig:
    """A backbone.

    Attributes:
        name: resnet18, resnet34, resnet50, resnet101 or resnet152 of torchvision; "timm:NAME" or "transformers:NAME"
            for any feature extractor of those libraries with maps at strides 4 to 32 of images of any size.
        weights: file with weights (torchvision's, detectron2's or Caffe2's names; .pth, .pkl, .safetensors), or the
            name of weights that torchvision has for it, such as IMAGENET1K_V1; None for random ones. Of timm and
            transformers: "pretrained" for the library's own, which it loads itself; no file.
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


class LibraryBackbone(Backbone):
    """A backbone of another library. It sees images less its own mean over its own deviation, whatever its weights.

    What no map depends on does not train: several processes would wait for its gradients.

    Args:
        body: the library's model.
        channels: of every map.
        mean: of RGB images in [0, 1], as the model expects them.
        deviation: likewise.
    """

    to_own: Tensor | None

    def __init__(
        self, body: nn.Module, channels: Sequence[int], mean: Sequence[float], deviation: Sequence[float]
    ) -> None:
        super().__init__()
        self.body, self.channels = body, tuple(channels)
        given, wanted = (IMAGE_MEAN, IMAGE_DEVIATION), (tuple(mean), tuple(deviation))
        (m, d), (own_m, own_d) = (torch.tensor(values).view(2, 3, 1, 1) for values in (given, wanted))
        to_own = None if given == wanted else torch.stack([d / own_d, (m - own_m) / own_d])
        self.register_buffer("to_own", to_own, persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps; an image smaller than the last one's stride, which not every model runs, is padded for it."""
        if self.to_own is not None:
            scale, shift = self.to_own.unbind()
            images = images * scale + shift
        height, width = images.shape[2:]
        short = [max(0, _STRIDES[-1] - side) for side in (width, height)]
        if not any(short):
            return self._maps(images)
        maps = self._maps(functional.pad(images, (0, short[0], 0, short[1])))
        return [x[:, :, : ceil(height / s), : ceil(width / s)] for x, s in zip(maps, _STRIDES, strict=True)]

    def _maps(self, images: Tensor) -> list[Tensor]:
        """The maps of images as the model expects them."""
        raise NotImplementedError

    def settle(self) -> list[tuple[int, ...]]:
        """Run a small image once: no parameter that the maps do not depend on trains; the maps' shapes."""
        own = [parameter for parameter in self.parameters() if parameter.requires_grad]
        with torch.enable_grad():
            maps = self.eval()(own[0].new_zeros(1, 3, *_SIZE))
            total = torch.stack([x.sum() for x in maps]).sum()
        for parameter, gradient in zip(own, torch.autograd.grad(total, own, allow_unused=True), strict=True):
            parameter.requires_grad_(gradient is not None)
        self.train()
        return [tuple(x.shape) for x in maps]


class TimmBackbone(LibraryBackbone):
    """A feature extractor of timm, its four last maps.

    Its drop rates are 0, as `TransformersBackbone`'s are. Weights of another shape are refused.
    """

    def __init__(self, config: BackboneConfig) -> None:
        timm = _library("timm")
        name = config.name.partition(":")[2]
        if not timm.is_model(name):
            raise ValueError(f"backbone.name must name a model of timm, got {config.name!r}")
        with _one_error(config.name, "make"), _loads() as loaded:
            body = timm.create_model(name, pretrained=config.weights == "pretrained", features_only=True)
        _drop_nowhere(body)
        strides = tuple(body.feature_info.reduction()[-4:])
        if strides != _STRIDES:
            raise ValueError(f"backbone.name must name a model with maps at {_STRIDES}, got {config.name!r}: {strides}")
        pixels = timm.data.resolve_model_data_config(body)
        super().__init__(body, body.feature_info.channels()[-4:], pixels["mean"], pixels["std"])
        self.report = _report_of_part(config.name, body, *loaded[-1]) if loaded else None
        self.channels_last = False

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps = list(self.body(images))[-4:]
        if self.channels_last:
            maps = [x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last) for x in maps]
        return maps

    def settle(self) -> list[tuple[int, ...]]:
        """As `LibraryBackbone.settle`; some of timm's give channels last, which is found here."""
        shapes = super().settle()
        turned = [(n, channels, *size) for n, *size, channels in shapes]
        self.channels_last = turned == _pyramid(self.channels)
        return turned if self.channels_last else shapes


class TransformersBackbone(LibraryBackbone):
    """An AutoBackbone of transformers, its four last maps.

    Its drop rates are 0, whatever its configuration says: what it drew would be others' numbers where a run goes on.
    Mean and deviation of images are those of preprocessor_config.json, and ImageNet's where there is none.
    """

    def __init__(self, config: BackboneConfig) -> None:
        transformers = _library("transformers")
        name = config.name.partition(":")[2]
        try:
            settings = transformers.AutoConfig.from_pretrained(name, out_indices=[-4, -3, -2, -1])
            _drop_nothing(settings)
            body, report = transformers.AutoBackbone.from_config(settings), None
            if config.weights == "pretrained":  # AutoBackbone's own loading takes no folder
                body, found = type(body).from_pretrained(name, config=settings, output_loading_info=True)
                report = _report(config.name, body, found)
            pixels = _pixels_of(transformers, name)
        except Exception as error:  # its models can raise anything
            expected = "backbone.name must name a backbone of transformers, or a folder with one"
            raise ValueError(f"{expected}, got {config.name!r}: {first_line(error)}") from error
        super().__init__(body.to(torch.get_default_dtype()), body.channels, *pixels)
        self.report = report

    def _maps(self, images: Tensor) -> list[Tensor]:
        return list(self.body(images).feature_maps)


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone of ``config``, with its weights.

    Raises:
        WeightsError: the weights cannot be read, or do not fit.
        ModuleNotFoundError: its library is not installed.
        ValueError: a field that the library's models do not have, no such model, or none that gives maps at strides 4
            to 32 of an image of any size.
    """
    library = config.name.rpartition(":")[0]
    if not library:
        return ResNet(config)
    if config.stride_in_1x1 or config.freeze_at or config.norm != "batch" or config.weights not in (None, "pretrained"):
        raise ValueError(
            f"backbone {config.name!r} takes norm='batch', weights=None or 'pretrained' (no file), and neither "
            f"stride_in_1x1 nor freeze_at, got {config}"
        )
    backbone = TimmBackbone(config) if library == "timm" else TransformersBackbone(config)
    with _one_error(config.name, f"run an image of {_SIZE[0]} x {_SIZE[1]} through"):
        shapes = backbone.settle()
    if shapes != _pyramid(backbone.channels):
        sizes = [shape[2:] for shape in shapes]
        given = f"{sizes} of an image of {_SIZE}"
        raise ValueError(f"backbone.name must name a model with maps at {_STRIDES}, got {config.name!r}: {given}")
    return backbone


def _pyramid(channels: Sequence[int]) -> list[tuple[int, ...]]:
    """The shapes of maps at `_STRIDES` of an image of `_SIZE`."""
    pairs = zip(channels, _STRIDES, strict=False)
    return [(1, own, _SIZE[0] // stride, _SIZE[1] // stride) for own, stride in pairs]


@contextmanager
def _one_error(name: str, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a library's models can raise anything
        library = name.partition(":")[0]
        raise ValueError(f"backbone.name: {library} cannot {what} {name!r}: {first_line(error)}") from error


def _drop_nothing(settings: Any) -> None:
    """Set every drop rate of a configuration of transformers to 0."""
    for field, value in settings.to_dict().items():
        if "drop" in field and isinstance(value, float):
            setattr(settings, field, 0.0)


def _drop_nowhere(body: nn.Module) -> None:
    """Set every drop rate of a model's modules to 0, as timm's and torch's name them."""
    for module in body.modules():
        if hasattr(module, "drop_prob"):
            setattr(module, "drop_prob", 0.0)  # noqa: B010 - which mypy takes for a tensor
        if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
            module.p = 0.0


def _report(source: str, body: nn.Module, found: dict[str, Any]) -> WeightReport:
    """What became of the weights that transformers loaded, which refuses those of another shape."""
    missing, unexpected = (tuple(sorted(found[f"{kind}_keys"])) for kind in ("missing", "unexpected"))
    loaded = [key for key in body.state_dict() if key not in missing and not key.endswith("num_batches_tracked")]
    return WeightReport(source, tuple(loaded), missing, unexpected, mismatched=())


@contextmanager
def _loads() -> Iterator[list[tuple[nn.Module, State]]]:
    """The modules that are filled meanwhile, and with what: timm tells what did not match its log alone."""
    found: list[tuple[nn.Module, State]] = []
    own = nn.Module.load_state_dict

    def told(module: nn.Module, state: State, *args: Any, **options: Any) -> Any:
        found.append((module, dict(state)))
        return own(module, state, *args, **options)

    nn.Module.load_state_dict = told  # type: ignore[assignment, method-assign]
    try:
        yield found
    finally:
        nn.Module.load_state_dict = own  # type: ignore[method-assign]


def _report_of_part(source: str, body: nn.Module, whole: nn.Module, state: State) -> WeightReport:
    """What became of the weights of a whole model in a body of its layers, under the whole model's names."""
    kept = {id(tensor) for tensor in body.state_dict(keep_vars=True).values()}
    own = {key: tensor for key, tensor in whole.state_dict(keep_vars=True).items() if id(tensor) in kept}
    return compare(own, state, source)


def _pixels_of(transformers: Any, name: str) -> tuple[Sequence[float], Sequence[float]]:
    """The mean and deviation that a model of transformers has beside it; ImageNet's where it has none."""
    file = transformers.utils.cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    said = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    return said.get("image_mean", IMAGE_MEAN), said.get("image_std", IMAGE_DEVIATION)


def _library(name: str) -> Any:
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} is not installed; a backbone '{name}:...' needs: pip install {name}"
        ) from error


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
