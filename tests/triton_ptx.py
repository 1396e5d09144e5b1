"""Triton's kernels on the CPU as the PTX that its compiler makes of them: tests/ptx.py.

`ZIGZAG_PTX=sm_80 pytest ...` (or sm_90) has backend "triton" run so, in every dtype.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack

import ptx
from triton_aot import compiled_for, specialisation

from zigzag.kernels import launch

TARGET = os.environ.get("ZIGZAG_PTX", "sm_90")
_STARTED = ExitStack()
_COMPILED = {}
SCRATCH = 2
"""Pointers that Triton's compiler adds to a kernel's parameters, for memory that our kernels do not ask for."""


def compiled(target, kernel, arguments, options, specialised):
    """A kernel as `ptx.built` has it and as Triton compiled it, once for all that specialises it."""
    key = repr((target, kernel.__name__, specialised, sorted(options.items())))
    if key not in _COMPILED:
        binary = compiled_for(target, kernel, arguments, options)
        _COMPILED[key] = ptx.built(ptx.translate(binary.asm["ptx"])), binary
    return _COMPILED[key]


def parameters_of(signature, arguments):
    """What a kernel is given, as ctypes values and as tensors: tuples one by one, without what is constant."""
    values, tensors = [], []
    for kind, argument in zip(signature, arguments, strict=True):
        if isinstance(kind, tuple):
            inner = parameters_of(kind, argument)
            values += inner[0]
            tensors += inner[1]
        elif kind.startswith("*"):
            values.append(ctypes.c_uint64(argument.data_ptr()))
            tensors.append(argument)
        elif kind != "constexpr":
            values.append({"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}[kind](argument))
    return values, tensors


def extent(tensor):
    """Where a tensor's memory begins, and where its last element ends."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    end = (last + 1) * tensor.element_size() if tensor.numel() else 0
    return tensor.data_ptr(), tensor.data_ptr() + end


def run(kernel, grid, arguments, options, target=TARGET):
    """In the place of a launch on a GPU; how Triton compiled the kernel."""
    specialised = specialisation(kernel, arguments, options)
    found, binary = compiled(target, kernel, arguments, options, specialised)
    signature = specialised[0]
    given = list(arguments) + [None] * (len(signature) - len(arguments))
    values, tensors = parameters_of(signature.values(), given)
    values += [ctypes.c_uint64(0)] * SCRATCH
    pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    ranges = (ptx.Range * len(tensors))(*map(extent, tensors))
    threads = binary.metadata.num_warps * 32
    found(*grid, threads, 1, binary.metadata.shared, pointers, ranges, len(ranges))
    return binary


def start():
    """Every launch from now on runs on the CPU, with a GPU's tiles."""
    _STARTED.enter_context(launch.launches_to(run))
    launch.kind_of = lambda _like: "gpu"
