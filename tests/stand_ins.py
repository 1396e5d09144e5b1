"""GPU backends without a GPU: their kernels, run on the CPU by other means, in the place of the real ones.

Registered at the dispatcher's CPU key of a backend's own operations, they are tested with everything in front of
them: the checks of arguments, fake kernels, autograd, compilation.
"""

from __future__ import annotations

import importlib
import sys

import torch

from zigzag.ops.registration import NAMESPACES

OPERATIONS = [
    f"{name}{suffix}"
    for name in ("region_stats", "region_codes", "region_norm", "dense_pathway")
    for suffix in ("", "_backward")
]
_LIBRARIES = []  # what is registered stays as long as its library


def stand_in(name, kernels, dtypes=None):
    """Run backend `name` on CPU tensors with `kernels`, functions by the names of the operations."""
    library = torch.library.Library(NAMESPACES[name], "IMPL", "CPU")
    for operation, kernel in kernels.items():
        library.impl(operation, kernel)
    _LIBRARIES.append(library)
    backends = sys.modules["zigzag.backends"]
    backends._register(backends.Backend(name, "cpu", lambda: None, dtypes))


def interpret_triton():
    """Triton kernels under Triton's interpreter, which is wrong for types of two bytes."""
    importlib.import_module("triton_interpreter")
    modules = {name: importlib.import_module(f"zigzag.kernels.{name.removesuffix('_backward')}") for name in OPERATIONS}
    kernels = {name: getattr(module, name) for name, module in modules.items()}
    stand_in("triton", kernels, (torch.float32, torch.float64))
