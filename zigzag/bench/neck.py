"""The cases of the whole neck."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

import zigzag
from zigzag import cost
from zigzag.bench.accuracy import Results
from zigzag.bench.baselines import Convolutions, Floor, Layer
from zigzag.bench.settings import SEED, BenchError
from zigzag.bench.workload import (
    COMMUTED,
    EAGER,
    OURS,
    Case,
    Direction,
    Formulation,
    Workload,
    leaf,
    noise_like,
)

MOST_DISAGREEMENT = 1e-9
"""Relative difference, in float64, up to which the two stock formulations count as the same function."""

_SCALES = {re.compile(r"(stages.*\.fusion|output\.\d+)\.norm\.weight"): 0.25}
_SIGNED = {re.compile(r"(stages.*\.fusion|output\.\d+)\.norm\.bias"): 4.0, re.compile(r".*\.aggregate\.bias"): 8.0}
"""What decides the ReLUs: small scales and large shifts of the norms before them, and large biases."""

Stages = Callable[[Sequence[Tensor]], Sequence[Tensor]]
Literal = Callable[[Sequence[Tensor], Mapping[str, Tensor]], Sequence[Tensor]]


def stage(work: Workload) -> Case:
    """A neck of one stage, after the lateral convolutions: all that `fuse` has, in a third of its time."""
    return replace(fuse(work), name="neck.stage")


def fuse(work: Workload) -> Case:
    """The stages after the lateral convolutions: what the measure of the design speaks of."""
    config = work.config

    def literal(maps: Sequence[Tensor], parameters: Mapping[str, Tensor]) -> Sequence[Tensor]:
        return zigzag.reference.neck.fuse(maps, parameters, config)

    names = [name for name in work.parameters if not name.startswith("lateral.")]
    return _neck_case("neck.fuse", work, names, work.bases, lambda neck: neck.fuse, literal, laterals=False)


def whole(work: Workload) -> Case:
    """The whole neck: lateral convolutions and stages."""
    config = work.config

    def literal(maps: Sequence[Tensor], parameters: Mapping[str, Tensor]) -> Sequence[Tensor]:
        return zigzag.reference.neck.forward(maps, parameters, config)

    features = [leaf(feature) for feature in work.features]
    return _neck_case("neck.whole", work, list(work.parameters), features, lambda neck: neck, literal, laterals=True)


def _neck_case(
    name: str,
    work: Workload,
    names: Sequence[str],
    maps: Sequence[Tensor],
    stages: Callable[[zigzag.nn.ZigZagNeck], Stages],
    literal: Literal,
    *,
    laterals: bool,
) -> Case:
    module, parameters = work.neck, [work.parameters[name] for name in names]
    gradients = noise_like(work.bases)

    def eager(maps: Sequence[Tensor], given: Sequence[Tensor]) -> Sequence[Tensor]:
        return literal(maps, dict(zip(names, given, strict=True)))

    ours = Formulation(lambda maps, _: stages(module)(maps), maps, parameters, gradients)
    literally = Formulation(eager, maps, parameters, gradients)
    formulations = {OURS: ours, COMMUTED: ours.under("reference"), EAGER: literally}

    def exact(direction: Direction) -> Results:
        twin = copy.deepcopy(module).double()
        doubles = dict(twin.named_parameters())

        def run(maps: Sequence[Tensor], _: Sequence[Tensor]) -> Sequence[Tensor]:
            with zigzag.use_backend("reference"):
                return stages(twin)(maps)

        given = [doubles[name] for name in names]
        double = Formulation(
            run, [leaf(m.double()) for m in maps], given, [gradient.double() for gradient in gradients]
        )
        require_agreement(double, Formulation(eager, double.maps, given, double.gradients))
        return double.run(direction)

    def steps(*, backward: bool) -> list[cost.Cost]:
        found = cost.neck(
            work.config, work.sizes, batch=work.batch, itemsize=work.itemsize, laterals=laterals, backward=backward
        )
        return [step.cost for step in found]

    floor = Convolutions(layers(work, laterals=laterals))
    return Case(
        name=name,
        operation=name,
        variant=work.variant,
        shape=", ".join("x".join(str(length) for length in m.shape) for m in maps),
        formulations=formulations,
        stock={"output": EAGER},
        exact=exact,
        costs={"forward": steps(backward=False), "forward+backward": steps(backward=False) + steps(backward=True)},
        floors={
            "forward": Floor(floor.forward, floor.operands),
            "forward+backward": Floor(floor.training_step, floor.operands),
        },
        seconds={"forward": 2.0 if laterals else 10.0, "forward+backward": 14.0},
        checking=lambda direction: decided(work.parameters) if direction == "forward+backward" else nullcontext(),
    )


@contextmanager
def decided(parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Parameters with which every ReLU is clearly open or clearly closed, about half of them each.

    Millions of values go through the neck's ReLUs, so at random parameters some lie within float32's rounding of 0. One
    that falls on the other side than in float64 changes the gradient of all before it, in whichever side it hits.
    """
    generator = torch.Generator().manual_seed(SEED)
    before: dict[str, Tensor] = {}
    with torch.no_grad():
        for key, values in parameters.items():
            for pattern, value in (_SCALES | _SIGNED).items():
                if pattern.fullmatch(key):
                    before[key] = values.clone()
                    signs = torch.randint(2, values.shape, generator=generator) * 2 - 1
                    values.copy_(
                        value * signs.to(values.device) if pattern in _SIGNED else torch.full_like(values, value)
                    )
    try:
        yield
    finally:
        with torch.no_grad():
            for key, original in before.items():
                parameters[key].copy_(original)


_CONVOLUTION = re.compile(
    r"(?:lateral\.(?P<lateral>\d+)|(?:stages\.\d+\.\w+|output)\.(?P<level>\d+)(?:\.fusion)?\.conv)\.weight"
)


def layers(work: Workload, *, laterals: bool) -> list[Layer]:
    """Input, weight and bias of every fusion (and, on request, lateral) convolution, on its own level."""
    found: list[Layer] = []
    for name, weight in work.parameters.items():
        match = _CONVOLUTION.fullmatch(name)
        if match is None or (match["lateral"] and not laterals):
            continue
        x = work.features[int(match["lateral"])] if match["lateral"] else work.bases[int(match["level"])]
        found.append((x, weight, work.parameters.get(name.removesuffix("weight") + "bias")))
    return found


def require_agreement(one: Formulation, other: Formulation) -> None:
    """Check that the two stock formulations agree in float64, on the middle eighth of the maps.

    Raises:
        BenchError: they do not: the reference would be no yardstick.
    """
    small = [_middle(values.detach()) for values in one.maps]
    with torch.no_grad():
        pairs = zip(one.call(small, one.parameters), other.call(small, other.parameters), strict=True)
        worst = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    if not worst <= MOST_DISAGREEMENT:
        raise BenchError(
            f"the literal and the commuted reference differ by {worst:.1e} in float64; no result can be checked"
        )


def _middle(values: Tensor) -> Tensor:
    height, width = values.shape[2:]
    rows, columns = -(-height // 8), -(-width // 8)
    top, left = (height - rows) // 2, (width - columns) // 2
    return values[:, :, top : top + rows, left : left + columns].contiguous(memory_format=torch.channels_last)
