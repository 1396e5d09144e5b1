"""Compiles the Triton kernels that the benchmark launches, before they are timed: a share of them, as 2/6.

    python benchmarks/gpu_warm.py 2/6

Nothing is launched: the neck and the operations by themselves run on tensors of the benchmark's sizes with every launch
caught, and of the kernels caught the share is compiled into Triton's cache, where the benchmark finds them. Several
processes compile at once what the benchmark's one would compile in turn.
"""

from __future__ import annotations

import sys
import zlib

import torch
from gpu_bench import COMMON, PARTS
from predict import levels_of

import zigzag
from zigzag.bench import registry
from zigzag.bench.settings import Settings
from zigzag.bench.workload import OURS, Workload, build_neck
from zigzag.kernels.launch import launches_to

FEATURES = (256, 512, 1024, 2048)
LEVELS, SMALL = levels_of(473), levels_of(224)


def key_of(kernel, arguments, options):
    """What Triton compiles a kernel anew for; what is told apart in vain costs time alone."""
    free = [parameter.do_not_specialize for parameter in kernel.params]
    told = [None if skip else specialised(value) for value, skip in zip(arguments, free, strict=False)]
    return repr((kernel.__name__, told, sorted(options.items(), key=str)))


def specialised(value):
    """What it looks at of an argument."""
    if isinstance(value, tuple | list):
        return tuple(specialised(item) for item in value)
    if isinstance(value, torch.Tensor):
        return str(value.dtype)
    if isinstance(value, int) and not isinstance(value, bool):
        return value == 1, value % 16 == 0, value >= 1 << 31
    return type(value).__name__ if isinstance(value, float) else repr(value)


class Share:
    """A hook for `launches_to`: compiles one of ``count`` shares of all kernels, each once."""

    def __init__(self, number, count):
        self.number, self.count = number, count
        self.seen = set()
        self.compiled = 0

    def __call__(self, kernel, grid, arguments, options):
        key = key_of(kernel, arguments, options)
        if key in self.seen:
            return
        self.seen.add(key)
        if zlib.crc32(key.encode()) % self.count == self.number:
            kernel.warmup(*arguments, grid=grid, **options).run  # noqa: B018, its launcher is compiled, too
            self.compiled += 1


def maps_of(channels, sizes, batch, device):
    maps = [
        torch.empty(batch, c, *n, device=device, dtype=torch.bfloat16) for c, n in zip(channels, sizes, strict=True)
    ]
    return [x.to(memory_format=torch.channels_last) for x in maps]


def stages(device):
    """neck.fuse, forward and backward."""
    neck = build_neck(maps_of(FEATURES, LEVELS, 16, device), 3)
    bases = [x.requires_grad_() for x in maps_of([neck.config.out_channels] * len(LEVELS), LEVELS, 16, device)]
    results = neck.fuse(bases)
    leaves = [*bases, *(p for name, p in neck.named_parameters() if not name.startswith("lateral."))]
    torch.autograd.grad(results, leaves, [torch.empty_like(x) for x in results])


def small(device):
    """neck.whole, forward, of one small image."""
    maps = maps_of(FEATURES, SMALL, 1, device)
    with torch.no_grad():
        build_neck(maps, 3)(maps)


def operations(device, batch=16):
    """The operations' cases, forward and backward: in the neck some have another residual or gradient."""
    features = maps_of(FEATURES, LEVELS, batch, device)
    work = Workload(features, build_neck(features, 3))
    for subject in registry.select(Settings(**COMMON, **PARTS["operations"]["operations"])):
        ours = subject.entry.build(work).formulations[OURS]
        for direction in subject.directions:
            ours.run(direction)


def main(share, device="cuda"):
    hook = Share(*map(int, share.split("/")))
    with launches_to(hook), zigzag.use_backend("triton"):
        stages(device)
        small(device)
        operations(device)
    print(f"{hook.compiled} of {len(hook.seen)} kernels")


if __name__ == "__main__":
    main(sys.argv[1])
