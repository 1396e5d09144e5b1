"""Instructions of PTX as tests/native/ptx.h runs them, and what it catches; kernels are test_kernels_as_ptx.py's.

Where fragments of matrices lie is what Triton's compiler takes them to be: its products have to come out right.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles, which a process with Triton's interpreter cannot", allow_module_level=True)

pytest.importorskip("triton")

import ptx
import triton
import triton.language as tl
import triton_ptx
from ptx_instructions import UnknownPtxError

KERNEL = """.visible .entry test(.param .u64 test_param_0, .param .u64 test_param_1)
{{
  .reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
  ld.param.u64 %rd1, [test_param_0]; ld.param.u64 %rd2, [test_param_1]; mov.u32 %r1, %tid.x;
  {body}
  ret;
}}"""


def run(body, *tensors, threads=32, shared=0):
    """A block of a kernel that finds the tensors' addresses in %rd1 and %rd2, its thread's number in %r1."""
    addresses = [ctypes.c_uint64(tensor.data_ptr()) for tensor in tensors] + [ctypes.c_uint64(0)]
    pointers = (ctypes.c_void_p * len(addresses))(*map(ctypes.addressof, addresses))
    ranges = (ptx.Range * len(tensors))(*map(triton_ptx.extent, tensors))
    ptx.built(ptx.translate(KERNEL.format(body=body)))(1, threads, 1, shared, pointers, ranges, len(ranges))


# What an instruction gives, by the PTX ISA: operands are immediate.
INSTRUCTIONS = {
    "add.s32 %r2, 2147483647, 1": -(2**31),
    "mul.hi.s32 %r2, -3, 1073741824": -1,
    "mul.hi.u32 %r2, 3, 0x80000000": 1,
    "mad.lo.s32 %r2, -7, 9, 4": -59,
    "div.s32 %r2, -7, 2": -3,
    "rem.s32 %r2, -7, 2": -1,
    "min.s32 %r2, -7, 2": -7,
    "min.u32 %r2, -7, 2": 2,
    "min.relu.s32 %r2, -7, 2": 0,
    "shl.b32 %r2, 1, 32": 0,
    "shr.s32 %r2, -8, 40": -1,
    "shr.u32 %r2, -1, 31": 1,
    "shf.l.wrap.b32 %r2, 0x80000000, 1, 1": 3,
    "shf.r.wrap.b32 %r2, 0x80000000, 1, 31": 3,
    "bfe.s32 %r2, 0xf0, 4, 4": -1,
    "bfe.u32 %r2, 0xf0, 4, 4": 15,
    "bfe.u32 %r2, -1, 28, 8": 15,
    "bfi.b32 %r2, 5, 0, 8, 3": 5 << 8,
    "prmt.b32 %r2, 0x03020100, 0x07060504, 0x7531": 0x07050301,
    "prmt.b32 %r2, 0x80, 0, 0x8888": -1,
    "add.s16x2 %r2, 0x0001ffff, 0x00010001": 0x00020000,
    "add.bf16x2 %r2, 0x3F803F80, 0x3F813B80": 0x40003F80,  # 1 + 1.0078125 and 1 + 0.00390625: halves, to even
    "fma.rn.bf16x2 %r2, 0x40403F80, 0x40003F80, 0x80008000": 0x40C03F80,
    "selp.b32 %r2, 4, 5, 0": 5,
    "fma.rn.f32 %r2, 0f40000000, 0f40400000, 0f3F800000": 0x40E00000,
    "min.f32 %r2, 0f7FC00000, 0f3F800000": 0x3F800000,
    "cvt.rn.f32.s32 %r2, -2": 0xC0000000 - 2**32,
    "cvt.rzi.s32.f32 %r2, 0fC0200000": -2,
    "cvt.rzi.s32.f32 %r2, 0f7F800000": 2**31 - 1,
    "cvt.rzi.s32.f32 %r2, 0f7FC00000": 0,
    "cvt.rzi.u32.f32 %r2, 0f40200000": 2,
    "cvt.rzi.u32.f32 %r2, 0fC0200000": 0,
    "cvt.rzi.s64.f32 %rd3, 0f7FC00000; shr.u64 %rd3, %rd3, 32; cvt.u32.u64 %r2, %rd3": -(2**31),
    "abs.s32 %r2, -7": 7,
    "div.s32 %r2, 0x80000000, -1": -(2**31),
    "max.f32 %r2, 0f80000000, 0f00000000": 0,
    "min.f32 %r2, 0f00000000, 0f80000000": -(2**31),
    "cvt.rn.bf16.u32 %rs1, 0x01010001; cvt.u32.u16 %r2, %rs1": 0x4B81,  # once: half a step and a bit above 2**24
    "cvt.rn.bf16x2.f32 %r2, 0f3F808000, 0f3F818000": 0x3F803F82,  # halves, to even
    "cvt.rn.f16x2.f32 %r2, 0f3F800000, 0f47800000": 0x3C007C00,
    "cvt.s32.s8 %r2, 0x80": -128,
    "mov.b32 %r2, {1, 2}": 0x20001,
    "mov.b32 {%rs1, %rs2}, 0x20001; cvt.u32.u16 %r2, %rs2": 2,
    "{ .reg .b32 own; mov.b32 own, 3; mov.b32 %r2, own; }": 3,
    "setp.lt.f32 %p1, 0f7FC00000, 0f3F800000; selp.b32 %r2, 1, 0, %p1": 0,
    "setp.gtu.f32 %p1, 0f7FC00000, 0f3F800000; selp.b32 %r2, 1, 0, %p1": 1,
    "setp.ne.f32 %p1, 0f7FC00000, 0f3F800000; selp.b32 %r2, 1, 0, %p1": 0,
    "mov.u32 %r2, 1; bra $END; mov.u32 %r2, 2; $END: add.s32 %r2, %r2, 4": 5,
    "redux.sync.max.s32 %r2, %r1, -1": 31,
}


def test_instructions():
    lines = [f"{text}; st.global.b32 [%rd1+{4 * i}], %r2;" for i, text in enumerate(INSTRUCTIONS)]
    found = torch.zeros(len(INSTRUCTIONS), dtype=torch.int32)
    run("\n".join(lines), found)
    assert dict(zip(INSTRUCTIONS, found.tolist(), strict=True)) == INSTRUCTIONS


EXCHANGES = {
    "shfl.sync.bfly.b32 %r2, %r1, 5, 31, -1;": [lane ^ 5 for lane in range(32)],
    "shfl.sync.idx.b32 %r2, %r1, 7, 31, -1;": [7] * 32,
    # Thread 4i + j has columns 2j and 2j + 1 of row i; the first eight threads have the rows' addresses.
    """shl.b32 %r3, %r1, 2; st.shared.b32 [%r3], %r1; bar.sync 0; shl.b32 %r3, %r1, 4; and.b32 %r3, %r3, 127;
    ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r3];""": list(range(32)),
    """shl.b32 %r3, %r1, 4; and.b32 %r3, %r3, 127; stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r3], {%r1}; bar.sync 0;
    shl.b32 %r3, %r1, 2; ld.shared.b32 %r2, [%r3];""": list(range(32)),
}


@pytest.mark.parametrize("body", EXCHANGES)
def test_what_a_warp_does_together(body):
    found = torch.zeros(32, dtype=torch.int32)
    run(f"{body} mad.wide.u32 %rd3, %r1, 4, %rd1; st.global.b32 [%rd3], %r2;", found, shared=128)
    assert found.tolist() == EXCHANGES[body]


COPY = """shl.b32 %r2, %r1, 4; mad.wide.u32 %rd3, %r1, 16, %rd1; mad.wide.u32 %rd4, %r1, 16, %rd2;
cp.async.cg.shared.global [%r2], [%rd3], 16, {size}; cp.async.commit_group; cp.async.commit_group;
cp.async.wait_group {pending}; ld.shared.v4.b32 {{%r3, %r4, %r5, %r6}}, [%r2];
st.global.v4.b32 [%rd4], {{%r3, %r4, %r5, %r6}};"""


@pytest.mark.parametrize(("size", "pending", "whole"), [(16, 1, 4), (16, 0, 4), (8, 1, 2), (16, 2, 0)])
def test_a_copy_arrives_when_it_is_waited_for(size, pending, whole):
    """What is not waited for is NaN, what a copy has less than it writes is 0."""
    given = torch.arange(1.0, 129).view(32, 4)
    found = torch.zeros(32, 4)
    run(COPY.format(size=size, pending=pending), given, found, shared=512)
    expected = given * (torch.arange(4) < whole) if whole else torch.full_like(given, torch.nan)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


FAULTS = {
    "outside of what the kernel was given": "mad.wide.u32 %rd3, %r1, 4, %rd1; st.global.b32 [%rd3+4], %r1;",
    "of shared memory, outside": "shl.b32 %r2, %r1, 3; st.shared.b32 [%r2], %r1;",
    "no multiple of that": "ld.global.v2.b32 {%r2, %r3}, [%rd1+4];",
    "wait at a barrier": "setp.lt.s32 %p1, %r1, 3; @%p1 bra $END; bar.sync 0; $END: mov.u32 %r2, 0;",
    "at several instructions": """setp.lt.s32 %p1, %r1, 3; @%p1 shfl.sync.idx.b32 %r2, %r1, 0, 31, -1;
    @!%p1 bar.warp.sync -1;""",
    "parts of a warp": "shfl.sync.idx.b32 %r2, %r1, 0, 31, 7;",
    "of a warp have come to": "setp.lt.s32 %p1, %r1, 3; @%p1 bra $END; bar.warp.sync -1; $END: mov.u32 %r2, 0;",
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_fault_ends_the_process(message):
    script = "import sys, torch, test_ptx; test_ptx.run(sys.argv[1], torch.zeros(32, dtype=torch.int32), shared=128)"
    command = [sys.executable, "-c", script, FAULTS[message]]
    ended = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert message in ended.stderr


UNKNOWN = {
    "sin_approx": "sin.approx.f32 %r2, 0f00000000;",
    "barrier 1": "bar.sync 1;",
    "shfl.sync.up": "shfl.sync.up.b32 %r2, %r1, 1, 0, -1;",
    "modifiers {'const'}": "ld.const.b32 %r2, [%rd1];",
}


@pytest.mark.parametrize("message", UNKNOWN)
def test_what_is_not_known_is_named(message):
    with pytest.raises(UnknownPtxError, match=message):
        run(UNKNOWN[message], torch.zeros(1))


@triton.jit
def product(left, right, to):
    m, k = tl.arange(0, 64), tl.arange(0, 32)
    a = tl.load(left + m[:, None] * 32 + k[None, :])
    b = tl.load(right + k[:, None] * 32 + k[None, :])
    tl.store(to + m[:, None] * 32 + k[None, :], tl.dot(a, b, input_precision="tf32", out_dtype=to.dtype.element_ty))


@pytest.mark.parametrize(
    ("target", "dtype", "instruction"),
    [
        ("sm_80", torch.bfloat16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16"),
        ("sm_80", torch.float16, "mma.sync.aligned.m16n8k16.row.col.f32.f16"),
        ("sm_80", torch.float32, "mma.sync.aligned.m16n8k8.row.col.f32.tf32"),  # as csrc/cuda/fragments.cuh has it
        ("sm_80", torch.float64, "mma.sync.aligned.m8n8k4.row.col.f64"),
        ("sm_90", torch.bfloat16, "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16"),
        ("sm_90", torch.float16, "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16"),
    ],
    ids=str,
)
def test_products_that_triton_makes(target, dtype, instruction):
    """Of integers, which no rounding changes: every element of both factors is where the compiler believes it to be."""
    generator = torch.Generator().manual_seed(3)
    left, right = (
        torch.randint(-8, 9, shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in ((64, 32), (32, 32))
    )
    found = torch.full((64, 32), torch.nan, dtype=dtype if dtype == torch.float64 else torch.float32)
    binary = triton_ptx.run(product, (1,), (left, right, found), {"num_warps": 4}, target)
    assert instruction in binary.asm["ptx"]
    assert torch.equal(found.double(), left.double() @ right.double())
