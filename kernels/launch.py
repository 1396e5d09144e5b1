"""Launching kernels: the sizes of their tiles, a shipped choice for every device, and tuning for those who ask for it.

A kernel's first launch uses the shipped choice at once. With ZIGZAG_AUTOTUNE=1 in the environment the candidates of a
kernel are timed at its first launch on maps of a dtype and layout, and what is found is kept on disk, in Triton's cache.
No candidate changes the order in which anything is summed: results do not depend on tuning.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton
import triton.language as tl

Hook = Callable[[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]], Any]

_hooks: list[Hook] = []


def accumulation(dtype: torch.dtype) -> tuple[torch.dtype, Any]:
    """What sums of maps of ``dtype`` are kept in, as torch and as Triton call it."""
    return (torch.float64, tl.float64) if dtype == torch.float64 else (torch.float32, tl.float32)


@contextmanager
def launches_to(hook: Hook) -> Iterator[None]:
    """Call ``hook(kernel, grid, arguments, options)`` in the place of every launch in a ``with`` block."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.pop()


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Run a kernel on the current stream of its first tensor's device; nothing where the grid is empty."""
    if 0 in grid:
        return
    if _hooks:
        _hooks[-1](kernel, grid, arguments, options)
    else:
        run(kernel, grid, arguments, options)


def run(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """The launch itself."""
    kernel[grid](*arguments, **options)


def power_of_two(size: int, least: int = 1) -> int:
    """The next power of two from ``size`` up, at least ``least``."""
    return max(triton.next_power_of_2(size), least)


def tile_options(kernel: str, like: torch.Tensor, lines: int = 0) -> dict[str, Any]:
    """Temporary."""
    c = min(power_of_two(like.shape[1], 16), 64)
    cpu = like.device.type == "cpu"
    w = power_of_two(like.shape[3], 1) if like.ndim == 4 else 0
    return {
        "region_stats": {"CHANNELS": c, "num_warps": 8},
        "region_stats.add": {"CHANNELS": c, "ENTRIES": 1024 if cpu else 16, "num_warps": 4},
        "region_norm": {"CHANNELS": 16, "CHUNK": 128 if cpu else 16, "num_warps": 8},
        "region_norm.add": {"CHANNELS": 64, "num_warps": 2},
        "region_stats_backward": {"CHUNK": 64 if cpu else 16, "CHANNELS": c, "ROWS": 32, "num_warps": 8},
        "dense_pathway_backward": {"ROWS": 128 if cpu else 16, "COLUMNS": w if cpu else 16, "CHANNELS": c, "num_warps": 8},
        "dense_pathway_backward.gather": {"ROWS": 128 if cpu else 4, "COLUMNS": 64 if cpu else 16, "CHANNELS": c, "num_warps": 4},
        "dense_pathway_backward.add": {"CHANNELS": c, "num_warps": 2},
        "dense_pathway": {"ROWS": 128 if cpu else 16, "COLUMNS": w if cpu else 16, "CHANNELS": c, "num_warps": 4},
    }[kernel]


@functools.cache
def _tunes() -> bool:
    return os.environ.get("ZIGZAG_AUTOTUNE", "0") not in ("", "0")


def blocks(size: int, block: int) -> int:
    """How many blocks cover ``size``."""
    return -(-size // block)
