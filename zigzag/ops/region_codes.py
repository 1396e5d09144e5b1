"""From region sums to region codes (Eqs. 5 and 6; spec sections 2, 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zigzag import cost, reference
from zigzag.backends import select
from zigzag.ops import flops
from zigzag.ops.arguments import (
    accumulation_dtype,
    autocast,
    check_grids,
    check_option,
    check_shape,
    check_size,
    check_tensor,
    check_valid,
    dense,
    sizes,
    without_autocast,
)
from zigzag.ops.registration import Arguments, Operation

PARTS = ("conv_w", "conv_b", "aggregate_w", "aggregate_b", "distribute_w", "distribute_b")


def region_codes(
    sums: Tensor,
    branches: Sequence[Sequence[Tensor]],
    grids: Sequence[int] = (3, 5, 7),
    *,
    height: int,
    width: int,
    pool: Literal["sum", "mean"] = "sum",
    valid: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Codes Q_K of every grid from the shifted region sums of a map.

        region[S] = sum over taps of W[tap] . sums[S, tap] + |S| b    (pool "sum"; Eq. 5, convolution and sum exchanged)
        region[S] = the same / |S|                                    (pool "mean"; an empty cell gives 0 under both)
        Q_K       = deconvolution_KxK(relu(convolution_KxK(region)))  (Eq. 6)

    Args:
        sums: (N, S, C) as `region_stats` returns them, S = sum of K*K*k*k for region kernels of k x k; float64 where
            the branches are, float32 for all others.
        branches: for each K (conv_w (C, C, k, k), conv_b (C,), aggregate_w (C, C, K, K), aggregate_b (C,),
            distribute_w (C, C, K, K), distribute_b (C,)) in the layouts of nn.Conv2d, nn.Conv2d and
            nn.ConvTranspose2d and one dtype; contiguous and channels_last weights are read as they are.
        grids: K of every branch.
        height: H in pixels of the map that the sums were taken over.
        width: W of it.
        pool: what a branch takes over a cell.
        valid: (N, 2) integers, every image's own height and width, in the place of ``height`` and ``width``.
        backend: name of the backend; None for that of `use_backend`, or else the fastest that can run.

    Returns:
        Codes (N, sum K*K, C) in the order grid, cell (row-major), in the dtype of the branches, under autocast too.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: an argument has a wrong shape or value.
        RuntimeError: the backend that was named cannot run.
    """
    check_tensor("sums", sums)
    cells = check_grids(grids)
    _check_sums(sums, branches, cells)
    check_size("height", height)
    check_size("width", width)
    check_option("pool", pool, ("sum", "mean"))
    if valid is not None:
        check_valid("valid", valid, sums.shape[0], height, width)
    name = select(backend, "region_codes", sums)
    if name != "reference":
        parameters = flat_parameters(branches)
        options = height, width, pool == "mean", sizes(valid, sums)
        codes: Tensor = operation.on(name)(sums.contiguous(), parameters, cells, *options)[0]
        return codes
    if autocast(sums):
        with without_autocast(sums):
            return reference.region_codes(sums, branches, cells, height=height, width=width, pool=pool, valid=valid)
    return reference.region_codes(sums, branches, cells, height=height, width=width, pool=pool, valid=valid)


def _check_sums(sums: Tensor, branches: Sequence[Sequence[Tensor]], grids: list[int]) -> None:
    """Branches that fit each other and the sums."""
    if sums.ndim != 3 or sums.shape[2] < 1:
        raise ValueError(f"sums must have the shape (N, S, C) with C >= 1, got {tuple(sums.shape)}")
    kernels = check_branches(branches, grids, sums.shape[2], sums.device)
    rows = sum(grid * grid * kernel * kernel for grid, kernel in zip(grids, kernels, strict=True))
    if sums.shape[1] != rows:
        raise ValueError(f"sums must have {rows} rows for grids {grids} and these kernels, got {tuple(sums.shape)}")
    dtype = accumulation_dtype(branches[0][0].dtype)
    if sums.dtype != dtype:
        raise TypeError(f"sums must be {dtype} for branches in {branches[0][0].dtype}, got {sums.dtype}")


def check_branches(branches: Any, grids: list[int], channels: int, device: torch.device) -> list[int]:
    """Six parameters for each grid, of one dtype and of shapes that fit; returns k of every region kernel."""
    if not isinstance(branches, (list, tuple)):
        raise TypeError(f"branches must be a list with one entry per grid, got {type(branches).__name__}")
    if len(branches) != len(grids):
        raise ValueError(f"branches must have one entry for each of {len(grids)} grids, got {len(branches)}")
    kernels = []
    for index, (branch, grid) in enumerate(zip(branches, grids, strict=True)):
        first = branches[0][0] if index else None
        kernels.append(_check_branch(f"branches[{index}]", branch, grid, channels, device, first))
    return kernels


def _check_branch(name: str, branch: Any, grid: int, channels: int, device: torch.device, first: Tensor | None) -> int:
    """The parameters of one grid, in the dtype of ``first``; returns k of the region kernel."""
    if not isinstance(branch, (list, tuple)):
        raise TypeError(f"{name} must be ({', '.join(PARTS)}), got {type(branch).__name__}")
    if len(branch) != len(PARTS):
        raise ValueError(f"{name} must be ({', '.join(PARTS)}), got {len(branch)} entries")
    for part, value in zip(PARTS, branch, strict=True):
        check_tensor(f"{name}.{part}", value, device)
        first = value if first is None else first
        if value.dtype != first.dtype:
            raise TypeError(f"{name}.{part} must be {first.dtype}, as the first parameter, got {value.dtype}")
    conv = branch[0]
    kernel: int = conv.shape[-1] if conv.ndim == 4 else 0
    if kernel % 2 == 0 or conv.shape != (channels, channels, kernel, kernel):
        expected = f"({channels}, {channels}, k, k) with k odd"
        raise ValueError(f"{name}.conv_w must have the shape {expected}, got {tuple(conv.shape)}")
    for part, value in zip(PARTS[1:], branch[1:], strict=True):
        if part.endswith("_b"):
            check_shape(f"{name}.{part}", value, (channels,), "(C,)")
        else:
            check_shape(f"{name}.{part}", value, (channels, channels, grid, grid), "(C, C, K, K)")
    return kernel


def flat_parameters(branches: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The parameters of all grids as kernels take them.

    Weights are read once, in the dtype they have: a cast for autocast would read them, write them and read again.
    """
    return [dense(value) if value.ndim == 4 else value.contiguous() for branch in branches for value in branch]


# --- the custom operation ---------------------------------------------------------------------------------------------


def _fake(sums: Tensor, parameters: list[Tensor], grids: list[int], *_options: Any) -> tuple[Tensor, Tensor, Tensor]:
    number, _, channels = sums.shape
    regions = sums.new_empty((number, sum(cells * cells for cells in grids), channels))
    codes = torch.empty_like(regions, dtype=parameters[0].dtype)
    return codes, regions, sums.new_empty((number, len(grids), channels))


def _fake_backward(_: Tensor, sums: Tensor, parameters: list[Tensor], *__: Any) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in (sums, *parameters)]


def _setup_context(ctx: Any, args: Arguments, results: Any) -> None:
    sums, parameters, ctx.grids, *ctx.options, valid = args
    _, regions, hidden = results
    ctx.save_for_backward(sums, regions, hidden, valid, *parameters)
    ctx.mark_non_differentiable(regions, hidden)


def _backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> list[Any]:
    sums, regions, hidden, valid, *parameters = ctx.saved_tensors
    grad = grad.to(sums.dtype).contiguous()
    gradient = _gradient.on(ctx.backend)
    grad_sums, *grads = gradient(grad, sums, parameters, regions, hidden, ctx.grids, *ctx.options, valid)
    return [grad_sums, grads, *[None] * 5]


_gradient = Operation(
    "region_codes_backward(Tensor grad, Tensor sums, Tensor[] parameters, Tensor regions, Tensor hidden, int[] grids,"
    " SymInt height, SymInt width, bool mean, Tensor? valid) -> Tensor[]",
    _fake_backward,
)
operation = Operation(
    "region_codes(Tensor sums, Tensor[] parameters, int[] grids, SymInt height, SymInt width, bool mean, Tensor? valid)"
    " -> (Tensor, Tensor, Tensor)",
    _fake,
    _setup_context,
    _backward,
)


def _flops(sums: Any, parameters: Any, grids: list[int], *_: Any, **__: Any) -> int:
    return cost.region_codes(sums[0], sums[2], grids, parameters[0][-1]).flops


def _flops_backward(_grad: Any, sums: Any, parameters: Any, *args: Any, **_: Any) -> int:
    return cost.region_codes(sums[0], sums[2], args[2], parameters[0][-1], backward=True).flops


flops.register(operation, _flops)
flops.register(_gradient, _flops_backward)
