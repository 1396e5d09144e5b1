"""The cases of the parity suites: which shapes, dtypes, layouts and options, and the problems made of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import oracle
import torch
from checks import Problem, outside, to_real

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("channels_last", "contiguous", "sliced", "permuted", "expanded")
GRIDS = ((3, 5, 7), (1,), (2, 4))

# (N, C, H, W): single pixels, fewer rows than cells, 123 (where float32 picks the wrong cell), levels of a 473 crop.
SHAPES = (
    (1, 1, 1, 1),
    (2, 3, 1, 1),
    (0, 16, 6, 5),
    (1, 16, 2, 9),
    (3, 20, 9, 2),
    (1, 3, 123, 4),
    (1, 4, 5, 123),
    (2, 70, 13, 11),
    (2, 64, 15, 15),
    (1, 256, 15, 15),
    (1, 16, 119, 60),
)
SMALL = (2, 20, 8, 6)


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


# --- inputs -----------------------------------------------------------------------------------------------------------


def normal(generator, *shape, dtype=torch.float32, scale=1.0):
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def laid_out(values, layout):
    """The values in another layout; `expanded` repeats the first channel."""
    if layout == "contiguous":
        return values.contiguous()
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "permuted":
        return values.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    if layout == "expanded":
        return values[:, :1].contiguous().expand_as(values)
    number, channels, height, width = values.shape
    larger = values.new_full((number, channels + 1, height + 2, width + 3), torch.nan)
    larger[:, 1:, 1:-1, 2:-1] = values
    return larger[:, 1:, 1:-1, 2:-1]


def random_valid(generator, number, height, width):
    """(N, 2) sizes within the map, the last image being the largest."""
    rows, columns = (torch.randint(1, size + 1, (number,), generator=generator) for size in (height, width))
    sizes = torch.stack([rows, columns], 1)
    sizes[-1:] = torch.tensor([height, width])
    return sizes


def poisoned(values, valid):
    """The map with NaN and infinities wherever `valid` says that no image is."""
    if valid is None:
        return values
    garbage = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=values.dtype)
    garbage = garbage.repeat(-(-values.numel() // 3))[: values.numel()].reshape(values.shape)
    return torch.where(outside(valid, *values.shape[2:]), garbage, values)


def shifted(tensor):
    """The values one element into a larger tensor, contiguous: no vector of several begins at an address for one."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


def own_part(problem, n):
    """The tensors of image `n` alone: maps cut to its own size, channels_last, and nothing of its batch-mates."""
    tensors = {}
    for name, tensor in problem.tensors.items():
        tensors[name] = tensor if name == "gain" else tensor[n : n + 1]
        if problem.sizes.get(name) is not None:
            height, width = problem.sizes[name][n].tolist()
            tensors[name] = laid_out(tensors[name][:, :, :height, :width], "channels_last")
    return tensors


def as_numpy(tensors):
    return {name: to_real(tensor) for name, tensor in tensors.items()}


# --- region_stats -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StatsCase:
    operation: ClassVar[str] = "region_stats"
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    layout: str = "channels_last"
    grids: tuple[int, ...] = (3, 5, 7)
    halo: int = 1
    padded: bool = False

    def __str__(self):
        shape, grids = ("x".join(map(str, sizes)) for sizes in (self.shape, self.grids))
        return f"{shape}-{name_of(self.dtype)}-{self.layout}-{grids}-halo{self.halo}{'-valid' * self.padded}"

    def problem(self):
        generator = torch.Generator().manual_seed(1)
        number, _, height, width = self.shape
        valid = random_valid(generator, number, height, width) if self.padded else None
        x = laid_out(poisoned(normal(generator, *self.shape, dtype=self.dtype), valid), self.layout)
        exact = partial(oracle.region_stats, to_real(x), self.grids, self.halo, valid)
        return Problem(partial(self.call, valid=valid), exact, ("sums", "power"), {"x": x}, {"x": valid})

    def call(self, operation, given, valid=None):
        return operation(given["x"], self.grids, self.halo, valid=valid)


def stats_cases():
    yield from (StatsCase(shape, dtype) for shape in SHAPES for dtype in (torch.float32, torch.bfloat16))
    yield from (StatsCase(SMALL, dtype, layout) for dtype in FLOATS for layout in LAYOUTS)
    for grids in GRIDS:
        for halo in (0, 1, 2):
            for padded in (False, True):
                yield StatsCase((3, 5, 11, 9), torch.float32, "channels_last", grids, halo, padded)
    yield from (StatsCase((3, 20, 9, 14), dtype, layout, padded=True) for dtype in FLOATS for layout in LAYOUTS[:4])
    yield from (StatsCase((2, 16, 119, 60), torch.float32, layout, padded=True) for layout in LAYOUTS[:2])


# --- region_codes -----------------------------------------------------------------------------------------------------

PARTS = ("conv_w", "conv_b", "aggregate_w", "aggregate_b", "distribute_w", "distribute_b")


def branch_tensors(generator, channels, grids, kernel_size, dtype):
    """{'3.conv_w': ...} in the layouts of nn.Conv2d, nn.Conv2d and nn.ConvTranspose2d."""
    tensors = {}
    for grid in grids:
        for part, taps in (("conv", kernel_size), ("aggregate", grid), ("distribute", grid)):
            fan_in = channels * taps * taps if part != "distribute" else channels
            tensors[f"{grid}.{part}_w"] = normal(
                generator, channels, channels, taps, taps, dtype=dtype, scale=fan_in**-0.5
            )
            tensors[f"{grid}.{part}_b"] = normal(generator, channels, dtype=dtype, scale=0.5)
        if dtype.itemsize == 2:
            away_from_zero(tensors[f"{grid}.aggregate_b"], 16)
    return tensors


def away_from_zero(bias, distance):
    """Keeps a relu's arguments away from 0: on which side of it rounding falls is no error to be measured."""
    bias[::2] += distance
    bias[1::2] -= distance


def branches_of(tensors, grids):
    return [tuple(tensors[f"{grid}.{part}"] for part in PARTS) for grid in grids]


@dataclass(frozen=True)
class CodesCase:
    operation: ClassVar[str] = "region_codes"
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    weight_dtype: torch.dtype = torch.float32
    weight_layout: str = "contiguous"
    grids: tuple[int, ...] = (3, 5, 7)
    halo: int = 1
    pool: str = "sum"
    padded: bool = False

    def __str__(self):
        shape, grids = ("x".join(map(str, sizes)) for sizes in (self.shape, self.grids))
        dtypes = f"{name_of(self.dtype)}-{name_of(self.weight_dtype)}"
        options = f"{grids}-halo{self.halo}-{self.pool}{'-valid' * self.padded}"
        return f"{shape}-{dtypes}-{self.weight_layout}-{options}"

    def problem(self):
        generator = torch.Generator().manual_seed(2)
        number, channels, height, width = self.shape
        valid = random_valid(generator, number, height, width) if self.padded else None
        x = normal(generator, *self.shape, dtype=torch.float64)
        sums, _ = oracle.region_stats(x.numpy(), self.grids, self.halo, valid)
        tensors = {"sums": torch.from_numpy(sums.astype("float64")).to(self.dtype)}
        branches = branch_tensors(generator, channels, self.grids, 2 * self.halo + 1, self.weight_dtype)
        for name, tensor in branches.items():
            tensors[name] = laid_out(tensor, self.weight_layout) if tensor.ndim == 4 else tensor
        call = partial(self.call, valid=valid)
        exact = partial(call, oracle.region_codes, as_numpy(tensors))
        return Problem(call, exact, ("codes",), tensors, symmetric=True)

    def call(self, operation, given, valid=None):
        options = {"height": self.shape[2], "width": self.shape[3], "pool": self.pool, "valid": valid}
        return (operation(given["sums"], branches_of(given, self.grids), self.grids, **options),)


def codes_cases():
    shapes = [shape for shape in SHAPES if shape[1] <= 70]
    yield from (CodesCase(shape, pool=pool) for shape in shapes for pool in ("sum", "mean"))
    for grids in GRIDS:
        for halo in (0, 1):
            for padded in (False, True):
                yield CodesCase((3, 5, 11, 4), grids=grids, halo=halo, pool="mean", padded=padded)
    for layout in LAYOUTS[:4]:
        yield CodesCase(SMALL, weight_layout=layout)
        yield CodesCase(SMALL, torch.float64, torch.float64, layout, padded=True)
    for dtype in (torch.bfloat16, torch.float16):
        yield from (CodesCase(SMALL, weight_dtype=dtype, pool=pool, padded=True) for pool in ("sum", "mean"))
        for layout in LAYOUTS[:2]:  # whole 16-byte accesses, of few rows and of many
            yield CodesCase((2, 16, 8, 6), weight_dtype=dtype, weight_layout=layout, grids=(1, 2), pool="mean")
            yield CodesCase((3, 48, 9, 7), weight_dtype=dtype, weight_layout=layout, padded=True)
    yield CodesCase((1, 256, 15, 15), grids=(3,), pool="mean")
    yield CodesCase((11, 5, 8, 7), grids=(7,), pool="mean")  # N*K*K is more than one part of a long sum


# --- region_norm ------------------------------------------------------------------------------------------------------


def eighths(generator, *shape):
    """Values whose sums and sums of squares over a map float32 holds exactly, so that the map stands for them."""
    return torch.randint(-16, 25, shape, generator=generator) / 8


@dataclass(frozen=True)
class NormCase:
    """`dtype` is that of the sums; `tapped` sums are a view of those with nine taps, `permuted` ones not even dense."""

    operation: ClassVar[str] = "region_norm"
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    weight_dtype: torch.dtype = torch.float32
    codes_dtype: torch.dtype | None = torch.float32
    layout: str = "tapped"
    grids: tuple[int, ...] = (3, 5, 7)
    groups: int = 1
    padded: bool = False

    def __str__(self):
        shape, grids = ("x".join(map(str, sizes)) for sizes in (self.shape, self.grids))
        codes = f"codes-{name_of(self.codes_dtype)}" if self.codes_dtype else "plain"
        dtypes = f"{name_of(self.dtype)}-{name_of(self.weight_dtype)}-{codes}"
        return f"{shape}-{dtypes}-{self.layout}-{grids}-groups{self.groups}{'-valid' * self.padded}"

    def problem(self):
        generator = torch.Generator().manual_seed(4)
        number, channels, height, width = self.shape
        valid = random_valid(generator, number, height, width) if self.padded else None
        x = eighths(generator, *self.shape).numpy()
        sums, power = (
            torch.from_numpy(value.astype("float64")) for value in oracle.region_stats(x, self.grids, 0, valid)
        )
        tensors = {"sums": self.laid_out(sums.to(self.dtype)), "power": power.to(self.dtype)}
        if self.codes_dtype:
            tensors["codes"] = normal(generator, *sums.shape, dtype=self.codes_dtype)
        tensors["weight"], tensors["bias"] = normal(generator, 2, channels, dtype=self.weight_dtype)
        given = as_numpy(tensors)
        norm = {"weight": given["weight"], "bias": given["bias"], "groups": self.groups, "valid": valid}
        exact = partial(oracle.region_norm, x, given.get("codes"), self.grids, **norm)
        return Problem(partial(self.call, valid=valid), exact, ("scale", "shift"), tensors)

    def laid_out(self, sums):
        if self.layout == "permuted":
            return sums.permute(2, 0, 1).contiguous().permute(1, 2, 0)
        number, rows, channels = sums.shape
        larger = sums.new_full((number, 9 * rows, channels), torch.nan)
        larger[:, 4::9] = sums
        return larger[:, 4::9] if self.layout == "tapped" else sums

    def call(self, operation, given, valid=None):
        norm = {"weight": given["weight"], "bias": given["bias"], "groups": self.groups}
        sizes = {"height": self.shape[2], "width": self.shape[3], "valid": valid}
        return operation(given["sums"], given["power"], given.get("codes"), self.grids, **norm, **sizes)


def norm_cases():
    wide = torch.float64
    for shape in SHAPES[1:]:  # a group of one value has no variance: whose digits would be compared?
        groups = {1: 1, 3: 1, 4: 2, 16: 4, 20: 5, 64: 32, 70: 10, 256: 32}[shape[1]]
        for codes in (torch.float32, None):
            yield NormCase(shape, codes_dtype=codes, groups=groups)
    for layout in ("tapped", "contiguous", "permuted"):
        for padded in (False, True):
            yield NormCase((3, 20, 9, 14), layout=layout, groups=5, padded=padded)
            yield NormCase((3, 20, 9, 14), wide, wide, wide, layout, groups=5, padded=padded)
            yield NormCase((3, 20, 9, 14), wide, wide, None, layout, groups=5, padded=padded)
    for grids in GRIDS:
        for codes in (torch.float32, None):
            yield NormCase((3, 6, 11, 4), codes_dtype=codes, grids=grids, groups=2, padded=True)
    yield from (NormCase(SMALL, dtype, groups=4) for dtype in (torch.float32, wide))
    for dtype in (torch.bfloat16, torch.float16):
        yield NormCase(SMALL, torch.float32, dtype, dtype, groups=4, padded=True)
        yield NormCase(SMALL, wide, dtype, torch.float32, groups=20)


# --- dense_pathway ----------------------------------------------------------------------------------------------------
