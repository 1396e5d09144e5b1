"""The report's plots, as SVG text whose colours are the page's CSS variables, so that they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from zigzag.bench.ceilings import Ceilings
from zigzag.bench.rows import Row
from zigzag.bench.sweep import Point
from zigzag.bench.workload import COMMUTED, COMPILED, EAGER, FLOOR, OURS

# Matplotlib wants real colours while it draws: each stands for a variable of the page until the SVG is written.
_VARIABLES = {
    "#010101": "ink",
    "#020202": "muted",
    "#030303": "line",
    "#040404": OURS,
    "#050505": EAGER,
    "#060606": COMPILED,
    "#070707": COMMUTED,
    "#080808": FLOOR,
    "#090909": "panel",
}
_COLOUR = {name: colour for colour, name in _VARIABLES.items()}

LABELS = {OURS: "zigzag", EAGER: "eager", COMPILED: "compiled", COMMUTED: "commuted", FLOOR: "floor"}


def _figure(width: float = 8.0, height: float = 3.6, columns: int = 1) -> tuple[Any, Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink, muted, line = _COLOUR["ink"], _COLOUR["muted"], _COLOUR["line"]
    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.patch.set_alpha(0)
        axis.tick_params(colors=muted, labelcolor=muted, length=0)
        axis.xaxis.label.set_color(ink)
        axis.yaxis.label.set_color(ink)
        axis.title.set_color(ink)
        axis.grid(color=line, linewidth=0.8)
        axis.set_axisbelow(True)
        for name, spine in axis.spines.items():
            spine.set_color(line)
            spine.set_visible(name in ("left", "bottom"))
    return figure, axes if columns > 1 else axes[0]


def _legend(axis: Any, **options: Any) -> None:
    legend = axis.legend(frameon=False, **options)
    for text in legend.get_texts():
        text.set_color(_COLOUR["ink"])


def _svg(figure: Any, name: str) -> str:
    """The figure as an SVG element without size, with text as text, and with the page's colours."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', rf'\1 role="img" aria-label="{name}"', text, count=1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return re.sub(r"font: (\d+\w*px|[\d.]+px) [^;\"]*", r"font: \1 var(--font)", text)


def speedups(rows: Sequence[Row]) -> str:
    """Bars: how many times faster ours is than each stock version, for every case that was timed."""
    sides = [side for side in (EAGER, COMPILED, COMMUTED) if any(row.backend == side and row.speedup for row in rows)]
    groups = _groups([row for row in rows if row.backend in sides and row.speedup])
    figure, axis = _figure(8, 1.0 + 0.42 * max(1, len(groups)))
    height = 0.8 / max(1, len(sides))
    for position, (_, members) in enumerate(groups.items()):
        for row in members:
            if row.speedup is None:
                continue
            offset = (sides.index(row.backend) - (len(sides) - 1) / 2) * height
            axis.barh(position + offset, row.speedup, height * 0.92, color=_COLOUR[row.backend])
            label = f"{row.speedup:.3g}×" + (" (noise)" if row.noise else "")
            axis.annotate(
                label,
                (row.speedup, position + offset),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=_COLOUR["ink"],
            )
    axis.axvline(1, color=_COLOUR[OURS], linewidth=1.4)
    axis.set_yticks(range(len(groups)), groups)
    axis.set_ylim(len(groups) - 0.5, -0.5)
    axis.set_xscale("log")
    axis.margins(x=0.12)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("time of stock PyTorch / time of zigzag")
    for side in sides:
        axis.barh(0, 0, color=_COLOUR[side], label=LABELS[side])
    _legend(axis, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return _svg(figure, "Speedups")


def over_floor(rows: Sequence[Row], targets: Mapping[tuple[str, str], float]) -> str:
    """Dots: time over the floor's for every side, with the target where there is one."""
    groups = _groups([row for row in rows if row.backend != FLOOR and row.over_floor])
    figure, axis = _figure(8, 1.0 + 0.34 * max(1, len(groups)))
    for position, members in enumerate(groups.values()):
        for row in members:
            colour = _COLOUR[row.backend]
            axis.plot([row.over_floor_p20, row.over_floor_p80], [position] * 2, color=colour, linewidth=2.5)
            axis.plot([row.over_floor], [position], "o", color=colour, markersize=8 if row.backend == OURS else 6)
        target = targets.get((members[0].case, members[0].direction))
        if target:
            axis.plot([target] * 2, [position - 0.34, position + 0.34], color=_COLOUR["ink"], linewidth=1.6)
    axis.axvline(1, color=_COLOUR[FLOOR], linewidth=1.4)
    axis.set_yticks(range(len(groups)), groups)
    axis.set_ylim(len(groups) - 0.5, -0.5)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axis.set_xlabel("time / time of the floor (bar: target; line: the floor)")
    for side in dict.fromkeys(row.backend for members in groups.values() for row in members):
        axis.plot([], [], "o", color=_COLOUR[side], label=LABELS[side])
    _legend(axis, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    return _svg(figure, "Time over the floor")


def roofline(rows: Sequence[Row], ceilings: Ceilings) -> str:
    """Attained flop/s over arithmetic intensity, under the ceilings measured in the same run."""
    figure, axis = _figure(8, 4.2)
    chosen = [row for row in rows if row.median and row.flops and row.backend in (OURS, EAGER)]
    intensities = [row.flops / row.bytes for row in chosen] or [1.0]
    low, high = min(*intensities, 1.0) / 2, max(*intensities, 1.0) * 4
    steps = [low * (high / low) ** (i / 99) for i in range(100)]
    smallest, largest = min(ceilings.copied), max(ceilings.copied)
    for footprint, style in ((largest, "-"), (smallest, "--")):
        bandwidth = ceilings.bandwidth(footprint)
        label = f"{bandwidth / 1e9:.0f} GB/s ({footprint >> 20} MiB)"
        roof = [min(x * bandwidth, ceilings.arithmetic) / 1e9 for x in steps]
        axis.plot(steps, roof, style, color=_COLOUR["ink"], linewidth=1.4, label=label)
    for row in chosen:
        if row.median is None:
            continue
        marker = "o" if row.direction == "forward" else "s"
        x, y = row.flops / row.bytes, row.flops / row.median / 1e9
        axis.plot(x, y, marker, color=_COLOUR[row.backend], markersize=7)
        if row.backend == OURS and row.direction == "forward" and row.kernel in (None, 3):
            axis.annotate(row.case, (x, y), (7, -3), textcoords="offset points", fontsize=8, color=_COLOUR["muted"])
    for side in (OURS, EAGER):
        axis.plot([], [], "o", color=_COLOUR[side], label=f"{LABELS[side]} (square: with backward)")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("arithmetic intensity, flop per byte that must move")
    axis.set_ylabel("Gflop/s of the work that must be done")
    _legend(axis, loc="lower right", fontsize=9)
    return _svg(figure, "Roofline")


def against_size(points: Sequence[Point]) -> str:
    """Time of the neck's forward pass over the pixels of the image."""
    figure, axis = _figure(8, 3.8)
    for side in (FLOOR, OURS, COMMUTED, EAGER):
        mine = [p for p in points if p.axis == "size" and p.row.backend == side and p.row.median]
        if mine:
            axis.plot(
                [p.value**2 / 1e3 for p in mine],
                [p.row.median for p in mine],
                "o-",
                color=_COLOUR[side],
                label=LABELS[side],
            )
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("pixels of the image, thousands")
    axis.set_ylabel("seconds")
    _legend(axis)
    return _svg(figure, "Time against image size")


def against_grids(points: Sequence[Point]) -> str:
    """Time of the two large operations over the number of grids, and over K of a single grid."""
    figure, axes = _figure(8, 3.4, columns=2)
    names = {"grids": "number of grids (3, 5, 7, 9, 11)", "cells": "K of a single K x K grid"}
    for axis, (varied, label) in zip(axes, names.items(), strict=True):
        for operation, style in (("region_stats", "o-"), ("dense_pathway", "s--")):
            for side in (OURS, EAGER) if operation == "region_stats" else (OURS,):
                mine = [
                    p
                    for p in points
                    if (p.axis, p.row.operation, p.row.backend) == (varied, operation, side) and p.row.median
                ]
                if mine:
                    axis.plot(
                        [p.value for p in mine],
                        [1e3 * (p.row.median or 0) for p in mine],
                        style,
                        color=_COLOUR[side],
                        label=operation if side == OURS else "eager: convolve, then sum",
                    )
        axis.set_xlabel(label)
        axis.set_xticks(sorted({p.value for p in points if p.axis == varied}))
        axis.set_yscale("log")
    axes[0].set_ylabel("milliseconds, level 1")
    _legend(axes[0], fontsize=8)
    return _svg(figure, "Time against grids")


def memory(rows: Sequence[Row]) -> str:
    """Bars: what autograd saves in the neck's forward pass, and how far the process grows in a training step."""
    chosen = [row for row in rows if row.case == "neck.fuse" and row.saved_bytes is not None]
    groups = _groups(chosen)
    figure, axis = _figure(8, 0.9 + 0.3 * max(1, len(chosen)))
    position, ticks = 0.0, []
    for members in groups.values():
        for row in members:
            peak, saved = (row.peak_bytes or 0) / 2**20, (row.saved_bytes or 0) / 2**20
            axis.barh(position, peak, 0.7, color=_COLOUR[row.backend], alpha=0.35)
            axis.barh(position, saved, 0.7, color=_COLOUR[row.backend])
            ticks.append((position, f"{LABELS[row.backend]}, {row.kernel}x{row.kernel}"))
            position += 1
        position += 0.5
    axis.set_yticks([at for at, _ in ticks], [label for _, label in ticks])
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("MiB: saved by autograd (solid), growth of the process in a training step (light)")
    return _svg(figure, "Memory")


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by what they measure, labelled for an axis."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        kernel = f" {row.kernel}x{row.kernel}" if row.kernel else ""
        direction = "fwd" if row.direction == "forward" else "fwd+bwd"
        groups.setdefault(f"{row.case}{kernel}, {direction}", []).append(row)
    return groups
