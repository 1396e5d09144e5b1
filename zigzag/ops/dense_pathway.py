"""The dense pathway: a map plus the combined region contexts of other levels (Eqs. 1 and 3; spec section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from zigzag import config, cost, dispatch, reference
from zigzag.backends import select
from zigzag.dispatch import has_kernel
from zigzag.geometry import inside
from zigzag.ops import flops
from zigzag.ops.arguments import (
    accumulation_dtype,
    autocast,
    check_grids,
    check_map,
    check_option,
    check_per_source,
    check_small,
    check_valid,
    dense,
    sizes,
    small,
    without_autocast,
)
from zigzag.ops.region_stats import check_statistics, region_stats
from zigzag.ops.region_stats import fake as fake_stats
from zigzag.ops.registration import Arguments, Operation, transforms_active

Affine = tuple[Tensor, Tensor]

MOST_SOURCES = 16
"""What kernels hold at a time; the reference takes any number."""


def dense_pathway(
    base: Tensor,
    sources: Sequence[Tensor],
    codes: Sequence[Tensor | None] | None = None,
    grids: Sequence[int] = (3, 5, 7),
    *,
    base_affine: Affine | None = None,
    base_relu: bool = False,
    source_affine: Sequence[Affine | None] | None = None,
    gain: Tensor | None = None,
    combine: Literal["product", "sum"] = "product",
    resize: Literal["linear", "nearest"] = "linear",
    residual: Tensor | None = None,
    valid: Tensor | None = None,
    source_valid: Sequence[Tensor | None] | None = None,
    statistics: tuple[Sequence[int], int] | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """act(base) + gain * combine_j resize(a_j * (sources[j] + codes[j][cell]) + b_j).

    sources[j] + codes[j][cell] is R^j (Eq. 6); with their product this is Eq. 1 and Eq. 3. Neither R nor anything
    resized is written to memory.

    Args:
        base: map P (N, C, H, W); float64, float32, bfloat16 or float16.
        sources: maps F^j (N, C, H_j, W_j) of other levels, in base's dtype (under autocast, maps of several dtypes are
            cast to autocast's); with none of them nothing is added.
        codes: per source (N, sum K*K, C) as `region_codes` returns them, or None. These and the other small tensors are
            in the maps' dtype or float32.
        grids: K of every grid of the codes; row h of a source is in cell floor(h*K/H_j).
        base_affine: scale and shift (N, C) each, applied to base (a GroupNorm folded).
        base_relu: apply a ReLU to base, after the affine.
        source_affine: per source scale and shift (N, C) each, or None.
        gain: (C,), multiplies what is added.
        combine: how the sources are joined.
        resize: "linear" (bilinear with half-pixel centres up, area mean down, axis by axis) or "nearest".
        residual: map (N, C, H, W) in base's dtype, for the second result.
        valid: (N, 2) integers, every image's own height and width in base, in pixels; the results are 0 outside.
        source_valid: per source (N, 2) integers, or None.
        statistics: grids and halo with which `region_stats` of the first result is wanted too, for `region_context` of
            it. A backend that has a kernel for it (`gathers_statistics`) takes the sums as it writes the map.
        backend: name of the backend; None for that of `use_backend`, or else the fastest that can run.

    Returns:
        The map F (N, C, H, W) in base's dtype and layout; with ``residual`` the pair (F, F + residual); with
        ``statistics`` a tuple of these, sums (N, S, C) and power (N, C), which have no derivative of their own.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: an argument has a wrong shape or value.
        RuntimeError: the backend that was named cannot run.
    """
    check_option("combine", combine, ("product", "sum"))
    check_option("resize", resize, ("linear", "nearest"))
    cells = check_grids(grids)
    base, sources, residual = _one_dtype(base, sources, residual)
    codes = check_per_source("codes", codes, len(sources))
    source_affine = check_per_source("source_affine", source_affine, len(sources))
    source_valid = check_per_source("source_valid", source_valid, len(sources))
    _check(base, sources, codes, cells, base_affine, source_affine, gain, valid, source_valid)
    wanted = None if statistics is None else _check_statistics(statistics)
    name = select(backend, "dense_pathway", base)
    if name != "reference":
        if len(sources) > MOST_SOURCES:
            more = "backend='reference' takes any number"
            raise ValueError(f"sources must be at most {MOST_SOURCES} maps, got {len(sources)}; {more}")
        dtype = accumulation_dtype(base.dtype)
        base_scale, base_shift = base_affine or (None, None)
        gathered = wanted if has_kernel("dense_pathway_stats", name) and not torch.compiler.is_compiling() else None
        results = (_operation if gathered is None else _with_statistics).on(name)(
            dense(base),
            [dense(source) for source in sources],
            [small(own, dtype) for own in codes],
            small(base_scale, dtype),
            small(base_shift, dtype),
            [None if own is None else small(own[0], dtype) for own in source_affine],
            [None if own is None else small(own[1], dtype) for own in source_affine],
            small(gain, dtype),
            None if residual is None else dense(residual),
            sizes(valid, base),
            [sizes(own, base) for own in source_valid],
            cells,
            base_relu,
            combine == "product",
            resize == "nearest",
            *(gathered or ()),
        )
        if wanted is not None and gathered is None:
            results = [*results, *_statistics_of(results[0], *wanted, valid, backend)]
        return results[0] if len(results) == 1 else tuple(results)
    options: dict[str, Any] = {
        "base_affine": base_affine,
        "base_relu": base_relu,
        "source_affine": source_affine,
        "gain": gain,
        "combine": combine,
        "resize": resize,
        "residual": residual,
        "valid": valid,
        "source_valid": None if all(own is None for own in source_valid) else source_valid,
    }
    with without_autocast(base) if autocast(base) else nullcontext():
        found = reference.dense_pathway(base, sources, codes, cells, **options)
    if wanted is None:
        return found
    maps = found if isinstance(found, tuple) else (found,)
    return *maps, *_statistics_of(maps[0], *wanted, valid, backend)


def gathers_statistics(base: Tensor) -> bool:
    """Whether the neck should ask `dense_pathway` for ``statistics``, by `zigzag.dispatch.gathers`.

    Not in a trace, which sees `region_stats` with its derivative; nor for maps of which its blocks are too few, or that
    are summed in float64 (`zigzag.ops.region_context.widened`).
    """
    height, width = base.shape[2:]
    if torch.compiler.is_compiling() or transforms_active() or height * width <= config.FEW_PIXELS:
        return False
    return dispatch.gathers(select(None, "dense_pathway", base), base.shape)


def _statistics_of(x: Tensor, grids: list[int], halo: int, valid: Tensor | None, backend: str | None) -> list[Tensor]:
    return list(region_stats(x.detach(), grids, halo, valid=valid, backend=backend))


def _one_dtype(base: Any, sources: Any, residual: Any) -> tuple[Tensor, Sequence[Tensor], Tensor | None]:
    """The maps, checked; under autocast those of several dtypes are cast to autocast's."""
    if not isinstance(sources, (list, tuple)):
        raise TypeError(f"sources must be a list of maps, got {type(sources).__name__}")
    check_map("base", base)
    maps = [base, *sources] if residual is None else [base, *sources, residual]
    dtypes = {m.dtype for m in maps if isinstance(m, Tensor)}
    if len(dtypes) > 1 and torch.float64 not in dtypes and autocast(base):
        dtype = torch.get_autocast_dtype(base.device.type)
        base, sources = base.to(dtype), [source.to(dtype) for source in sources]
        residual = None if residual is None else residual.to(dtype)
    for index, source in enumerate(sources):
        check_map(f"sources[{index}]", source, base)
    if residual is not None:
        check_map("residual", residual, base)
        if residual.shape != base.shape:
            raise ValueError(f"residual must have base's shape {tuple(base.shape)}, got {tuple(residual.shape)}")
    return base, sources, residual


def _check(
    base: Tensor,
    sources: Sequence[Tensor],
    codes: Sequence[Any],
    grids: list[int],
    base_affine: Any,
    source_affine: Sequence[Any],
    gain: Any,
    valid: Any,
    source_valid: Sequence[Any],
) -> None:
    number, channels, height, width = base.shape
    cells = sum(k * k for k in grids)
    if base_affine is not None:
        _check_affine("base_affine", base_affine, base, (number, channels))
    if gain is not None:
        check_small("gain", gain, base, (channels,), "(C,)")
    if valid is not None:
        check_valid("valid", valid, number, height, width)
    for j, source in enumerate(sources):
        if codes[j] is not None:
            check_small(f"codes[{j}]", codes[j], base, (number, cells, channels), "(N, sum K*K, C)")
        if source_affine[j] is not None:
            _check_affine(f"source_affine[{j}]", source_affine[j], base, (number, channels))
        if source_valid[j] is not None:
            check_valid(f"source_valid[{j}]", source_valid[j], number, source.shape[2], source.shape[3])


def _check_statistics(statistics: Any) -> tuple[list[int], int]:
    if not isinstance(statistics, (list, tuple)) or len(statistics) != 2:
        raise TypeError(f"statistics must be a pair (grids, halo), got {statistics!r}")
    grids, halo = statistics
    return check_statistics(grids, halo, "statistics' ")


def _check_affine(name: str, affine: Any, base: Tensor, shape: tuple[int, int]) -> None:
    if not isinstance(affine, (list, tuple)) or len(affine) != 2:
        raise TypeError(f"{name} must be a pair (scale, shift), got {type(affine).__name__}")
    check_small(f"{name} scale", affine[0], base, shape, "(N, C)")
    check_small(f"{name} shift", affine[1], base, shape, "(N, C)")


# --- the custom operation ---------------------------------------------------------------------------------------------


def _fake(base: Tensor, *args: Any) -> list[Tensor]:
    residual = args[7]
    return [torch.empty_like(base) for _ in range(1 if residual is None else 2)]


def _fake_backward(
    grad: Tensor | None,
    grad_sum: Tensor | None,
    base: Tensor | None,
    sources: list[Tensor],
    codes: list[Tensor | None],
    base_scale: Tensor | None,
    base_shift: Tensor | None,
    scales: list[Tensor | None],
    shifts: list[Tensor | None],
    gain: Tensor | None,
    *_: Any,
) -> list[Tensor]:
    like = next(tensor for tensor in (base, grad, grad_sum) if tensor is not None)
    dtype = accumulation_dtype(like.dtype)
    number, channels = like.shape[:2]

    def table(given: Tensor | None) -> Tensor:
        return like.new_empty((0,) if given is None else (number, *given.shape[1:-1], channels), dtype=dtype)

    results = [torch.empty_like(like), table(base_scale), table(base_shift), table(gain)]
    for source, code, scale, shift in zip(sources, codes, scales, shifts, strict=True):
        results += [torch.empty_like(source), table(code), table(scale), table(shift)]
    return results


def _fake_with_statistics(base: Tensor, *args: Any) -> list[Tensor]:
    grids, halo = args[-2:]
    return [*_fake(base, *args[:-2]), *fake_stats(base, grids, halo, None)]


def _setup_context(ctx: Any, args: Arguments, _: Any) -> None:
    base, sources, codes, base_scale, base_shift, scales, shifts, gain, _residual, valid, source_valid = args[:11]
    ctx.options = args[11:15]
    ctx.count = len(sources)
    ctx.set_materialize_grads(False)
    used = base_scale is not None or ctx.options[1]
    ctx.save_for_backward(
        base if used else None, base_scale, base_shift, gain, valid, *sources, *codes, *scales, *shifts, *source_valid
    )


def _backward(ctx: Any, grad: Tensor | None, grad_sum: Tensor | None = None) -> list[Any]:
    base, base_scale, base_shift, gain, valid, *rest = ctx.saved_tensors
    sources, codes, scales, shifts, source_valid = (rest[i * ctx.count : (i + 1) * ctx.count] for i in range(5))
    if grad is None and grad_sum is None:
        nothing = [None] * ctx.count
        return [None, nothing, nothing, None, None, nothing, nothing, None, None, None, nothing]
    grad = None if grad is None else dense(grad)
    grad_sum = None if grad_sum is None else dense(grad_sum)
    small_ones = codes, base_scale, base_shift, scales, shifts, gain
    flat = _gradient.on(ctx.backend)(grad, grad_sum, base, sources, *small_ones, valid, source_valid, *ctx.options)
    given = [base, base_scale, base_shift, gain]
    for per_source in zip(sources, codes, scales, shifts, strict=True):
        given.extend(per_source)
    found = [None if tensor is None else gradient for tensor, gradient in zip(given, flat, strict=True)]
    return [
        flat[0],
        found[4::4],
        found[5::4],
        *found[1:3],
        found[6::4],
        found[7::4],
        None if gain is None else flat[3].sum(0),
        grad_sum if grad_sum is None or valid is None else _zero_outside(grad_sum, valid),
        None,
        [None] * ctx.count,
    ]


def _setup_context_with_statistics(ctx: Any, args: Arguments, results: list[Tensor]) -> None:
    ctx.mark_non_differentiable(*results[-2:])
    _setup_context(ctx, args, results)


def _backward_with_statistics(ctx: Any, *grads: Tensor | None) -> list[Any]:
    return [*_backward(ctx, *grads[:-2]), None, None]


def _zero_outside(x: Tensor, valid: Tensor) -> Tensor:
    return x.masked_fill(~inside(valid.to(x.device), x.shape[2], x.shape[3]), 0)


_MIDDLE = (
    "Tensor[] sources, Tensor?[] codes, Tensor? base_scale, Tensor? base_shift, Tensor?[] scales, Tensor?[] shifts,"
    " Tensor? gain, "
)
_END = "Tensor? valid, Tensor?[] source_valid, int[] grids, bool relu, bool product, bool nearest"
_FORWARD = "Tensor base, " + _MIDDLE + "Tensor? residual, " + _END
_gradient = Operation(
    "dense_pathway_backward(Tensor? grad, Tensor? grad_sum, Tensor? base, " + _MIDDLE + _END + ") -> Tensor[]",
    _fake_backward,
)
_operation = Operation("dense_pathway(" + _FORWARD + ") -> Tensor[]", _fake, _setup_context, _backward)
_with_statistics = Operation(
    "dense_pathway_stats(" + _FORWARD + ", int[] stats_grids, int halo) -> Tensor[]",
    _fake_with_statistics,
    _setup_context_with_statistics,
    _backward_with_statistics,
)


def _flops(shape: Any, *args: Any, residual: bool, backward: bool) -> int:
    """`cost.dense_pathway` from the arguments from ``sources`` to ``gain`` and the last four."""
    sources, codes, base_scale, _, scales, _, gain, grids, relu, _, nearest = args
    return cost.dense_pathway(
        shape,
        [source[2:] for source in sources],
        grids=grids if any(own is not None for own in codes) else None,
        base_affine=base_scale is not None,
        base_relu=relu,
        source_affine=any(own is not None for own in scales),
        gain=gain is not None,
        resize="nearest" if nearest else "linear",
        residual=residual,
        backward=backward,
    ).flops


def _flops_forward(base: Any, *args: Any, **_: Any) -> int:
    return _flops(base, *args[:7], *args[10:], residual=args[7] is not None, backward=False)


def _flops_backward(grad: Any, grad_sum: Any, _base: Any, *args: Any, **_: Any) -> int:
    residual = grad is not None and grad_sum is not None
    return _flops(grad or grad_sum, *args[:7], *args[9:], residual=residual, backward=True)


def _flops_with_statistics(base: Any, *args: Any, **_: Any) -> int:
    return _flops_forward(base, *args[:-2]) + cost.region_stats(base, *args[-2:]).flops


flops.register(_operation, _flops_forward)
flops.register(_with_statistics, _flops_with_statistics)
flops.register(_gradient, _flops_backward)
