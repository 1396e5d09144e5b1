"""What a run of ``zigzag scale`` leaves behind, in memory and as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zigzag.bench.files import read_json, write_json
from zigzag.bench.rows import Machine
from zigzag.scaling.curves import Curve, Growth, Memory, Timing
from zigzag.scaling.fit import Exponent
from zigzag.scaling.processes import Step

SCHEMA = 1


@dataclass(frozen=True)
class Result:
    """A run.

    Attributes:
        command: that makes it again.
        machine: where it was made.
        middle: the shape that all axes go through, in words.
        growth: along every axis.
        steps: over processes.
    """

    command: str
    machine: Machine
    middle: str
    growth: Sequence[Growth]
    steps: Sequence[Step]


def write(path: Path, result: Result) -> None:
    """Write a run to a JSON file."""
    write_json(path, result, SCHEMA)


def read(path: Path) -> Result:
    """Read a run.

    Raises:
        BenchError: the file is no run of this schema.
    """
    content = read_json(path, "a run of zigzag scale", SCHEMA)
    return Result(
        command=content["command"],
        machine=Machine(**content["machine"]),
        middle=content["middle"],
        growth=[_growth(one) for one in content["growth"]],
        steps=[Step(**one) for one in content["steps"]],
    )


def _growth(content: dict[str, Any]) -> Growth:
    curves = [
        Curve(**{**one, "timings": [Timing(**t) for t in one["timings"]], "exponent": Exponent(**one["exponent"])})
        for one in content["curves"]
    ]
    return Growth(**{**content, "curves": curves, "memory": [Memory(**one) for one in content["memory"]]})
