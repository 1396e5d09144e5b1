"""Bytes and floating-point operations of every operation and of the neck, from shapes alone.

What is counted is the work that the operation as defined cannot do without, not what one implementation happens to do:

* bytes: each operand is read once and each result is written once, at its own item size;
* flops: a multiply-add is two operations, as in ``torch.utils.flop_counter``, and convolutions follow its formulas.
  A sum over cells adds each pixel once, whatever the grids: the cells of all the grids are unions of the rectangles of
  their common refinement. What depends on K or on the number of grids is a small term beside the pixels.

Nothing here needs torch: sizes are plain integers, ``(height, width)`` in pixels, shapes are ``(N, C, H, W)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Literal

from zigzag.config import NeckConfig

Size = tuple[int, int]
Shape = tuple[int, int, int, int]
Part = Literal["lateral", "fusion", "region_stats", "region_codes", "region_norm", "dense_pathway"]
Direction = Literal["lateral", "down", "up", "output"]


@dataclass(frozen=True)
class Cost:
    """Bytes read, bytes written and floating-point operations. Costs add."""

    read: int = 0
    written: int = 0
    flops: int = 0

    @property
    def bytes(self) -> int:
        """All bytes that cross the memory bus: read and written."""
        return self.read + self.written

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.read + other.read, self.written + other.written, self.flops + other.flops)

    def seconds(self, bandwidth: float, arithmetic: float) -> float:
        """The roofline's least time, in seconds, under ceilings in bytes/s and flop/s."""
        return max(self.bytes / bandwidth, self.flops / arithmetic)


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of several costs."""
    return sum(costs, Cost())


def accumulator_itemsize(itemsize: int) -> int:
    """Bytes of an accumulated value: float64 for float64 maps, float32 for all others."""
    return max(itemsize, 4)


def taps(halo: int) -> int:
    """Shifts of a cell that ``region_stats`` sums over: (2 halo + 1)^2."""
    return (2 * halo + 1) ** 2


def region_stats(
    shape: Shape,
    grids: Sequence[int] = (3, 5, 7),
    halo: int = 1,
    *,
    itemsize: int = 4,
    backward: bool = False,
    others: bool = False,
) -> Cost:
    """``region_stats`` of a map ``shape``: Eq. 5 once its convolution has commuted with the sum.

    Forward: one add and one multiply-add per value, then the shifted cells from the plain ones.
    Backward (alone): ``grad_x = spread(grad_sums) + 2 x grad_power``, which reads x and writes its gradient; with
    ``others`` the gradient of what else reads x is read and added.
    """
    n, c, h, w = shape
    pixels = n * c * h * w
    sums = n * c * sum(k * k for k in grids) * taps(halo)
    small = (sums + n * c) * accumulator_itemsize(itemsize)
    if backward:
        read = (1 + others) * pixels * itemsize + small
        return Cost(read, written=pixels * itemsize, flops=(3 + others) * pixels + sums)
    # A tap differs from its cell by strips of `halo` rows and columns: sum the strips, add one side, take the other.
    strips = n * c * 2 * halo * sum(grids) * (h + w)
    shifts = 4 * (sums - sums // taps(halo))
    return Cost(read=pixels * itemsize, written=small, flops=3 * pixels + strips + shifts)


def position_sensitive_pool(
    shape: Shape, rois: int, size: int = 21, groups: int = 7, *, itemsize: int = 4, backward: bool = False
) -> Cost:
    """``position_sensitive_pool`` of maps ``shape`` over ``rois`` RoIs, as if every map were read once.

    How many pixels a bin holds is data: one addition is counted for every bin and one division, or, backward, for every
    bin one division and one addition.
    """
    n, c, h, w = shape
    pixels = n * c * h * w * itemsize
    bins = rois * size * size * (c // groups**2)
    boxes = rois * 5 * 4
    if backward:
        return Cost(read=bins * itemsize + boxes, written=pixels, flops=2 * bins)
    return Cost(read=pixels + boxes, written=bins * itemsize, flops=2 * bins)


def region_codes(
    batch: int,
    channels: int,
    grids: Sequence[int] = (3, 5, 7),
    kernel_size: int = 3,
    *,
    itemsize: int = 4,
    backward: bool = False,
) -> Cost:
    """``region_codes``: per grid the branch's convolution on the sums, the K x K convolution and the deconvolution.

    Backward (alone): each product gives two, the gradient of its input and that of its weight.
    """
    weights = sum(k * k * 2 + kernel_size**2 for k in grids) * channels**2
    biases = 3 * channels * len(grids)
    products = sum(k * k * (kernel_size**2 + 2) for k in grids) * channels**2 * batch
    cells = sum(k * k for k in grids) * batch * channels
    sums = cells * kernel_size**2 * accumulator_itemsize(itemsize)
    codes = cells * accumulator_itemsize(itemsize)
    parameters = (weights + biases) * itemsize
    if backward:
        return Cost(read=sums + codes + parameters, written=sums + parameters, flops=4 * products)
    return Cost(read=sums + parameters, written=codes, flops=2 * products)


def region_norm(
    batch: int,
    channels: int,
    grids: Sequence[int] = (3, 5, 7),
    *,
    codes: bool = True,
    itemsize: int = 4,
    backward: bool = False,
) -> Cost:
    """``region_norm``: a GroupNorm's scale and shift from sums over cells; with ``codes`` those of R from those of F.

    Along an axis K + K' - gcd(K, K') pairs of cells of two grids overlap; the sums go over columns, then over rows.
    Backward (alone) takes the sums of R again.
    """
    images = batch * channels
    cells = sum(k * k for k in grids)
    overlaps = 2 * sum((k + other) * (k + other - gcd(k, other)) for k in grids for other in grids) * codes
    size = accumulator_itemsize(itemsize)
    tables, affine = images * cells * (1 + codes) * size, 2 * images * size
    parameters = 2 * channels * itemsize
    if backward:
        flops = images * (overlaps + 5 * cells * codes + 12)
        gradients = tables + images * size + parameters
        return Cost(read=tables + affine + parameters // 2, written=gradients, flops=flops)
    # Per channel: the sum over the first grid; both sums over a group; the affine. Per cell: Q (S + T).
    flops = images * (overlaps + 3 * cells * codes + grids[0] ** 2 + 5)
    return Cost(read=tables + images * size + parameters, written=affine, flops=flops)


def _resize_flops(source: Size, target: Size, resize: str) -> int:
    """Flops to bring one channel of one image from ``source`` to ``target``: axis by axis, height first."""
    if resize == "nearest":
        return 0
    (sh, sw), (th, tw) = source, target
    flops = 0
    for length, wanted, others in ((sh, th, sw), (sw, tw, th)):
        if wanted > length:
            flops += 3 * wanted * others  # a + (b - a) t
        elif wanted < length:
            flops += (length + wanted) * others  # the mean: every source once, then one scale per target
    return flops


def dense_pathway(
    shape: Shape,
    sources: Sequence[Size],
    *,
    grids: Sequence[int] | None = (3, 5, 7),
    base_affine: bool = False,
    base_relu: bool = False,
    source_affine: bool = False,
    gain: bool = False,
    resize: str = "linear",
    residual: bool = False,
    itemsize: int = 4,
    backward: bool = False,
) -> Cost:
    """``dense_pathway`` of a base ``shape`` and sources of the given sizes (Eqs. 1 and 3).

    ``grids=None`` means no codes. ``source_affine`` holds for every source or for none. Backward (alone) reads the
    gradient, the base and the sources again, and writes the gradients of the base, the sources and the small operands.
    """
    n, c, h, w = shape
    images = n * c
    pixels = h * w
    source_pixels = sum(sh * sw for sh, sw in sources)
    cells = sum(k * k for k in grids) if grids is not None else 0
    small = 2 * base_affine + len(sources) * (cells + 2 * source_affine)
    small_bytes = (images * small + c * gain) * accumulator_itemsize(itemsize)

    values = source_pixels * (bool(cells) + 2 * source_affine)
    resized = sum(_resize_flops(source, (h, w), resize) for source in sources)
    combined = pixels * (len(sources) - 1 + 1 + gain) if sources else 0
    base = pixels * (2 * base_affine + base_relu)
    maps = images * (pixels + source_pixels) * itemsize
    if not backward:
        residual_bytes = images * pixels * itemsize * residual
        return Cost(
            read=maps + small_bytes + residual_bytes,
            written=images * pixels * itemsize + residual_bytes,
            flops=images * (values + resized + combined + base + pixels * residual),
        )
    # The product's gradient takes prefix and suffix products, three multiplications a source, and never divides.
    products = pixels * 3 * len(sources) + 2 * pixels * gain if sources else 0
    adjoint = resized + source_pixels * (bool(cells) + 3 * source_affine)
    base_gradient = pixels * (3 * base_affine + base_relu)
    # With a residual there are two gradients to read (output, and output + residual), and the residual's to write.
    gradients = images * pixels * itemsize * (1 + residual)
    return Cost(
        read=maps + small_bytes + gradients,
        written=maps + small_bytes + images * pixels * itemsize * residual,
        flops=images * (values + resized + products + adjoint + base_gradient + pixels * residual),
    )


def convolution(
    shape: Shape, out_channels: int, kernel_size: int, *, bias: bool = False, itemsize: int = 4, backward: bool = False
) -> Cost:
    """A stock convolution of stride 1 that keeps the size. Backward (alone): the input's and the weight's gradient."""
    n, c, h, w = shape
    weight = (c * out_channels * kernel_size**2 + out_channels * bias) * itemsize
    source, result = n * c * h * w * itemsize, n * out_channels * h * w * itemsize
    flops = 2 * n * c * out_channels * kernel_size**2 * h * w
    if backward:
        return Cost(read=source + weight + result, written=source + weight, flops=2 * flops)
    return Cost(read=source + weight, written=result, flops=flops)


@dataclass(frozen=True)
class Step:
    """One operation of the neck: the stage (0..T, T is the output), the pass, the level (0 is finest) and its cost."""

    stage: int
    direction: Direction
    level: int
    part: Part
    cost: Cost

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return place(self.stage, self.direction, self.level)


def place(stage: int, direction: Direction, level: int) -> str:
    """A place in the neck in words, counted from 1: "stage 2, down, level 1", "lateral, level 1", "output, level 1"."""
    sweep = direction in ("down", "up")
    return f"stage {stage + 1}, {direction}, level {level + 1}" if sweep else f"{direction}, level {level + 1}"


def neck(
    config: NeckConfig,
    sizes: Sequence[Size],
    *,
    batch: int = 1,
    itemsize: int = 4,
    laterals: bool = False,
    backward: bool = False,
    gathers: Callable[[Shape], bool] = lambda _: False,
) -> list[Step]:
    """Every step of the neck on levels of the given ``sizes``, finest first, in the order in which they run.

    ``laterals`` adds the lateral convolutions in front. ``backward`` gives the backward pass alone; add both for a
    training step. ``gathers``: whether the kernel that writes a map of some shape takes its sums too
    (`zigzag.dispatch.gathers`), which then are a part of "dense_pathway".

    Raises:
        ValueError: the neck is not the whole ZigZag neck with RCE, but one of the paper's comparisons.
    """
    if config.context != "rce" or not (
        config.dense and config.exchange and config.fusion and config.bottom_up and config.outputs is None
    ):
        raise ValueError(
            "config must have context='rce', dense, exchange, fusion, bottom_up and all outputs: no other cost is known"
        )
    walk = _Walk(config, sizes, batch, itemsize, backward=backward, gathers=gathers)
    levels = range(len(sizes))
    for level in levels if laterals else ():
        walk.lateral(level)
    for stage in range(config.stages):
        for level in reversed(levels):
            # From the second stage on, the sum with F^u of the stage before is the bottom-up fusion's input.
            walk.pathway(stage, "down", level, levels[level + 1 :], residual=stage > 0)
            walk.context(stage, "down", level, last=0)
        for level in levels:
            walk.pathway(stage, "up", level, levels[:level], residual=True)
            walk.context(stage, "up", level, last=levels[-1])
    for level in levels:
        walk.pathway(config.stages, "output", level, (), residual=False)
    return walk.steps[::-1] if backward else walk.steps


class _Walk:
    """Collects the steps of one pass through the neck."""

    def __init__(
        self,
        config: NeckConfig,
        sizes: Sequence[Size],
        batch: int,
        itemsize: int,
        *,
        backward: bool,
        gathers: Callable[[Shape], bool],
    ) -> None:
        self.config = config
        self.sizes = sizes
        self.batch = batch
        self.itemsize = itemsize
        self.backward = backward
        self.gathers = gathers
        self.has_kernel = False
        self.steps: list[Step] = []

    def shape(self, level: int) -> Shape:
        return (self.batch, self.config.out_channels, *self.sizes[level])

    def lateral(self, level: int) -> None:
        shape = (self.batch, self.config.in_channels[level], *self.sizes[level])
        cost = convolution(
            shape,
            self.config.out_channels,
            self.config.lateral_kernel_size,
            bias=True,
            itemsize=self.itemsize,
            backward=self.backward,
        )
        self.steps.append(Step(0, "lateral", level, "lateral", cost))

    def pathway(self, stage: int, direction: Direction, level: int, sources: Sequence[int], *, residual: bool) -> None:
        """Fusion (from the second stage on) and dense pathway: what writes P and F."""
        config, fused = self.config, stage > 0
        self.has_kernel = fused or bool(sources)  # otherwise F is P, and no kernel writes it
        if fused:
            self.fusion(stage, direction, level)
        if not (sources or fused or residual):
            return
        cost = dense_pathway(
            self.shape(level),
            [self.sizes[j] for j in sources],
            grids=config.grids,
            base_affine=fused and config.fusion_norm,
            base_relu=fused,
            source_affine=config.context_norm,
            gain=config.gain is not None,
            resize=config.resize,
            residual=residual,
            itemsize=self.itemsize,
            backward=self.backward,
        )
        self.steps.append(Step(stage, direction, level, "dense_pathway", cost))

    def fusion(self, stage: int, direction: Direction, level: int) -> None:
        config, shape = self.config, self.shape(level)
        cost = convolution(
            shape, shape[1], 3, bias=not config.fusion_norm, itemsize=self.itemsize, backward=self.backward
        )
        self.steps.append(Step(stage, direction, level, "fusion", cost))
        if config.fusion_norm:
            cost = region_stats(shape, (1,), 0, itemsize=self.itemsize, backward=self.backward, others=True)
            self.steps.append(Step(stage, direction, level, "region_stats", cost))
            self.norm(stage, direction, level, (1,), codes=False)

    def context(self, stage: int, direction: Direction, level: int, *, last: int) -> None:
        """Region context encoding of the map just written; the last map of a pass is nobody's source."""
        if level == last:
            return
        config, shape = self.config, self.shape(level)
        cost = region_stats(
            shape,
            config.grids,
            config.kernel_size // 2,
            itemsize=self.itemsize,
            backward=self.backward,
            others=True,
        )
        if self.has_kernel and not self.backward and self.gathers(shape):
            self.steps[-1] = replace(self.steps[-1], cost=self.steps[-1].cost + replace(cost, read=0))
        else:
            self.steps.append(Step(stage, direction, level, "region_stats", cost))
        cost = region_codes(
            self.batch,
            shape[1],
            config.grids,
            config.kernel_size,
            itemsize=self.itemsize,
            backward=self.backward,
        )
        self.steps.append(Step(stage, direction, level, "region_codes", cost))
        if config.context_norm:
            self.norm(stage, direction, level, config.grids, codes=True)

    def norm(self, stage: int, direction: Direction, level: int, grids: Sequence[int], *, codes: bool) -> None:
        cost = region_norm(
            self.batch,
            self.config.out_channels,
            grids,
            codes=codes,
            itemsize=self.itemsize,
            backward=self.backward,
        )
        self.steps.append(Step(stage, direction, level, "region_norm", cost))


def fusion_convolutions(
    config: NeckConfig,
    sizes: Sequence[Size],
    *,
    batch: int = 1,
    itemsize: int = 4,
    laterals: bool = False,
    backward: bool = False,
) -> Cost:
    """The floor under the neck: its fusion (and, on request, lateral) convolutions alone."""
    steps = neck(config, sizes, batch=batch, itemsize=itemsize, laterals=laterals, backward=backward)
    return total(step.cost for step in steps if step.part in ("fusion", "lateral"))
