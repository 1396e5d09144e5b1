"""Triton kernels compiled ahead of time for GPUs that are not there: no spills, no races, whole pixels at a time.

bfloat16 on every target and every dtype on the one that is measured on; ZIGZAG_ALL_TARGETS=1 takes all of both.
"""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton's interpreter and its compiler cannot share a process", allow_module_level=True)

import triton_aot

EVERY = os.environ.get("ZIGZAG_ALL_TARGETS") == "1"
CASES = [
    (dtype, target)
    for dtype in triton_aot.DTYPES
    for target in triton_aot.TARGETS
    if EVERY or dtype == torch.bfloat16 or target == triton_aot.MEASURED
]


@pytest.mark.parametrize(("dtype", "target"), CASES, ids=str)
def test_kernels_compile_without_spills_and_races(dtype, target):
    """And without products that run on while their operands are written anew, as Triton 3.6 to 3.9 let them."""
    for kernel, name, _, binary in triton_aot.table(dtype, target):
        row = triton_aot.made_of(target, binary)
        assert row.spills == 0, f"{kernel}, {name}, {target}: {row}"
        assert row.pending == 0, f"{kernel}, {name}, {target}: {row}"
        assert row.shared <= triton_aot.SHARED[target] * 1024, f"{kernel}, {name}, {target}: {row}"


def test_kernels_compile_in_float64():
    """Which checks of gradients use: a register may be saved around the subroutine that divides."""
    found = list(triton_aot.table(torch.float64, triton_aot.MEASURED))
    assert found
    assert max(binary.metadata.shared for *_, binary in found) <= min(triton_aot.SHARED.values()) * 1024


@pytest.mark.parametrize(
    ("number", "first", "second", "count"),
    [(1, (208, 288), (26, 36), 1), (16, (176, 256), (16, 48), 512), (3, (80, 65), (1, 64), 7)],
)
def test_other_sizes_compile_nothing_anew(number, first, second, count):
    """Sizes and batches that are 1, multiples of 16 and neither: no step of a training waits for a compiler."""
    known = triton_aot.specialisations(2, (201, 275), (27, 35), 300)
    assert triton_aot.specialisations(number, first, second, count) == known


def test_streaming_kernels_access_sixteen_bytes_at_a_time():
    """Of channels_last maps; the few narrow accesses are those of (N, C) tables."""
    found = triton_aot.streaming(torch.bfloat16)
    assert {kernel.__name__ for kernel, *_ in found} == set(triton_aot.STREAMING)
    for kernel, arguments, options in found:
        binary = triton_aot.compiled_for(triton_aot.MEASURED, kernel, arguments, options)
        row = triton_aot.accesses_of(binary)
        assert row.wide_loads > 0 or row.loads == 0, f"{kernel.__name__}: {row}"
        tables = triton_aot.STREAMING[kernel.__name__]
        if tables is not None:
            assert row.stores - row.wide_stores <= tables, f"{kernel.__name__}: {row}"
            assert row.wide_stores > 0, f"{kernel.__name__}: {row}"
