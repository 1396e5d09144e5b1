"""The report's part about scaling: curves with their exponents, processes, and more GPUs on paper."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from zigzag.bench.workload import FLOOR, OURS
from zigzag.config import NeckConfig
from zigzag.report.draw import COLOUR, figure_of, legend_above, responsive, round_ticks, svg
from zigzag.report.parts import SHORT, Section, table
from zigzag.scaling.curves import Curve, Growth
from zigzag.scaling.processes import Step
from zigzag.scaling.result import Result
from zigzag.training_cost import all_reduce_bytes, parameters

PROCESSES = (2, 4, 8, 16, 64)
"""Numbers of processes in the table on paper."""


def sections(found: Result) -> list[Section]:
    """What the page says about scaling."""
    command = f"<code>{html.escape(found.command)}</code>"
    return [
        Section(
            "How time grows",
            f"The neck's stages through one point: {html.escape(found.middle)}. Solid: measured, with the 20th and "
            f"80th percentile; dotted: the roofline's least time by the cost model. {command}",
            "".join(_time(growth) for growth in found.growth),
        ),
        Section(
            "Exponents",
            "p of y = a x^p, fitted in every round that all points ran in; beside it that of the cost model's "
            "prediction at the same points. What the roofline does not know of, such as the time between operations, "
            "flattens a curve.",
            _exponents(found.growth),
        ),
        Section(
            "How memory grows",
            "What autograd keeps between the passes, and the growth of the process in a training step; dotted: what "
            "the cost model says is kept.",
            "".join(_memory(growth) for growth in found.growth if growth.axis != "threads"),
        ),
        Section(
            "A training step on several processes",
            "Data-parallel over gloo, one thread and one image each: a ResNet-18, the neck, a head. Perfect scaling "
            "would take as long as one process alone.",
            _processes(found.steps),
        ),
        Section("More GPUs, on paper", PAPER, paper()),
    ]


@responsive
def _time(growth: Growth) -> str:
    directions = list(dict.fromkeys(curve.direction for curve in growth.curves))
    figure, axes = figure_of(3.1, columns=len(directions))
    for axis, direction in zip(axes, directions, strict=True):
        for curve in growth.curves:
            if curve.direction == direction:
                _curve(axis, curve)
        axis.set_title(direction, fontsize=10, loc="left", color=COLOUR["ink"])
        axis.set_xlabel(growth.unit)
        _logarithmic(axis, [timing.value for timing in growth.curves[0].timings])
    axes[0].set_ylabel("milliseconds")
    legend_above(figure, axes[0], 4)
    return svg(figure, f"Time against {growth.axis}")


def _curve(axis: Any, curve: Curve) -> None:
    values = [timing.value for timing in curve.timings]
    colour = COLOUR[curve.side]
    label = "neck" if curve.side == OURS else "its convolutions alone"
    low, high = ([1e3 * getattr(timing, name) for timing in curve.timings] for name in ("p20", "p80"))
    axis.fill_between(values, low, high, color=colour, alpha=0.25, linewidth=0)
    axis.plot(values, [1e3 * t.median for t in curve.timings], "o-", color=colour, label=label, markersize=5)
    axis.plot(values, [1e3 * t.predicted for t in curve.timings], ":", color=colour, label=f"{label}, predicted")


@responsive
def _memory(growth: Growth) -> str:
    figure, axis = figure_of(2.8)
    values = [point.value for point in growth.memory]
    axis.plot(values, [m.saved / 2**20 for m in growth.memory], "o-", color=COLOUR[OURS], label="saved by autograd")
    axis.plot(values, [m.predicted / 2**20 for m in growth.memory], ":", color=COLOUR[OURS], label="saved, predicted")
    grown = [(m.value, m.grown / 2**20) for m in growth.memory if m.grown]
    if grown:
        axis.plot(*zip(*grown, strict=True), "s-", color=COLOUR[FLOOR], label="growth of the process", markersize=4)
    axis.set_xlabel(growth.unit)
    axis.set_ylabel("MiB")
    _logarithmic(axis, values)
    legend_above(figure, axis, 4)
    return svg(figure, f"Memory against {growth.axis}")


def _logarithmic(axis: Any, values: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(values, [f"{value:,}" for value in values])
    axis.xaxis.set_minor_locator(NullLocator())
    round_ticks(axis.yaxis)


def _exponents(growth: Sequence[Growth]) -> str:
    lines = []
    for one in growth:
        for curve in one.curves:
            what = f"{'neck' if curve.side == OURS else 'convolutions'}, {SHORT[curve.direction]}"
            own = curve.exponent
            spread = f"{own.p20:.2f} to {own.p80:.2f}"
            lines.append([one.axis, what, f"{own.median:.2f}", spread, f"{curve.predicted:.2f}"])
        if one.axis != "threads":
            lines.append([one.axis, "bytes saved", f"{one.exponent:.2f}", "exact", f"{one.predicted:.2f}"])
    return table(["x", "y", "measured", "p20 to p80", "predicted"], lines, text=2)


def _processes(steps: Sequence[Step]) -> str:
    lines = [
        [
            str(step.processes),
            *(f"{1e3 * seconds:.4g}" for seconds in (step.alone, step.apart, step.together, step.exchange)),
            f"{step.efficiency:.0%}",
            f"{step.sent / 2**20:.4g}",
        ]
        for step in steps
    ]
    names = ["processes", "one alone, ms", "side by side", "with exchange", "exchange alone", "of perfect", "MiB sent"]
    return table(names, lines, text=0)


PAPER = (
    "Bytes that every process sends in a step, 2 (p - 1) / p of the gradients (a ring, zigzag.training_cost), for "
    "necks on a ResNet-50's maps; and the rate that hides them behind a backward pass of 100 ms. Not measured."
)


def paper() -> str:
    """The table of what more processes would send."""
    return table(["neck", "parameters", *(f"p = {p}" for p in PROCESSES), "GB/s at p = 8"], paper_lines(), text=1)


def paper_lines() -> list[list[str]]:
    """Its lines: bytes in MiB by dtype of the gradients and number of processes."""
    lines = []
    for name, config in (
        ("3x3 region kernel", NeckConfig((256, 512, 1024, 2048))),
        ("1x1 region kernel", NeckConfig((256, 512, 1024, 2048), kernel_size=1)),
        ("128 channels", NeckConfig((256, 512, 1024, 2048), 128)),
    ):
        count = sum(parameters(config).values())
        for dtype, itemsize in (("float32", 4), ("bfloat16", 2)):
            sent = [all_reduce_bytes(count * itemsize, p) for p in PROCESSES]
            rate = sent[PROCESSES.index(8)] / 0.1 / 1e9
            sizes = [f"{size / 2**20:,.0f}" for size in sent]
            lines.append([f"{name}, {dtype} gradients", f"{count / 1e6:.1f} M", *sizes, f"{rate:.1f}"])
    return lines
