"""The plots of a benchmark: how much faster, how far above the floor, rooflines, sweeps, memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from zigzag.bench.ceilings import Ceilings
from zigzag.bench.figures import COLUMNS
from zigzag.bench.rows import Row
from zigzag.bench.sweep import Point
from zigzag.bench.workload import COMMUTED, COMPILED, EAGER, FLOOR, OURS
from zigzag.report.draw import COLOUR, LABELS, figure_of, legend, legend_above, on_phone, responsive, round_ticks, svg

_APART = 1.35
"""Factor between the heights of two names on the roofline."""


@responsive
def speedups(rows: Sequence[Row]) -> str:
    """Bars: how many times faster ours is than each stock version, for every case that was timed."""
    chosen = [row for row in rows if row.backend in (EAGER, COMPILED, COMMUTED) and row.speedup]
    if not chosen:
        return ""
    sides = [side for side in (EAGER, COMPILED, COMMUTED) if any(row.backend == side for row in chosen)]
    groups = _groups(chosen)
    figure, axis = figure_of(0.9 + 0.21 * (len(chosen) + len(groups)))
    places, top = [], 0.0
    for members in groups.values():
        for offset, row in enumerate(members):
            times = row.speedup or 0.0
            axis.barh(top + offset, times - 1, 0.86, left=1, color=COLOUR[row.backend])
            text = f"{times:.3g}×" + (f" ({row.doubt})" if row.doubt else "")
            at, shift = (times, 4) if times >= 1 else (1, 4)
            axis.annotate(
                text,
                (at, top + offset),
                (shift, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=COLOUR["ink"],
            )
        places.append(top + (len(members) - 1) / 2)
        top += len(members) + 0.8
    axis.axvline(1, color=COLOUR[OURS], linewidth=1.6)
    axis.set_yticks(places, groups)
    axis.set_ylim(top - 0.8, -0.8)
    _ratio_axis(axis, [row.speedup or 1.0 for row in chosen])
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("time of stock PyTorch / time of zigzag")
    for side in sides:
        axis.barh(places[0], 0, color=COLOUR[side], label=LABELS[side])
    legend_above(figure, axis, 3)
    return svg(figure, "Speedups")


@responsive
def over_floor(rows: Sequence[Row], targets: Mapping[tuple[str, str], float]) -> str:
    """Dots: time over the floor's for every side, with the target where there is one."""
    chosen = [row for row in rows if row.backend != FLOOR and row.over_floor]
    if not chosen:
        return ""
    groups = _groups(chosen)
    figure, axis = figure_of(0.9 + 0.32 * len(groups))
    for position, members in enumerate(groups.values()):
        for row in members:
            colour = COLOUR[row.backend]
            size, stated = 8 if row.backend == OURS else 6, not row.few and row.over_floor_p20 is not None
            inside = colour if stated else "none"
            if stated:
                axis.plot([row.over_floor_p20, row.over_floor_p80], [position] * 2, color=colour, linewidth=2.5)
            axis.plot([row.over_floor], [position], "o", color=colour, markersize=size, markerfacecolor=inside)
        target = targets.get((members[0].case, members[0].direction))
        if target:
            axis.plot([target] * 2, [position - 0.34, position + 0.34], color=COLOUR["ink"], linewidth=1.8)
    axis.axvline(1, color=COLOUR[FLOOR], linewidth=1.4)
    axis.set_yticks(range(len(groups)), groups)
    axis.set_ylim(len(groups) - 0.4, -0.6)
    _ratio_axis(axis, [row.over_floor or 1.0 for row in chosen])
    axis.set_xlabel("time / time of the floor (bar: the target; line at 1: the floor)")
    for side in COLUMNS:
        if any(row.backend == side for row in chosen):
            axis.plot([], [], "o", color=COLOUR[side], label=LABELS[side])
    legend_above(figure, axis, 4)
    return svg(figure, "Time over the floor")


def _ratio_axis(axis: Any, ratios: Sequence[float]) -> None:
    """A logarithmic x axis around 1."""
    axis.set_xscale("log")
    axis.set_xlim(min(*ratios, 1.0) / 1.25, max(*ratios, 1.0) * 1.5)
    round_ticks(axis.xaxis, "×")


@responsive
def roofline(rows: Sequence[Row], ceilings: Ceilings) -> str:
    """Attained flop/s over arithmetic intensity, under the ceilings measured in the same run."""
    chosen = [row for row in rows if row.median and row.backend in (OURS, EAGER) and row.direction == "forward"]
    if not chosen:
        return ""
    figure, axis = figure_of(4.4)
    intensities = [row.flops / row.bytes for row in chosen]
    low, high = min(intensities) / 2, max(*intensities, 10.0) * 4
    steps = [low * (high / low) ** (i / 99) for i in range(100)]
    for footprint, style in ((max(ceilings.copied), "-"), (min(ceilings.copied), "--")):
        bandwidth = ceilings.bandwidth(footprint)
        roof = [min(x * bandwidth, ceilings.arithmetic) / 1e9 for x in steps]
        label = f"{bandwidth / 1e9:.0f} GB/s ({footprint >> 20} MiB), {ceilings.arithmetic / 1e9:.0f} Gflop/s"
        axis.plot(steps, roof, style, color=COLOUR["ink"], linewidth=1.4, label=label)
    named: list[tuple[float, float, str]] = []
    for name, members in _groups(chosen).items():
        attained = {row.backend: row.flops / (row.median or math.inf) / 1e9 for row in members}
        x = members[0].flops / members[0].bytes
        axis.plot([x] * len(attained), list(attained.values()), color=COLOUR["line"], linewidth=1.4, zorder=1)
        small = members[0].kernel == 1
        for side, y in attained.items():
            axis.plot(x, y, "o", color=COLOUR[side], markersize=8, markerfacecolor="none" if small else COLOUR[side])
        if OURS in attained and not small:
            named.append((x, attained[OURS], name.removesuffix(", fwd")))
    if not on_phone():
        _label(axis, named)
    for side in (OURS, EAGER):
        axis.plot([], [], "o", color=COLOUR[side], label=f"{LABELS[side]} (open: 1x1 region kernel)")
    axis.set_xscale("log")
    axis.set_yscale("log")
    round_ticks(axis.xaxis)
    round_ticks(axis.yaxis)
    axis.set_xlabel("arithmetic intensity of the work, flop per byte (forward passes)")
    axis.set_ylabel("Gflop/s")
    legend(axis, loc="lower right", fontsize=9)
    return svg(figure, "Roofline")


def _label(axis: Any, named: Sequence[tuple[float, float, str]]) -> None:
    """Names at the right of their points, moved up where one would cover the one below."""
    last = 0.0
    for x, y, name in sorted(named, key=lambda one: one[1]):
        last = max(y, last * _APART)
        place = (x * 1.15, last)
        axis.annotate(name, (x, y), place, va="center", fontsize=8, color=COLOUR["muted"])


@responsive
def against_size(points: Sequence[Point]) -> str:
    """Time of the neck's forward pass over the pixels of the image."""
    chosen = [point for point in points if point.axis == "size" and point.row.median]
    if not chosen:
        return ""
    figure, axis = figure_of(3.8)
    for side in (EAGER, COMMUTED, OURS, FLOOR):
        mine = [point for point in chosen if point.row.backend == side]
        pixels, seconds = [point.value**2 / 1e3 for point in mine], [point.row.median for point in mine]
        axis.plot(pixels, seconds, "o-", color=COLOUR[side], label=LABELS[side])
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("thousand pixels of the image")
    axis.set_ylabel("seconds, neck forward")
    legend(axis)
    return svg(figure, "Time against image size")


@responsive
def against_grids(points: Sequence[Point]) -> str:
    """Time of the two large operations over the number of grids, and over K of a single grid."""
    chosen = [point for point in points if point.axis != "size" and point.row.median]
    if not chosen:
        return ""
    figure, axes = figure_of(3.4, columns=2)
    lines = (
        ("region_stats", OURS, "o-", "region_stats"),
        ("dense_pathway", OURS, "s--", "dense_pathway"),
        ("region_stats", EAGER, "o-", "eager: convolve, then sum"),
    )
    for axis, varied in zip(axes, ("grids", "cells"), strict=True):
        for operation, side, style, label in lines:
            mine = [p for p in chosen if (p.axis, p.row.operation, p.row.backend) == (varied, operation, side)]
            times = [1e3 * (point.row.median or math.nan) for point in mine]
            axis.plot([point.value for point in mine], times, style, color=COLOUR[side], label=label)
        axis.set_xticks(sorted({point.value for point in chosen if point.axis == varied}))
        axis.set_yscale("log")
    slowest, fastest = max(axis.get_ylim()[1] for axis in axes), min(axis.get_ylim()[0] for axis in axes)
    for axis in axes:
        axis.set_ylim(fastest, slowest)
        round_ticks(axis.yaxis)
    axes[0].set_xlabel("number of grids (of 3, 5, 7, 9)")
    axes[1].set_xlabel("K of a single grid of K x K cells")
    axes[0].set_ylabel("milliseconds, level 1")
    legend_above(figure, axes[0], 3)
    return svg(figure, "Time against the grids")


@responsive
def memory(rows: Sequence[Row]) -> str:
    """Bars: what autograd saves in the neck's forward pass, and how far the process grows in a training step."""
    chosen = [row for row in rows if row.case == "neck.fuse" and row.saved_bytes is not None]
    if not chosen:
        return ""
    figure, axis = figure_of(0.9 + 0.3 * len(chosen))
    places, top = [], 0.0
    for members in _groups(chosen).values():
        for row in members:
            axis.barh(top, (row.peak_bytes or 0) / 2**20, 0.8, color=COLOUR[row.backend], alpha=0.35)
            axis.barh(top, (row.saved_bytes or 0) / 2**20, 0.8, color=COLOUR[row.backend])
            places.append((top, f"{LABELS[row.backend]}, {row.kernel}x{row.kernel}"))
            top += 1
        top += 0.5
    axis.set_yticks([at for at, _ in places], [label for _, label in places])
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("MiB saved by autograd (solid); growth of the process in a training step (light)")
    return svg(figure, "Memory")


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by what they measure, labelled for an axis."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        kernel = f" {row.kernel}x{row.kernel}" if row.kernel else ""
        direction = "fwd" if row.direction == "forward" else "fwd+bwd"
        groups.setdefault(f"{row.case}{kernel}, {direction}", []).append(row)
    return groups
