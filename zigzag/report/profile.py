"""The report's part about a profile: where the neck's time goes, and where its memory."""

from __future__ import annotations

import html
from collections import defaultdict

from zigzag.profile.ranges import BACKWARD, FORWARD
from zigzag.profile.result import Result
from zigzag.profile.rows import COLUMNS, part_of
from zigzag.profile.trace import HOST, OTHER
from zigzag.report.draw import COLOUR, figure_of, legend_above, responsive, svg
from zigzag.report.parts import Section, table

_PARTS = {
    "lateral": "line",
    "fusion": "floor",
    "region_stats": "second",
    "region_codes": "third",
    "region_norm": "fourth",
    "dense_pathway": "fifth",
    OTHER: "muted",
    HOST: "ink",
}
"""Operations in the order of the picture, with the page's colours."""


def sections(found: Result) -> list[Section]:
    """What the page says about a profile."""
    plain, names, profiled = (found.seconds[name] for name in ("plain", "named", "profiled"))
    command = f"<code>{html.escape(found.command)}</code>"
    return [
        Section(
            "Where the time of a pass goes",
            f"A pass of {plain:.3g} s, by sweep; with the steps named it takes {names / plain - 1:+.1%}, under the "
            f"profiler {profiled / plain - 1:+.1%}. {command}",
            times(found),
        ),
        Section(
            "Where the time of each level goes",
            "The same by level, all stages together: the finest level has most of the pixels, every level its weights.",
            levels(found),
        ),
        Section(
            "Operations of the neck",
            "Medians over the passes of the trace. Bytes and flops: what the work cannot do without; roofline: "
            "least time under the measured ceilings / time.",
            _operations(found),
        ),
        Section(
            "Slowest places",
            "The twelve rows of the trace that take the longest.",
            _places(found),
        ),
        Section(
            "Memory over a pass",
            "What torch's allocator holds above the start of the pass: it rises while autograd saves; in the backward "
            "pass gradients of parameters come, and what was saved goes.",
            memory(found) + _peaks(found),
        ),
    ]


def times(found: Result) -> str:
    """Bars: the time of every sweep, by operation."""
    sums: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in found.places:
        if row.direction in (FORWARD, BACKWARD):
            sums[row.direction, part_of(row.place) or "outside the steps"][row.operation] += row.seconds
    return _bars({f"{direction}: {part}": own for (direction, part), own in sums.items()}, "Time by sweep")


def levels(found: Result) -> str:
    """Bars: the time of every level, by operation."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in sorted(found.places, key=lambda row: (row.direction == BACKWARD, row.place.rpartition("level ")[2])):
        if row.place:
            sums[f"{row.direction}: level {row.place.rpartition('level ')[2]}"][row.operation] += row.seconds
    return _bars(sums, "Time by level")


@responsive
def _bars(sums: dict[str, dict[str, float]], name: str) -> str:
    rows = sorted(sums, key=_order)
    figure, axis = figure_of(1.3 + 0.3 * len(rows))
    left = dict.fromkeys(rows, 0.0)
    for operation, colour in _PARTS.items():
        widths = [1e3 * sums[row].get(operation, 0.0) for row in rows]
        if any(widths):
            axis.barh(range(len(rows)), widths, 0.78, left=list(left.values()), color=COLOUR[colour], label=operation)
            left = {row: left[row] + width for row, width in zip(rows, widths, strict=True)}
    axis.set_yticks(range(len(rows)), rows)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("milliseconds")
    legend_above(figure, axis, 4)
    return svg(figure, name)


def _order(row: str) -> tuple[bool, bool, str]:
    """Forward first, the lateral convolutions before the stages, the output last."""
    direction, _, part = row.partition(": ")
    rank = {"lateral": "0", "output": "8", "outside the steps": "9"}.get(part, f"1{part.replace('down', 'a')}")
    return direction != FORWARD, direction == "", rank


@responsive
def memory(found: Result) -> str:
    """A line: memory over the pass, its halves apart."""
    if not found.memory:
        return ""
    figure, axis = figure_of(3.2)
    times_, held = [moment.time / 1e3 for moment in found.memory], [m.allocated / 2**20 for m in found.memory]
    axis.fill_between(times_, held, color=COLOUR["second"], alpha=0.25, step="post", linewidth=0)
    axis.step(times_, held, where="post", color=COLOUR["second"], linewidth=1.4)
    backward = [moment.time / 1e3 for moment in found.memory if moment.direction == BACKWARD]
    if backward:
        axis.axvline(min(backward), color=COLOUR["muted"], linewidth=1)
        axis.annotate(
            "backward", (min(backward), max(held)), (6, -4), textcoords="offset points", color=COLOUR["muted"], va="top"
        )
    axis.set_ylim(bottom=0)
    axis.set_xlim(0, max(times_))
    axis.set_xlabel("milliseconds since the pass began (under the profiler)")
    axis.set_ylabel("MiB")
    return svg(figure, "Memory over a pass")


def _operations(found: Result) -> str:
    lines = [[row.direction or "between them", row.operation, *row.cells()] for row in found.operations]
    kernels = [
        [row.direction, f"{row.operation}: {name}", str(launches), f"{1e3 * seconds:.4g}"]
        for row in found.operations
        for name, seconds, launches in row.kernels
    ]
    shown = table(["pass", "operation", *COLUMNS], lines, text=2)
    return shown + table(["pass", "kernel", "launches", "ms"], kernels, text=2) if kernels else shown


def _places(found: Result) -> str:
    longest = sorted(found.places, key=lambda row: -row.seconds)[:12]
    lines = [[row.direction, row.place, row.operation, *row.cells()] for row in longest]
    return table(["pass", "place", "operation", *COLUMNS], lines, text=3)


def _peaks(found: Result) -> str:
    lines = [[p.direction, p.part, f"{p.peak / 2**20:.1f}", f"{p.end / 2**20:.1f}"] for p in found.peaks]
    return table(["pass", "part", "peak, MiB", "at its end, MiB"], lines, text=2)
