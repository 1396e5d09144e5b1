"""The CUDA kernels on the CPU as the PTX that nvcc makes of them, launched by its host code: tests/ptx.py.

`ZIGZAG_PTX=sm_90 pytest ...` has backends "cuda" and "hopper" run so (what there is is for sm_100 whatever it says).
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import subprocess
import traceback

import ptx
import torch
from triton_aot import CUOBJDUMP

LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int64,
    ctypes.c_char_p,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_void_p,
)
_KEPT = []  # what a library calls has to live as long as it


@functools.cache
def texts(library):
    """The PTX of every file of kernels that a library has."""
    dump = subprocess.run([CUOBJDUMP, "--dump-ptx", library], check=True, capture_output=True, text=True).stdout
    return [text for text in re.split(r"^Fatbin ptx code:$", dump, flags=re.MULTILINE) if ".entry" in text]


@functools.cache
def kernel(library, name):
    """`run` of a kernel, as `ptx.built` has it."""
    text = next(text for text in texts(library) if f".entry {name}(" in text)
    return ptx.built(ptx.translate(text, f"{name}("))


def load(library):
    """Register the operations of the library at the dispatcher's CPU key."""

    def launch(name, blocks, x, y, shared, parameters):
        try:
            return kernel(library, name.decode())(blocks, x, y, shared, ctypes.c_void_p(parameters), None, 0)
        except BaseException:  # noqa: BLE001  what called this can raise nothing
            traceback.print_exc()
            os.abort()

    torch.ops.load_library(library)
    _KEPT.append(LAUNCH(launch))
    ctypes.CDLL(library).zigzag_launch_with(_KEPT[-1])


def refuse_launch(library, after):
    """Have the launch after so many more fail."""
    ctypes.CDLL(str(library)).zigzag_refuse_launch(ctypes.c_int64(after))
