"""What a case is made of: its formulations, its floor, its cost, its float64 result, and the maps that it runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

import zigzag
from zigzag import cost
from zigzag.bench.accuracy import Results
from zigzag.bench.baselines import Floor, compiled_anew
from zigzag.bench.settings import SEED
from zigzag.config import NeckConfig

Direction = Literal["forward", "forward+backward"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "forward+backward")
Layout = Literal["channels_last", "contiguous"]
LAYOUTS: tuple[Layout, ...] = ("channels_last", "contiguous")
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
Grids = tuple[int, ...]

OURS = "zigzag"
EAGER = "eager"
COMPILED = "compiled"
COMMUTED = "commuted"
FLOOR = "floor"
TRITON, CUDA, HOPPER = FUSED = ("triton", "cuda", "hopper")
"""Backends that are sides of their own where they run: `OURS` is the default of them."""
SIDES = (OURS, *FUSED, EAGER, COMPILED, COMMUTED, FLOOR)
"""All sides of a comparison, in the order of the tables."""


@dataclass(frozen=True)
class Variant:
    """How a case is measured.

    Attributes:
        kernel: size of the region kernel; None where it plays no part.
        dtype: of maps and parameters, by name.
        layout: of maps.
        grids: K of every region grid; () where they play no part.
    """

    kernel: int | None
    dtype: str
    layout: Layout
    grids: Grids


def key(name: str, direction: Direction, variant: Variant) -> str:
    """What a row measures, in words that ``--filter`` understands; with the side, a row's name."""
    kernel = [f"{variant.kernel}x{variant.kernel}"] if variant.kernel else []
    grids = ["K=" + ",".join(map(str, variant.grids))] if variant.grids else []
    return " ".join([name, *kernel, direction, variant.dtype, variant.layout, *grids])


@dataclass(frozen=True)
class Formulation:
    """One way to compute a case.

    Attributes:
        call: from maps and small operands to the outputs.
        maps: leaves of autograd, the large operands.
        parameters: leaves of autograd, the small operands.
        gradients: of the outputs, for the backward pass.
        output: the group that the outputs are compared in.
    """

    call: Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]
    maps: Sequence[Tensor]
    parameters: Sequence[Tensor]
    gradients: Sequence[Tensor]
    output: str = "output"

    def run(self, direction: Direction) -> Results:
        """The outputs and, with a backward pass, the gradients of all operands."""
        if direction == "forward":
            with torch.no_grad():
                return {self.output: self.call(self.maps, self.parameters)}
        outputs = self.call(self.maps, self.parameters)
        gradients = torch.autograd.grad(outputs, [*self.maps, *self.parameters], self.gradients)
        groups = {
            self.output: [output.detach() for output in outputs],
            f"{self.output}: gradients of maps": gradients[: len(self.maps)],
            f"{self.output}: gradients of parameters": gradients[len(self.maps) :],
        }
        return {name: tensors for name, tensors in groups.items() if tensors}

    def under(self, backend: str) -> Formulation:
        """The same by another backend of zigzag's operations."""

        def call(maps: Sequence[Tensor], parameters: Sequence[Tensor]) -> Sequence[Tensor]:
            with zigzag.use_backend(backend):
                return self.call(maps, parameters)

        return replace(self, call=call)

    def compiled(self, mode: str) -> Formulation:
        """The same under ``torch.compile`` in one of its modes."""
        traced = compiled_anew(self.call, mode)

        def call(maps: Sequence[Tensor], parameters: Sequence[Tensor]) -> Sequence[Tensor]:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # results may be overwritten
            return traced(maps, parameters)

        return replace(self, call=call)

    def double(self) -> Formulation:
        """The same in float64, on the same values."""
        return Formulation(
            self.call,
            [leaf.detach().double().requires_grad_() for leaf in self.maps],
            [leaf.detach().double().requires_grad_() for leaf in self.parameters],
            [gradient.double() for gradient in self.gradients],
            self.output,
        )


@dataclass(frozen=True)
class Case:
    """What is measured, ready to run.

    Attributes:
        name: such as "dense_pathway.level1".
        operation: the public function or method that it measures.
        variant: how it is measured.
        shape: sizes, for the reader.
        formulations: by side; `OURS` is the default backend.
        stock: by group of outputs the side whose error is stock PyTorch's.
        exact: the float64 results for a direction.
        costs: the steps of the work by direction; their least times add up.
        floors: the floor by direction.
        seconds: share of the time budget, by direction; emptying the caches before every run is part of it.
        checking: surrounds the float64 results and the checks for a direction, to put parameters into a state in which
            rounding cannot decide a ReLU: on which side of 0 it falls is no error of a gradient.
        size: of the photograph's crop, where it is not the run's.
    """

    name: str
    operation: str
    variant: Variant
    shape: str
    formulations: Mapping[str, Formulation]
    stock: Mapping[str, str]
    exact: Callable[[Direction], Results]
    costs: Mapping[Direction, Sequence[cost.Cost]]
    floors: Mapping[Direction, Floor]
    seconds: Mapping[Direction, float]
    checking: Callable[[Direction], AbstractContextManager[None]] = lambda _: nullcontext()
    size: int | None = None

    def operands(self, direction: Direction) -> list[Tensor]:
        """What its sides and its floor work on, each tensor once: maps and the floor's own first, parameters last."""
        sides, floor = self.formulations.values(), self.floors[direction]
        kinds = ([side.maps for side in sides], [floor.operands], [side.gradients for side in sides])
        found = [each for kind in (*kinds, [side.parameters for side in sides]) for given in kind for each in given]
        return list({id(tensor): tensor for tensor in found}.values())


class Workload:
    """The maps and the neck that the cases of one variant share.

    Args:
        features: backbone maps (N, C_i, H_i, W_i), finest first; what is measured is in their dtype, layout and device.
        neck: as `build_neck` makes it.
        images: (N, 3, H, W), normalised, for the cases of whole models.
    """

    def __init__(
        self,
        features: Sequence[Tensor],
        neck: zigzag.nn.ZigZagNeck,
        *,
        images: Tensor | None = None,
    ) -> None:
        self.features = [feature.detach() for feature in features]
        self.neck = neck
        self.config: NeckConfig = neck.config
        self.images = images
        self.dtype = features[0].dtype
        self.device = features[0].device
        channels_last = features[0].is_contiguous(memory_format=torch.channels_last)
        self.layout: Layout = "channels_last" if channels_last else "contiguous"
        self._generator = torch.Generator().manual_seed(SEED)

    @property
    def variant(self) -> Variant:
        """How its cases are measured."""
        return Variant(self.kernel, str(self.dtype).removeprefix("torch."), self.layout, self.config.grids)

    @property
    def kernel(self) -> int:
        """Size of the region kernel."""
        return self.config.kernel_size

    @property
    def batch(self) -> int:
        """N."""
        return self.features[0].shape[0]

    @property
    def itemsize(self) -> int:
        """Bytes of a value of a map."""
        return self.features[0].element_size()

    @property
    def sizes(self) -> list[cost.Size]:
        """Height and width of every level."""
        return [(feature.shape[2], feature.shape[3]) for feature in self.features]

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """The neck's parameters by name."""
        return dict(self.neck.named_parameters())

    @cached_property
    def bases(self) -> list[Tensor]:
        """B^i: the features after the lateral convolutions (N, C, H_i, W_i), leaves of autograd."""
        padding = self.config.lateral_kernel_size // 2
        maps = []
        with torch.no_grad():
            for i, feature in enumerate(self.features):
                weight, bias = (self.parameters[f"lateral.{i}.{kind}"] for kind in ("weight", "bias"))
                maps.append(leaf(torch.conv2d(feature, weight, bias, padding=padding)))
        return maps

    def noise(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Seeded normal values in the maps' dtype, a leaf of autograd; 4-D ones in their layout."""
        values = (torch.randn(shape, generator=self._generator) * scale).to(self.device, self.dtype)
        return leaf(values.to(memory_format=FORMATS[self.layout]) if values.dim() == 4 else values)


def build_neck(features: Sequence[Tensor], kernel: int, **fields: Any) -> zigzag.nn.ZigZagNeck:
    """A seeded neck of the preset "stable" for these features, in their dtype and layout; ``fields`` of its config."""
    torch.manual_seed(SEED)
    neck = zigzag.nn.ZigZagNeck([feature.shape[1] for feature in features], kernel_size=kernel, **fields)
    channels_last = features[0].is_contiguous(memory_format=torch.channels_last)
    format_ = torch.channels_last if channels_last else torch.contiguous_format
    return neck.to(features[0].device, features[0].dtype).to(memory_format=format_)


def leaf(values: Tensor) -> Tensor:
    """The same values as a leaf of autograd."""
    return values.detach().requires_grad_()


def noise_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Seeded gradients for outputs of a device, drawn there, in their shapes, dtypes and layouts."""
    device = tensors[0].device
    generator = torch.Generator(device).manual_seed(SEED)
    return [torch.empty_like(t).copy_(torch.randn(t.shape, generator=generator, device=device)) for t in tensors]
