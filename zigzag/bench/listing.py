"""What a run would measure: the keys of its cases and about how long they take."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from zigzag.bench.run import chosen_by
from zigzag.bench.settings import Settings

PREPARING = 12.0
"""Seconds before the first case: photograph, backbone, ceilings, the picture."""
SWEEPS = 45.0


def show(settings: Settings, *, times: bool) -> int:
    """Print the subjects of ``settings``; with ``times``, what each takes on two cores. Returns the exit status.

    Raises:
        BenchError: there are none.
    """
    console = Console(highlight=False)
    chosen = chosen_by(settings)
    table = Table(header_style="bold", pad_edge=False, box=None)
    table.add_column("key: the words of --filter", no_wrap=True)
    if times:
        table.add_column("about, s", justify="right")
    for subject in chosen:
        each = subject.seconds(settings.size) / len(subject.keys)
        for key in subject.keys:
            table.add_row(key, f"{each:.1f}") if times else console.print(key, soft_wrap=True)
    if times:
        console.print(table)
        sweeps = SWEEPS if settings.sweeps else 0.0
        seconds = PREPARING + sweeps + sum(subject.seconds(settings.size) for subject in chosen)
        console.print(
            f"{sum(len(subject.keys) for subject in chosen)} keys, about {seconds / 60:.1f} minutes on two cores"
        )
    return 0
