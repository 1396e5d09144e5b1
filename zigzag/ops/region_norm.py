"""A GroupNorm of the region context, folded to scale and shift from region sums (spec section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zigzag import cost, reference
from zigzag.backends import select
from zigzag.ops import flops
from zigzag.ops.arguments import (
    accumulation_dtype,
    check_grids,
    check_shape,
    check_size,
    check_tensor,
    check_valid,
    sizes,
    small,
)
from zigzag.ops.registration import Arguments, Operation


def region_norm(
    sums: Tensor,
    power: Tensor,
    codes: Tensor | None = None,
    grids: Sequence[int] = (3, 5, 7),
    *,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    height: int,
    width: int,
    eps: float = 1e-5,
    valid: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Scale and shift with which ``scale * R + shift`` is a GroupNorm of R = F + sum_K Q_K (Eq. 6), from sums of F.

        T_s      = S_s + sum_s' |s, s'| Q_s'             the sum of R over cell s; |s, s'| pixels are in both cells
        sum(R)   = sum_s T_s                             over the cells of the first grid
        sum(R^2) = sum(F^2) + sum_s Q_s (S_s + T_s)      over the cells of all grids
        mean = sum(R) / n,  var = sum(R^2) / n - mean^2  over the n values in a group of channels
        scale = weight / sqrt(var + eps),  shift = bias - mean * scale

    No map is read. All arithmetic is in float64, under autocast too.

    Args:
        sums: S, the sums of F over every cell, (N, sum K*K, C) in the order grid, cell (row-major), float32 or float64;
            a view whose channels are dense is not copied: ``region_stats(...)[0][:, taps // 2 :: taps]``.
        power: sum(F^2), (N, C), in the dtype of ``sums``.
        codes: Q, (N, sum K*K, C) as `region_codes` returns them, in any floating dtype; None where R is F itself.
        grids: K of every grid.
        weight: of the GroupNorm, (C,), in any floating dtype.
        bias: (C,), in the dtype of ``weight``.
        groups: into which the channels are divided.
        height: H in pixels of the map F.
        width: W of it.
        eps: added to the variance.
        valid: (N, 2) integers, every image's own height and width, in the place of ``height`` and ``width``.
        backend: name of the backend; None for that of `use_backend`, or else the fastest that can run.

    Returns:
        (scale, shift), (N, C) each; float64 for float64 parameters, float32 for all others.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: an argument has a wrong shape or value.
        RuntimeError: the backend that was named cannot run.
    """
    cells = check_grids(grids)
    _check_tables(sums, power, codes, cells)
    check_norm(sums.shape[2], sums.device, weight, bias, groups, eps)
    check_size("height", height)
    check_size("width", width)
    if valid is not None:
        check_valid("valid", valid, sums.shape[0], height, width)
    name = select(backend, "region_norm", sums)
    if name != "reference":
        scale, shift, _ = operation.on(name)(
            sums if sums.stride(2) == 1 else sums.contiguous(),
            power.contiguous(),
            None if codes is None else small(codes, accumulation_dtype(codes.dtype)),
            small(weight, accumulation_dtype(weight.dtype)),
            small(bias, accumulation_dtype(bias.dtype)),
            cells,
            groups,
            height,
            width,
            eps,
            sizes(valid, sums),
        )
        return scale, shift
    norm: dict[str, Any] = {"weight": weight, "bias": bias, "groups": groups, "eps": eps}
    return reference.region_norm(sums, power, codes, cells, **norm, height=height, width=width, valid=valid)


def _check_tables(sums: Any, power: Any, codes: Any, grids: list[int]) -> None:
    """One row per cell in ``sums`` and ``codes``, one per image in ``power``."""
    check_tensor("sums", sums)
    if sums.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"sums must be float32 or float64, got {sums.dtype}")
    if sums.ndim != 3 or sums.shape[2] < 1:
        raise ValueError(f"sums must have the shape (N, S, C) with C >= 1, got {tuple(sums.shape)}")
    number, rows, channels = sums.shape
    if rows != sum(k * k for k in grids):
        raise ValueError(f"sums must have one row per cell of the grids {grids}, got the shape {tuple(sums.shape)}")
    check_tensor("power", power, sums.device)
    if power.dtype != sums.dtype:
        raise TypeError(f"power must be {sums.dtype}, as sums are, got {power.dtype}")
    check_shape("power", power, (number, channels), "(N, C)")
    if codes is not None:
        check_tensor("codes", codes, sums.device)
        check_shape("codes", codes, (number, rows, channels), "(N, sum K*K, C)")


def check_norm(channels: int, device: torch.device, weight: Any, bias: Any, groups: Any, eps: Any) -> None:
    """The arguments of a GroupNorm."""
    for name, value in (("weight", weight), ("bias", bias)):
        check_tensor(name, value, device)
        check_shape(name, value, (channels,), "(C,)")
    if bias.dtype != weight.dtype:
        raise TypeError(f"bias must be {weight.dtype}, as weight is, got {bias.dtype}")
    check_size("groups", groups)
    if channels % groups != 0:
        raise ValueError(f"groups must divide the {channels} channels, got {groups}")
    if not isinstance(eps, (float, int)) or isinstance(eps, bool):
        raise TypeError(f"eps must be a number, got {eps!r}")
    if not eps >= 0:
        raise ValueError(f"eps must be >= 0, got {eps}")


# --- the custom operation ---------------------------------------------------------------------------------------------


def _fake(
    sums: Tensor,
    _power: Tensor,
    _codes: Tensor | None,
    weight: Tensor,
    _bias: Tensor,
    _grids: list[int],
    groups: int,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    number, channels = sums.shape[0], sums.shape[2]
    affine = [weight.new_empty((number, channels)) for _ in range(2)]
    return affine[0], affine[1], sums.new_empty((number, 2, groups), dtype=torch.float64)


def _fake_backward(
    _scale: Tensor, _shift: Tensor, sums: Tensor, codes: Tensor | None, weight: Tensor, *_: Any
) -> list[Tensor]:
    number, channels = sums.shape[0], sums.shape[2]
    grads = [sums.new_empty(sums.shape), sums.new_empty((number, channels))]
    grads += [weight.new_empty(channels), weight.new_empty(channels)]
    return grads if codes is None else [*grads, codes.new_empty(codes.shape)]


def _setup_context(ctx: Any, args: Arguments, results: Any) -> None:
    sums, _power, codes, weight, _bias, ctx.grids, _groups, *ctx.options, valid = args
    moments = results[2]
    ctx.save_for_backward(sums, codes, weight, moments, valid)
    ctx.mark_non_differentiable(moments)


def _backward(ctx: Any, grad_scale: Tensor, grad_shift: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    sums, codes, weight, moments, valid = ctx.saved_tensors
    grad_scale, grad_shift = grad_scale.contiguous(), grad_shift.contiguous()
    grad_sums, grad_power, grad_weight, grad_bias, *grad_codes = _gradient.on(ctx.backend)(
        grad_scale, grad_shift, sums, codes, weight, moments, ctx.grids, *ctx.options, valid
    )
    own = grad_codes[0] if grad_codes else None
    return grad_sums, grad_power, own, grad_weight, grad_bias, *[None] * 6


_gradient = Operation(
    "region_norm_backward(Tensor grad_scale, Tensor grad_shift, Tensor sums, Tensor? codes, Tensor weight,"
    " Tensor moments, int[] grids, SymInt height, SymInt width, float eps, Tensor? valid) -> Tensor[]",
    _fake_backward,
)
operation = Operation(
    "region_norm(Tensor sums, Tensor power, Tensor? codes, Tensor weight, Tensor bias, int[] grids, int groups,"
    " SymInt height, SymInt width, float eps, Tensor? valid) -> (Tensor, Tensor, Tensor)",
    _fake,
    _setup_context,
    _backward,
)


def _flops(sums: Any, _power: Any, codes: Any, _weight: Any, _bias: Any, grids: list[int], *_: Any, **__: Any) -> int:
    return cost.region_norm(sums[0], sums[2], grids, codes=codes is not None).flops


def _flops_backward(_scale: Any, _shift: Any, sums: Any, codes: Any, *args: Any, **_: Any) -> int:
    return cost.region_norm(sums[0], sums[2], args[2], codes=codes is not None, backward=True).flops


flops.register(operation, _flops)
flops.register(_gradient, _flops_backward)
