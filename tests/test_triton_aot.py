"""Every Triton kernel compiled ahead of time for GPUs that are not there: no spills, and pixels 16 bytes at a time."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton's interpreter and its compiler cannot share a process", allow_module_level=True)

import triton_aot


@pytest.mark.parametrize("target", triton_aot.TARGETS)
def test_kernels_compile_without_spills(target):
    for kernel, dtype, _, row in triton_aot.table(torch.bfloat16, target):
        assert row.spills == 0, f"{kernel}, {dtype}, {target}: {row}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_other_dtypes_compile_without_spills(dtype):
    for kernel, name, target, row in triton_aot.table(dtype, triton_aot.MEASURED):
        assert row.spills == 0, f"{kernel}, {name}, {target}: {row}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_streaming_kernels_access_sixteen_bytes_at_a_time(dtype):
    """Of channels_last maps; the few narrow accesses are those of (N, C) tables."""
    for kernel, arguments, options in triton_aot.streaming(dtype):
        row = triton_aot.compile_for(triton_aot.MEASURED, kernel, arguments, options)
        assert row.wide_loads > 0 or row.loads == 0, f"{kernel.__name__}: {row}"
