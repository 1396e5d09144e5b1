"""What varies: one property of the neck or of its maps at a time, all others as they are in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zigzag.cost import Size


@dataclass(frozen=True)
class Shape:
    """A neck and its maps.

    Attributes:
        side: pixels of the finest map's side; every level has half of the one before, rounded up.
        channels, stages, levels, batch: of the neck and its maps.
        grids: K of every region grid.
        kernel: size of the region kernel.
        threads: of torch.
    """

    side: int = 64
    channels: int = 128
    stages: int = 3
    levels: int = 4
    batch: int = 1
    grids: tuple[int, ...] = (3, 5, 7)
    kernel: int = 3
    threads: int = 1

    @property
    def sizes(self) -> list[Size]:
        """Height and width of every level, finest first."""
        sides = [self.side]
        while len(sides) < self.levels:
            sides.append(-(-sides[-1] // 2))
        return [(side, side) for side in sides]

    def __str__(self) -> str:
        grids = ", ".join(f"{k}x{k}" for k in self.grids)
        return (
            f"finest map {self.side} x {self.side}, {self.levels} levels, {self.channels} channels, "
            f"{self.stages} stages, batch {self.batch}, grids {grids}, {self.kernel}x{self.kernel} region kernel, "
            f"{self.threads} threads"
        )


@dataclass(frozen=True)
class Axis:
    """One property that varies.

    Attributes:
        name: of it.
        unit: what its values count, for a plot.
        points: value and shape, ascending.
    """

    name: str
    unit: str
    points: Sequence[tuple[int, Shape]]


UNITS = {
    "pixels": "pixels of all levels",
    "channels": "channels C",
    "stages": "stages T",
    "batch": "images in the batch",
    "K": "K of a single K x K grid",
    "levels": "levels L, from the finest on",
    "threads": "threads",
}
"""What varies within one process, in the order of the report."""

PROCESSES = "processes"
AXES = (*UNITS, PROCESSES)


def axis(name: str, middle: Shape) -> Axis:
    """The axis of that name through ``middle``; its threads are the most that are tried."""
    shapes = {
        "pixels": [replace(middle, side=round(middle.side * 2 ** (power / 2))) for power in (-2, -1, 0, 1, 2)],
        "channels": [replace(middle, channels=middle.channels * factor // 4) for factor in (1, 2, 4, 8)],
        "stages": [replace(middle, stages=stages) for stages in (1, 2, 3, 4, 6)],
        "batch": [replace(middle, batch=middle.batch * factor) for factor in (1, 2, 4, 8)],
        "K": [replace(middle, grids=(cells,)) for cells in (1, 3, 5, 7, 11)],
        "levels": [replace(middle, levels=levels) for levels in (2, 3, 4, 5)],
        "threads": [replace(middle, threads=threads) for threads in _halves(middle.threads)],
    }[name]
    return Axis(name, UNITS[name], [(_value(name, shape), shape) for shape in shapes])


def _value(name: str, shape: Shape) -> int:
    if name == "pixels":
        return sum(height * width for height, width in shape.sizes)
    value: int = shape.grids[0] if name == "K" else getattr(shape, name)
    return value


def _halves(most: int) -> list[int]:
    """1, 2, 4, ... and ``most``."""
    powers = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return [*powers, most]
