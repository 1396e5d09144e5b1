"""Weights from files, read without running code from them; what does not match is reported, key by key."""

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import models

from zigzag.errors import first_line

State = dict[str, Tensor]

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_DEVIATION = (0.229, 0.224, 0.225)
"""Of RGB images in [0, 1], as torchvision's ImageNet weights expect them."""


class WeightsError(ValueError):
    """Weights cannot be read, or do not fit; the message names the file and the keys."""


@dataclass(frozen=True)
class WeightReport:
    """What became of every key.

    Attributes:
        source: file, or name of torchvision's weights.
        loaded: keys of the module that were filled.
        missing: keys of the module that the file lacks.
        unexpected: keys of the file that the module lacks, such as those of a classifier.
        mismatched: keys with another shape, with both shapes.
        note: what the file leaves open; "" for nothing.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    note: str = ""

    def __str__(self) -> str:
        parts = [f"{self.source}: {len(self.loaded)} keys loaded"]
        for name in ("missing", "unexpected", "mismatched"):
            keys = getattr(self, name)
            parts.append(f"{len(keys)} {name}" + (f" ({', '.join(keys)})" if keys else ""))
        return ", ".join([*parts, *([self.note] if self.note else [])])


def read_weights(path: str | Path) -> State:
    """The tensors of a file: a state dict, also under "model", "state_dict" or "blobs", or a pickle of arrays so.

    Raises:
        WeightsError: there is no such file, or it holds anything but tensors or arrays by name.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"weights: there is no file {str(path)!r}")
    try:
        if path.suffix == ".pkl":
            content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        elif path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise WeightsError(f"weights: {str(path)!r} needs: pip install {error.name}") from error
    except Exception as error:  # a damaged file can raise anything
        summary = first_line(error)
        raise WeightsError(f"weights: {str(path)!r} cannot be read safely: {summary}") from error
    for key in ("model", "state_dict", "blobs"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"weights: {str(path)!r} holds no tensors by name")
    state = {}
    for name, value in content.items():
        try:
            state[name] = _tensor(value)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"weights: {str(path)!r} holds {error} as {name!r}, expected a tensor") from error
        if not isinstance(name, str):
            raise WeightsError(f"weights: {str(path)!r} holds a tensor as {name!r}, expected a name")
    return state


def _tensor(value: Any) -> Tensor:
    """A tensor, or an array as one; an error's text is what else there is."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        try:
            return torch.from_numpy(np.ascontiguousarray(value))
        except (TypeError, ValueError) as error:  # such as long doubles
            raise TypeError(f"an array of {value.dtype}, which torch has not,") from error
    if not isinstance(value, Tensor):
        raise TypeError(type(value).__name__)
    return value


class _ArrayUnpickler(pickle.Unpickler):
    """Numpy arrays, strings and containers; every other class is refused before anything of it runs."""

    _ALLOWED = frozenset(
        [("collections", "OrderedDict"), ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")]
        + [(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")]
    )

    def find_class(self, module: str, name: str) -> Any:
        """The class, if it is harmless."""
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def load_backbone_weights(module: nn.Module, name: str, source: str) -> WeightReport:
    """Fill a ResNet from a file, or from the weights of that name that torchvision has for ``name``.

    Raises:
        WeightsError: the file cannot be read or fetched, or lacks a key, or one has another shape.
    """
    note = ""
    if "." not in source and "/" not in source:
        try:
            state: State = dict(models.get_model_weights(name)[source].get_state_dict(progress=False, check_hash=True))
        except KeyError as error:
            known = ", ".join(weights.name for weights in models.get_model_weights(name))
            raise WeightsError(f"weights: {name} has {known}, or name a file; got {source!r}") from error
        except (OSError, RuntimeError) as error:  # no network, or a download that is damaged
            raise WeightsError(f"weights: {source} of {name} cannot be fetched: {error}; name a file") from error
    else:
        given = read_weights(source)
        state = to_torchvision(given)
        note = _left_open(given)
    report = replace(fill(module, state, source), note=note)
    if report.missing or report.mismatched:
        raise WeightsError(f"weights do not fit {name}: {report}")
    return report


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str) -> WeightReport:
    """Copy every tensor whose name and shape match into the module, and say what did not."""
    own = module.state_dict()
    fits = {key: state[key] for key in own if key in state and state[key].shape == own[key].shape}
    module.load_state_dict(fits, strict=False)
    return compare(own, state, source)


def compare(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> WeightReport:
    """What a module with the tensors ``own`` takes from ``state``, by name and shape."""
    ours = [key for key in own if not key.endswith("num_batches_tracked")]
    fits = {key for key in ours if key in state and state[key].shape == own[key].shape}
    mismatched = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in ours
        if key in state and key not in fits
    ]
    unexpected = [key for key in state if key not in own and not key.endswith("num_batches_tracked")]
    return WeightReport(
        source,
        loaded=tuple(key for key in ours if key in fits),
        missing=tuple(key for key in ours if key not in state),
        unexpected=tuple(unexpected),
        mismatched=tuple(mismatched),
    )


# --- other names of the same tensors ----------------------------------------------------------------------------------

_PREFIXES = ("network.backbone.", "model.backbone.", "backbone.bottom_up.", "backbone.")
_DETECTRON2 = re.compile(r"res(\d)\.(\d+)\.(conv\d|shortcut)(\.norm)?\.(\w+)")
_CAFFE2 = re.compile(r"res(\d)_(\d+)_branch(1|2[abc])(_bn)?_(w|s|b)")
_CAFFE2_PARTS = {"w": "weight", "s": "weight", "b": "bias"}


def to_torchvision(state: Mapping[str, Tensor]) -> State:
    """A ResNet's state under torchvision's names, from torchvision's own, detectron2's or Caffe2's (MSRA).

    Caffe2's weights expect BGR in 0..255 less a mean and have their batch norms' statistics folded away: their first
    convolution is turned to RGB in [0, 1] less `IMAGE_MEAN` over `IMAGE_DEVIATION`, exactly, and the statistics are
    mean 0 and variance 1 less the norm's epsilon. So is the first convolution of a detectron2 model that holds the
    mean and deviation of its pixels, where that mean is `IMAGE_MEAN`; of others nothing is known, and nothing changed.

    Raises:
        WeightsError: another mean, which no convolution without a bias can take up at an image's border.
    """
    own = _own_part(state)
    if "conv1_w" in own:
        return _from_caffe2(own)
    if "stem.conv1.weight" not in own:
        return own
    renamed = {_detectron2_name(key): value for key, value in own.items()}
    if {"pixel_mean", "pixel_std"} <= state.keys():
        _to_own_pixels(renamed, state["pixel_mean"].flatten(), state["pixel_std"].flatten())
    return renamed


def _left_open(state: Mapping[str, Tensor]) -> str:
    """What a file of detectron2 does not say."""
    if "stem.conv1.weight" not in _own_part(state) or {"pixel_mean", "pixel_std"} <= state.keys():
        return ""
    return "no pixel_mean and pixel_std: taken as for RGB pixels over their deviation (detectron2's zoo has BGR)"


def _to_own_pixels(state: State, mean: Tensor, deviation: Tensor) -> None:
    """Turn the first convolution to RGB in [0, 1] less `IMAGE_MEAN` over `IMAGE_DEVIATION`."""
    expected = 255 * torch.tensor(IMAGE_MEAN, dtype=mean.dtype)
    bgr = mean.shape == (3,) and torch.allclose(mean.flip(0), expected, atol=0.01)
    if deviation.shape != (3,) or not (bgr or (mean.shape == (3,) and torch.allclose(mean, expected, atol=0.01))):
        wanted = f"{[round(255 * value, 3) for value in IMAGE_MEAN]} (RGB, or as BGR)"
        raise WeightsError(f"weights: pixel_mean must be {wanted} and pixel_std of 3, got {mean.tolist()}")
    weight = state["conv1.weight"]
    if bgr:
        weight, deviation = weight.flip(1), deviation.flip(0)
    scale = 255 * torch.tensor(IMAGE_DEVIATION, dtype=weight.dtype) / deviation
    state["conv1.weight"] = weight * scale[:, None, None]


def _own_part(state: Mapping[str, Tensor]) -> State:
    for prefix in _PREFIXES:
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if own:
            return own
    return dict(state)


def _detectron2_name(key: str) -> str:
    if key.startswith("stem.conv1."):
        rest = key.removeprefix("stem.conv1.")
        return f"bn1.{rest.removeprefix('norm.')}" if rest.startswith("norm.") else f"conv1.{rest}"
    found = _DETECTRON2.fullmatch(key)
    if found is None:
        return key
    stage, block, layer, norm, part = found.groups()
    if layer == "shortcut":
        layer = "downsample.1" if norm else "downsample.0"
    elif norm:
        layer = layer.replace("conv", "bn")
    return f"layer{int(stage) - 1}.{block}.{layer}.{part}"


def _from_caffe2(state: Mapping[str, Tensor]) -> State:
    renamed: State = OrderedDict()
    for key, value in state.items():
        if key.endswith("_momentum"):  # of Detectron's optimiser
            continue
        name = _caffe2_name(key)
        renamed[name] = value
        if ".bn" in f".{name}" or "downsample.1" in name:
            root = name.rpartition(".")[0]
            renamed[f"{root}.running_mean"] = torch.zeros_like(value)
            renamed[f"{root}.running_var"] = torch.ones_like(value) - 1e-5
    scale = 255 * torch.tensor(IMAGE_DEVIATION, dtype=renamed["conv1.weight"].dtype)
    renamed["conv1.weight"] = renamed["conv1.weight"].flip(1) * scale[:, None, None]
    return renamed


def _caffe2_name(key: str) -> str:
    if key in ("conv1_w", "conv1_b"):
        return f"conv1.{_CAFFE2_PARTS[key[-1]]}"
    if key.startswith("res_conv1_bn_"):
        return f"bn1.{_CAFFE2_PARTS[key[-1]]}"
    found = _CAFFE2.fullmatch(key)
    if found is None:
        return key
    stage, block, branch, norm, part = found.groups()
    if branch == "1":
        layer = "downsample.1" if norm else "downsample.0"
    else:
        layer = f"{'bn' if norm else 'conv'}{'abc'.index(branch[1]) + 1}"
    return f"layer{int(stage) - 1}.{block}.{layer}.{_CAFFE2_PARTS[part]}"
