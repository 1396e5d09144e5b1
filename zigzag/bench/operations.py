"""The cases of the operations, on the levels of the pyramid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

import zigzag
from zigzag import cost
from zigzag.bench.accuracy import Results
from zigzag.bench.baselines import Floor, convolved_region_sums, moving
from zigzag.bench.settings import SEED
from zigzag.bench.workload import (
    COMMUTED,
    DIRECTIONS,
    EAGER,
    OURS,
    Case,
    Direction,
    Formulation,
    Variant,
    Workload,
    leaf,
    noise_like,
)

Call = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]
_BRANCHES = "stages.0.up.0.context.branches"
_MARGIN = 0.05
_REGIONS, _SCORES = 300, 2 * 21 + 4
"""FCIS: regions of an image; an inside and an outside score of 21 classes, and the four of a box."""
_BINS, _CELLS = 21, 7
_FINEST_STRIDE = 4
"""Pixels of the image by step of level 1."""
_SECONDS: dict[Direction, float] = {"forward": 1.2, "forward+backward": 1.6}


def formulation(
    call: Call, maps: Sequence[Tensor], parameters: Sequence[Tensor] = (), output: str = "output"
) -> Formulation:
    """A formulation with seeded gradients for whatever the call returns."""
    with torch.no_grad():
        gradients = noise_like(call(maps, parameters))
    return Formulation(call, maps, parameters, gradients, output)


def region_stats(work: Workload, *, level: int, grids: Sequence[int] | None = None) -> Case:
    """Sums over all regions of one level; the literal equation convolves the whole map first."""
    grids = work.config.grids if grids is None else grids
    x = work.bases[level]
    weights = [work.parameters[f"{_BRANCHES}.{k}.conv.weight"] for k in work.config.grids]
    literal = formulation(
        lambda maps, given: convolved_region_sums(maps[0], given, grids),
        [x],
        [leaf(weights[i % len(weights)]) for i in range(len(grids))],
        "convolved sums",
    )
    variant = replace(work.variant, grids=tuple(grids))
    name, halo = f"region_stats.level{level + 1}", work.kernel // 2
    stock = {COMMUTED: _stats(zigzag.reference.region_stats, x, grids, halo), EAGER: literal}
    return _stats_case(name, work, x, grids, halo, variant, stock)


def norm_stats(work: Workload, *, level: int) -> Case:
    """The statistics of a GroupNorm: the same operation with one cell and no halo."""
    variant = replace(work.variant, kernel=None, grids=())
    x = work.bases[level]
    stock = {EAGER: _stats(zigzag.reference.region_stats, x, (1,), 0)}
    return _stats_case(f"region_stats.norm.level{level + 1}", work, x, (1,), 0, variant, stock)


def _stats(operation: Callable[..., tuple[Tensor, Tensor]], x: Tensor, grids: Sequence[int], halo: int) -> Formulation:
    return formulation(lambda maps, _: operation(maps[0], grids, halo), [x], output="sums")


def _stats_case(
    name: str,
    work: Workload,
    x: Tensor,
    grids: Sequence[int],
    halo: int,
    variant: Variant,
    sides: Mapping[str, Formulation],
) -> Case:
    formulations = {OURS: _stats(zigzag.ops.region_stats, x, grids, halo), **sides}
    stock = {formulation.output: side for side, formulation in sides.items()}
    n, c, h, w = x.shape
    forward = cost.region_stats((n, c, h, w), grids, halo, itemsize=work.itemsize)
    backward = cost.region_stats((n, c, h, w), grids, halo, itemsize=work.itemsize, backward=True)
    return Case(
        name=name,
        operation="region_stats",
        variant=variant,
        shape=f"{_sizes([x.shape])}, grids {tuple(grids)}, {cost.taps(halo)} taps",
        formulations=formulations,
        stock=stock,
        exact=exactly(formulations, stock),
        costs={"forward": [forward], "forward+backward": [forward, backward]},
        floors={
            "forward": Floor(lambda: x.detach().sum(), [x]),
            "forward+backward": moving(forward + backward, work.dtype, work.device),
        },
        seconds=_SECONDS,
    )


def region_codes(work: Workload) -> Case:
    """The small middle of the context encoder, on the sums of level 1."""
    grids, (height, width) = work.config.grids, work.sizes[0]
    with torch.no_grad():
        sums, _ = zigzag.reference.region_stats(work.bases[0], grids, work.kernel // 2)
    names = [f"{part}.{kind}" for part in ("conv", "aggregate", "distribute") for kind in ("weight", "bias")]
    weights = [leaf(work.parameters[f"{_BRANCHES}.{k}.{name}"]) for k in grids for name in names]

    def call(operation: Callable[..., Tensor]) -> Call:
        def run(maps: Sequence[Tensor], parameters: Sequence[Tensor]) -> Sequence[Tensor]:
            branches = [parameters[i : i + len(names)] for i in range(0, len(parameters), len(names))]
            return [operation(maps[0], branches, grids, height=height, width=width, pool=work.config.pool)]

        return run

    formulations = with_reference(call, zigzag.ops.region_codes, zigzag.reference.region_codes, [leaf(sums)], weights)
    arguments = (work.batch, work.config.out_channels, grids, work.kernel)
    forward = cost.region_codes(*arguments, itemsize=work.itemsize)
    backward = cost.region_codes(*arguments, itemsize=work.itemsize, backward=True)
    return _case(
        "region_codes", "region_codes", work.variant, f"{tuple(sums.shape)}", work, formulations, forward, backward
    )


def region_norm(work: Workload) -> Case:
    """The GroupNorm of a region context, folded to scale and shift, on the sums of level 1."""
    grids, (height, width) = work.config.grids, work.sizes[0]
    with torch.no_grad():
        sums, power = zigzag.reference.region_stats(work.bases[0], grids, 0)
    channels = work.config.out_channels
    codes = work.noise(*sums.shape, scale=0.1)
    weight, bias = leaf(work.noise(channels, scale=0.1).detach() + 1), work.noise(channels, scale=0.1)

    def call(operation: Callable[..., tuple[Tensor, Tensor]]) -> Call:
        def run(maps: Sequence[Tensor], parameters: Sequence[Tensor]) -> Sequence[Tensor]:
            norm = {"weight": parameters[0], "bias": parameters[1], "groups": work.config.norm_groups}
            return operation(*maps, grids, **norm, height=height, width=width)

        return run

    formulations = with_reference(
        call,
        zigzag.ops.region_norm,
        zigzag.reference.region_norm,
        [leaf(sums), leaf(power), codes],
        [weight, bias],
    )
    forward = cost.region_norm(work.batch, channels, grids, itemsize=work.itemsize)
    backward = cost.region_norm(work.batch, channels, grids, itemsize=work.itemsize, backward=True)
    shape = f"{tuple(sums.shape)}, grids {tuple(grids)}"
    variant = replace(work.variant, kernel=None)
    return _case("region_norm", "region_norm", variant, shape, work, formulations, forward, backward)


def dense_pathway(
    work: Workload,
    *,
    level: int,
    sources: Sequence[int],
    grids: Sequence[int] | None = None,
    statistics: bool = False,
) -> Case:
    """One map of the neck as a later stage writes it: GroupNorm and ReLU on the base, all sources, codes and norms.

    With ``statistics`` also what its own context needs of it: by CUDA in the pass that writes it.
    """
    config, n, c = work.config, work.batch, work.config.out_channels
    grids = config.grids if grids is None else grids
    cells = sum(k * k for k in grids)
    maps = [work.bases[level], *(work.bases[j] for j in sources)]

    def affine() -> list[Tensor]:
        return [leaf(work.noise(n, c, scale=0.1).detach() + 1), work.noise(n, c, scale=0.1)]

    parameters = [work.noise(c, scale=0.1), *affine()]
    maps[0] = _away_from_kink(maps[0], *parameters[1:])
    for _ in sources:
        parameters += [work.noise(n, cells, c), *affine()]

    def call(operation: Callable[..., Any]) -> Call:
        def run(maps: Sequence[Tensor], parameters: Sequence[Tensor]) -> Sequence[Tensor]:
            gain, scale, shift, *rest = parameters
            result = operation(
                maps[0],
                maps[1:],
                rest[0::3],
                grids,
                base_affine=(scale, shift),
                base_relu=True,
                source_affine=list(zip(rest[1::3], rest[2::3], strict=True)),
                gain=gain,
                resize=config.resize,
                **({"statistics": (grids, 1)} if statistics else {}),
            )
            return result if statistics else [result]

        return run

    stock = _stock_with_statistics if statistics else zigzag.reference.dense_pathway
    formulations = with_reference(call, zigzag.ops.dense_pathway, stock, maps, parameters)

    def counted(*, backward: bool) -> cost.Cost:
        return cost.dense_pathway(
            (n, c, *work.sizes[level]),
            [work.sizes[j] for j in sources],
            grids=grids,
            base_affine=True,
            base_relu=True,
            source_affine=True,
            gain=True,
            resize=config.resize,
            itemsize=work.itemsize,
            backward=backward,
        )

    shape = " <- ".join([_sizes([maps[0].shape]), _sizes([m.shape for m in maps[1:]])])
    forward, backward = counted(backward=False), counted(backward=True)
    if statistics:
        forward += replace(cost.region_stats((n, c, *work.sizes[level]), grids, 1, itemsize=work.itemsize), read=0)
    return _case(
        f"dense_pathway.{'stats.' if statistics else ''}level{level + 1}",
        "dense_pathway",
        replace(work.variant, kernel=None, grids=tuple(grids)),
        f"{shape}, grids {tuple(grids)}",
        work,
        formulations,
        forward,
        backward,
    )


def _stock_with_statistics(*args: Any, statistics: tuple[Sequence[int], int], **options: Any) -> Sequence[Tensor]:
    result = cast(Tensor, zigzag.reference.dense_pathway(*args, **options))
    return [result, *zigzag.reference.region_stats(result, *statistics)]


def position_sensitive_pool(work: Workload, *, level: int) -> Case:
    """The scores of FCIS: its regions of every image, pooled from maps of one level."""
    n, (height, width) = work.batch, work.sizes[level]
    stride = _FINEST_STRIDE << level
    x = work.noise(n, _SCORES * _CELLS**2, height, width)
    rois = _regions(n, height * stride, width * stride).to(work.device)

    def call(operation: Callable[..., Tensor]) -> Call:
        return lambda maps, _: [operation(maps[0], rois, _BINS, _CELLS, stride=stride)]

    formulations = with_reference(
        call, zigzag.ops.position_sensitive_pool, zigzag.reference.position_sensitive_pool, [x], []
    )
    arguments = ((n, _SCORES * _CELLS**2, height, width), len(rois), _BINS, _CELLS)
    forward = cost.position_sensitive_pool(*arguments, itemsize=work.itemsize)
    backward = cost.position_sensitive_pool(*arguments, itemsize=work.itemsize, backward=True)
    shape = f"{_sizes([x.shape])}, {len(rois)} regions, {_BINS}x{_BINS} bins of {_CELLS}x{_CELLS} cells"
    variant = replace(work.variant, kernel=None, grids=())
    name = "position_sensitive_pool"
    return _case(f"{name}.level{level + 1}", name, variant, shape, work, formulations, forward, backward)


def _regions(images: int, height: int, width: int) -> Tensor:
    """Seeded RoIs (R, 5) of as many images: sides from a sixteenth to all of the image, corners anywhere inside."""
    generator = torch.Generator().manual_seed(SEED)
    sides, corners = torch.rand(2, images, _REGIONS, 2, generator=generator, dtype=torch.float64)
    whole = torch.tensor([width, height], dtype=torch.float64) - 1
    sides = whole * 16 ** (sides - 1)
    corners = corners * (whole - sides)
    image = torch.arange(images, dtype=torch.float64)[:, None, None].expand(-1, _REGIONS, 1)
    return torch.cat([image, corners, corners + sides], 2).flatten(0, 1).float()


def _away_from_kink(base: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The base with no value of scale * base + shift near 0: on which side of a ReLU rounding falls is no error."""
    with torch.no_grad():
        scale, shift = scale[:, :, None, None], shift[:, :, None, None]
        entered = base * scale + shift
        moved = base + _MARGIN * torch.where(entered < 0, -1, 1) * (entered.abs() < _MARGIN) / scale
        return leaf(moved.to(base.dtype))


def with_reference(
    call: Callable[[Callable[..., Any]], Call],
    ours: Callable[..., Any],
    reference: Callable[..., Any],
    maps: Sequence[Tensor],
    parameters: Sequence[Tensor],
) -> dict[str, Formulation]:
    """Our operation beside the reference, which is literal and commuted at once."""
    sides = {OURS: ours, EAGER: reference}
    return {side: formulation(call(operation), maps, parameters) for side, operation in sides.items()}


def exactly(formulations: Mapping[str, Formulation], stock: Mapping[str, str]) -> Callable[[Direction], Results]:
    """The float64 results of stock PyTorch in every group of outputs."""

    def run(direction: Direction) -> Results:
        results: dict[str, Sequence[Tensor]] = {}
        for side in stock.values():
            results |= formulations[side].double().run(direction)
        return results

    return run


def _case(
    name: str,
    operation: str,
    variant: Variant,
    shape: str,
    work: Workload,
    formulations: Mapping[str, Formulation],
    forward: cost.Cost,
    backward: cost.Cost,
) -> Case:
    stock = {"output": EAGER}
    costs: dict[Direction, Sequence[cost.Cost]] = {"forward": [forward], "forward+backward": [forward, backward]}
    floors = {direction: moving(cost.total(costs[direction]), work.dtype, work.device) for direction in DIRECTIONS}
    return Case(
        name, operation, variant, shape, formulations, stock, exactly(formulations, stock), costs, floors, _SECONDS
    )


def _sizes(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join("x".join(str(length) for length in shape) for shape in shapes)
