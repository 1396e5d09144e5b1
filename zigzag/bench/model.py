"""The cases of a whole network: prediction, at one scale and averaged over several, and a training step.

They are of the semantic segmenter on small crops.

Its head reads the sum of all maps, so that every part of the neck works.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import zigzag
from zigzag import cost
from zigzag.bench.accuracy import Results
from zigzag.bench.baselines import Convolutions, Floor, compiled_anew
from zigzag.bench.neck import decided, layers
from zigzag.bench.settings import SEED, BenchError
from zigzag.bench.workload import (
    COMMUTED,
    EAGER,
    FORMATS,
    OURS,
    Case,
    Direction,
    Formulation,
    Workload,
)

if TYPE_CHECKING:
    from zigzag.models import SemanticSegmenter

SIZE = 128
"""Side of the crops, in pixels, where ``--size`` is not less: in float64 and in eager, larger ones take minutes."""
CLASSES = 21
BACKBONE = "resnet50"


_RESIDUAL = 0.25
"""Scale of the residual branches: random ones of full scale multiply a rounding from block to block."""


@dataclass(frozen=True, kw_only=True)
class Network(Formulation):
    """A network and its images as one side of a case.

    Forward is its prediction; forward+backward a training step: cross-entropy, backward, and SGD at a learning rate
    of 0, so that every step is the first. Compared are the scores and the gradients of the neck and the head: the
    backbone's come from stock PyTorch in every side, and rounding may put its ReLUs on either side of 0.

    Attributes:
        model: a `zigzag.models.SemanticSegmenter`.
        target: labels (N, H, W).
        optimizer: over its parameters; None where no step is wanted.
        backend: of zigzag's operations in it; None for the default.
    """

    model: SemanticSegmenter
    target: Tensor
    optimizer: torch.optim.Optimizer | None
    backend: str | None = None

    def run(self, direction: Direction) -> Results:
        """The scores and, after a training step, the gradients of neck and head."""
        (images,) = self.maps
        with nullcontext() if self.backend is None else zigzag.use_backend(self.backend):
            if direction == "forward":
                with torch.no_grad():
                    return {"output": [self.model(images)]}
            scores = self.model(images)
        for parameter in self.parameters:
            parameter.grad = None
        F.cross_entropy(scores if scores.dtype == torch.float64 else scores.float(), self.target).backward()  # type: ignore[no-untyped-call]
        if self.optimizer is not None:
            self.optimizer.step()
        learning = [p for part in (self.model.neck, self.model.head) for p in part.parameters()]
        return {"output": [scores.detach()], "output: gradients of neck and head": [_gradient(p) for p in learning]}

    def under(self, backend: str) -> Network:
        """The same by another backend of zigzag's operations."""
        return replace(self, backend=backend)

    def compiled(self, mode: str) -> Network:
        """The same under ``torch.compile`` in one of its modes."""
        return replace(self, model=compiled_anew(self.model, mode))

    def double(self) -> Network:
        """The same in float64, on a copy of the network, without an optimiser."""
        model = copy.deepcopy(self.model).double()
        images = [x.double() for x in self.maps]
        return replace(self, model=model, maps=images, parameters=list(model.parameters()), optimizer=None)


@dataclass(frozen=True, kw_only=True)
class Averaged(Network):
    """A network with the image that it predicts at the paper's five scales, each mirrored too.

    Attributes:
        image: RGB (3, H, W) uint8.
    """

    image: Tensor

    def run(self, direction: Direction) -> Results:  # noqa: ARG002 - there is one
        """The probabilities that `zigzag.tasks.inference.segment` takes its labels from."""
        from zigzag.tasks.inference import PAPER_SCALES, Inference, probabilities

        (images,) = self.maps

        def network(pixels: Tensor) -> Tensor:
            return cast(Tensor, self.model(pixels.to(images.dtype)))

        with nullcontext() if self.backend is None else zigzag.use_backend(self.backend):
            bands = probabilities(network, self.image, CLASSES, Inference(PAPER_SCALES, flip=True))
            return {"output": [torch.cat(list(bands), 1)]}


def predict(work: Workload) -> Case:
    """Scores of every pixel of two images."""
    return _case("model.predict", work, {"forward": 5.0})


def segment(work: Workload) -> Case:
    """Probabilities of every pixel of the first image as a test averages them: ten runs of the network."""
    from zigzag.data.transforms import denormalised
    from zigzag.tasks.inference import PAPER_SCALES

    one = _case("model.segment", work, {"forward": 30.0})
    ours = cast(Network, one.formulations[OURS])
    image = denormalised(ours.maps[0][0])
    sides = {
        name: Averaged(**{**_fields(cast(Network, side)), "image": image}) for name, side in one.formulations.items()
    }
    sizes = [[max(1, round(side * scale)) for side in image.shape[1:]] for scale in PAPER_SCALES]
    seen = [F.interpolate(ours.maps[0][:1], size) for size in sizes]
    inner = [Workload(_maps(ours.model, x), cast("zigzag.nn.ZigZagNeck", ours.model.neck)) for x in seen]
    floors = [_floors(ours.model, x, own, None)["forward"] for x, own in zip(seen, inner, strict=True)]
    costs = [_costs(ours.model, x, own, backward=False) for x, own in zip(seen, inner, strict=True)]
    return replace(
        one,
        shape=f"{BACKBONE}, {CLASSES} classes, {'x'.join(map(str, image.shape))}, scales {PAPER_SCALES}, mirrored",
        formulations=sides,
        exact=lambda direction: sides[COMMUTED].double().run(direction),
        costs={"forward": 2 * [each for own in costs for each in own]},
        floors={"forward": Floor(lambda: [floor() for floor in 2 * floors], [x for f in floors for x in f.operands])},
    )


def _fields(side: Network) -> dict[str, Any]:
    return {field.name: getattr(side, field.name) for field in fields(side)}


def step(work: Workload) -> Case:
    """A training step on two images."""
    return _case("model.step", work, {"forward+backward": 10.0})


def _case(name: str, work: Workload, seconds: dict[Direction, float]) -> Case:
    images = _images(name, work)
    ours, literal = _networks(work, images)
    labels = torch.randint(CLASSES, (len(images), *images.shape[2:]), generator=torch.Generator().manual_seed(SEED))
    parameters = list(ours.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=1e-4)

    def side(model: SemanticSegmenter, backend: str | None = None) -> Network:
        return Network(
            model, [images], parameters, [], model=model, target=labels.to(work.device), optimizer=optimizer,
            backend=backend,
        )  # fmt: skip

    formulations: dict[str, Formulation] = {
        OURS: side(ours), COMMUTED: side(ours, "reference"), EAGER: side(literal)
    }  # fmt: skip

    def exact(direction: Direction) -> Results:
        return side(ours, "reference").double().run(direction)

    inner = Workload(_maps(ours, images), cast("zigzag.nn.ZigZagNeck", ours.neck))
    forward, backward = (_costs(ours, images, inner, backward=backward) for backward in (False, True))
    return Case(
        name=name,
        operation=name,
        variant=replace(work.variant, kernel=inner.kernel, grids=inner.config.grids),
        shape=f"{BACKBONE}, {CLASSES} classes, {'x'.join(map(str, images.shape))}",
        formulations=formulations,
        stock={"output": EAGER},
        exact=exact,
        costs={"forward": forward, "forward+backward": forward + backward},
        floors=_floors(ours, images, inner, optimizer),
        seconds=seconds,
        checking=lambda direction: (
            decided(dict(ours.neck.named_parameters())) if direction == "forward+backward" else nullcontext()
        ),
        size=images.shape[-1],
    )


def _images(name: str, work: Workload) -> Tensor:
    if work.images is None:
        raise BenchError(f"{name} needs images, and this workload was made without")
    return work.images.to(work.device, work.dtype).contiguous(memory_format=FORMATS[work.layout])


def _networks(work: Workload, images: Tensor) -> tuple[SemanticSegmenter, SemanticSegmenter]:
    """The network with the fused neck and with the literal one, on the same parameters.

    Its normalisation is by the images' own statistics, taken once: random weights have no others worth the name.
    """
    from zigzag.models import BackboneConfig, NeckOptions, NetworkConfig, SemanticSegmenter

    def config(kind: Literal["zigzag", "eager"]) -> NetworkConfig:
        fields = {name: getattr(work.config, name) for name in ("grids", "kernel_size", "norm_groups")}
        neck = NeckOptions(kind, work.config.out_channels, **fields)
        return NetworkConfig(BackboneConfig(BACKBONE, norm="batch"), neck, reads="all")

    torch.manual_seed(SEED)
    ours = SemanticSegmenter(config("zigzag"), CLASSES).to(work.device, work.dtype)
    ours = ours.to(memory_format=FORMATS[work.layout])
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        last = getattr(module, "bn3", getattr(module, "bn2", None))
        if last is not None:
            nn.init.constant_(last.weight, _RESIDUAL)
    _maps(ours, images)
    ours.eval()
    with torch.device("meta"):
        literal = SemanticSegmenter(config("eager"), CLASSES).eval()
    literal.load_state_dict(ours.state_dict(keep_vars=True), assign=True)
    return ours, literal


def _maps(model: SemanticSegmenter, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        maps: list[Tensor] = model.backbone(images)
    return maps


def _floors(
    model: SemanticSegmenter, images: Tensor, inner: Workload, optimizer: torch.optim.Optimizer | None
) -> dict[Direction, Floor]:
    """Backbone, the neck's convolutions and the head; in a step their gradients and the optimiser's part too."""
    convolutions = Convolutions(layers(inner, laterals=True))
    size = images.shape[2:]

    def forward() -> object:
        with torch.no_grad():
            return _maps(model, images), convolutions.forward(), model.head(inner.bases[0], size)

    def training_step() -> object:
        for outputs, part in (
            (model.backbone(images), model.backbone),
            ([model.head(inner.bases[0], size)], model.head),
        ):
            leaves = list(part.parameters())
            torch.autograd.grad(outputs, leaves, [torch.ones_like(x) for x in outputs])
        convolutions.training_step()
        return None if optimizer is None else optimizer.step()

    operands = [images, *convolutions.operands]
    return {"forward": Floor(forward, operands), "forward+backward": Floor(training_step, operands)}


def _costs(model: SemanticSegmenter, images: Tensor, inner: Workload, *, backward: bool) -> list[cost.Cost]:
    """Backbone and head as one step, FLOPs counted; the neck step by step."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        maps = _maps(model, images)
        scores = model.head(inner.bases[0], images.shape[2:])
    others = [p for name, p in model.named_parameters() if not name.startswith("neck.")]
    weights, ends = (sum(x.numel() for x in group) * inner.itemsize for group in (others, [images, *maps, scores]))
    flops = counter.get_total_flops()
    rest = cost.Cost(weights, weights + ends, 2 * flops) if backward else cost.Cost(weights, ends, flops)
    steps = cost.neck(
        inner.config, inner.sizes, batch=inner.batch, itemsize=inner.itemsize, laterals=True, backward=backward
    )
    return [rest, *(step.cost for step in steps)]


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
