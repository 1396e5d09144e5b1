"""GPU backends without a GPU: their kernels, run on the CPU by other means, in the place of the real ones.

Registered at the dispatcher's CPU key of a backend's own operations, they are tested with everything in front of
them: the checks of arguments, fake kernels, autograd, compilation.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from pathlib import Path

import torch

from zigzag.ops.registration import NAMESPACES

OPERATIONS = [
    f"{name}{suffix}"
    for name in ("region_stats", "region_codes", "region_norm", "dense_pathway", "position_sensitive_pool")
    for suffix in ("", "_backward")
]
_LIBRARIES = []  # what is registered stays as long as its library


EMULATED = Path(__file__).parents[1] / "build" / "native" / "_C_emulated.so"
"""The CUDA kernels compiled for the CPU (tests/native); ZIGZAG_EMULATED_LIBRARY names another."""
PTX = EMULATED.with_name("_C_ptx.so")
"""The CUDA kernels as nvcc compiles them, to be run by tests/ptx.py; not there where there is no nvcc."""


def take_the_place_of(name, dtypes=None, otherwise=None):
    """Let backend `name` run on CPU tensors."""
    backends = sys.modules["zigzag.backends"]
    backends._register(backends.Backend(name, "cpu", lambda: None, dtypes, otherwise))


def take_the_place_of_cuda():
    """Let both backends of CUDA C++ run on CPU tensors."""
    take_the_place_of("cuda")
    take_the_place_of("hopper", otherwise="cuda")


def _emulated():
    if "ZIGZAG_PTX" in os.environ:
        return PTX
    return Path(os.environ.get("ZIGZAG_EMULATED_LIBRARY", EMULATED))


def emulated_count(what):
    """What the emulation counts since the process began: its bulk "copies" and its "launches" of kernels."""
    count = getattr(ctypes.CDLL(str(_emulated())), f"zigzag_emulated_{what}")
    count.restype = ctypes.c_int64
    return count()


def emulate_cuda():
    """The CUDA kernels with their bindings, in a library that registers itself; nothing where it was not built."""
    path = _emulated()
    if path.is_file():
        torch.ops.load_library(str(path))
        take_the_place_of_cuda()


def triton_for_the_cpu():
    """A library that has Triton's kernels at the dispatcher's CPU key; how they run there is its user's concern."""
    modules = {name: importlib.import_module(f"zigzag.kernels.{name.removesuffix('_backward')}") for name in OPERATIONS}
    library = torch.library.Library(NAMESPACES["triton"], "IMPL", "CPU")
    for name, module in modules.items():
        library.impl(name, getattr(module, name))
    return library


def interpret_triton():
    """Triton kernels under Triton's interpreter, which is wrong for types of two bytes."""
    importlib.import_module("triton_interpreter")
    _LIBRARIES.append(triton_for_the_cpu())
    take_the_place_of("triton", (torch.float32, torch.float64))


def run_ptx():
    """Triton's and CUDA's kernels as the PTX that their compilers make of them, where those are there."""
    importlib.import_module("triton_ptx").start()
    _LIBRARIES.append(triton_for_the_cpu())
    take_the_place_of("triton")
    if PTX.is_file():
        importlib.import_module("cuda_ptx").load(str(PTX))
        take_the_place_of_cuda()
