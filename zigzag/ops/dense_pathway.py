"""The dense pathway: a map plus the combined region contexts of other levels (Eqs. 1 and 3; spec section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zigzag import reference
from zigzag.backends import select
from zigzag.ops.arguments import (
    autocast,
    check_grids,
    check_map,
    check_option,
    check_per_source,
    check_small,
    check_valid,
    without_autocast,
)

Affine = tuple[Tensor, Tensor]


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
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
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
        backend: name of the backend; None for that of `use_backend`, or else the fastest that can run.

    Returns:
        The map F (N, C, H, W) in base's dtype and layout; with ``residual`` the pair (F, F + residual).

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
    select(backend, base.device.type)
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
    if autocast(base):
        with without_autocast(base):
            return reference.dense_pathway(base, sources, codes, cells, **options)
    return reference.dense_pathway(base, sources, codes, cells, **options)


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
        _check_affine("base_affine", base_affine, base)
    if gain is not None:
        check_small("gain", gain, base, (channels,), "(C,)")
    if valid is not None:
        check_valid("valid", valid, number, height, width)
    for j, source in enumerate(sources):
        if codes[j] is not None:
            check_small(f"codes[{j}]", codes[j], base, (number, cells, channels), "(N, sum K*K, C)")
        if source_affine[j] is not None:
            _check_affine(f"source_affine[{j}]", source_affine[j], base)
        if source_valid[j] is not None:
            check_valid(f"source_valid[{j}]", source_valid[j], number, source.shape[2], source.shape[3])


def _check_affine(name: str, affine: Any, base: Tensor) -> None:
    if not isinstance(affine, (list, tuple)) or len(affine) != 2:
        raise TypeError(f"{name} must be a pair (scale, shift), got {affine!r}")
    for part, value in zip(("scale", "shift"), affine, strict=True):
        check_small(f"{name} {part}", value, base, base.shape[:2], "(N, C)")
