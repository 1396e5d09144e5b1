"""The figures that the design is held to, straight from the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zigzag.bench.registry import CENTRE
from zigzag.bench.rows import Row
from zigzag.bench.workload import COMMUTED, COMPILED, EAGER, OURS

COLUMNS = (OURS, EAGER, COMPILED, COMMUTED)
"""Sides in the table of figures."""


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        what: a ratio, in words.
        kernel: size of the region kernel; None where it plays no part.
        target: what ours should be at most.
        values: the ratio for each side that was measured.
        over_floor_of: case and direction, if it is a time over the floor's.
    """

    what: str
    kernel: int | None
    target: float
    values: Mapping[str, float]
    over_floor_of: tuple[str, str] | None = None

    @property
    def reached(self) -> bool | None:
        """Whether our side reaches the target; None where it was not measured."""
        return self.values[OURS] <= self.target if OURS in self.values else None


def figures(rows: Sequence[Row]) -> list[Figure]:
    """All figures that ``rows`` have something to say about: in their first dtype, at the centre's layout and grids."""
    rows = [row for row in rows if _speaks(row) and row.dtype == rows[0].dtype]
    lines = [
        ("neck, forward / its fusion convolutions alone", 1.15, "neck.fuse", "forward", _over_floor),
        (
            "neck, forward + backward / the same of those convolutions",
            1.25,
            "neck.fuse",
            "forward+backward",
            _over_floor,
        ),
        ("region_stats, level 1, all grids / x.sum()", 1.5, "region_stats.level1", "forward", _over_floor),
        (
            "dense_pathway, level 1, three sources / copying its bytes",
            1.5,
            "dense_pathway.level1",
            "forward",
            _over_floor,
        ),
        ("bytes saved by autograd in the neck's forward / eager's", 0.4, "neck.fuse", "forward+backward", _saved),
        ("error against float64 / stock PyTorch's in the same dtype", 2.0, "", "", _error),
    ]
    found = []
    for kernel in (3, 1):
        for what, target, case, direction, value in lines:
            chosen = [
                row
                for row in rows
                if (row.kernel or 3) == kernel
                and row.case == (case or row.case)
                and row.direction == (direction or row.direction)
            ]
            values = {side: number for side in COLUMNS if (number := value(chosen, side)) is not None}
            if OURS in values:
                shown = kernel if any(row.kernel for row in chosen) else None
                found.append(Figure(what, shown, target, values, (case, direction) if value is _over_floor else None))
    return found


def _speaks(row: Row) -> bool:
    return row.layout == CENTRE.layout and row.grids in (CENTRE.grids, ())


Value = Callable[[Sequence[Row], str], float | None]


def _over_floor(rows: Sequence[Row], side: str) -> float | None:
    return next((row.over_floor for row in rows if row.backend == side), None)


def _saved(rows: Sequence[Row], side: str) -> float | None:
    saved = {row.backend: row.saved_bytes for row in rows if row.saved_bytes is not None}
    return saved[side] / saved[EAGER] if side in saved and saved.get(EAGER) else None


def _error(rows: Sequence[Row], side: str) -> float | None:
    return max((row.error_ratio for row in rows if row.backend == side and row.error_ratio is not None), default=None)
