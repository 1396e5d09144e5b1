"""The roofline's ceilings, measured in the same process as everything else: moving bytes and multiplying matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch

from zigzag.bench.devices import evict, stopwatch
from zigzag.bench.timing import Samples, interleave, plan, warm_up
from zigzag.cost import Cost

FOOTPRINTS = tuple(1 << power for power in (20, 22, 24, 26, 28))
"""Bytes touched, from what fits a core's cache to what fits none: 1 MiB to 256 MiB."""

_GPU_FOOTPRINTS = (*FOOTPRINTS, 1 << 30)
"""What a large batch touches."""

_MATRIX = 1536
_CHANNELS, _SIZE = 256, 60
_SECONDS = 0.25


@dataclass(frozen=True)
class Ceilings:
    """What this machine reaches, in bytes/s by footprint and in flop/s.

    Attributes:
        copied: read plus written bytes/s of ``copy_``, by bytes touched.
        summed: read bytes/s of ``sum``, by bytes touched.
        arithmetic: flop/s of a matrix product or a convolution in the maps' dtype, the better of the two.
    """

    copied: dict[int, float]
    summed: dict[int, float]
    arithmetic: float

    def bandwidth(self, footprint: int) -> float:
        """The better of copy and sum at ``footprint`` bytes, between measured points on a logarithmic scale."""
        best = [(size, max(self.copied[size], self.summed[size])) for size in sorted(self.copied)]
        if footprint <= best[0][0]:
            return best[0][1]
        for (small, slower), (large, faster) in pairwise(best):
            if footprint <= large:
                share = math.log(footprint / small) / math.log(large / small)
                return slower + (faster - slower) * share
        return best[-1][1]

    @property
    def copy(self) -> float:
        """Bytes/s, read plus written, of the largest ``copy_``: what no cache holds."""
        return self.copied[max(self.copied)]

    def least_seconds(self, steps: Sequence[Cost]) -> float:
        """The roofline's least time for steps that follow each other."""
        return sum(step.seconds(self.bandwidth(step.bytes), self.arithmetic) for step in steps)


def measure(dtype: torch.dtype, device: str = "cpu", *, cold: bool = False) -> Ceilings:
    """Measure them for ``dtype`` on ``device``; takes about four seconds.

    Args:
        dtype: of what is moved and multiplied.
        device: where.
        cold: empty the caches before every copy and sum, for the roofline of what is timed so.
    """
    before = partial(evict, device) if cold else None
    itemsize = torch.empty((), dtype=dtype).element_size()
    copied, summed = {}, {}
    for footprint in FOOTPRINTS if device == "cpu" else _GPU_FOOTPRINTS:
        source = torch.ones(footprint // itemsize, dtype=dtype, device=device)
        half = torch.ones(footprint // 2 // itemsize, dtype=dtype, device=device)
        target = torch.zeros_like(half)
        times = _fastest({"sum": source.sum, "copy": partial(target.copy_, half)}, device, before)
        summed[footprint] = footprint / times["sum"].p20
        copied[footprint] = footprint / times["copy"].p20
    return Ceilings(copied, summed, _arithmetic(dtype, device))


def _arithmetic(dtype: torch.dtype, device: str) -> float:
    """Flop/s of a square matrix product or of a 3x3 convolution in channels_last, whichever is faster."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, _MATRIX, _MATRIX, generator=generator).to(device, dtype)
    product = torch.empty_like(a)
    x, weight = (
        torch.randn(shape, generator=generator).to(device, dtype, memory_format=torch.channels_last)
        for shape in ((1, _CHANNELS, _SIZE, _SIZE), (_CHANNELS, _CHANNELS, 3, 3))
    )
    times = _fastest(
        {
            "product": lambda: torch.mm(a, b, out=product),
            "convolution": lambda: torch.nn.functional.conv2d(x, weight, padding=1),
        },
        device,
    )
    flops = {"product": 2 * _MATRIX**3, "convolution": 2 * 9 * (_CHANNELS * _SIZE) ** 2}
    return max(flops[name] / times[name].p20 for name in times)


def _fastest(
    sides: dict[str, Callable[[], object]], device: str, before: Callable[[], object] | None = None
) -> dict[str, Samples]:
    watch = stopwatch(device)
    estimates = {name: warm_up(run, _SECONDS / 2, watch) for name, run in sides.items()}
    return interleave(sides, plan(estimates, _SECONDS * len(sides), least=3), before=before, stopwatch=watch)
