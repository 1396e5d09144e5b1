"""The curves: time and memory of the neck's stages along an axis, measured and predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zigzag import cost, training_cost
from zigzag.bench.baselines import Convolutions
from zigzag.bench.ceilings import Ceilings
from zigzag.bench.memory import peak_growth, saved_bytes
from zigzag.bench.settings import SEED
from zigzag.bench.timing import FEWEST, Plan, interleave, timed
from zigzag.bench.workload import DIRECTIONS, FLOOR, OURS, Direction, Formulation, leaf, noise_like
from zigzag.nn import ZigZagNeck
from zigzag.scaling.axes import Axis, Shape
from zigzag.scaling.fit import Exponent, exponent, slope

SIDES = (OURS, FLOOR)


@dataclass(frozen=True)
class Timing:
    """Seconds of one point; predicted: the roofline's least time."""

    value: int
    median: float
    p20: float
    p80: float
    predicted: float


@dataclass(frozen=True)
class Curve:
    """The time of one side in one direction along an axis."""

    side: str
    direction: Direction
    timings: Sequence[Timing]
    exponent: Exponent
    predicted: float


@dataclass(frozen=True)
class Memory:
    """Bytes of one point.

    Attributes:
        value: on the axis.
        saved: by autograd between the passes, parameters not counted.
        predicted: the same by the cost model.
        grown: by how much the process grew in a training step; None where the system does not say.
    """

    value: int
    saved: int
    predicted: int
    grown: int | None


@dataclass(frozen=True)
class Growth:
    """All that was measured along one axis; the exponents of memory are of what autograd saves."""

    axis: str
    unit: str
    curves: Sequence[Curve]
    memory: Sequence[Memory]
    exponent: float
    predicted: float


class Point:
    """The neck's stages and their floor in one shape, ready to run."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        torch.manual_seed(SEED)
        width = [shape.channels] * shape.levels
        groups = min(32, shape.channels)
        self.neck = ZigZagNeck(
            width,
            shape.channels,
            stages=shape.stages,
            grids=shape.grids,
            kernel_size=shape.kernel,
            lateral_kernel_size=1,
            norm_groups=groups,
        ).to(memory_format=torch.channels_last)
        self.maps = [_map(shape, size) for size in shape.sizes]
        parameters = [p for name, p in self.neck.named_parameters() if not name.startswith("lateral.")]
        with torch.no_grad():
            gradients = noise_like(self.neck.fuse(self.maps))
        self._ours = Formulation(lambda maps, _: self.neck.fuse(maps), self.maps, parameters, gradients)
        steps = [step for step in self.steps(backward=False) if step.part == "fusion"]
        weights = [leaf(_weight(shape.channels)) for _ in steps]
        layers = [(self.maps[step.level], weight, None) for step, weight in zip(steps, weights, strict=True)]
        self._floor = Convolutions(layers)

    def run(self, side: str, direction: Direction) -> object:
        """One forward pass, or one with its backward pass, of the neck or of its convolutions alone."""
        torch.set_num_threads(self.shape.threads)
        if side == FLOOR:
            return self._floor.forward() if direction == "forward" else self._floor.training_step()
        return self._ours.run(direction)

    def steps(self, *, backward: bool) -> list[cost.Step]:
        """What the cost model knows of the neck."""
        return cost.neck(self.neck.config, self.shape.sizes, batch=self.shape.batch, backward=backward)

    def least_seconds(self, side: str, direction: Direction, ceilings: Ceilings) -> float:
        """The roofline's least time."""
        steps = self.steps(backward=False)
        if direction == "forward+backward":
            steps += self.steps(backward=True)
        return ceilings.least_seconds([step.cost for step in steps if side == OURS or step.part == "fusion"])

    def memory(self, value: int) -> Memory:
        """What a training step keeps and by how much it grows."""
        with saved_bytes(self._ours.parameters) as saved:
            _, grown = peak_growth(lambda: self._ours.run("forward+backward"))
        predicted = training_cost.saved_bytes(self.neck.config, self.shape.sizes, batch=self.shape.batch)
        return Memory(value, saved.total, predicted, grown)


def _map(shape: Shape, size: cost.Size) -> Tensor:
    values = torch.randn(shape.batch, shape.channels, *size)
    return leaf(values.to(memory_format=torch.channels_last))


def _weight(channels: int) -> Tensor:
    return torch.randn(channels, channels, 3, 3).mul_(0.02).to(memory_format=torch.channels_last)


def grow(axis: Axis, ceilings: Mapping[int, Ceilings], seconds: float) -> Growth:
    """Measure along an axis, all points and sides in the same rounds.

    Args:
        axis: what varies.
        ceilings: by number of threads.
        seconds: to spend on timing, about.
    """
    points = {value: Point(shape) for value, shape in axis.points}
    threads = torch.get_num_threads()
    try:
        memory = [point.memory(value) for value, point in points.items()]
        curves = [curve for direction in DIRECTIONS for curve in _curves(points, direction, ceilings, seconds / 2)]
    finally:
        torch.set_num_threads(threads)
    saved, predicted = ([(m.value, getattr(m, name)) for m in memory] for name in ("saved", "predicted"))
    return Growth(axis.name, axis.unit, curves, memory, slope(saved), slope(predicted))


def _curves(
    points: Mapping[int, Point], direction: Direction, ceilings: Mapping[int, Ceilings], seconds: float
) -> list[Curve]:
    sides = {(side, value): _runner(point, side, direction) for side in SIDES for value, point in points.items()}
    names = {f"{side} {value}": run for (side, value), run in sides.items()}
    estimates = {name: min(timed(run)[0] for _ in range(2)) for name, run in names.items()}
    rounds = max(FEWEST, int(seconds / sum(estimates.values())))
    samples = interleave(names, Plan(rounds, dict.fromkeys(names, 1)))
    found = []
    for side in SIDES:
        own = {value: samples[f"{side} {value}"] for value in points}
        tops = {value: ceilings[point.shape.threads] for value, point in points.items()}
        predicted = {value: point.least_seconds(side, direction, tops[value]) for value, point in points.items()}
        timings = [Timing(value, one.median, one.p20, one.p80, predicted[value]) for value, one in own.items()]
        found.append(Curve(side, direction, timings, exponent(own), slope(list(predicted.items()))))
    return found


def _runner(point: Point, side: str, direction: Direction) -> Callable[[], object]:
    return lambda: point.run(side, direction)
