"""Tunes tiles on the GPU at hand: `python -m zigzag.kernels.tune [bfloat16 ...]`. See kernels/launch.py."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from triton.runtime.errors import OutOfResources
from triton.testing import do_bench

from zigzag.kernels.dense_pathway import dense_pathway, dense_pathway_backward
from zigzag.kernels.launch import SHIPPED, Options, device_name, keep_tuned, key_of, kind_of, trial
from zigzag.kernels.region_stats import region_stats, region_stats_backward

GRIDS = [3, 5, 7]
LEVELS = (119, 60, 30, 15)
"""Maps of a 473 crop, whose largest counts."""


def candidates(shipped: Options) -> Iterator[Options]:
    """Half of the channels, as many and twice as many, each with as much for a thread as shipped and with half."""
    for factor in (0.5, 1, 2):
        for share in (1, 2):
            warps = min(max(int(shipped["num_warps"] * factor * share), 1), 8)
            yield {**shipped, "CHANNELS": int(shipped["CHANNELS"] * factor), "num_warps": warps}


def best(kernel: str, shipped: Options, call: Callable[[], Any], time: Callable[..., Any] = do_bench) -> Options:
    """The candidate with the least median time of those that fit; the shipped tile where none is faster."""
    tried = [shipped]
    for options in candidates(shipped):
        if options not in tried:
            tried.append(options)
    times = []
    for options in tried:
        with trial(kernel, options):
            try:
                times.append(time(call, return_mode="median"))
            except OutOfResources:
                times.append(math.inf)
    return tried[times.index(min(times))]


def calls(dtype: torch.dtype, number: int = 16, channels: int = 256) -> dict[str, Callable[[], Any]]:
    """By kernel, a call of the operation that launches it on the neck's largest maps."""
    base, *sources = (
        torch.randn(number, channels, size, size, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
        for size in LEVELS
    )
    table, gain = torch.randn(number, channels, device="cuda"), torch.randn(channels, device="cuda")
    codes = [torch.randn(number, 83, channels, device="cuda")] * 3
    small: Any = codes, table, table, [table] * 3, [table] * 3, gain
    rest: list[Any] = [None, [None] * 3, GRIDS, True, True, False]
    maps: Any = sources
    sums, power = region_stats(base, GRIDS, 1, None)

    def backward() -> Any:
        return dense_pathway_backward(base, base, base, maps, *[*small, *rest])

    return {
        "region_stats": lambda: region_stats(base, GRIDS, 1, None),
        "region_stats_backward": lambda: region_stats_backward(base, sums, power, GRIDS, 1, None, base),
        "dense_pathway": lambda: dense_pathway(base, maps, *[*small, base, *rest]),
        "dense_pathway_backward": backward,
        "dense_pathway_backward.gather": backward,
    }


def main(names: list[str]) -> None:
    """Tune for maps of these dtypes, and print what was found and where it is kept."""
    found = {}
    for dtype in [getattr(torch, name) for name in names]:
        like = torch.empty(1, 256, 2, 2, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
        for kernel, call in calls(dtype).items():
            key = key_of(kernel, like, device_name(like.device))
            found[key] = best(kernel, SHIPPED[kind_of(like)][kernel], call)
            sys.stdout.write(f"{key}: {found[key]}\n")
    sys.stdout.write(f"kept in {keep_tuned(found)}\n")


if __name__ == "__main__":
    main(sys.argv[1:] or ["bfloat16", "float16", "float32"])
