"""What a neck computes: the fields of `NeckConfig` and the presets."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, get_args

Pool = Literal["mean", "sum"]
Resize = Literal["linear", "nearest"]
Combine = Literal["product", "sum"]
Context = Literal["rce", "zoom_out", "parse_net", "large_kernel", "pyramid_pooling", "atrous_pyramid"]

FEW_PIXELS = 64
"""Maps of at most so many pixels are summed in float64: the few values of a group are often close to each other."""


@dataclass(frozen=True)
class NeckConfig:
    """The choices of a ZigZag neck; the defaults are the preset ``stable``.

    Attributes:
        in_channels: channels of every backbone map, finest level first; its length is the number of levels L.
        out_channels: C, the channels of every map of the neck.
        stages: T, how often context runs down and up again (Eqs. 1-4).
        grids: K of every region grid, K x K cells each (Eqs. 5, 6).
        kernel_size: of the region convolution before the sum, 3 or 1.
        lateral_kernel_size: of the convolution that brings a backbone map to C channels, 3 or 1.
        pool: what is taken over a cell, its mean or its sum.
        fusion_norm: GroupNorm between a fusion convolution (which then has no bias) and its ReLU.
        context_norm: GroupNorm on R, the encoded region context.
        fusion_identity: an identity is added to a fusion convolution's random weights before training, so that a map
            goes through the stages as itself at first.
        norm_groups: groups of every GroupNorm.
        gain: initial value of the learned gain (C,) on the combined context; None for no gain.
        context_scale: initial scale of the GroupNorm on R.
        context_shift: initial shift of the GroupNorm on R. A product of contexts around 1 begins as 1 plus their sum.
        resize: "linear" (bilinear up, area mean down) or "nearest".
        combine: what joins the contexts of several levels, their product (the paper) or their sum.
        strides: pixels per step of every level; () stands for 4, 8, 16, ...
        context: what encodes a level for the others: "rce" (Eqs. 5, 6), or one of the encoders that the paper's Table 2
            puts in its place (`zigzag.nn.contexts`).
        dense: a level receives the contexts of all levels before it in a sweep; else only of the one next to it.
        exchange: a fusion reads F^d + F^u (Eqs. 2, 4); else only the sweep before it, F^d or F^u.
        fusion: there are fusion convolutions; without them P = F^d + F^u.
        bottom_up: every stage has a sweep up; else stages are sweeps down alone.
        outputs: how many levels, the finest, the neck gives; what only others would need is left out. None for all.

    Raises:
        TypeError: a field has a wrong type; the message names it.
        ValueError: a field has a value that is not allowed; the message names it.
    """

    in_channels: tuple[int, ...]
    out_channels: int = 256
    stages: int = 3
    grids: tuple[int, ...] = (3, 5, 7)
    kernel_size: int = 3
    lateral_kernel_size: int = 3
    pool: Pool = "mean"
    fusion_norm: bool = True
    fusion_identity: bool = False
    context_norm: bool = True
    norm_groups: int = 32
    gain: float | None = 0.1
    context_scale: float = 1.0
    context_shift: float = 0.0
    resize: Resize = "linear"
    combine: Combine = "product"
    strides: tuple[int, ...] = ()
    context: Context = "rce"
    dense: bool = True
    exchange: bool = True
    fusion: bool = True
    bottom_up: bool = True
    outputs: int | None = None

    def __post_init__(self) -> None:
        for name in ("in_channels", "grids", "strides"):
            values = getattr(self, name)
            integers = isinstance(values, Sequence) and all(type(value) is int for value in values)
            _require(integers, name, values, "a list of integers", TypeError)
            object.__setattr__(self, name, tuple(values))
        if not self.strides:
            object.__setattr__(self, "strides", tuple(4 << level for level in range(self.levels)))
        for name in ("in_channels", "grids", "strides"):
            values = getattr(self, name)
            _require(len(values) > 0 and min(values) >= 1, name, values, "one or more integers >= 1")
        _require(
            len(self.strides) == self.levels, "strides", self.strides, f"one stride for each of {self.levels} levels"
        )
        for name in ("out_channels", "stages", "norm_groups"):
            value = getattr(self, name)
            _require(type(value) is int, name, value, "an integer", TypeError)
            _require(value >= 1, name, value, "an integer >= 1")
        for name in ("fusion_norm", "fusion_identity", "context_norm", "dense", "exchange", "fusion", "bottom_up"):
            value = getattr(self, name)
            _require(isinstance(value, bool), name, value, "True or False", TypeError)
        count = self.outputs is None or (type(self.outputs) is int and 1 <= self.outputs <= self.levels)
        _require(count, "outputs", self.outputs, f"an integer from 1 to {self.levels}, or None")
        for name, wanted in (
            ("gain", "a number or None"),
            ("context_scale", "a number"),
            ("context_shift", "a number"),
        ):
            value = getattr(self, name)
            if name != "gain" or value is not None:
                number = isinstance(value, float | int) and not isinstance(value, bool)
                _require(number, name, value, wanted, TypeError)
                _require(isfinite(value), name, value, "finite")
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            _require(value in allowed, name, value, " or ".join(map(repr, allowed)))
        if self.fusion_norm or self.context_norm:
            divides = self.out_channels % self.norm_groups == 0
            _require(divides, "norm_groups", self.norm_groups, f"a divisor of out_channels = {self.out_channels}")

    @property
    def levels(self) -> int:
        """L, the number of levels."""
        return len(self.in_channels)

    @property
    def given(self) -> int:
        """How many levels the neck gives, `outputs` or all."""
        return self.levels if self.outputs is None else self.outputs


_ALLOWED: dict[str, tuple[object, ...]] = {
    "kernel_size": (1, 3),
    "lateral_kernel_size": (1, 3),
    "pool": get_args(Pool),
    "resize": get_args(Resize),
    "combine": get_args(Combine),
    "context": get_args(Context),
}


def _require(condition: object, name: str, value: object, expected: str, error: type[Exception] = ValueError) -> None:
    if not condition:
        raise error(f"{name} must be {expected}, got {value!r}")


_NORMALISED = {"pool": "mean", "fusion_norm": True, "context_norm": True, "resize": "linear"}
PRESETS: dict[str, dict[str, Any]] = {
    "gated": {**_NORMALISED, "gain": 0.5, "context_scale": 0.2, "context_shift": 1.0, "fusion_identity": True},
    "stable": {**_NORMALISED, "gain": 0.1},
    "paper": {"pool": "sum", "fusion_norm": False, "context_norm": False, "gain": None, "resize": "linear"},
}

SCHEMES: dict[str, dict[str, Any]] = {
    "top_down": {"stages": 1, "bottom_up": False, "dense": False},
    "dense_top_down": {"stages": 1, "bottom_up": False},
    "successive": {"stages": 1, "exchange": False},
    "zigzag": {},
}
"""The four ways to pass context of the paper's Figure 1 (a)-(d), as fields of a neck."""
