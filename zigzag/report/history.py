"""The report's part about history: the ratios of stored runs, by device and date."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from zigzag.bench.figures import figures
from zigzag.bench.rows import Run
from zigzag.bench.workload import OURS
from zigzag.report.draw import COLOUR, figure_of, legend, responsive, svg
from zigzag.report.parts import Section

_COLOURS = ("second", "third", "fourth", "fifth", "ink", "muted")


def section(runs: Sequence[Run]) -> Section:
    """What the page says about stored runs."""
    text = "The figures of every stored run, one plot a device: lower is better."
    return Section("History", text, "".join(_device(name, own) for name, own in _by_device(runs).items()))


def _by_device(runs: Iterable[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        isa = f", {run.machine.isa}" if run.machine.device == run.machine.cpu else ""
        found[f"{run.machine.device}{isa}, {run.machine.threads} threads"].append(run)
    return found


@responsive
def _device(name: str, runs: Sequence[Run]) -> str:
    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for place, run in enumerate(runs):
        for figure in figures(run.rows):
            kernel = f", {figure.kernel}x{figure.kernel}" if figure.kernel else ""
            if OURS in figure.values and figure.target is not None and not figure.at_least:
                lines[f"{figure.what}{kernel}"].append((place, figure.values[OURS]))
    if not lines:
        return ""
    figure, axis = figure_of(2.6 + 0.26 * len(lines))
    for number, (label, points) in enumerate(lines.items()):
        style = "o-" if number < len(_COLOURS) else "s--"
        axis.plot(*zip(*points, strict=True), style, color=COLOUR[_COLOURS[number % len(_COLOURS)]], label=label)
    axis.set_xticks(range(len(runs)), [_when(run) for run in runs], rotation=30, ha="right", fontsize=8)
    axis.set_ylim(bottom=0)
    axis.set_title(name, fontsize=10, loc="left", color=COLOUR["ink"])
    legend(figure, loc="outside lower left", fontsize=8)
    return svg(figure, f"History on {name}")


def _when(run: Run) -> str:
    return f"{datetime.fromisoformat(run.machine.date):%Y-%m-%d} {run.machine.commit[:7]}"
