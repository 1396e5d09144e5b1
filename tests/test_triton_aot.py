"""Triton kernels compiled ahead of time for GPUs that are not there: no spills in bfloat16, whole pixels at a time."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton's interpreter and its compiler cannot share a process", allow_module_level=True)

import triton_aot


# Not sm_120, where two kernels spill still (benchmarks/NOTES.md).
@pytest.mark.parametrize("target", [target for target in triton_aot.TARGETS if target != "sm_120"])
def test_kernels_compile_without_spills(target):
    for kernel, dtype, _, row in triton_aot.table(torch.bfloat16, target):
        assert row.spills == 0, f"{kernel}, {dtype}, {target}: {row}"


def test_streaming_kernels_access_sixteen_bytes_at_a_time():
    """Of channels_last maps; the few narrow accesses are those of (N, C) tables."""
    for kernel, arguments, options in triton_aot.streaming(torch.bfloat16):
        row = triton_aot.compile_for(triton_aot.MEASURED, kernel, arguments, options)
        assert row.wide_loads > 0 or row.loads == 0, f"{kernel.__name__}: {row}"
