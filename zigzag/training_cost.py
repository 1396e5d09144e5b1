"""What a training step keeps and exchanges, from shapes alone: what autograd saves, parameters, gradients on a wire.

Sizes and shapes are those of `zigzag.cost`, and nothing here needs torch either.
"""

from __future__ import annotations

from collections.abc import Sequence

from zigzag import cost
from zigzag.config import FEW_PIXELS, NeckConfig

_DOUBLE = 8
_MOMENTS = 2 * _DOUBLE
"""Bytes of a GroupNorm's mean and variance for one group, in float64."""


def saved_bytes(config: NeckConfig, sizes: Sequence[cost.Size], *, batch: int = 1, itemsize: int = 4) -> int:
    """Bytes that autograd keeps of the neck's stages between forward and backward, without the parameters.

    A fusion convolution keeps its input and its result, a context F and its tables; a context as written by
    `dense_pathway` is kept nowhere. A map of few pixels is kept in float64 too, as it is summed.

    Raises:
        ValueError: as `zigzag.cost.neck`.
    """
    channels, cells = config.out_channels, sum(k * k for k in config.grids)
    value = cost.accumulator_itemsize(itemsize)
    norm = 2 * channels * value + config.norm_groups * _MOMENTS
    sums = cells * cost.taps(config.kernel_size // 2) * channels
    tables = sums * value + (2 * cells + len(config.grids)) * channels * value
    total = 0
    for step in cost.neck(config, sizes, batch=batch, itemsize=itemsize):
        height, width = sizes[step.level]
        values = channels * height * width
        few = itemsize < _DOUBLE and height * width <= FEW_PIXELS
        if step.part == "fusion":
            total += 2 * values * itemsize
            if config.fusion_norm:
                total += norm + channels * (_DOUBLE if few else value) + few * values * _DOUBLE
        elif step.part == "region_codes":
            total += values * itemsize + few * values * _DOUBLE + tables
            if config.context_norm:
                total += norm + few * sums * _DOUBLE
    return total * batch


def parameters(config: NeckConfig) -> dict[cost.Part, int]:
    """Parameters of the whole neck, by the part that they belong to.

    Raises:
        ValueError: as `zigzag.cost.neck`.
    """
    channels = config.out_channels
    counts: dict[cost.Part, int] = {"lateral": 0, "fusion": 0, "region_codes": 0, "region_norm": 0, "dense_pathway": 0}
    for step in cost.neck(config, [(1, 1)] * config.levels, laterals=True):
        if step.part == "lateral":
            weights = config.in_channels[step.level] * config.lateral_kernel_size**2
            counts["lateral"] += channels * (weights + 1)
        elif step.part == "fusion":
            counts["fusion"] += channels * (9 * channels + (not config.fusion_norm))
        elif step.part == "region_codes":
            weights = sum(config.kernel_size**2 + 2 * k * k for k in config.grids) * channels
            counts["region_codes"] += channels * (weights + 3 * len(config.grids))
        elif step.part == "region_norm":
            counts["region_norm"] += 2 * channels
        elif step.part == "dense_pathway" and step.direction in ("down", "up") and config.gain is not None:
            counts["dense_pathway"] += channels * (step.level != _first(step, config.levels))
    return {part: count for part, count in counts.items() if count}


def _first(step: cost.Step, levels: int) -> int:
    """The level that a sweep begins with, which no other gives context to."""
    return levels - 1 if step.direction == "down" else 0


def all_reduce_bytes(gradients: int, processes: int) -> int:
    """Bytes that every process sends, and receives, to sum ``gradients`` bytes over all processes.

    2 (p - 1) / p of them, which is the least there is and what a ring takes (Patarasuk and Yuan, "Bandwidth optimal
    all-reduce algorithms for clusters of workstations", 2009).
    """
    return 2 * (processes - 1) * gradients // processes
