"""What a run of the benchmark leaves for its report besides the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zigzag.bench.ceilings import Ceilings
from zigzag.bench.files import read_json, write_json
from zigzag.bench.rows import Row
from zigzag.bench.sweep import Point

SCHEMA = 1
NAME = "session.json"


@dataclass(frozen=True)
class Session:
    """A run, but for its rows.

    Attributes:
        command: how to measure it again.
        cases: how many of the rows, the first ones, are of cases; the others are of sweeps alone.
        points: the sweeps, each axis, value, and the number of its row among the rows; empty for a quick run.
        ceilings: of the roofline, by dtype.
        pictures: caption and data URL.
        warnings: sentences for the top of the page.
    """

    command: str
    cases: int
    points: Sequence[tuple[str, int, int]]
    ceilings: Mapping[str, Ceilings]
    pictures: Sequence[tuple[str, str]]
    warnings: Sequence[str]

    def sweeps(self, rows: Sequence[Row]) -> list[Point]:
        """The points with their rows."""
        return [Point(axis, value, rows[number]) for axis, value, number in self.points]  # type: ignore[arg-type]


def write(path: Path, session: Session) -> None:
    """Write a session to a JSON file."""
    write_json(path, session, SCHEMA)


def read(path: Path) -> Session:
    """Read a session.

    Raises:
        BenchError: the file is no session of this schema.
    """
    content = read_json(path, "a session of zigzag bench", SCHEMA)
    return Session(
        command=content["command"],
        cases=content["cases"],
        points=[(axis, value, number) for axis, value, number in content["points"]],
        ceilings={dtype: _ceilings(one) for dtype, one in content["ceilings"].items()},
        pictures=[(caption, uri) for caption, uri in content["pictures"]],
        warnings=content["warnings"],
    )


def _ceilings(content: Mapping[str, Any]) -> Ceilings:
    copied, summed = ({int(size): rate for size, rate in content[name].items()} for name in ("copied", "summed"))
    return Ceilings(copied, summed, content["arithmetic"])
