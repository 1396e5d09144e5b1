"""Launching kernels, and the sizes of their tiles: a shipped choice for every device, or one tuned on this machine.

Nothing is tuned unless it is asked for: a first step starts at once with the shipped choice. `python -m
zigzag.kernels.tune` times the candidates of every kernel on the GPU at hand and writes what it finds beside Triton's
own cache, where later processes read it. A choice depends on the kernel, the device, the maps' dtype and layout alone,
never on their sizes, so that an image's sums are the same bit for bit whatever batch it comes in. (Of contiguous maps
Triton itself looks at whether widths are multiples of 8: squares may be added up in another order.) Nor is a kernel
compiled anew for other sizes or batches, but for maps that fit a strip or a tile of `sum_strips`: what varies from step
to step is handed over so that Triton cannot tell.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

Options = dict[str, int]
Hook = Callable[[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]], Any]

# CHANNELS is the most: it is no more than the channels there are. A GPU's tile of float32 has half of the channels, of
# float64 a quarter. Where maxnreg is given, NVIDIA's assembler would rather spill than use so many registers.
SHIPPED: dict[str, dict[str, Options]] = {
    "gpu": {  # a guess: not measured
        "region_stats": {"CHANNELS": 64, "num_warps": 8},
        "region_stats.several": {"CHANNELS": 64, "num_warps": 8, "maxnreg": 128},
        "region_stats.add": {"CHANNELS": 64, "ENTRIES": 16, "num_warps": 4},
        "region_stats_backward": {"CHANNELS": 32, "ROWS": 32, "CHUNK": 16, "num_warps": 8, "maxnreg": 128},
        "region_norm": {"CHANNELS": 16, "CHUNK": 16, "ROWS": 64, "num_warps": 8},
        "region_norm.add": {"CHANNELS": 64, "num_warps": 2},
        "region_codes": {"ROWS": 32, "VALUES": 32, "COLUMNS": 64, "DEPTH": 32, "num_warps": 4, "maxnreg": 255},
        "region_codes.wide": {"ROWS": 32, "VALUES": 32, "COLUMNS": 32, "DEPTH": 32, "num_warps": 8},
        "region_codes.hidden": {"CHANNELS": 32, "IMAGES": 16, "num_warps": 4},
        "dense_pathway": {"ROWS": 16, "COLUMNS": 8, "CHANNELS": 64, "num_warps": 2, "maxnreg": 200},
        "dense_pathway.contiguous": {"ROWS": 16, "COLUMNS": 64, "CHANNELS": 8, "num_warps": 8},
        "dense_pathway_backward": {"ROWS": 16, "COLUMNS": 4, "CHANNELS": 128, "num_warps": 2, "maxnreg": 248},
        "dense_pathway_backward.contiguous": {"ROWS": 16, "COLUMNS": 64, "CHANNELS": 8, "num_warps": 8},
        "dense_pathway_backward.add": {"CHANNELS": 64, "num_warps": 2},
        "dense_pathway_backward.gather": {"ROWS": 8, "COLUMNS": 4, "CHANNELS": 64, "num_warps": 1, "maxnreg": 168},
        "dense_pathway_backward.gather.contiguous": {
            "ROWS": 8,
            "COLUMNS": 64,
            "CHANNELS": 8,
            "num_warps": 4,
            "maxnreg": 168,
        },
        "position_sensitive_pool": {"CHANNELS": 64, "num_warps": 4},
        "position_sensitive_pool_backward": {"COLUMNS": 8, "CHANNELS": 64, "num_warps": 2},
    },
    "cpu": {  # the interpreter: a program costs the same whatever its tile
        "region_stats": {"CHANNELS": 256},
        "region_stats.several": {"CHANNELS": 256},
        "region_stats.add": {"CHANNELS": 256, "ENTRIES": 1024},
        "region_stats_backward": {"CHANNELS": 256, "ROWS": 128, "CHUNK": 64},
        "region_norm": {"CHANNELS": 64, "CHUNK": 128, "ROWS": 64},
        "region_norm.add": {"CHANNELS": 256},
        "region_codes": {"ROWS": 64, "VALUES": 64, "COLUMNS": 512, "DEPTH": 64},
        "region_codes.wide": {"ROWS": 64, "VALUES": 64, "COLUMNS": 512, "DEPTH": 64},
        "region_codes.hidden": {"CHANNELS": 256, "IMAGES": 64},
        "dense_pathway": {"ROWS": 128, "COLUMNS": 128, "CHANNELS": 256},
        "dense_pathway_backward": {"ROWS": 128, "COLUMNS": 128, "CHANNELS": 256},
        "dense_pathway_backward.add": {"CHANNELS": 256},
        "dense_pathway_backward.gather": {"ROWS": 128, "COLUMNS": 128, "CHANNELS": 256},
        "position_sensitive_pool": {"CHANNELS": 256},
        "position_sensitive_pool_backward": {"COLUMNS": 128, "CHANNELS": 256},
    },
}
"""Tiles by kind of device and kernel. A device's own name (`torch.cuda.get_device_name`) goes before its kind."""

_hooks: list[Hook] = []
_trials: dict[str, Options] = {}


def accumulation(dtype: torch.dtype) -> tuple[torch.dtype, Any]:
    """What sums of maps of ``dtype`` are kept in, as torch and as Triton call it."""
    return (torch.float64, tl.float64) if dtype == torch.float64 else (torch.float32, tl.float32)


def power_of_two(size: int, least: int = 1) -> int:
    """The next power of two from ``size`` up, at least ``least``."""
    return max(1 << (size - 1).bit_length(), least)


def blocks(size: int, block: int) -> int:
    """How many blocks cover ``size``."""
    return -(-size // block)


def odd(size: int) -> int:
    """A size as a kernel takes it in a tuple, where `zigzag.kernels.geometry.size_of` makes it what it was.

    Triton compiles anew for an integer that is 1 or a multiple of 16. An argument can be left out (do_not_specialize),
    what a tuple holds cannot; twice a size and 1 is neither.
    """
    return 2 * size + 1


def shape_of(x: Tensor) -> tuple[int, ...]:
    """Height, width and strides of a map as a kernel takes them; `zigzag.kernels.geometry.map_size` reads the sizes.

    The width of a contiguous map is told when it is a multiple of 8: its rows are read 16 bytes at a time then.
    """
    height, width = x.shape[2:]
    return odd(height), 2 * width if x.stride(1) != 1 and width % 8 == 0 else odd(width), *x.stride()


# --- launches ---------------------------------------------------------------------------------------------------------


@contextmanager
def launches_to(hook: Hook) -> Iterator[None]:
    """Call ``hook(kernel, grid, arguments, options)`` in the place of every launch in a ``with`` block."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.pop()


def launch(kernel: Any, tasks: int, *arguments: Any, **options: Any) -> None:
    """Run ``tasks`` programs of a kernel on its tensors' device, current stream; nothing where there are none."""
    if tasks == 0:
        return
    if _hooks:
        _hooks[-1](kernel, (tasks,), arguments, options)
        return
    device = _device_of(arguments)
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[(tasks,)](*arguments, **options)
    else:
        kernel[(tasks,)](*arguments, **options)


def _device_of(arguments: tuple[Any, ...]) -> torch.device:
    """The device of the first tensor among a kernel's arguments; all are on one."""
    tensors = (x for given in arguments for x in (given if isinstance(given, tuple) else (given,)))
    return next(x.device for x in tensors if isinstance(x, Tensor))


# --- tiles ------------------------------------------------------------------------------------------------------------


def tiles(kernel: str, like: Tensor, least_channels: int = 1, itemsize: int | None = None) -> dict[str, Any]:
    """The tile of a kernel for maps such as ``like``: constants by name, and options of the compiler.

    ``itemsize`` is that of the widest map that it reads or writes, where that is not ``like``'s.
    """
    if like.ndim == 4 and like.stride(1) != 1 and f"{kernel}.contiguous" in SHIPPED[kind_of(like)]:
        kernel = f"{kernel}.contiguous"
    options = dict(_trials.get(kernel) or _chosen(kernel, like))
    if "CHANNELS" in options:
        width = 2 if kind_of(like) == "cpu" else itemsize or like.element_size()
        most = options["CHANNELS"] * 2 // width
        options["CHANNELS"] = max(min(power_of_two(like.shape[1 if like.ndim == 4 else 2]), most), least_channels)
    if torch.version.hip is not None:
        options.pop("maxnreg", None)  # an option of NVIDIA's compiler alone
    return options


def kind_of(like: Tensor) -> str:
    """The row of `SHIPPED` for a tensor's device."""
    if like.device.type == "cpu":
        return "cpu"
    device = device_name(like.device)
    return device if device in SHIPPED else "gpu"


def _chosen(kernel: str, like: Tensor) -> Options:
    kind = kind_of(like)
    if kind != "cpu":
        tuned = _tuned().get(key_of(kernel, like, device_name(like.device)))
        if tuned is not None:
            return tuned
    return SHIPPED[kind][kernel]


@functools.cache
def device_name(device: torch.device) -> str:
    """What the device calls itself; "gpu" for a meta tensor's, which is any."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "gpu"


def key_of(kernel: str, like: Tensor, device: str) -> str:
    """What a tuned tile depends on."""
    layout = "channels_last" if like.ndim == 4 and like.stride(1) == 1 else "contiguous"
    return "/".join((device, kernel, str(like.dtype).removeprefix("torch."), layout))


def tuned_file() -> Path:
    """Where tuned tiles are kept."""
    return Path(triton.knobs.cache.dir) / "zigzag-tiles.json"


@functools.cache
def _tuned() -> dict[str, Options]:
    file = tuned_file()
    found: dict[str, Options] = json.loads(file.read_text()) if file.is_file() else {}
    return found


@contextmanager
def trial(kernel: str, options: Options) -> Iterator[None]:
    """Take these tiles for a kernel in a ``with`` block."""
    _trials[kernel] = options
    try:
        yield
    finally:
        del _trials[kernel]


def keep_tuned(found: dict[str, Options]) -> Path:
    """Add tuned tiles to those on disk, the file replaced as a whole; later calls take them."""
    file = tuned_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = file.with_suffix(".new")
    whole.write_text(json.dumps({**_tuned(), **found}, indent=1))
    whole.replace(file)
    _tuned.cache_clear()
    return file
