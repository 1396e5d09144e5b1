"""Bad input: one clear error that names the argument, what it was and what was expected, whatever the backend."""

from __future__ import annotations

import re

import pytest
import torch

import zigzag
from zigzag.nn import RegionContext, ZigZagNeck

INTEGERS = torch.zeros(2, 4, 6, 5, dtype=torch.int64)


def maps(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(shape, dtype=dtype, device=device)


def wrong_valid(name):
    """Rows for a `valid` argument of two images of (6, 5)."""
    return [
        ({name: [[6, 5], [6, 5]]}, TypeError, name, "list"),
        ({name: torch.ones(2, 2)}, TypeError, name, "float32"),
        ({name: torch.ones(2, 2, dtype=torch.bool)}, TypeError, name, "bool"),
        ({name: torch.ones(3, 2, dtype=torch.int64)}, ValueError, name, "(3, 2)"),
        ({name: torch.ones(2, dtype=torch.int64)}, ValueError, name, "(2,)"),
        ({name: torch.tensor([[6, 5], [0, 5]])}, ValueError, name, "(0, 5)"),
        ({name: torch.tensor([[7, 5], [6, 5]])}, ValueError, name, "(7, 5)"),
        ({name: torch.tensor([[6, 5], [6, 6]])}, ValueError, name, "(6, 6)"),
        ({name: torch.tensor([[6, 5], [6, -1]])}, ValueError, name, "(6, -1)"),
    ]


GRIDS = [
    ({"grids": ()}, ValueError, "grids", "()"),
    ({"grids": (3, 0)}, ValueError, "grids", "(3, 0)"),
    ({"grids": (3, -1)}, ValueError, "grids", "-1"),
    ({"grids": (3.0,)}, TypeError, "grids", "3.0"),
    ({"grids": 3}, TypeError, "grids", "3"),
    ({"grids": "3"}, TypeError, "grids", "'3'"),
]
BACKEND = [({"backend": "abacus"}, ValueError, "backend", "'abacus'")]

STATS = [
    ({"x": [1.0]}, TypeError, "x", "list"),
    ({"x": INTEGERS}, TypeError, "x", "int64"),
    ({"x": INTEGERS.bool()}, TypeError, "x", "bool"),
    ({"x": maps(2, 4, 6, 5, dtype=torch.complex64)}, TypeError, "x", "complex64"),
    ({"x": maps(4, 6, 5)}, ValueError, "x", "(4, 6, 5)"),
    ({"x": maps(2, 4, 6, 5, 1)}, ValueError, "x", "(2, 4, 6, 5, 1)"),
    ({"x": maps(2, 4, 0, 5)}, ValueError, "x", "(2, 4, 0, 5)"),
    ({"x": maps(2, 0, 6, 5)}, ValueError, "x", "(2, 0, 6, 5)"),
    ({"halo": -1}, ValueError, "halo", "-1"),
    ({"halo": 1.5}, TypeError, "halo", "1.5"),
    *GRIDS,
    *wrong_valid("valid"),
    *BACKEND,
]


def region_stats(**changes):
    return zigzag.ops.region_stats(**{"x": maps(2, 4, 6, 5), "grids": (3, 5)} | changes)


def branch(grid, channels=4, taps=3, dtype=torch.float32, **changes):
    shapes = {
        "conv_w": (channels, channels, taps, taps),
        "conv_b": (channels,),
        "aggregate_w": (channels, channels, grid, grid),
        "aggregate_b": (channels,),
        "distribute_w": (channels, channels, grid, grid),
        "distribute_b": (channels,),
    }
    return tuple(changes.get(part, maps(*shape, dtype=dtype)) for part, shape in shapes.items())


def branches_with(**changes):
    return {"branches": [branch(3), branch(5, **changes)]}


CODES = [
    ({"sums": [1.0]}, TypeError, "sums", "list"),
    ({"sums": maps(2, 9 * 34, 4).long()}, TypeError, "sums", "int64"),
    ({"sums": maps(2, 9 * 34, 4, 1)}, ValueError, "sums", "(2, 306, 4, 1)"),
    ({"sums": maps(2, 300, 4)}, ValueError, "sums", "(2, 300, 4)"),
    ({"sums": maps(2, 9 * 34, 5)}, ValueError, "conv_w", "(4, 4, 3, 3)"),
    ({"sums": maps(2, 9 * 34, 4, dtype=torch.float64)}, TypeError, "sums", "float64"),
    ({"sums": maps(2, 9 * 34, 4, dtype=torch.bfloat16)}, TypeError, "sums", "bfloat16"),
    ({"branches": branch(3)[0]}, TypeError, "branches", "Tensor"),
    ({"branches": [branch(3)]}, ValueError, "branches", "1"),
    ({"branches": [branch(3), branch(5)[:5]]}, ValueError, "branches[1]", "5"),
    ({"branches": [branch(3), None]}, TypeError, "branches[1]", "None"),
    ({"branches": [branch(3), branch(3)]}, ValueError, "branches[1].aggregate_w", "(4, 4, 3, 3)"),
    (branches_with(conv_w=maps(4, 4, 2, 2)), ValueError, "branches[1].conv_w", "(4, 4, 2, 2)"),
    (branches_with(conv_w=maps(4, 5, 3, 3)), ValueError, "branches[1].conv_w", "(4, 5, 3, 3)"),
    (branches_with(conv_w=maps(4, 4, 1, 3)), ValueError, "branches[1].conv_w", "(4, 4, 1, 3)"),
    (branches_with(conv_b=maps(5)), ValueError, "branches[1].conv_b", "(5,)"),
    (branches_with(aggregate_b=maps(1, 4)), ValueError, "branches[1].aggregate_b", "(1, 4)"),
    (branches_with(distribute_w=maps(4, 4, 5)), ValueError, "branches[1].distribute_w", "(4, 4, 5)"),
    (branches_with(distribute_b=None), TypeError, "branches[1].distribute_b", "None"),
    (branches_with(dtype=torch.bfloat16), TypeError, "branches[1].conv_w", "bfloat16"),
    (branches_with(conv_b=maps(4, device="meta")), ValueError, "branches[1].conv_b", "meta"),
    ({"height": 0}, ValueError, "height", "0"),
    ({"width": -3}, ValueError, "width", "-3"),
    ({"height": 6.5}, TypeError, "height", "6.5"),
    ({"pool": "max"}, ValueError, "pool", "'max'"),
    *GRIDS,
    *wrong_valid("valid"),
    *BACKEND,
]


def region_codes(**changes):
    arguments = {"sums": maps(2, 9 * 34, 4), "branches": [branch(3), branch(5)], "grids": (3, 5)}
    return zigzag.ops.region_codes(**arguments | {"height": 6, "width": 5} | changes)


NORM = [
    ({"sums": [1.0]}, TypeError, "sums", "list"),
    ({"sums": maps(2, 34, 4).long()}, TypeError, "sums", "int64"),
    ({"sums": maps(2, 34, 4).half()}, TypeError, "sums", "float16"),
    ({"sums": maps(2, 4)}, ValueError, "sums", "(2, 4)"),
    ({"sums": maps(2, 33, 4)}, ValueError, "sums", "(2, 33, 4)"),
    ({"sums": maps(2, 34, 0)}, ValueError, "sums", "(2, 34, 0)"),
    ({"power": None}, TypeError, "power", "None"),
    ({"power": maps(2, 5)}, ValueError, "power", "(2, 5)"),
    ({"power": maps(2, 4).double()}, TypeError, "power", "float64"),
    ({"power": maps(2, 4, device="meta")}, ValueError, "power", "meta"),
    ({"codes": [1.0]}, TypeError, "codes", "list"),
    ({"codes": maps(2, 34, 4).long()}, TypeError, "codes", "int64"),
    ({"codes": maps(1, 34, 4)}, ValueError, "codes", "(1, 34, 4)"),
    ({"codes": maps(2, 34, 4, device="meta")}, ValueError, "codes", "meta"),
    ({"weight": None}, TypeError, "weight", "None"),
    ({"weight": maps(5)}, ValueError, "weight", "(5,)"),
    ({"weight": maps(4).long()}, TypeError, "weight", "int64"),
    ({"bias": maps(4, 1)}, ValueError, "bias", "(4, 1)"),
    ({"bias": maps(4).double()}, TypeError, "bias", "float64"),
    ({"bias": maps(4, device="meta")}, ValueError, "bias", "meta"),
    ({"groups": 3}, ValueError, "groups", "3"),
    ({"groups": 0}, ValueError, "groups", "0"),
    ({"groups": 2.0}, TypeError, "groups", "2.0"),
    ({"height": 0}, ValueError, "height", "0"),
    ({"width": 5.5}, TypeError, "width", "5.5"),
    ({"eps": -1e-5}, ValueError, "eps", "-1e-05"),
    ({"eps": float("nan")}, ValueError, "eps", "nan"),
    ({"eps": "small"}, TypeError, "eps", "'small'"),
    *GRIDS,
    *wrong_valid("valid"),
    *BACKEND,
]


def region_norm(**changes):
    tables = {"sums": maps(2, 34, 4), "power": maps(2, 4), "codes": maps(2, 34, 4), "grids": (3, 5)}
    norm = {"weight": maps(4), "bias": maps(4), "groups": 2, "height": 6, "width": 5}
    return zigzag.ops.region_norm(**tables | norm | changes)


def pair(*shape, dtype=torch.float32):
    return maps(*shape, dtype=dtype), maps(*shape, dtype=dtype)


def second(name, value):
    return {name: [None, value]}


PATHWAY = [
    ({"base": INTEGERS}, TypeError, "base", "int64"),
    ({"base": maps(4, 6, 5)}, ValueError, "base", "(4, 6, 5)"),
    ({"base": maps(2, 4, 6, 5, dtype=torch.float64)}, TypeError, "sources[0]", "float32"),
    ({"sources": maps(2, 4, 6, 5)}, TypeError, "sources", "Tensor"),
    ({"sources": [maps(2, 4, 3, 2), None]}, TypeError, "sources[1]", "None"),
    ({"sources": [maps(2, 4, 3, 2), maps(4, 3, 2)]}, ValueError, "sources[1]", "(4, 3, 2)"),
    ({"sources": [maps(2, 4, 3, 2), maps(3, 4, 3, 2)]}, ValueError, "sources[1]", "(3, 4, 3, 2)"),
    ({"sources": [maps(2, 4, 3, 2), maps(2, 5, 3, 2)]}, ValueError, "sources[1]", "(2, 5, 3, 2)"),
    ({"sources": [maps(2, 4, 3, 2), maps(2, 4, 0, 2)]}, ValueError, "sources[1]", "(2, 4, 0, 2)"),
    ({"sources": [maps(2, 4, 3, 2), maps(2, 4, 3, 2).half()]}, TypeError, "sources[1]", "float16"),
    ({"sources": [maps(2, 4, 3, 2), INTEGERS]}, TypeError, "sources[1]", "int64"),
    ({"sources": [maps(2, 4, 3, 2), maps(2, 4, 3, 2, device="meta")]}, ValueError, "sources[1]", "meta"),
    ({"codes": maps(2, 34, 4)}, TypeError, "codes", "Tensor"),
    ({"codes": [None]}, ValueError, "codes", "1"),
    (second("codes", maps(2, 33, 4)), ValueError, "codes[1]", "(2, 33, 4)"),
    (second("codes", maps(1, 34, 4)), ValueError, "codes[1]", "(1, 34, 4)"),
    (second("codes", maps(2, 34, 4).long()), TypeError, "codes[1]", "int64"),
    (second("codes", maps(2, 34, 4).double()), TypeError, "codes[1]", "float64"),
    (second("codes", maps(2, 34, 4).half()), TypeError, "codes[1]", "float16"),
    (second("codes", maps(2, 34, 4, device="meta")), ValueError, "codes[1]", "meta"),
    ({"base_affine": maps(2, 4)}, TypeError, "base_affine", "Tensor"),
    ({"base_affine": pair(2, 5)}, ValueError, "base_affine", "(2, 5)"),
    ({"base_affine": pair(2, 4, dtype=torch.float64)}, TypeError, "base_affine", "float64"),
    ({"source_affine": pair(2, 4)}, TypeError, "source_affine[0]", "Tensor"),
    ({"source_affine": [None] * 3}, ValueError, "source_affine", "3"),
    (second("source_affine", pair(2, 4, 1, 1)), ValueError, "source_affine[1]", "(2, 4, 1, 1)"),
    (second("source_affine", (maps(2, 4),)), TypeError, "source_affine[1]", "pair"),
    ({"gain": 0.1}, TypeError, "gain", "float"),
    ({"gain": maps(5)}, ValueError, "gain", "(5,)"),
    ({"gain": maps(4).half()}, TypeError, "gain", "float16"),
    ({"combine": "mean"}, ValueError, "combine", "'mean'"),
    ({"resize": "cubic"}, ValueError, "resize", "'cubic'"),
    ({"residual": maps(2, 4, 5, 6)}, ValueError, "residual", "(2, 4, 5, 6)"),
    ({"residual": maps(2, 3, 6, 5)}, ValueError, "residual", "(2, 3, 6, 5)"),
    ({"residual": maps(2, 4, 6, 5).double()}, TypeError, "residual", "float64"),
    ({"source_valid": torch.ones(2, 2).long()}, TypeError, "source_valid", "Tensor"),
    ({"source_valid": [None]}, ValueError, "source_valid", "1"),
    (second("source_valid", torch.tensor([[3, 2], [3, 3]])), ValueError, "source_valid[1]", "(3, 3)"),
    (second("source_valid", torch.ones(2, 2)), TypeError, "source_valid[1]", "float32"),
    *GRIDS,
    *wrong_valid("valid"),
    *BACKEND,
]


def dense_pathway(**changes):
    arguments = {"base": maps(2, 4, 6, 5), "sources": [maps(2, 4, 3, 2)] * 2, "grids": (3, 5)}
    return zigzag.ops.dense_pathway(**arguments | changes)


def branches(dtype=torch.float32, kernels=(3, 3)):
    return [
        tuple(
            value for side in (k, grid, grid) for value in (maps(4, 4, side, side, dtype=dtype), maps(4, dtype=dtype))
        )
        for k, grid in zip(kernels, (3, 5), strict=True)
    ]


def region_context(**changes):
    norm = (maps(4), maps(4), 2, 1e-5)
    arguments = {"x": maps(2, 4, 6, 5), "branches": branches(), "grids": (3, 5), "norm": norm}
    return zigzag.ops.region_context(**arguments | changes)


def position_sensitive_pool(**changes):
    rois = torch.tensor([[0.0, 0, 0, 9, 9], [1, 2, 2, 5, 7]])
    return zigzag.ops.position_sensitive_pool(
        **{"x": maps(2, 8, 6, 5), "rois": rois, "groups": 2, "stride": 4} | changes
    )


def second_roi(*values, dtype=torch.float32):
    return {"rois": torch.tensor([[0, 0, 0, 9, 9], values], dtype=dtype)}


POOL = [
    ({"x": INTEGERS}, TypeError, "x", "int64"),
    ({"x": maps(8, 6, 5)}, ValueError, "x", "(8, 6, 5)"),
    ({"x": maps(2, 6, 6, 5)}, ValueError, "x", "6"),
    ({"rois": [[0, 0, 0, 9, 9]]}, TypeError, "rois", "list"),
    ({"rois": maps(2, 4)}, ValueError, "rois", "(2, 4)"),
    ({"rois": maps(5)}, ValueError, "rois", "(5,)"),
    ({"rois": maps(2, 5).half()}, TypeError, "rois", "float16"),
    ({"rois": maps(2, 5).long()}, TypeError, "rois", "int64"),
    ({"rois": maps(2, 5, device="meta")}, ValueError, "rois", "meta"),
    (second_roi(2, 0, 0, 9, 9), ValueError, "rois", "row 1"),
    (second_roi(-1, 0, 0, 9, 9), ValueError, "rois", "-1.0"),
    (second_roi(0.5, 0, 0, 9, 9), ValueError, "rois", "0.5"),
    (second_roi(0, 0, float("nan"), 9, 9), ValueError, "rois", "nan"),
    (second_roi(0, 0, 0, float("inf"), 9, dtype=torch.float64), ValueError, "rois", "inf"),
    ({"x": maps(0, 8, 6, 5)}, ValueError, "rois", "below 0"),
    ({"size": 0}, ValueError, "size", "0"),
    ({"size": 2.5}, TypeError, "size", "2.5"),
    ({"groups": 0}, ValueError, "groups", "0"),
    ({"groups": "7"}, TypeError, "groups", "'7'"),
    ({"stride": -4}, ValueError, "stride", "-4"),
    ({"stride": 0.25}, TypeError, "stride", "0.25"),
    *wrong_valid("valid"),
    *BACKEND,
]


CONTEXT = [
    ({"x": INTEGERS}, TypeError, "x", "int64"),
    ({"x": maps(4, 6, 5)}, ValueError, "x", "(4, 6, 5)"),
    ({"x": maps(2, 4, 6, 5).double()}, TypeError, "branches", "float32"),
    ({"branches": branches(torch.float64)}, TypeError, "branches", "float64"),
    ({"branches": branches(kernels=(3, 1))}, ValueError, "branches", "[3, 1]"),
    ({"branches": branches()[:1]}, ValueError, "branches", "1"),
    ({"branches": maps(3)}, TypeError, "branches", "Tensor"),
    ({"pool": "max"}, ValueError, "pool", "'max'"),
    ({"norm": maps(4)}, TypeError, "norm", "Tensor"),
    ({"norm": (maps(4), maps(4), 3, 1e-5)}, ValueError, "groups", "3"),
    ({"norm": (maps(4), maps(5), 2, 1e-5)}, ValueError, "bias", "(5,)"),
    *GRIDS,
    *wrong_valid("valid"),
    *BACKEND,
]


def context_module(**changes):
    return RegionContext(**{"channels": 4} | changes)


MODULE = [
    ({"channels": 0}, ValueError, "channels", "0"),
    ({"kernel_size": 2}, ValueError, "kernel_size", "2"),
    ({"pool": "max"}, ValueError, "pool", "'max'"),
    ({"grids": ()}, ValueError, "grids", "()"),
    ({"grids": (3, 3)}, ValueError, "grids", "(3, 3)"),
    ({"grids": 3}, TypeError, "grids", "3"),
    ({"channels": 4.0}, TypeError, "channels", "4.0"),
]


def neck(**changes):
    return ZigZagNeck(**{"in_channels": (4, 5), "out_channels": 8, "norm_groups": 4} | changes)


NECK = [
    ({"in_channels": (4,)}, ValueError, "in_channels", "(4,)"),
    ({"in_channels": (4, 0)}, ValueError, "in_channels", "(4, 0)"),
    ({"preset": "fast"}, ValueError, "preset", "'fast'"),
    ({"colour": "red"}, TypeError, "colour", "fields"),
    ({"out_channels": 0}, ValueError, "out_channels", "0"),
    ({"stages": 0}, ValueError, "stages", "0"),
    ({"grids": (3, 0)}, ValueError, "grids", "(3, 0)"),
    ({"kernel_size": 5}, ValueError, "kernel_size", "5"),
    ({"lateral_kernel_size": 2}, ValueError, "lateral_kernel_size", "2"),
    ({"pool": "max"}, ValueError, "pool", "'max'"),
    ({"norm_groups": 3}, ValueError, "norm_groups", "3"),
    ({"resize": "cubic"}, ValueError, "resize", "'cubic'"),
    ({"combine": "mean"}, ValueError, "combine", "'mean'"),
    ({"strides": (4,)}, ValueError, "strides", "(4,)"),
    ({"stages": 1.5}, TypeError, "stages", "1.5"),
    ({"out_channels": "8"}, TypeError, "out_channels", "'8'"),
    ({"grids": (3.0,)}, TypeError, "grids", "(3.0,)"),
    ({"grids": 3}, TypeError, "grids", "3"),
    ({"gain": "a"}, TypeError, "gain", "'a'"),
    ({"gain": float("nan")}, ValueError, "gain", "nan"),
    ({"gain": -float("inf")}, ValueError, "gain", "-inf"),
    ({"context_scale": None}, TypeError, "context_scale", "None"),
    ({"context_shift": True}, TypeError, "context_shift", "True"),
    ({"context_scale": float("nan")}, ValueError, "context_scale", "nan"),
    ({"fusion_norm": 1}, TypeError, "fusion_norm", "1"),
    ({"kernel_size": [3]}, ValueError, "kernel_size", "[3]"),
]


def neck_forward(**changes):
    return neck()(**{"features": [maps(2, 4, 6, 5), maps(2, 5, 3, 3)]} | changes)


def neck_under_autocast(**changes):
    with torch.autocast("cpu", torch.bfloat16):
        return neck_forward(**changes)


def codes(x):
    return RegionContext(4, (2,)).codes(x)


SIZES = torch.tensor([[24, 20], [12, 9]])
MAP = maps(2, 4, 6, 5)
AUTOCAST = [
    ({"features": [MAP.double(), maps(2, 5, 3, 3)]}, TypeError, "features[0]", "float64"),
    ({"features": [MAP.bfloat16(), maps(2, 5, 3, 3).double()]}, TypeError, "features[1]", "float64"),
]
ENCODED = [
    ({"x": [MAP]}, TypeError, "x", "list"),
    ({"x": maps(2, 5, 6, 5)}, ValueError, "x", "(2, 5, 6, 5)"),
    ({"x": maps(2, 4)}, ValueError, "x", "(2, 4)"),
]
FORWARD = [
    ({"features": [MAP, maps(2, 5, 3, 3, device="meta")]}, ValueError, "features[1]", "cpu, as the neck's"),
    ({"features": [MAP.to("meta"), maps(2, 5, 3, 3)]}, ValueError, "features[0]", "got meta"),
    ({"features": [MAP, maps(2, 5, 3, 3).double()]}, TypeError, "features[1]", "float64"),
    ({"image_sizes": [24, 20]}, TypeError, "image_sizes", "[24, 20]"),
    ({"image_sizes": [(24, 20), 12]}, TypeError, "image_sizes", "12]"),
    ({"image_sizes": [(24, 20), (12.0, 9)]}, TypeError, "image_sizes", "12.0"),
    ({"image_sizes": ["24", "20"]}, TypeError, "image_sizes", "['24', '20']"),
    ({"image_sizes": list(SIZES)}, TypeError, "image_sizes", "[tensor([24, 20])"),
    ({"image_sizes": SIZES.to("meta")}, ValueError, "image_sizes", "got meta"),
    ({"valid": [SIZES // 4, (SIZES // 8).to("meta")]}, ValueError, "valid[1]", "got meta"),
    ({"features": maps(2, 4, 6, 5)}, TypeError, "features", "Tensor"),
    ({"features": [maps(2, 4, 6, 5)]}, ValueError, "features", "1"),
    ({"features": [maps(2, 4, 6, 5), maps(2, 4, 3, 3)]}, ValueError, "features[1]", "(2, 4, 3, 3)"),
    ({"features": [maps(2, 4, 6, 5), maps(3, 5, 3, 3)]}, ValueError, "features[1]", "(3, 5, 3, 3)"),
    ({"features": [maps(2, 4, 6, 5), maps(5, 3, 3)]}, ValueError, "features[1]", "(5, 3, 3)"),
    ({"features": [maps(2, 4, 6, 5), maps(2, 5, 3, 3).long()]}, TypeError, "features[1]", "int64"),
    ({"image_sizes": SIZES[:1]}, ValueError, "image_sizes", "(1, 2)"),
    ({"image_sizes": SIZES.float()}, TypeError, "image_sizes", "float32"),
    ({"image_sizes": SIZES * 2}, ValueError, "image_sizes", "48"),
    ({"image_sizes": SIZES, "valid": [SIZES // 4, SIZES // 8]}, ValueError, "image_sizes", "valid"),
    ({"valid": SIZES // 4}, TypeError, "valid", "Tensor"),
    ({"valid": [SIZES // 4]}, ValueError, "valid", "1"),
    ({"valid": [SIZES // 4, SIZES]}, ValueError, "valid[1]", "24"),
]

TABLE = [
    (call, *row)
    for call, rows in (
        (region_stats, STATS),
        (region_codes, CODES),
        (region_norm, NORM),
        (dense_pathway, PATHWAY),
        (region_context, CONTEXT),
        (position_sensitive_pool, POOL),
        (context_module, MODULE),
        (neck, NECK),
        (neck_forward, FORWARD),
        (neck_under_autocast, AUTOCAST),
        (codes, ENCODED),
    )
    for row in rows
]


CALLS = [
    region_stats,
    region_codes,
    region_norm,
    dense_pathway,
    region_context,
    position_sensitive_pool,
    context_module,
    neck,
    neck_forward,
]


@pytest.mark.parametrize("call", CALLS)
def test_unchanged_arguments_are_good(call):
    call()


@pytest.mark.parametrize(
    ("call", "changes", "error", "name", "shown"), TABLE, ids=[f"{row[0].__name__}-{row[3]}-{row[4]}" for row in TABLE]
)
def test_error_names_argument_and_value(call, changes, error, name, shown):
    with pytest.raises(error, match=re.escape(name)) as raised:
        call(**changes)
    message = str(raised.value)
    assert shown in message
    assert len(message.splitlines()) == 1
