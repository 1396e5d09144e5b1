"""Finds the compiled libraries and loads them into torch, once; where that fails, keeps one sentence that says why.

Nothing here raises: a package without a compiled part still imports, and runs its reference.
"""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from zigzag.errors import first_line

OVERRIDE = "ZIGZAG_LIBRARY"
"""Environment variable that names another file to load as the main library, such as a build with sanitizers."""

REMEDIES = {
    "_C": "run `make build`, or reinstall with a C++ compiler",
    "_C_cuda": "put the CUDA toolkit's nvcc on PATH and run `make clean build`, or reinstall",
}


@dataclass(frozen=True)
class Library:
    """What became of one compiled library.

    Attributes:
        path: the file that was looked for.
        reason: why its operations are not available, one sentence; None where they are.
    """

    path: Path
    reason: str | None

    @property
    def loaded(self) -> bool:
        """Whether the library's operations are registered with torch."""
        return self.reason is None


@functools.cache
def load(name: str = "_C") -> Library:
    """Load `zigzag/<name>.so` the first time it is asked for, and return what became of it every time."""
    path = Path(__file__).with_name(f"{name}.so")
    override = os.environ.get(OVERRIDE) if name == "_C" else None
    if override:
        path = Path(override).absolute()
    if not path.is_file():
        if override:
            return Library(path, f"{OVERRIDE} names {override!r}, and there is no such file")
        return Library(path, f"zigzag/{name}.so was not built: {REMEDIES[name]}")
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError) as error:
        summary = first_line(error)
        return Library(path, f"{path.name} does not load into torch {torch.__version__}: {summary}")
    return Library(path, None)


def build_info(name: str = "_C") -> dict[str, str]:
    """How a loaded library was built; empty where none is loaded.

    Its version, commit, compiler, flags, the CPU's isas, sanitize, and gpus: what `_C_cuda` is compiled for, as CMake's
    CUDA_ARCHITECTURES have it.
    """
    library = load(name)
    if not library.loaded:
        return {}
    function = ctypes.CDLL(str(library.path)).zigzag_build_info
    function.restype = ctypes.c_char_p
    text: bytes = function()
    return dict(line.split("=", 1) for line in text.decode().splitlines())
