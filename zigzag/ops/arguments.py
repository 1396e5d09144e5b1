"""Checks of arguments that the operations share, and how tensors are brought into the form that kernels take.

Every check raises one error that names the argument, its value and what was expected: TypeError for types and dtypes,
ValueError for values and shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_DTYPE_NAMES = "float64, float32, bfloat16 or float16"


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


# --- checks -----------------------------------------------------------------------------------------------------------


def check_tensor(name: str, value: Any, device: torch.device | None = None) -> None:
    """A floating tensor, on ``device``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in FLOATS:
        raise TypeError(f"{name} must be {_DTYPE_NAMES}, got {value.dtype}")
    if device is not None and value.device != device:
        raise ValueError(f"{name} must be on {device}, as the first argument, got {value.device}")


def check_map(name: str, value: Any, like: Tensor | None = None) -> None:
    """A map (N, C, H, W), N >= 0 and the others >= 1; N, C, dtype and device as those of ``like``."""
    check_tensor(name, value, None if like is None else like.device)
    if value.ndim != 4:
        raise ValueError(f"{name} must have the shape (N, C, H, W), got {tuple(value.shape)}")
    number, channels, height, width = value.shape
    if channels < 1 or height < 1 or width < 1:
        raise ValueError(f"{name} must have C >= 1, H >= 1 and W >= 1, got the shape {tuple(value.shape)}")
    if like is None:
        return
    if number != like.shape[0] or channels != like.shape[1]:
        expected = f"({like.shape[0]}, {like.shape[1]}, H, W)"
        raise ValueError(f"{name} must have the shape {expected}, got {tuple(value.shape)}")
    if value.dtype != like.dtype:
        raise TypeError(f"{name} must be {like.dtype}, as the first map, got {value.dtype}")


def check_shape(name: str, value: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    """A tensor of exactly this shape; ``meaning`` is the shape in letters."""
    if value.shape != shape:
        raise ValueError(f"{name} must have the shape {meaning} = {tuple(shape)}, got {tuple(value.shape)}")


def check_small(name: str, value: Any, like: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    """A small tensor of exactly this shape, in the dtype of the map ``like`` or float32, on its device."""
    check_tensor(name, value, like.device)
    if value.dtype != torch.float32 and value.dtype != like.dtype and not autocast(like):
        raise TypeError(f"{name} must be {like.dtype}, as the maps, or torch.float32, got {value.dtype}")
    check_shape(name, value, shape, meaning)


def check_grids(grids: Sequence[int], name: str = "grids") -> list[int]:
    """One or more integers >= 1, as a list."""
    if not isinstance(grids, (list, tuple)) or not all(type(cells) is int for cells in grids):
        raise TypeError(f"{name} must be a sequence of integers, got {grids!r}")
    if len(grids) == 0 or min(grids) < 1:
        raise ValueError(f"{name} must be one or more integers >= 1, got {grids!r}")
    return list(grids)


def check_size(name: str, value: Any) -> None:
    """An integer >= 1."""
    if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")


def check_option(name: str, value: Any, options: tuple[str, ...]) -> None:
    """One of the options."""
    if value not in options:
        raise ValueError(f"{name} must be {' or '.join(map(repr, options))}, got {value!r}")


def check_valid(name: str, value: Any, number: int, height: int, width: int) -> None:
    """(N, 2) integers, every image's own height and width, from 1 to those of the map.

    Values on a GPU are not read, which would wait for it: its kernels take the nearest size from 1 to the map's.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor (N, 2) of integers, got {type(value).__name__}")
    if value.dtype not in INTEGERS:
        raise TypeError(f"{name} must have an integer dtype, got {value.dtype}")
    check_shape(name, value, (number, 2), "(N, 2)")
    if torch.compiler.is_compiling() or type(value) is not Tensor or value.device.type != "cpu":
        return  # values are not known while tracing
    for rows, columns in value.tolist():
        if not (1 <= rows <= height and 1 <= columns <= width):
            expected = f"sizes from (1, 1) to the map's ({height}, {width})"
            raise ValueError(f"{name} must hold {expected}, got ({rows}, {columns})")


def check_rois(name: str, value: Any, maps: Tensor) -> None:
    """(R, 5), float32 or float64, on the device of the maps: the index of one of their images, and finite corners.

    Values on a GPU are not read, which would wait for it.
    """
    check_tensor(name, value, maps.device)
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, got {value.dtype}")
    if value.ndim != 2 or value.shape[1] != 5:
        raise ValueError(f"{name} must have the shape (R, 5), got {tuple(value.shape)}")
    if torch.compiler.is_compiling() or type(value) is not Tensor or value.device.type != "cpu":
        return
    number = maps.shape[0]
    index = value[:, 0]
    wrong = ((index < 0) | (index >= number) | (index != index.trunc()) | ~value.isfinite().all(1)).nonzero()
    if len(wrong) > 0:
        row = int(wrong[0])
        expected = f"an image's index below {number} and four finite coordinates"
        raise ValueError(f"{name} must hold {expected}, got {tuple(value[row].tolist())} in row {row}")


def check_per_source(name: str, value: Any, count: int) -> Sequence[Any]:
    """A list with one entry or None per source; None stands for a list of None."""
    if value is None:
        return [None] * count
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be None or a list with one entry or None per source, got {type(value).__name__}")
    if len(value) != count:
        raise ValueError(f"{name} must have one entry or None for each of {count} sources, got {len(value)}")
    return value


# --- autocast ---------------------------------------------------------------------------------------------------------


def autocast(like: Tensor) -> bool:
    """Whether autocast is on for the device of a tensor."""
    return torch.is_autocast_enabled(like.device.type)


def takes(weight: Tensor, x: Tensor) -> bool:
    """Whether a layer with ``weight`` takes ``x``: of one dtype, or both are what autocast, if on, brings to one."""
    if x.dtype == weight.dtype:
        return True
    return autocast(x) and torch.float64 not in (x.dtype, weight.dtype)  # which autocast leaves alone


def without_autocast(like: Tensor) -> torch.autocast:
    """A context in which autocast is off: each operation's dtypes are its own matter."""
    return torch.autocast(like.device.type, enabled=False)


# --- the form that kernels take ---------------------------------------------------------------------------------------


def dense(x: Tensor) -> Tensor:
    """The map itself where it is channels_last or contiguous; otherwise a copy, contiguous if its rows are."""
    if x.is_contiguous(memory_format=torch.channels_last) or x.is_contiguous():
        return x
    rows = x.stride(3) == 1 and x.stride(1) != 1
    return x.contiguous(memory_format=torch.contiguous_format if rows else torch.channels_last)


def small(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A small tensor in the accumulation dtype, contiguous."""
    if value is None or (value.dtype == dtype and value.is_contiguous()):
        return value
    return value.to(dtype).contiguous()


def sizes(valid: Tensor | None, like: Tensor) -> Tensor | None:
    """Sizes of images as kernels read them: int64, contiguous, on the device of ``like``, without waiting for a GPU."""
    if valid is None:
        return None
    return valid.to(like.device, torch.int64, non_blocking=like.device.type != "cpu").contiguous()
