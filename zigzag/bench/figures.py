"""The figures that the design is held to, straight from the rows: those of a CPU, and those of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zigzag.bench.registry import CENTRE
from zigzag.bench.rows import Row
from zigzag.bench.workload import COMMUTED, COMPILED, EAGER, FUSED, OURS

COLUMNS = (OURS, *FUSED, EAGER, COMPILED, COMMUTED)
"""Sides in the table of figures."""


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        what: a ratio, in words.
        kernel: size of the region kernel; None where it plays no part.
        target: what ours should be at most, or at least; None where a figure is only stated.
        values: the ratio for each side that was measured.
        at_least: whether more is better.
        over_floor_of: case and direction, if it is a time over the floor's.
    """

    what: str
    kernel: int | None
    target: float | None
    values: Mapping[str, float]
    at_least: bool = False
    over_floor_of: tuple[str, str] | None = None

    @property
    def reached(self) -> bool | None:
        """Whether our side reaches the target; None where it was not measured, or nothing is asked of it."""
        if OURS not in self.values or self.target is None:
            return None
        return self.values[OURS] >= self.target if self.at_least else self.values[OURS] <= self.target

    @property
    def asked(self) -> str:
        """The target with its sign."""
        return "" if self.target is None else f"{'≥' if self.at_least else '≤'} {self.target:g}"


def figures(rows: Sequence[Row]) -> list[Figure]:
    """All figures that ``rows`` have something to say about: in their first dtype, at the centre's layout and grids.

    Rows of several runs may be given together; a figure of two sides takes both over the same floor.
    """
    rows = [row for row in rows if _speaks(row) and row.dtype == rows[0].dtype]
    found = []
    for kernel in (3, 1):
        own = [row for row in rows if (row.kernel or 3) == kernel]
        for line in LINES[rows[0].device] if own else ():
            chosen = [
                row
                for row in own
                if row.case == (line.case or row.case) and row.direction == (line.direction or row.direction)
            ]
            values = {side: number for side in COLUMNS if (number := line.value(chosen, side)) is not None}
            if values.keys() & {OURS, *FUSED}:
                shown = kernel if any(row.kernel for row in chosen) else None
                floor = (line.case, line.direction) if line.value is _over_floor else None
                found.append(Figure(line.what, shown, line.target, values, line.at_least, floor))
    return found


def _speaks(row: Row) -> bool:
    return row.layout == CENTRE.layout and row.grids in (CENTRE.grids, ())


# --- a side's value of a figure, from the rows of its case and direction ----------------------------------------------


def _of(rows: Sequence[Row], side: str) -> Row | None:
    return next((row for row in rows if row.backend == side and row.median is not None), None)


def _over_floor(rows: Sequence[Row], side: str) -> float | None:
    return next((row.over_floor for row in rows if row.backend == side and row.over_floor is not None), None)


def _graph_over_floor(rows: Sequence[Row], side: str) -> float | None:
    return _over_floor([row for row in rows if row.timing == "graph"], side)


def _saved(rows: Sequence[Row], side: str) -> float | None:
    return _over_eager({row.backend: row.saved_bytes for row in rows if row.saved_bytes is not None}, side)


def _peak(rows: Sequence[Row], side: str) -> float | None:
    return _over_eager({row.backend: row.peak_bytes for row in rows if row.peak_bytes is not None}, side)


def _over_eager(bytes_: Mapping[str, int], side: str) -> float | None:
    return bytes_[side] / bytes_[EAGER] if side in bytes_ and bytes_.get(EAGER) else None


def _error(rows: Sequence[Row], side: str) -> float | None:
    return max((row.error_ratio for row in rows if row.backend == side and row.error_ratio is not None), default=None)


def _copy_share(rows: Sequence[Row], side: str) -> float | None:
    row = _of(rows, side)
    return None if row is None else row.copy_share


def _backward_copy_share(rows: Sequence[Row], side: str) -> float | None:
    """Of what forward + backward moves and takes beyond forward."""
    forward, both = (_of([r for r in rows if r.direction == way], side) for way in ("forward", "forward+backward"))
    if forward is None or both is None or not both.copy_share:
        return None
    seconds = (both.median or 0.0) - (forward.median or 0.0)
    rate = both.bytes / (both.median or 1.0) / both.copy_share
    return (both.bytes - forward.bytes) / seconds / rate if seconds > 0 else None


def _slower(other: str) -> Value:
    """Time of another side over this one's."""

    def value(rows: Sequence[Row], side: str) -> float | None:
        own, others = _over_floor(rows, side), _over_floor(rows, other)
        return others / own if own and others and side != other else None

    return value


def _over_faster_fused(rows: Sequence[Row], side: str) -> float | None:
    """Time over that of the fastest of our backends, where there are several."""
    times = {name: row.median for name in (OURS, *FUSED) if (row := _of(rows, name)) is not None and row.median}
    rivals = [times[name] for name in FUSED if name in times]
    return times[side] / min(rivals) if side in times and len(rivals) > 1 else None


def _eager_over_graph(rows: Sequence[Row], side: str) -> float | None:
    """Eager as it is launched over a graph of this side, of the same shape."""
    graph = _of([row for row in rows if row.timing == "graph"], side)
    launched = [row for row in rows if row.timing != "graph" and graph is not None and row.shape == graph.shape]
    eager = _of(launched, EAGER)
    return eager.median / graph.median if eager and graph and eager.median and graph.median else None


Value = Callable[[Sequence[Row], str], float | None]


class _Line(NamedTuple):
    """A figure to be found: of a case and a direction, or of all where they are ""."""

    what: str
    target: float | None
    case: str
    direction: str
    value: Value
    at_least: bool = False


_STATS, _PATHWAY, _STEP = "region_stats.level1", "dense_pathway.level1", "forward+backward"
_SHARE = "{}, level 1, {}: share of the copy bandwidth"
_FASTER = "{}, {} / the fastest backend"
_BOTH = (
    _Line("bytes saved by autograd in the neck's forward / eager's", 0.4, "neck.fuse", _STEP, _saved),
    _Line("error against float64 / stock PyTorch's in the same dtype", 2.0, "", "", _error),
)
LINES: Mapping[str, Sequence[_Line]] = {
    "cpu": (
        _Line("neck, forward / its fusion convolutions alone", 1.15, "neck.fuse", "forward", _over_floor),
        _Line("neck, forward + backward / the same of those convolutions", 1.25, "neck.fuse", _STEP, _over_floor),
        _Line("region_stats, level 1, all grids / x.sum()", 1.5, _STATS, "forward", _over_floor),
        _Line("dense_pathway, level 1, three sources / copying its bytes", 1.5, _PATHWAY, "forward", _over_floor),
        *_BOTH,
    ),
    "cuda": (
        _Line(_SHARE.format("region_stats", "forward"), 0.85, _STATS, "forward", _copy_share, at_least=True),
        _Line(_SHARE.format("region_stats", "backward"), 0.85, _STATS, "", _backward_copy_share, at_least=True),
        _Line(_SHARE.format("dense_pathway", "forward"), 0.85, _PATHWAY, "forward", _copy_share, at_least=True),
        _Line(_SHARE.format("dense_pathway", "backward"), 0.85, _PATHWAY, "", _backward_copy_share, at_least=True),
        _Line("neck, forward / its fusion convolutions alone", 1.35, "neck.fuse", "forward", _over_floor),
        _Line("neck, forward + backward / the same of those convolutions", 1.35, "neck.fuse", _STEP, _over_floor),
        _Line("neck, forward, both as CUDA graphs", 1.35, "neck.fuse", "forward", _graph_over_floor),
        _Line("neck, forward + backward, both as CUDA graphs", 1.35, "neck.fuse", _STEP, _graph_over_floor),
        _Line("neck, forward + backward: eager / this", 4.0, "neck.fuse", _STEP, _slower(EAGER), at_least=True),
        _Line("neck, forward + backward: compiled / this", 2.0, "neck.fuse", _STEP, _slower(COMPILED), at_least=True),
        *(
            _Line(_FASTER.format(case.removesuffix(".level1"), way), None, case, way, _over_faster_fused)
            for case in (_STATS, "region_codes", "region_norm", _PATHWAY)
            for way in ("forward", _STEP)
        ),
        _Line("peak memory of the neck's forward + backward / eager's", 0.4, "neck.fuse", _STEP, _peak),
        _Line(
            "neck of a small image, forward: eager / a CUDA graph of this",
            4.0,
            "neck.whole",
            "forward",
            _eager_over_graph,
            at_least=True,
        ),
        *_BOTH,
    ),
}
"""What is asked on each type of device."""
