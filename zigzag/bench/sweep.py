"""How cost grows: with the pixels it must, with K and with the number of grids it must not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from zigzag.bench import neck, operations
from zigzag.bench.ceilings import Ceilings
from zigzag.bench.prepare import Source
from zigzag.bench.rows import Row
from zigzag.bench.runner import Tell, measure
from zigzag.bench.settings import SMALLEST_SIZE, Settings
from zigzag.bench.workload import Case, Workload

SHARES = (0.25, 0.5)
"""Sizes of the sweep, as shares of the run's own size; that one is measured anyway."""
GRIDS = ((3,), (3, 5, 7), (3, 5, 7, 9))
CELLS = ((1,), (7,), (31,))

_SECONDS = 0.3
_NECK_SECONDS = 1.0


@dataclass(frozen=True)
class Point:
    """One row of a sweep.

    Attributes:
        axis: what varies: the crop's side in pixels, the number of grids, or K of a single grid.
        value: of it.
        row: what was measured there.
    """

    axis: Literal["size", "grids", "cells"]
    value: int
    row: Row


def sizes(work: Workload, source: Source, settings: Settings, ceilings: Ceilings, tell: Tell) -> list[Point]:
    """The neck's forward pass on smaller crops of the photograph."""
    points = []
    for share in SHARES:
        size = max(SMALLEST_SIZE, round(settings.size * share))
        smaller = Workload(source.maps(size, work.variant), work.neck)
        case = _briefly(neck.fuse(smaller), _NECK_SECONDS)
        tell(f"sweep over the image size: {size}")
        points += [Point("size", size, row) for row in measure(case, ["forward"], settings, ceilings, size, _silent)]
    return points


def grids(work: Workload, settings: Settings, ceilings: Ceilings, tell: Tell) -> list[Point]:
    """The two large operations on level 1 with more grids, and with one finer and finer grid."""
    points = []
    for axis, choices in (("grids", GRIDS), ("cells", CELLS)):
        for chosen in choices:
            value = len(chosen) if axis == "grids" else chosen[0]
            for case in (
                operations.region_stats(work, level=0, grids=chosen),
                operations.dense_pathway(work, level=0, sources=(1, 2, 3), grids=chosen),
            ):
                tell(f"sweep over the grids: {chosen}")
                rows = measure(_briefly(case, _SECONDS), ["forward"], settings, ceilings, settings.size, _silent)
                points += [Point(axis, value, row) for row in rows]  # type: ignore[arg-type]
    return points


def _silent(_: str) -> None:
    """The sweep has said what it does."""


def _briefly(case: Case, seconds: float) -> Case:
    return replace(case, seconds={"forward": seconds})
