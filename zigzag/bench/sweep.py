"""How cost grows: with the pixels it must, with K and with the number of grids it must not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from zigzag.bench import neck, operations
from zigzag.bench.prepare import Source
from zigzag.bench.rows import Row
from zigzag.bench.settings import SMALLEST_SIZE, Settings
from zigzag.bench.workload import Case, Workload

SHARES = (0.25, 0.5)
"""Sizes of the sweep, as shares of the run's own size; that one is measured anyway."""
GRIDS = ((3,), (3, 5, 7), (3, 5, 7, 9))
CELLS = ((1,), (7,), (31,))
STEPS = len(SHARES) + 2 * (len(GRIDS) + len(CELLS))
"""Cases of all sweeps."""

_SECONDS = 0.6
_NECK_SECONDS = 1.0

Axis = Literal["size", "grids", "cells"]


@dataclass(frozen=True)
class Point:
    """One row of a sweep.

    Attributes:
        axis: what varies: the crop's side in pixels, the number of grids, or K of a single grid.
        value: of it.
        row: what was measured there.
    """

    axis: Axis
    value: int
    row: Row


@dataclass(frozen=True)
class Step:
    """A case of a sweep before it is built: its forward pass gives the points at one value of an axis.

    Attributes:
        axis, value: as a `Point` has them.
        size: of the photograph's crop.
        build: makes the case.
    """

    axis: Axis
    value: int
    size: int
    build: Callable[[], Case]


def steps(work: Workload, source: Source, settings: Settings) -> Iterator[Step]:
    """The two large operations on level 1 with more grids, and with a single finer one; the neck on smaller crops."""
    axes: tuple[tuple[Axis, tuple[tuple[int, ...], ...]], ...] = (("grids", GRIDS), ("cells", CELLS))
    for axis, choices in axes:
        for chosen in choices:
            value = len(chosen) if axis == "grids" else chosen[0]
            for build in (
                partial(operations.region_stats, work, level=0, grids=chosen),
                partial(operations.dense_pathway, work, level=0, sources=(1, 2, 3), grids=chosen),
            ):
                yield Step(axis, value, settings.size, partial(_briefly, build, _SECONDS))
    for share in SHARES:
        size = max(SMALLEST_SIZE, round(settings.size * share))
        yield Step("size", size, size, partial(_briefly, partial(_smaller, work, source, size), _NECK_SECONDS))


def _smaller(work: Workload, source: Source, size: int) -> Case:
    return neck.fuse(Workload(source.maps(size, work.variant), work.neck))


def _briefly(build: Callable[[], Case], seconds: float) -> Case:
    return replace(build(), seconds={"forward": seconds})
