"""What the terminal shows: a progress bar while the benchmark works, tables at its end."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from zigzag.bench.figures import COLUMNS, Figure
from zigzag.bench.rows import Row
from zigzag.bench.workload import FLOOR, OURS


class Screen:
    """The terminal during one run."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or wide_console()
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=32),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=self.console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None)
        self._start = time.monotonic()

    @contextmanager
    def working(self, steps: int) -> Iterator[None]:
        """Show a bar of so many steps inside the block."""
        self._progress.update(self._task, total=steps)
        with self._progress if self.console.is_terminal else nullcontext():
            yield

    def tell(self, text: str) -> None:
        """Name what is going on: beside the bar or, in a file or a pipe, on a line of its own."""
        self._progress.update(self._task, description=text)
        if not self.console.is_terminal:
            self.note(f"{time.monotonic() - self._start:5.0f} s  {text}")

    def advance(self, steps: int = 1) -> None:
        """So many steps are done."""
        self._progress.advance(self._task, steps)

    def note(self, text: str, *, warning: bool = False) -> None:
        """A line that stays."""
        self.console.print(Text(text, style="yellow" if warning else "dim"))

    def rows(self, rows: Sequence[Row], command: str) -> None:
        """The table of all rows; its first column is the ``--filter`` with which ``command`` measures them again."""
        table = Table(header_style="bold", pad_edge=False, box=None)
        table.add_column(f"{command} --filter ...", ratio=1)
        table.add_column("side")
        for name in ("ms", "p20-p80", "/ floor", "zigzag faster", "error ratio", "roofline"):
            table.add_column(name, justify="right")
        last = None
        for row in rows:
            label = shlex.quote(row.key)
            if last not in (None, label):
                table.add_section()
            table.add_row(label if label != last else "", *_cells(row), style="bold" if row.backend == OURS else "")
            last = label
        self.console.print(table)

    def figures(self, figures: Sequence[Figure]) -> None:
        """The table of figures: target beside measured."""
        sides = [side for side in COLUMNS if any(side in figure.values for figure in figures)]
        table = Table(title="Figures", title_justify="left", header_style="bold", pad_edge=False, box=None)
        table.add_column("what")
        for name in ("kernel", "target", *sides):
            table.add_column(name, justify="right")
        for figure in figures:
            cells = []
            for side in sides:
                value = figure.values.get(side)
                known = side == OURS and figure.reached is not None
                style = ("bold green" if figure.reached else "bold red") if known else ""
                cells.append(Text("-" if value is None else f"{value:.3g}", style=style))
            kernel = f"{figure.kernel}x{figure.kernel}" if figure.kernel else ""
            table.add_row(figure.what, kernel, figure.asked, *cells)
        self.console.print(table)


def wide_console() -> Console:
    """A console whose tables are not cut where nobody watches: a file or a pipe has no width."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=150)


def _cells(row: Row) -> list[Text]:
    side = Text(row.backend)
    if row.status != "ok":
        return [side, Text(row.status, style="bold red"), Text(row.note, style="red")]
    speedup = "" if row.speedup is None or row.backend in (OURS, FLOOR) else f"{row.speedup:.3g}x"
    texts = [
        _milliseconds(row.median),
        row.few or f"{_milliseconds(row.p20)}-{_milliseconds(row.p80)}",
        "" if row.over_floor is None else f"{row.over_floor:.3g}",
        f"{speedup} ({row.doubt})" if speedup and row.doubt else speedup,
        "" if row.error_ratio is None else f"{row.error_ratio:.2f}",
        "" if row.roofline is None else f"{row.roofline:.0%}",
    ]
    return [side, *(Text(text) for text in texts)]


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.4g}"
