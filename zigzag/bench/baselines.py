"""What the fused operations are measured against: literal code where stock PyTorch has no such operation, and floors.

A floor is work that nobody can leave out, done by stock PyTorch alone: the fusion convolutions under the neck, or
moving the bytes that an operation must move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from zigzag.cost import Cost
from zigzag.geometry import membership

Function = TypeVar("Function", bound=Callable[..., Any])
Layer = tuple[Tensor, Tensor, Tensor | None]
"""Input map, weight, bias."""
MOSTLY_READ = 10
"""An operation that reads this many times what it writes is measured against a sum, any other against a copy."""


@dataclass(frozen=True, eq=False)
class Floor:
    """A floor that can be run.

    Attributes:
        run: does the work.
        operands: tensors that it reads and writes; it must look into them anew in every run, for they are moved.
    """

    run: Callable[[], object]
    operands: Sequence[Tensor]

    def __call__(self) -> object:
        """Do the work once."""
        return self.run()


def convolved_region_sums(x: Tensor, weights: Sequence[Tensor], grids: Sequence[int]) -> list[Tensor]:
    """Eq. 5 as it stands: for each K a convolution at full resolution, then its sums over K x K cells.

    Args:
        x: map (N, C, H, W).
        weights: for each K (C, C, k, k).
        grids: K of each branch.

    Returns:
        For each K (N, C, K, K).
    """
    sums = []
    for cells, weight in zip(grids, weights, strict=True):
        mapped = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        rows = membership(x.shape[2], cells, 0, x.dtype, x.device)
        columns = membership(x.shape[3], cells, 0, x.dtype, x.device)
        sums.append(torch.einsum("yh,nchw,xw->ncyx", rows, mapped, columns))
    return sums


def compiled_anew(function: Function, mode: str) -> Function:
    """``torch.compile`` of a function or module, forgetting what was compiled before.

    Cases share code: their shapes would be taken for one function's, compiled as if sizes varied, and past eight of
    them not at all.
    """
    torch.compiler.reset()
    return cast("Function", torch.compile(function, mode=mode))


def moving(cost: Cost, dtype: torch.dtype, device: torch.device | None = None) -> Floor:
    """What moves the bytes of ``cost``, of preallocated buffers: ``copy_``, or ``sum`` if it hardly writes."""
    itemsize = torch.empty((), dtype=dtype).element_size()
    if cost.read >= MOSTLY_READ * cost.written:
        source = torch.ones(cost.bytes // itemsize, dtype=dtype, device=device)
        return Floor(source.sum, [source])
    source = torch.ones(cost.bytes // 2 // itemsize, dtype=dtype, device=device)
    target = torch.zeros_like(source)
    return Floor(lambda: target.copy_(source), [source, target])


class Convolutions:
    """The neck's convolutions alone: the floor under its time.

    Args:
        layers: input map, weight, bias or None; each a stride-1 convolution that keeps the size.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.gradients = [torch.ones_like(result) for result in self.forward()]

    @property
    def operands(self) -> list[Tensor]:
        """Inputs, gradients of the results, and parameters."""
        parameters = [each for _, *given in self.layers for each in given if each is not None]
        return [*(x for x, *_ in self.layers), *self.gradients, *parameters]

    def forward(self) -> list[Tensor]:
        """All of them, without autograd."""
        with torch.no_grad():
            return [_convolved(layer) for layer in self.layers]

    def training_step(self) -> Sequence[Tensor]:
        """All of them forward, then the gradients of inputs, weights and biases."""
        # A leaf of its own for every input: sharing one would add sums of gradients, which are not the floor's work.
        layers = [(x.detach().requires_grad_(), weight, bias) for x, weight, bias in self.layers]
        leaves = [leaf for layer in layers for leaf in layer if leaf is not None]
        return torch.autograd.grad([_convolved(layer) for layer in layers], leaves, self.gradients)


def _convolved(layer: Layer) -> Tensor:
    x, weight, bias = layer
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
