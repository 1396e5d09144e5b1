"""The cases of dense_pathway: shapes, dtypes, layouts and options, and the problems made of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import oracle
import torch
from cases import FLOATS, GRIDS, LAYOUTS, SHAPES, SMALL, as_numpy, laid_out, name_of, normal, poisoned, random_valid
from checks import Problem


@dataclass(frozen=True)
class PathwayCase:
    """`sources` are (H, W) sizes; `codes` and `affines` say per source whether it has them."""

    operation: ClassVar[str] = "dense_pathway"
    shape: tuple[int, ...]
    sources: tuple[tuple[int, int], ...] = ()
    dtype: torch.dtype = torch.float32
    small_dtype: torch.dtype | None = None
    layout: str = "channels_last"
    grids: tuple[int, ...] = (3, 5, 7)
    codes: tuple[bool, ...] | None = None
    affines: tuple[bool, ...] | None = None
    base_affine: bool = False
    base_relu: bool = False
    gain: bool = False
    residual: bool = False
    combine: str = "product"
    resize: str = "linear"
    padded: bool = False
    source_padded: tuple[bool, ...] | None = None
    statistics: tuple[tuple[int, ...], int] | None = None

    def __str__(self):
        shape, grids = ("x".join(map(str, sizes)) for sizes in (self.shape, self.grids))
        sources = "+".join(f"{height}x{width}" for height, width in self.sources) or "none"
        small = f"-{name_of(self.small_dtype)}" if self.small_dtype else ""
        flags = [
            name
            for name, given in (
                ("codes" + "".join(str(int(flag)) for flag in self.codes or ()), self.codes),
                ("affines" + "".join(str(int(flag)) for flag in self.affines or ()), self.affines),
                ("baseaffine", self.base_affine),
                ("relu", self.base_relu),
                ("gain", self.gain),
                ("residual", self.residual),
                ("valid", self.padded),
                ("sourcevalid", self.source_padded),
                (f"statistics{self.statistics}", self.statistics),
            )
            if given
        ]
        options = "-".join([self.combine, self.resize, *flags])
        return f"{shape}-{sources}-{name_of(self.dtype)}{small}-{self.layout}-{grids}-{options}"

    def problem(self):
        generator = torch.Generator().manual_seed(3)
        number, channels, height, width = self.shape
        small = self.small_dtype or (torch.float64 if self.dtype == torch.float64 else torch.float32)
        valid = random_valid(generator, number, height, width) if self.padded else None
        source_valid = self.source_padded and [
            random_valid(generator, number, *size) if flag else None
            for size, flag in zip(self.sources, self.source_padded, strict=True)
        ]

        def map_of(size, sizes):
            values = normal(generator, number, channels, *size, dtype=self.dtype)
            return laid_out(poisoned(values, sizes), self.layout)

        tensors = {"base": map_of((height, width), valid)}
        for j, size in enumerate(self.sources):
            tensors[f"source{j}"] = map_of(size, source_valid and source_valid[j])
            if self.codes and self.codes[j]:
                cells = sum(grid * grid for grid in self.grids)
                tensors[f"codes{j}"] = normal(generator, number, cells, channels, dtype=small, scale=0.5)
            if self.affines and self.affines[j]:
                tensors |= affine_tensors(generator, f"affine{j}", number, channels, small)
        if self.base_affine:
            tensors |= affine_tensors(generator, "base_affine", number, channels, small)
        if self.gain:
            tensors["gain"] = normal(generator, channels, dtype=small)
        if self.residual:
            tensors["residual"] = map_of((height, width), valid)

        names = ("output", "output + residual") if self.residual else ("output",)
        sizes = {"base": valid, "residual": valid}
        sizes |= {f"source{j}": own for j, own in enumerate(source_valid or ())}
        call = partial(self.call, valid=valid, source_valid=source_valid)
        return Problem(call, partial(call, oracle.dense_pathway, as_numpy(tensors)), names, tensors, sizes)

    def call(self, operation, given, valid=None, source_valid=None):
        options = self.options(given) | {"valid": valid, "source_valid": source_valid}
        if self.statistics:
            options["statistics"] = self.statistics
        result = operation(*self.arguments(given), **options)
        return result if isinstance(result, tuple) else (result,)

    def arguments(self, given):
        indices = range(len(self.sources))
        codes = self.codes and [given.get(f"codes{j}") for j in indices]
        return given["base"], [given[f"source{j}"] for j in indices], codes, self.grids

    def options(self, given):
        affines = [affine_of(given, f"affine{j}") for j in range(len(self.sources))]
        return {
            "base_affine": affine_of(given, "base_affine"),
            "base_relu": self.base_relu,
            "source_affine": affines if self.affines else None,
            "gain": given.get("gain"),
            "combine": self.combine,
            "resize": self.resize,
            "residual": given.get("residual"),
        }


def affine_tensors(generator, name, number, channels, dtype):
    """Scale and shift as halves of one tensor: neither is dense, as a folded GroupNorm's are not."""
    both = normal(generator, number, 2 * channels, dtype=dtype)
    return {f"{name}.scale": both[:, :channels] + 1, f"{name}.shift": both[:, channels:]}


def affine_of(given, name):
    return (given[f"{name}.scale"], given[f"{name}.shift"]) if f"{name}.scale" in given else None


FULL = {"base_affine": True, "base_relu": True, "gain": True, "residual": True}


def pathway_cases():
    three, all_three = ((6, 5), (3, 3), (2, 1)), (True, True, True)
    for dtype in FLOATS:
        for layout in LAYOUTS:
            yield PathwayCase(SMALL, three, dtype, None, layout, codes=all_three, affines=all_three, **FULL)
    for combine in ("product", "sum"):
        for resize in ("linear", "nearest"):
            options = {"combine": combine, "resize": resize}
            for padded in (False, True):
                masks = {"padded": padded, "source_padded": all_three if padded else None}
                mixed = ((8, 6), (3, 17), (19, 2))
                yield PathwayCase((3, 7, 8, 6), mixed, codes=all_three, affines=all_three, **FULL, **options, **masks)
                yield PathwayCase((3, 7, 8, 6), mixed, torch.bfloat16, codes=all_three, gain=True, **options, **masks)
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            height, width = shape[2:]
            sizes = ((-(-height // 2), -(-width // 2)), (-(-height // 4), -(-width // 4)))
            yield PathwayCase(shape, sizes, dtype, codes=(True, True), affines=(True, True), gain=True)
            yield PathwayCase((*shape[:2], *sizes[1]), (shape[2:],), dtype, codes=(True,), residual=True)
    yield from option_cases()
    yield from long_cases()


def option_cases():
    """Each option alone, entries of lists that are None, other grids, low-precision small tensors, five sources."""
    two = ((4, 3), (11, 9))
    yield PathwayCase(SMALL)
    yield PathwayCase(SMALL, residual=True, padded=True)
    yield PathwayCase(SMALL, **FULL)
    yield PathwayCase(SMALL, two)
    yield PathwayCase(SMALL, two[:1], gain=True)
    yield PathwayCase(SMALL, two, base_affine=True)
    yield PathwayCase(SMALL, two, base_relu=True)
    yield PathwayCase(SMALL, two, codes=(False, True), affines=(True, False), gain=True)
    yield PathwayCase(SMALL, two, codes=(True, False), affines=(False, True), padded=True, source_padded=(False, True))
    yield PathwayCase(SMALL, two, padded=True, residual=True)
    yield PathwayCase(SMALL, two, source_padded=(True, True), affines=(True, True))
    yield PathwayCase(SMALL, ((16, 12), (9, 8), (5, 5), (3, 3), (1, 1)), codes=(True,) * 5, **FULL)
    for grids in GRIDS:
        yield PathwayCase(SMALL, two, grids=grids, codes=(True, True))
    for dtype in (torch.bfloat16, torch.float16):
        for small_dtype in (torch.float32, dtype):
            yield PathwayCase(SMALL, two, dtype, small_dtype, codes=(True, True), affines=(True, True), **FULL)


def long_cases():
    """Axes so long that blocks of a GPU work otherwise: strips of odd length, bands of rows, rows in global memory,
    maps in parts."""
    yield PathwayCase((1, 8, 4, 3), ((1030, 2),), codes=(True,), affines=(True,))
    yield PathwayCase((1, 8, 514, 2), ((60, 2),), codes=(True,), **FULL)
    yield PathwayCase((1, 4, 2, 3000), ((1, 40), (3, 7)), codes=(True, True), **FULL)
    three = ((43, 36), (21, 9), (3, 70))
    for dtype in (torch.float64, torch.bfloat16):
        options = {"codes": (True, True, True), "affines": (True, True, True), **FULL}
        yield PathwayCase((1, 8, 85, 70), three, dtype, **options)
        yield PathwayCase((2, 8, 85, 70), three, dtype, padded=True, source_padded=(True, True, True), **options)
    yield PathwayCase((1, 8, 85, 70), three, combine="sum", resize="nearest", codes=(True, False, True))
    yield PathwayCase((1, 72, 81, 33), ((81, 33),), affines=(True,))
