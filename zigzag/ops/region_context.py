"""What a dense pathway needs of a source besides the map: `region_stats`, `region_codes` and `region_norm` in one call.

After a convolution the caches hold nothing of these calls, neither code nor data, and each costs several times what it
costs warm. Here arguments are checked once, and autograd sees one node in the place of three.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from zigzag import config, cost
from zigzag.backends import select
from zigzag.ops.arguments import (
    accumulation_dtype,
    check_grids,
    check_map,
    check_option,
    check_valid,
    dense,
    sizes,
    small,
)
from zigzag.ops.region_codes import check_branches, flat_parameters, region_codes
from zigzag.ops.region_codes import operation as codes_operation
from zigzag.ops.region_norm import check_norm, region_norm
from zigzag.ops.region_norm import operation as norm_operation
from zigzag.ops.region_stats import operation as stats_operation
from zigzag.ops.region_stats import region_stats
from zigzag.ops.registration import BackendOperation, Operation, Record, transforms_active

Affine = tuple[Tensor, Tensor]
Norm = tuple[Tensor, Tensor, int, float]
Statistics = tuple[Tensor, Tensor]


def region_context(
    x: Tensor,
    branches: Sequence[Sequence[Tensor]] | None = None,
    grids: Sequence[int] = (3, 5, 7),
    *,
    pool: Literal["sum", "mean"] = "sum",
    norm: Norm | None = None,
    valid: Tensor | None = None,
    statistics: Statistics | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None, Affine | None]:
    """The map F itself, its codes Q, and a GroupNorm of R = F + sum_K Q_K (Eq. 6) folded to scale and shift.

        S, power     = region_stats(F)
        Q            = region_codes(S)                 with ``branches``
        scale, shift = region_norm(S, power, Q)        with ``norm``; without branches that of F itself

    The results are those of the three operations, bit for bit; sums of a map of at most `FEW_PIXELS` are in float64.

    What else reads F should read the one that is returned: its gradient then comes here, and is added to that of the
    sums in the pass that writes it. The mean that a norm takes from a gradient is small beside it, and nearly the same
    number at every pixel: added to what was rounded to bfloat16 or float16 before, it would be lost, everywhere alike,
    and be missing from whatever sums the gradient over pixels. So the sum is rounded up or down by where it lies, in
    proportion to how near it is (docs/numerics.md).

    Args:
        x: map F (N, C, H, W); float64, float32, bfloat16 or float16.
        branches: as in `region_codes`, all with region kernels of one size k, k // 2 being the halo; None for no codes.
        grids: K of every branch; without branches nothing is read of them.
        pool: what a branch takes over a cell.
        norm: (weight, bias, groups, eps) of an nn.GroupNorm, as in `region_norm`.
        valid: (N, 2) integers, every image's own height and width in pixels.
        statistics: S and power of x where they are known, as `dense_pathway` gives them. Derivatives are as without.
            Traces, transforms and the reference take them anew, and so do all for a map of at most `FEW_PIXELS`.
        backend: name of the backend; None for that of `use_backend`, or else the fastest that can run.

    Returns:
        x (where there is a gradient to record a view of it, not to be written to), codes (N, sum K*K, C) or None, and
        (scale, shift), (N, C) each, or None.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: an argument has a wrong shape or value.
        RuntimeError: the backend that was named cannot run.
    """
    check_map("x", x)
    cells, halo = _check_branches(x, branches, grids)
    check_option("pool", pool, ("sum", "mean"))
    if norm is not None:
        _check_norm(x, norm)
    if valid is not None:
        check_valid("valid", valid, x.shape[0], x.shape[2], x.shape[3])
    if statistics is not None:
        statistics = _check_statistics(x, cells, halo, statistics)
    wide = widened(x) if statistics is None else x
    given = norm[2:] if norm is not None else None
    call = _Call(cells, halo, branches is not None, pool, given, valid, statistics, accumulation_dtype(wide.dtype))
    names = [select(backend, operation.name, wide) for operation in _OPERATIONS]
    if "reference" in names or torch.compiler.is_compiling() or transforms_active():
        return _one_by_one(call, x, branches, norm, backend)
    parameters = [] if branches is None else flat_parameters(branches)
    tensors = [x, *(norm[:2] if norm is not None else ()), *parameters]
    operations = [operation.on(name) for operation, name in zip(_OPERATIONS, names, strict=True)]
    if torch.is_grad_enabled() and torch._C._any_requires_grad(*tensors):  # noqa: SLF001 - as in registration
        x, *results = _Boundary.apply(call, operations, *tensors)
    else:
        results = call.run(operations, tensors, None)
    codes = results[0] if branches is not None else None
    return x, codes, None if norm is None else (results[-2], results[-1])


def widened(x: Tensor) -> Tensor:
    """A map (N, C, H, W) in the dtype that it is summed in: float64 where it has at most `FEW_PIXELS`."""
    return x.double() if x.shape[2] * x.shape[3] <= config.FEW_PIXELS else x


_OPERATIONS: tuple[Operation, Operation, Operation] = stats_operation, codes_operation, norm_operation


def _check_branches(x: Tensor, branches: Any, grids: Any) -> tuple[list[int], int]:
    """The grids and the halo of the sums to take."""
    if branches is None:
        return [1], 0
    cells = check_grids(grids)
    kernels = check_branches(branches, cells, x.shape[1], x.device)
    if len(set(kernels)) > 1:
        raise ValueError(f"branches must have region kernels of one size, got {kernels}")
    wide, dtype = accumulation_dtype(x.dtype), branches[0][0].dtype
    if accumulation_dtype(dtype) != wide:
        raise TypeError(f"branches must be in a dtype that accumulates in {wide}, as x in {x.dtype} does, got {dtype}")
    return cells, kernels[0] // 2


def _check_norm(x: Tensor, norm: Any) -> None:
    if not isinstance(norm, (list, tuple)) or len(norm) != 4:
        raise TypeError(f"norm must be (weight, bias, groups, eps), got {type(norm).__name__}")
    check_norm(x.shape[1], x.device, *norm)


def _check_statistics(x: Tensor, grids: list[int], halo: int, statistics: Any) -> Statistics | None:
    """Dense ones; None where x has so few pixels that it is summed in float64."""
    if not isinstance(statistics, (list, tuple)) or len(statistics) != 2:
        raise TypeError(f"statistics must be a pair (sums, power), got {type(statistics).__name__}")
    number, channels = x.shape[:2]
    entries = sum(k * k for k in grids) * cost.taps(halo)
    for name, value, shape in zip(
        ("sums", "power"), statistics, ((number, entries, channels), (number, channels)), strict=True
    ):
        dtype = accumulation_dtype(x.dtype)
        if not isinstance(value, Tensor) or value.dtype != dtype:
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"statistics' {name} must be {dtype}, as those of x are, got {got}")
        if value.shape != shape or value.device != x.device:
            got = f"{tuple(value.shape)} on {value.device}"
            raise ValueError(f"statistics' {name} must have shape {tuple(shape)} on {x.device}, got {got}")
    sums, power = statistics
    return None if widened(x) is not x else (sums.contiguous(), power.contiguous())


def _one_by_one(
    call: _Call,
    x: Tensor,
    branches: Sequence[Sequence[Tensor]] | None,
    norm: Norm | None,
    backend: str | None,
) -> tuple[Tensor, Tensor | None, Affine | None]:
    """The three operations, for traces, transforms and the reference."""
    valid, (height, width) = call.valid, x.shape[2:]
    sums, power = region_stats(widened(x), call.grids, call.halo, valid=valid, backend=backend)
    where: dict[str, Any] = {"height": height, "width": width, "valid": valid, "backend": backend}
    codes, affine = None, None
    if branches is not None:
        codes = region_codes(sums.to(accumulation_dtype(x.dtype)), branches, call.grids, pool=call.pool, **where)
    if norm is not None:
        weight, bias, groups, eps = norm
        folded: dict[str, Any] = {"weight": weight, "bias": bias, "groups": groups, "eps": eps}
        affine = region_norm(call.centre(sums), power, codes, call.grids, **folded, **where)
    return x, codes, affine


class _Call(NamedTuple):
    """What is not a differentiable tensor in a call."""

    grids: list[int]
    halo: int
    coded: bool
    pool: Literal["sum", "mean"]
    norm: tuple[int, float] | None
    valid: Tensor | None
    statistics: Statistics | None
    sums_dtype: torch.dtype

    def centre(self, sums: Tensor) -> Tensor:
        """The plain sums over every cell, a view: the centre tap shifts nothing."""
        taps = (2 * self.halo + 1) ** 2
        return sums[:, taps // 2 :: taps]

    def run(
        self, operations: Sequence[BackendOperation], tensors: Sequence[Tensor], records: list[Record] | None
    ) -> list[Tensor]:
        """Codes, scale and shift, as far as asked for, of (x, weight and bias of the norm, parameters of branches)."""

        def run(operation: BackendOperation, *args: Any) -> Any:
            results = operation.below_autograd(args)
            if records is not None:
                records.append(Record(operation, args, results))
            return results

        x, (height, width), valid = tensors[0], tensors[0].shape[2:], sizes(self.valid, tensors[0])
        stats, encode, fold = operations
        if self.statistics is None:
            sums, power = run(stats, dense(widened(x)), self.grids, self.halo, valid)
        else:
            sums, power = self.statistics
            if records is not None:
                records.append(Record(stats, (dense(x), self.grids, self.halo, valid), self.statistics))
        results, codes = [], None
        if self.coded:
            parameters = list(tensors[3:] if self.norm else tensors[1:])
            given = sums.to(accumulation_dtype(parameters[0].dtype))
            codes = run(encode, given, parameters, self.grids, height, width, self.pool == "mean", valid)[0]
            results.append(codes)
        if self.norm:
            affine = [small(value, accumulation_dtype(value.dtype)) for value in tensors[1:3]]
            wide = None if codes is None else small(codes, accumulation_dtype(codes.dtype))
            groups, eps = self.norm
            options = self.grids, groups, height, width, eps, valid
            results += run(fold, self.centre(sums), power, wide, *affine, *options)[:2]
        return results


class _Boundary(torch.autograd.Function):
    """One node for the calls of `_Call.run`, which the map goes through."""

    @staticmethod
    def forward(ctx: Any, call: _Call, operations: Sequence[BackendOperation], *tensors: Tensor) -> tuple[Tensor, ...]:
        records: list[Record] = []
        results = call.run(operations, tensors, records)
        ctx.call, ctx.records = call._replace(statistics=None), records
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        ctx.shapes = [(result.shape, result.dtype) for result in results]
        ctx.set_materialize_grads(False)
        ctx.counts = [len(record.saved_tensors) for record in records]
        ctx.save_for_backward(*(tensor for record in records for tensor in record.saved_tensors))
        for record in records:
            record.saved_tensors = ()
        # Of an input itself autograd makes a view, whose strides in an axis of size 1 are not the map's: a convolution
        # of a single image would not take it for channels_last any more.
        x = tensors[0].detach()
        if not ctx.needs_input_grad[2]:
            ctx.mark_non_differentiable(x)
        return x, *results

    @staticmethod
    def backward(ctx: Any, of_map: Tensor | None, *grads: Tensor | None) -> tuple[Any, ...]:
        wanted = ctx.needs_input_grad[2]
        if all(grad is None for grad in grads):
            return None, None, of_map if wanted else None, *(None for _ in ctx.dtypes[1:])
        tensors = ctx.saved_tensors  # each look unpacks them anew, which checkpointing allows once
        saved = iter(tensors)
        for record, count in zip(ctx.records, ctx.counts, strict=True):
            record.saved_tensors = tuple(next(saved) for _ in range(count))
        given = [
            torch.zeros(shape, dtype=dtype, device=tensors[0].device) if grad is None else grad
            for grad, (shape, dtype) in zip(grads, ctx.shapes, strict=True)
        ]
        found = _gradient(ctx.call, ctx.records, given, of_map, wanted=wanted)
        for record in ctx.records:
            record.saved_tensors = ()
        pairs = zip(found, ctx.dtypes, strict=True)
        return None, None, *(None if grad is None else grad.to(dtype) for grad, dtype in pairs)


def _gradient(
    call: _Call, records: list[Record], grads: Sequence[Tensor], of_map: Tensor | None, *, wanted: bool
) -> list[Tensor | None]:
    """One gradient for each of the tensors that `_Call.run` takes: the three operations' backward in reverse.

    That of the map, which costs a pass over it, only where ``wanted``; ``of_map`` is that by what else reads it.
    """
    of_norm: Sequence[Tensor] = ()
    of_branches: Sequence[Tensor] = ()
    if call.norm:
        grad_sums, grad_power, grad_codes, *of_norm = records[-1].gradient(*grads[-2:], None)[:5]
    if call.coded:
        total = grads[0] + grad_codes.to(grads[0].dtype) if call.norm else grads[0]
        grad_tapped, of_branches = records[1].gradient(total, None, None)[:2]
        grad_tapped = grad_tapped.to(call.sums_dtype)
        if call.norm:
            call.centre(grad_tapped).add_(grad_sums)
        else:
            grad_power = grad_tapped.new_zeros(grad_tapped.shape[0], grad_tapped.shape[2])
        grad_sums = grad_tapped
    grad_map = records[0].gradient(grad_sums, grad_power, of_map)[0] if wanted else None
    return [grad_map, *of_norm, *of_branches]
