"""Two runs side by side: what became slower, what faster, and what is noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from zigzag.bench import store
from zigzag.bench.console import wide_console
from zigzag.bench.rows import Machine, Row, Run
from zigzag.bench.settings import BenchError
from zigzag.bench.timing import FEWEST
from zigzag.bench.workload import FLOOR

Outcome = Literal["noise", "slower", "faster"]


@dataclass(frozen=True)
class Comparison:
    """One row of both runs.

    Attributes:
        key, backend, size: of the row.
        what: "ratio" where times over the floor are compared, which a drift of the machine does not reach; else "time".
        a, b: the two values.
        spread: of the ratio b / a, as a share: from the 20th to the 80th percentile of either run, the wider one.
        outcome: "noise" where the two differ by less than the spread.
    """

    key: str
    backend: str
    size: int
    what: Literal["ratio", "time"]
    a: float
    b: float
    spread: float

    @property
    def change(self) -> float:
        """By which share b is above a."""
        return self.b / self.a - 1

    @property
    def outcome(self) -> Outcome:
        """What to make of it."""
        if abs(self.change) <= self.spread:
            return "noise"
        return "slower" if self.change > 0 else "faster"


def compare(a: Run, b: Run) -> list[Comparison]:
    """All rows that both runs have timed often enough, in the order of ``a``."""
    ones, others = _timed(a), _timed(b)
    return [_weigh(row, others[name]) for name, row in ones.items() if name in others]


def _name(row: Row) -> tuple[str, str, int]:
    """What a row measures: a sweep does so at several sizes."""
    return row.key, row.backend, row.size


def _timed(run_: Run) -> dict[tuple[str, str, int], Row]:
    """The rows with a spread; what a sweep measured again is left out."""
    found: dict[tuple[str, str, int], Row] = {}
    for row in run_.rows:
        if not row.few:
            found.setdefault(_name(row), row)
    return found


def _weigh(one: Row, other: Row) -> Comparison:
    floor = one.backend == FLOOR or None in (one.over_floor_p20, other.over_floor_p20)
    values = [(row.median, row.p20, row.p80) for row in (one, other)]
    if not floor:
        values = [(row.over_floor, row.over_floor_p20, row.over_floor_p80) for row in (one, other)]
    (a, b), spreads = [middle or 0.0 for middle, _, _ in values], []
    for middle, low, high in values:
        spreads.append(((high or 0.0) - (low or 0.0)) / (middle or 1.0))
    return Comparison(one.key, one.backend, one.size, "time" if floor else "ratio", a, b, max(spreads))


def run(first: str, second: str, folder: Path) -> int:
    """Show how ``second`` differs from ``first``; the exit status: 1 if anything became slower by more than its spread.

    Args:
        first: a file of rows, or a commit that ``folder`` has rows of.
        second: likewise.
        folder: as ``--store`` keeps it.

    Raises:
        BenchError: there are no such rows, or the two have none in common.
    """
    a, b = store.find(first, folder), store.find(second, folder)
    found = compare(a, b)
    alike = _place(a.machine) == _place(b.machine)
    if not alike:
        found = [each for each in found if each.what == "ratio"]
    if not found:
        raise BenchError(f"{first!r} and {second!r} have no row in common")
    console = wide_console()
    for name, run_ in (("A", a), ("B", b)):
        console.print(Text(f"{name}: {_where(run_.machine)}", style="dim"))
    if not alike:
        console.print(Text("Not the same device: only ratios to the floor are compared.", style="yellow"))
    console.print(_table(found))
    counts = {outcome: sum(each.outcome == outcome for each in found) for outcome in ("noise", "slower", "faster")}
    console.print(
        f"{len(found)} rows: {counts['noise']} differ by less than their spread, {counts['slower']} are slower, "
        f"{counts['faster']} faster. {_unmatched(a, b)}; rows timed less than {FEWEST} times are not compared."
    )
    console.print(f"{within(found):.1%} of the rows differ by less than the spread that they state.")
    return 1 if counts["slower"] else 0


def within(found: Sequence[Comparison]) -> float:
    """Share of the rows that differ by less than their spread: of two runs of one commit it should be 19 in 20."""
    return sum(each.outcome == "noise" for each in found) / len(found)


def _place(machine: Machine) -> tuple[str, str, int]:
    return machine.device, machine.isa, machine.threads


def _where(machine: Machine) -> str:
    return (
        f"{machine.commit or 'no commit'}, {machine.date}, {machine.device} ({machine.isa}), "
        f"{machine.threads} threads, torch {machine.torch}, load {machine.load}"
    )


def _unmatched(a: Run, b: Run) -> str:
    keys = [{_name(row) for row in run_.rows} for run_ in (a, b)]
    return f"{len(keys[0] - keys[1])} only in A, {len(keys[1] - keys[0])} only in B"


def _table(found: Sequence[Comparison]) -> Table:
    table = Table(header_style="bold", pad_edge=False, box=None)
    table.add_column("case", no_wrap=True)
    table.add_column("crop", justify="right")
    for name in ("side", "compared"):
        table.add_column(name)
    for name in ("A", "B", "B / A", "spread", ""):
        table.add_column(name, justify="right")
    style = {"noise": "dim", "slower": "bold red", "faster": "bold green"}
    for each in found:
        shown = [f"{1e3 * value:.4g} ms" if each.what == "time" else f"{value:.3g}" for value in (each.a, each.b)]
        what = "time" if each.what == "time" else "/ floor"
        table.add_row(
            each.key, str(each.size), each.backend, what, *shown, f"{each.change:+.1%}", f"{each.spread:.0%}",
            Text(each.outcome, style=style[each.outcome]),
        )  # fmt: skip
    return table
