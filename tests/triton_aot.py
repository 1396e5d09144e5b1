"""Compiles Triton kernels for GPUs that are not there, in the very specialisations that the operations launch.

Operations are called on meta tensors with every launch caught; what was caught is compiled ahead of time. Run as a
program (a process with Triton's interpreter cannot compile), it prints a table of registers, spills and shared memory.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx950": GPUTarget("hip", "gfx950", 64),
}
NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
NAMES |= {torch.int64: "i64", torch.int32: "i32"}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Compiled:
    """What became of one kernel on one target; a spill is anything that a register did not hold."""

    registers: int
    spills: int
    shared: int
    wide_loads: int
    wide_stores: int
    loads: int
    stores: int


def specialise(path, value, constants, attributes):
    """The type of an argument as Triton's own launcher sees it: what is 1 or None is a constant."""
    if isinstance(value, (tuple, list)):
        return tuple(specialise((*path, i), item, constants, attributes) for i, item in enumerate(value))
    if isinstance(value, torch.Tensor):
        attributes[path] = [["tt.divisibility", 16]]
        return f"*{NAMES[value.dtype]}"
    if value is None or (type(value) is int and value == 1):
        constants[path] = value
        return "constexpr"
    if type(value) is float:
        return "fp32"
    if value % 16 == 0:
        attributes[path] = [["tt.divisibility", 16]]
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def source_of(kernel, arguments, options):
    """The kernel's source for these arguments, and the compiler's options."""
    given = dict(zip(kernel.arg_names, arguments, strict=False))
    given |= {name: value for name, value in options.items() if name in kernel.arg_names}
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = given.get(parameter.name, parameter.default)
        if parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
        else:
            signature[parameter.name] = specialise((index,), value, constants, attributes)
    compiler = {name: value for name, value in options.items() if name not in kernel.arg_names}
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes), compiler


def compile_for(target, kernel, arguments, options):
    """One specialisation on one target."""
    source, compiler = source_of(kernel, arguments, options)
    binary = triton.compile(source, target=TARGETS[target], options=compiler)
    if TARGETS[target].backend == "hip":
        text = binary.asm["amdgcn"]
        field = lambda name: int(re.search(rf"\.{name}:\s*(\d+)", text)[1])  # noqa: E731
        spills = field("vgpr_spill_count") + field("sgpr_spill_count")
        return Compiled(field("vgpr_count"), spills, binary.metadata.shared, 0, 0, 0, 0)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage, sass = (dump(flag, file.name) for flag in ("--dump-resource-usage", "-sass"))
    wide = [len(re.findall(rf"{name}\.E[.\w]*\.128", sass)) for name in ("LDG", "STG")]
    all_accesses = [len(re.findall(rf"{name}\.E", sass)) for name in ("LDG", "STG")]
    return Compiled(
        int(re.search(r"REG:(\d+)", usage)[1]),
        int(re.search(r"STACK:(\d+)", usage)[1]) + len(re.findall(r"\bSTL\b", sass)),
        binary.metadata.shared,
        *wide,
        *all_accesses,
    )


def dump(flag, path):
    return subprocess.run([CUOBJDUMP, flag, path], check=True, capture_output=True, text=True).stdout
