"""Necks to compare: small pyramids, and random parameters under the state_dict's names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace

import oracle
import torch
from cases import as_numpy, away_from_zero, laid_out, normal, poisoned, random_valid
from checks import Problem

from zigzag.config import PRESETS, NeckConfig
from zigzag.nn import ZigZagNeck


def convolution_parameters(generator, name, outputs, inputs, taps, *, bias=True):
    yield f"{name}.weight", normal(generator, outputs, inputs, taps, taps, scale=(inputs * taps * taps) ** -0.5)
    if bias:
        yield f"{name}.bias", normal(generator, outputs, scale=0.3)


def norm_parameters(generator, name, channels):
    yield f"{name}.weight", normal(generator, channels, scale=0.2) + 1
    yield f"{name}.bias", normal(generator, channels, scale=0.2)


def fusion_parameters(generator, name, config):
    yield from convolution_parameters(
        generator, f"{name}.conv", config.out_channels, config.out_channels, 3, bias=not config.fusion_norm
    )
    if config.fusion_norm:
        yield from norm_parameters(generator, f"{name}.norm", config.out_channels)


def step_parameters(generator, name, config, *, first, has_sources, is_source):
    """One level of one direction of one stage."""
    channels = config.out_channels
    if not first:
        yield from fusion_parameters(generator, f"{name}.fusion", config)
    if config.gain is not None and has_sources:
        yield f"{name}.gain", config.gain + normal(generator, channels, scale=0.1)
    if is_source:
        for grid in config.grids:
            parts = (("conv", config.kernel_size), ("aggregate", grid), ("distribute", grid))
            for part, taps in parts:
                branch = f"{name}.context.branches.{grid}.{part}"
                yield from convolution_parameters(generator, branch, channels, channels, taps)
        if config.context_norm:
            yield from norm_parameters(generator, f"{name}.context_norm", channels)


def random_parameters(config, dtype=torch.float32):
    """Every tensor of a neck's state_dict, with values at which all of its parts matter."""
    generator = torch.Generator().manual_seed(5)
    levels = len(config.in_channels)
    found = {}
    for i, channels in enumerate(config.in_channels):
        found |= convolution_parameters(
            generator, f"lateral.{i}", config.out_channels, channels, config.lateral_kernel_size
        )
        for t in range(config.stages):
            sweeps = [("down", i > 0, i < levels - 1), ("up", i < levels - 1, i > 0)]
            if t == config.stages - 1:
                sweeps[1:] = [("up", i < config.given - 1, i > 0)] * (i < config.given)
            for direction, source, sources in sweeps[: 1 + config.bottom_up]:
                name, first = f"stages.{t}.{direction}.{i}", t == 0 or not config.fusion
                found |= step_parameters(generator, name, config, first=first, has_sources=sources, is_source=source)
        if config.fusion and i < config.given:
            found |= fusion_parameters(generator, f"output.{i}", config)
    for name, value in found.items():
        if dtype.itemsize == 2 and name.endswith("aggregate.bias"):
            away_from_zero(value, 32)
        if dtype.itemsize == 2 and name.endswith(".norm.bias"):
            away_from_zero(value, 6)
    return {name: value.to(dtype) for name, value in found.items()}


@dataclass(frozen=True)
class NeckCase:
    name: str
    config: NeckConfig
    sizes: tuple[tuple[int, int], ...]
    number: int = 2
    dtype: torch.dtype = torch.float32
    layout: str = "channels_last"
    padded: bool = False

    def __str__(self):
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.name}-{self.number}-{dtype}-{self.layout}{'-valid' * self.padded}"

    def parameters(self):
        return random_parameters(self.config, self.dtype)

    def features(self):
        """(features, valid per level or None)."""
        generator = torch.Generator().manual_seed(6)
        valid = [random_valid(generator, self.number, *size) for size in self.sizes] if self.padded else None
        features = []
        for i, (channels, size) in enumerate(zip(self.config.in_channels, self.sizes, strict=True)):
            values = normal(generator, self.number, channels, *size, dtype=self.dtype)
            features.append(laid_out(poisoned(values, valid and valid[i]), self.layout))
        return features, valid


def config_of(preset, levels=3, channels=16, **fields):
    shape = {"in_channels": (5, 6, 7, 8)[:levels], "out_channels": channels, "norm_groups": 2}
    return NeckConfig(**{**shape, **PRESETS[preset], **fields})


SIZES = ((9, 12), (5, 6), (3, 3))
# Mean pooling and small steps keep the un-normalised neck's polynomial within float32 (spec section 3).
TAME = {"pool": "mean", "gain": 0.05, "stages": 2}


def neck_cases():
    stable = NeckCase("stable", config_of("stable"), SIZES)
    yield stable
    yield replace(stable, padded=True)
    yield replace(stable, dtype=torch.float64, layout="contiguous")
    yield replace(stable, dtype=torch.float64, number=0)
    yield NeckCase("small-kernels", config_of("stable", kernel_size=1, lateral_kernel_size=1, stages=2), SIZES)
    yield NeckCase("nearest-sum", config_of("stable", resize="nearest", combine="sum", stages=2), SIZES, padded=True)
    yield NeckCase("two-levels", config_of("stable", 2, grids=(2, 4)), ((4, 7), (1, 1)))
    yield NeckCase("four-levels", config_of("stable", 4, stages=2), ((9, 7), (5, 4), (3, 2), (2, 1)), padded=True)
    yield NeckCase("paper", config_of("paper", 2, stages=1), SIZES[:2], dtype=torch.float64)
    yield NeckCase("paper-tame", config_of("paper", **TAME), SIZES, padded=True)
    yield NeckCase("top-down", config_of("stable", stages=2, bottom_up=False, dense=False), SIZES, padded=True)
    yield NeckCase("successive", config_of("stable", stages=2, exchange=False), SIZES)
    yield NeckCase("finest", config_of("stable", stages=2, outputs=1), SIZES, padded=True)
    yield NeckCase("two-finest", config_of("stable", stages=2, outputs=2, exchange=False), SIZES)
    yield NeckCase("no-fusion", config_of("stable", stages=2, fusion=False), SIZES)
    yield NeckCase("context-norm-alone", config_of("paper", **{**TAME, "context_norm": True}), SIZES)
    yield NeckCase("fusion-norm-alone", config_of("paper", **{**TAME, "fusion_norm": True}), SIZES)


def neck_of(config, parameters=None):
    """The module of a configuration, with its parameters if they are given."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    module = ZigZagNeck(fields.pop("in_channels"), fields.pop("out_channels"), **fields)
    if parameters is not None:
        module.load_state_dict(parameters)
    return module


def neck_problem(case):
    """The neck as a function of its features and parameters; an implementation takes (features, parameters, valid)."""
    features, valid = case.features()
    tensors = {f"features.{i}": feature for i, feature in enumerate(features)} | case.parameters()
    levels = range(len(features))

    def split(given):
        parameters = {name: value for name, value in given.items() if not name.startswith("features.")}
        return [given[f"features.{i}"] for i in levels], parameters

    def call(implementation, given):
        return tuple(implementation(*split(given), valid))

    def exact():
        return oracle.neck(*split(as_numpy(tensors)), case.config, valid=valid)

    sizes = {f"features.{i}": own for i, own in enumerate(valid or ())}
    return Problem(call, exact, tuple(f"level {i}" for i in levels[: case.config.given]), tensors, sizes)
