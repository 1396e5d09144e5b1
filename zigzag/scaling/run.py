"""One run of ``zigzag scale``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from zigzag.bench import ceilings
from zigzag.bench import rows as bench_rows
from zigzag.bench.console import Screen
from zigzag.bench.settings import BenchError
from zigzag.bench.workload import FLOOR
from zigzag.report import page
from zigzag.scaling import processes, result
from zigzag.scaling.axes import PROCESSES, Shape, axis
from zigzag.scaling.curves import Growth, grow
from zigzag.scaling.processes import Model, Step
from zigzag.scaling.result import Result

_ROUNDS = 5


@dataclass(frozen=True)
class Asked:
    """The command line of ``zigzag scale``, checked.

    Attributes:
        axes: what varies, one after the other.
        middle: the shape that the axes go through; its threads are the most that are tried.
        seconds: to spend on timing for every axis, about.
        out: folder for the result.
    """

    axes: Sequence[str]
    middle: Shape
    seconds: float
    out: Path

    def __post_init__(self) -> None:
        for name in ("side", "channels", "threads"):
            least = {"side": 16, "channels": 8}.get(name, 1)
            value = getattr(self.middle, name)
            if value < least:
                raise BenchError(f"--{name} must be {least} or more, got {value}")
        if self.middle.channels & (self.middle.channels - 1):
            raise BenchError(f"--channels must be a power of two, got {self.middle.channels}")
        if not self.seconds > 0:
            raise BenchError(f"--seconds must be more than 0, got {self.seconds}")
        if self.out.exists() and not self.out.is_dir():
            raise BenchError(f"--out must name a folder, and {str(self.out)!r} is a file")

    def command(self) -> str:
        """The command line that does this again."""
        options = {"side": self.middle.side, "channels": self.middle.channels, "threads": self.middle.threads}
        words = [*self.axes, *(f"--{name} {value}" for name, value in options.items())]
        return " ".join(["zigzag scale", *words, f"--seconds {self.seconds:g}"])


def run(asked: Asked, screen: Screen | None = None) -> int:
    """Measure along every axis, show it and write it down.

    Returns:
        The exit status, 0.

    Raises:
        BenchError: an input cannot be used.
    """
    screen = screen or Screen()
    torch.set_num_threads(asked.middle.threads)
    about = bench_rows.machine(asked.middle.threads)
    axes = [axis(name, asked.middle) for name in asked.axes if name != PROCESSES]
    roof = {}
    for threads in sorted({shape.threads for one in axes for _, shape in one.points}):
        screen.tell(f"ceilings of the roofline, {threads} threads")
        torch.set_num_threads(threads)
        roof[threads] = ceilings.measure(torch.float32)
    growth = []
    for one in axes:
        if len(one.points) < 2:
            screen.note(f"{one.name}: there is one value only, {one.points[0][0]}, and so no curve", warning=True)
            continue
        screen.tell(f"{one.name}: {', '.join(str(value) for value, _ in one.points)}")
        growth.append(grow(one, roof, asked.seconds))
    steps = _processes(asked, screen) if PROCESSES in asked.axes else []
    _show(growth, steps, screen)
    asked.out.mkdir(parents=True, exist_ok=True)
    result.write(asked.out / page.SCALING, Result(asked.command(), about, str(asked.middle), growth, steps))
    page.write(asked.out)
    screen.note(f"in {asked.out}: {page.SCALING}, {page.NAME}")
    return 0


def _processes(asked: Asked, screen: Screen) -> list[Step]:
    counts = [2**power for power in range(1, asked.middle.threads.bit_length())]
    if not counts:
        screen.note("processes: one core, so that there is nothing to share work with", warning=True)
    found = []
    for count in counts:
        screen.tell(f"training step on {count} processes")
        model = Model(channels=asked.middle.channels, stages=asked.middle.stages, pixels=2 * asked.middle.side)
        found.append(processes.measure(count, model, _ROUNDS))
    return found


def _show(growth: Sequence[Growth], steps: Sequence[Step], screen: Screen) -> None:
    table = Table(title="Exponents: measured (p20 to p80), predicted", title_justify="left", box=None, pad_edge=False)
    table.add_column("axis")
    table.add_column("what")
    for name in ("measured", "p20 to p80", "predicted"):
        table.add_column(name, justify="right")
    for one in growth:
        for curve in one.curves:
            own = curve.exponent
            what = f"{'convolutions alone' if curve.side == FLOOR else 'neck'}, {curve.direction}"
            spread = f"{own.p20:.2f} to {own.p80:.2f}"
            table.add_row(one.axis, what, f"{own.median:.2f}", spread, f"{curve.predicted:.2f}")
        table.add_row(one.axis, "bytes saved by autograd", f"{one.exponent:.2f}", "", f"{one.predicted:.2f}")
        table.add_section()
    screen.console.print(table)
    for step in steps:
        screen.note(
            f"training step on {step.processes} processes of one thread: {1e3 * step.together:.4g} ms, alone "
            f"{1e3 * step.alone:.4g} ms: {step.efficiency:.0%} of perfect; {1e3 * step.apart:.4g} ms without the "
            f"exchange of {step.sent / 2**20:.4g} MiB a process, which takes {1e3 * step.exchange:.4g} ms by itself"
        )
