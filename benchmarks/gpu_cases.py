"""What benchmarks/gpu_bench.py times: every operation on the largest level of a 473 crop, and the neck."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import predict
import torch
from torch import Tensor, nn

import zigzag
from zigzag import cost
from zigzag.bench.accuracy import group_errors
from zigzag.bench.baselines import Convolutions
from zigzag.bench.neck import layers
from zigzag.nn import ZigZagNeck

DEVICE, DTYPE, CHANNELS, BATCH = "cuda", torch.bfloat16, 256, 16
LEVELS, SMALL_LEVELS = predict.LEVELS, (56, 28, 14, 7)  # of a 473 crop, of a 224 crop
GRIDS, GROUPS = (3, 5, 7), 32
PARTS = ("conv_w", "conv_b", "aggregate_w", "aggregate_b", "distribute_w", "distribute_b")
MOST_RATIO = 2.0  # of a result's error to stock PyTorch's in the same dtype


def noise(*shape, dtype=None, scale=1.0):
    x = (torch.randn(*shape, device=DEVICE) * scale).to(dtype or DTYPE)
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x


def leaves_of(tensors, dtype=None):
    return {name: tensor.detach().to(dtype or tensor.dtype).requires_grad_() for name, tensor in tensors.items()}


def error_ratio(ours, stock, exact):
    """The largest over groups of tensors of our error / stock's, which counts as its dtype's roundoff at least."""
    ours, stock = group_errors(ours, exact), group_errors(stock, exact)
    return max(ours[g].relative / max(stock[g].relative, stock[g].rounding) for g in ours)


# --- operations -------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    name: str
    tensors: dict[str, Tensor]
    call: Callable[[dict[str, Tensor], str], tuple[Tensor, ...]]  # of tensors and a backend
    costs: tuple[cost.Cost, cost.Cost]  # forward, backward

    def solved(self, backend, dtype=None):
        """Results and gradients on a backend, by name."""
        leaves = leaves_of(self.tensors, dtype)
        results = self.call(leaves, backend)
        generator = torch.Generator(DEVICE).manual_seed(1)
        # Eighths: the same in every dtype.
        weights = [
            torch.randint(-8, 9, result.shape, generator=generator, device=DEVICE).to(result.dtype) / 8
            for result in results
        ]
        gradients = torch.autograd.grad(results, list(leaves.values()), weights)
        found = {f"result {i}": [result.detach()] for i, result in enumerate(results)}
        return found | {f"gradient of {name}": [own] for name, own in zip(leaves, gradients, strict=True)}


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def operations():
    """The cases of all operations."""
    x = noise(BATCH, CHANNELS, *LEVELS[0])
    yield from (stats_case(x), pathway_case(x), codes_case(x), norm_case(x))


def stats_case(x):
    def call(given, backend):
        return zigzag.ops.region_stats(given["x"], GRIDS, backend=backend)

    costs = (cost.region_stats(tuple(x.shape), GRIDS, itemsize=2, backward=way) for way in (False, True))
    return Case("region_stats", {"x": x}, call, tuple(costs))


def pathway_case(x):
    count = len(LEVELS) - 1
    tensors = {"base": x, "residual": noise(*x.shape), "gain": noise(CHANNELS, dtype=torch.float32)}
    for i in range(2):
        tensors[f"base_affine{i}"] = noise(BATCH, CHANNELS, dtype=torch.float32)
    for j, size in enumerate(LEVELS[1:]):
        tensors[f"source{j}"] = noise(BATCH, CHANNELS, *size)
        tensors[f"codes{j}"] = noise(BATCH, sum(k * k for k in GRIDS), CHANNELS, dtype=torch.float32)
        for i in range(2):
            tensors[f"affine{j}.{i}"] = noise(BATCH, CHANNELS, dtype=torch.float32)

    def call(given, backend):
        sources, codes = ([given[f"{name}{j}"] for j in range(count)] for name in ("source", "codes"))
        return zigzag.ops.dense_pathway(
            given["base"], sources, codes, GRIDS, base_affine=(given["base_affine0"], given["base_affine1"]),
            base_relu=True, source_affine=[(given[f"affine{j}.0"], given[f"affine{j}.1"]) for j in range(count)],
            gain=given["gain"], residual=given["residual"], backend=backend,
        )  # fmt: skip

    options = {"base_affine": True, "base_relu": True, "source_affine": True, "gain": True, "residual": True}
    costs = (
        cost.dense_pathway(tuple(x.shape), LEVELS[1:], grids=GRIDS, **options, itemsize=2, backward=way)
        for way in (False, True)
    )
    return Case("dense_pathway", tensors, call, tuple(costs))


def codes_case(x):
    with torch.no_grad():
        tensors = {"sums": zigzag.ops.region_stats(x, GRIDS, backend="reference")[0]}
    for k in GRIDS:
        for part in PARTS:
            size = 3 if part.startswith("conv") else k
            terms = CHANNELS * (1 if part.startswith("distribute") else size * size)
            weight = (CHANNELS, size, size) if part.endswith("_w") else ()
            tensors[f"{k}.{part}"] = noise(CHANNELS, *weight, scale=terms**-0.5)

    def call(given, backend):
        branches = [tuple(given[f"{k}.{part}"] for part in PARTS) for k in GRIDS]
        height, width = x.shape[2:]
        codes = zigzag.ops.region_codes(
            given["sums"], branches, GRIDS, height=height, width=width, pool="mean", backend=backend
        )
        return as_tuple(codes)

    costs = (cost.region_codes(BATCH, CHANNELS, GRIDS, itemsize=2, backward=way) for way in (False, True))
    return Case("region_codes", tensors, call, tuple(costs))


def norm_case(x):
    with torch.no_grad():
        sums, power = zigzag.ops.region_stats(x, GRIDS, 0, backend="reference")
    tensors = {"sums": sums, "power": power, "codes": noise(*sums.shape), "weight": noise(CHANNELS)}
    tensors["bias"] = noise(CHANNELS)

    def call(given, backend):
        height, width = x.shape[2:]
        return zigzag.ops.region_norm(
            given["sums"], given["power"], given["codes"], GRIDS, weight=given["weight"], bias=given["bias"],
            groups=GROUPS, height=height, width=width, backend=backend,
        )  # fmt: skip

    costs = (cost.region_norm(BATCH, CHANNELS, GRIDS, itemsize=2, backward=way) for way in (False, True))
    return Case("region_norm", tensors, call, tuple(costs))


# --- the neck ---------------------------------------------------------------------------------------------------------


class Eager(nn.Module):
    """The literal equations with a neck's parameters."""

    def __init__(self, neck):
        super().__init__()
        self.neck = neck

    def forward(self, bases):
        return zigzag.reference.neck.fuse(bases, dict(self.neck.named_parameters()), self.neck.config)


class Neck:
    """The stages of the neck on random maps, ours and eager; "eager" is a side as a backend's name is one."""

    def __init__(self):
        torch.manual_seed(0)
        self.module = ZigZagNeck(predict.config_of().in_channels, CHANNELS, norm_groups=GROUPS)
        self.module = self.module.to(DEVICE, DTYPE).to(memory_format=torch.channels_last)
        self.eager = Eager(self.module)
        self.bases = [noise(BATCH, CHANNELS, *size).requires_grad_() for size in LEVELS]
        self.parameters = [p for name, p in self.module.named_parameters() if not name.startswith("lateral.")]
        self.gradients = [torch.ones_like(base) for base in self.bases]

    def forward(self, side):
        with torch.no_grad():
            return self.fuse(side)(self.bases)

    def step(self, side):
        """Forward and backward; `side` may be a function of the maps, too."""
        fuse = side if callable(side) else self.fuse(side)
        return torch.autograd.grad(fuse(self.bases), [*self.bases, *self.parameters], self.gradients)

    def fuse(self, side):
        if side == "eager":
            return self.eager

        def ours(bases):
            with zigzag.use_backend(side):
                return self.module.fuse(bases)

        return ours

    def floor(self):
        """The fusion convolutions alone."""
        parameters = dict(self.module.named_parameters())
        work = SimpleNamespace(parameters=parameters, bases=[base.detach() for base in self.bases], features=None)
        return Convolutions(layers(work, laterals=False))

    def ratio(self, side):
        """The error of a side on the first image, against eager's."""
        twin = copy.deepcopy(self)
        twin.module.double()
        exact = twin.solved(twin.eager, torch.float64)
        return error_ratio(self.solved(self.fuse(side)), self.solved(self.eager), exact)

    def solved(self, fuse, dtype=None):
        bases = [base[:1].detach().to(dtype or DTYPE).requires_grad_() for base in self.bases]
        results = fuse(bases)
        gradients = torch.autograd.grad(results, [*bases, *self.parameters], [torch.ones_like(r) for r in results])
        found = {"outputs": [r.detach() for r in results], "gradients of maps": gradients[: len(bases)]}
        return found | {"gradients of parameters": gradients[len(bases) :]}
