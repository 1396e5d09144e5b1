"""The maps that a neck is given: what is checked of them, and the sizes of the images in every level."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zigzag.geometry import level_sizes
from zigzag.ops import arguments

Maps = Sequence[Tensor] | Mapping[Any, Tensor]
ImageSizes = Tensor | Sequence[Sequence[int]]


def check_maps(name: str, maps: Sequence[Tensor], channels: Sequence[int], weight: Tensor) -> None:
    """Raise unless ``maps`` are one (N, channels[i], H_i, W_i) for every level, finest first, of one N and dtype.

    Args:
        name: what the caller's argument is called, for the message.
        maps: finest level first.
        channels: of every level.
        weight: a parameter, whose device and dtype the maps must have (under autocast only float64 must be so).

    Raises:
        TypeError: an entry is no floating-point tensor, or the dtypes differ.
        ValueError: the number of maps, a shape, the order, or a device.
    """
    if len(maps) != len(channels):
        raise ValueError(f"{name} must hold {len(channels)} maps, one for each level, got {len(maps)}")
    for i, (x, expected) in enumerate(zip(maps, channels, strict=True)):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{name}[{i}] must be a floating-point tensor, got {got}")
        if not arguments.takes(weight, x):
            raise TypeError(f"{name}[{i}] must be {weight.dtype}, as the neck's parameters are, got {x.dtype}")
        if x.device != weight.device:
            raise ValueError(f"{name}[{i}] must be on {weight.device}, as the neck's parameters are, got {x.device}")
        if x.dim() != 4 or x.shape[1] != expected or x.shape[0] != maps[0].shape[0] or min(x.shape[2:]) < 1:
            batch = maps[0].shape[0] if maps[0].dim() else "N"
            wanted = f"({batch}, {expected}, H >= 1, W >= 1)"
            raise ValueError(f"{name}[{i}] must have shape {wanted}, got {tuple(x.shape)}")
        finer = maps[max(i - 1, 0)].shape
        if x.shape[2] > finer[2] or x.shape[3] > finer[3]:
            raise ValueError(
                f"{name} must come finest level first, got {finer[2]} x {finer[3]} at level {i - 1} "
                f"and {x.shape[2]} x {x.shape[3]} at level {i}"
            )


def check_valid(valid: Sequence[Tensor], maps: Sequence[Tensor]) -> None:
    """Raise unless ``valid`` holds for every level (N, 2) integers between 1 x 1 and the size of the map.

    Raises:
        TypeError: no list, or an entry is no tensor of integers.
        ValueError: the number of entries, a shape, a size, or a device that is neither the map's nor the CPU.
    """
    if not isinstance(valid, list | tuple):
        raise TypeError(f"valid must be a list of tensors, one for each level, got {type(valid).__name__}")
    if len(valid) != len(maps):
        raise ValueError(f"valid must hold {len(maps)} tensors, one for each level, got {len(valid)}")
    for i, (own, x) in enumerate(zip(valid, maps, strict=True)):
        _check_device(f"valid[{i}]", own, x)
        arguments.check_valid(f"valid[{i}]", own, x.shape[0], x.shape[2], x.shape[3])


def valid_of(image_sizes: ImageSizes, maps: Sequence[Tensor], strides: Sequence[int]) -> list[Tensor]:
    """Every image's own height and width at every level, ceil(pixels / stride), from its size in pixels.

    Args:
        image_sizes: (N, 2) integers, height and width.
        maps: the padded batch, one map for every level.
        strides: pixels per step of every level.

    Returns:
        For every level (N, 2) int64 on the device of the maps.

    Raises:
        TypeError: ``image_sizes`` are no integers.
        ValueError: their shape, an image that does not fit into the padded batch, or a device that is neither the maps'
            nor the CPU.
    """
    if isinstance(image_sizes, Tensor):
        sizes = image_sizes
    elif isinstance(image_sizes, list | tuple) and all(_is_pair(pair) for pair in image_sizes):
        sizes = torch.as_tensor(image_sizes) if image_sizes else torch.empty((0, 2), dtype=torch.int64)
    else:
        raise TypeError(f"image_sizes must be a tensor (N, 2) or a list of pairs of integers, got {image_sizes!r}")
    _check_device("image_sizes", sizes, maps[0])
    height, width = (min(x.shape[axis] * s for x, s in zip(maps, strides, strict=True)) for axis in (2, 3))
    arguments.check_valid("image_sizes", sizes, maps[0].shape[0], height, width)
    return level_sizes(sizes, strides, maps[0].device)


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(side, _INTEGERS) for side in pair)


_INTEGERS = (int, np.integer, torch.SymInt)


def _check_device(name: str, sizes: Any, x: Tensor) -> None:
    if isinstance(sizes, Tensor) and sizes.device.type != "cpu" and sizes.device != x.device:
        raise ValueError(f"{name} must be on {x.device}, as the map, or on the CPU, got {sizes.device}")
