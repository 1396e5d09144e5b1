"""Which backend runs a call that names none: for every operation, dtype, layout and size the fastest measured.

`RULES` is the whole table. The first rule that fits a call gives the backends in order of preference; the first of
them that can run is taken (`zigzag.backends.select`). The reference stands behind all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

_BESIDE_STATS = (
    *("dense_pathway", "dense_pathway_stats", "region_norm", "region_codes"),
    "position_sensitive_pool",
)
WITHOUT_KERNELS = {
    ("position_sensitive_pool", "cuda"),
    ("dense_pathway_stats", "cpu"),
    ("dense_pathway_stats", "triton"),
    *((name, "hopper") for name in _BESIDE_STATS),
}
"""Pairs of an operation and a backend that has no kernels for it."""

GATHER_FROM = 1 << 23
"""Elements of a map from which the kernel that writes it also takes its sums, if `GATHER_IMAGES` holds (a guess)."""

GATHER_IMAGES = 1 << 12
"""Images times channels of such a map at least: its blocks share out rows of very different number (a guess)."""

_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Rule:
    """The backends of some calls, the fastest first. What is None fits everything.

    Attributes:
        device: type of the device that the tensors are on.
        order: names of backends.
        measured: where the order was measured, or "a guess".
        operation: name of the operation.
        dtypes: of the operation's first tensor (its map, or its sums).
        layout: of that map, "channels_last" or "contiguous".
        most: elements that the first tensor has at most.
    """

    device: str
    order: tuple[str, ...]
    measured: str
    operation: str | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    layout: str | None = None
    most: int | None = None

    def fits(self, operation: str, x: Tensor) -> bool:
        """Whether the rule speaks of a call of ``operation`` whose first tensor is ``x``."""
        return (
            x.device.type == self.device
            and self.operation in (None, operation)
            and (self.dtypes is None or x.dtype in self.dtypes)
            and (self.layout is None or x.is_contiguous(memory_format=_FORMATS[self.layout]))
            and (self.most is None or x.numel() <= self.most)
        )

    def __str__(self) -> str:
        names = [self.operation or "every operation"]
        if self.dtypes is not None:
            names.append(" ".join(str(dtype).removeprefix("torch.") for dtype in self.dtypes))
        if self.layout is not None:
            names.append(self.layout)
        if self.most is not None:
            names.append(f"up to {self.most} elements")
        return f"default on {self.device}: {', '.join(names)}: {', '.join(self.order)} ({self.measured})"


RULES = (
    Rule(
        "cpu",
        ("cpu",),
        "measured in float32, channels_last: benchmarks/results, AMD EPYC (Zen 4), two threads; all else is a guess",
    ),
    Rule("cuda", ("triton",), "the only one with kernels", operation="position_sensitive_pool"),
    Rule("cuda", ("cuda", "triton"), "a guess"),
)


def order(operation: str, x: Tensor) -> tuple[str, ...]:
    """Names of the backends for a call of ``operation`` whose first tensor is ``x``, the fastest first."""
    fitting = (rule.order for rule in RULES if rule.fits(operation, x))
    return (*next(fitting, ()), "reference")


def has_kernel(operation: str, backend: str) -> bool:
    """Whether ``backend`` has kernels of its own for ``operation``."""
    return backend != "reference" and (operation, backend) not in WITHOUT_KERNELS


def gathers(backend: str, shape: Sequence[int]) -> bool:
    """Whether the neck has ``backend`` take the sums of a map ``shape`` (N, C, H, W) in the pass that writes it."""
    large = prod(shape) >= GATHER_FROM and shape[0] * shape[1] >= GATHER_IMAGES
    return large and has_kernel("dense_pathway_stats", backend)
