"""What a profile leaves behind, in memory and as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zigzag.bench.files import read_json, write_json
from zigzag.bench.rows import Machine
from zigzag.profile.rows import Peak, Row
from zigzag.profile.trace import Moment

SCHEMA = 1


@dataclass(frozen=True)
class Result:
    """A profile.

    Attributes:
        command: that makes it again.
        machine: where it was made.
        seconds: median of a pass that nobody watches ("plain"), with the steps named ("named"), and under the profiler
            ("profiled").
        operations: rows over all places.
        places: rows by place.
        peaks: of memory by part of the pass.
        memory: over the last pass, thinned.
    """

    command: str
    machine: Machine
    seconds: Mapping[str, float]
    operations: Sequence[Row]
    places: Sequence[Row]
    peaks: Sequence[Peak]
    memory: Sequence[Moment]


def thinned(moments: Sequence[Moment], most: int) -> list[Moment]:
    """At most so many moments: of every stretch of equal length that with the most memory."""
    length = -(-len(moments) // most) or 1
    stretches = (moments[i : i + length] for i in range(0, len(moments), length))
    return [max(stretch, key=lambda moment: moment.allocated) for stretch in stretches]


def write(path: Path, result: Result) -> None:
    """Write a profile to a JSON file."""
    write_json(path, result, SCHEMA)


def read(path: Path) -> Result:
    """Read a profile.

    Raises:
        BenchError: the file is no profile of this schema.
    """
    content = read_json(path, "a profile", SCHEMA)
    return Result(
        command=content["command"],
        machine=Machine(**content["machine"]),
        seconds=content["seconds"],
        operations=[Row(**row) for row in content["operations"]],
        places=[Row(**row) for row in content["places"]],
        peaks=[Peak(**peak) for peak in content["peaks"]],
        memory=[Moment(*moment) for moment in content["memory"]],
    )
