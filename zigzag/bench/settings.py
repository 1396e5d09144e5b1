"""What one run of the benchmark is asked to do, and the environment that it holds equal for all sides."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DTYPES = ("float32", "bfloat16", "float16")
SMALLEST_SIZE, LARGEST_SIZE = 64, 2048
SEED = 0

# glibc hands every large block back to the kernel at once, and the next one is paid for page by page: that would time
# page faults. Blocks up to a gigabyte come from the heap instead, and the heap keeps what it has.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(1 << 26),
}


class BenchError(Exception):
    """The benchmark cannot do what it was asked; the message says why, and what would help."""


@dataclass(frozen=True)
class Settings:
    """The command line of ``zigzag bench``, checked.

    Attributes:
        image: photograph to use; None for the one that matplotlib ships.
        size: side in pixels of the square crop that goes through the backbone.
        backbone: name of a ResNet of torchvision.
        weights: state dict for the backbone; None for seeded random weights.
        stride_in_1x1: the weights expect the stride of a bottleneck in its first 1x1 convolution (MSRA, Detectron).
        dtype: of maps and parameters, by name.
        threads: for torch.
        only: substring that a case's name must contain; "" for all.
        quick: fewer repetitions, 3x3 region kernel only, no sweep over sizes and grids.
        compiled: also measure torch.compile of the eager version.
        out: folder for the rows, the report and the picture.
    """

    image: Path | None = None
    size: int = 473
    backbone: str = "resnet50"
    weights: Path | None = None
    stride_in_1x1: bool = False
    dtype: str = "float32"
    threads: int = 1
    only: str = ""
    quick: bool = False
    compiled: bool = False
    out: Path = Path("bench-results")

    def __post_init__(self) -> None:
        if not SMALLEST_SIZE <= self.size <= LARGEST_SIZE:
            raise BenchError(f"--size must be {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, got {self.size}")
        if self.threads < 1:
            raise BenchError(f"--threads must be 1 or more, got {self.threads}")
        if self.dtype not in DTYPES:
            raise BenchError(f"--dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        for option, path in (("--image", self.image), ("--weights", self.weights)):
            if path is not None and not path.is_file():
                raise BenchError(f"{option}: there is no file {str(path)!r}")
        if self.out.exists() and not self.out.is_dir():
            raise BenchError(f"--out must name a folder, and {str(self.out)!r} is a file")

    @property
    def kernels(self) -> tuple[int, ...]:
        """Sizes of the region kernel to measure."""
        return (3,) if self.quick else (3, 1)

    def command(self, only: str | None = None) -> str:
        """The command line that measures this again, or only the named case of it."""
        words = ["zigzag bench", f"--size {self.size}", f"--threads {self.threads}", f"--dtype {self.dtype}"]
        if self.image is not None:
            words.append(f"--image {self.image}")
        if self.backbone != "resnet50":
            words.append(f"--backbone {self.backbone}")
        if self.weights is not None:
            words.append(f"--weights {self.weights}")
        flags = {"--stride-in-1x1": self.stride_in_1x1, "--quick": self.quick, "--compile": self.compiled}
        words += [flag for flag, given in flags.items() if given]
        chosen = self.only if only is None else only
        return " ".join([*words, f"--filter {chosen}"] if chosen else words)


def available_threads() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def missing_allocator_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The malloc variables to add to ``environment``; empty if all are set, to whatever value."""
    return {name: value for name, value in ALLOCATOR.items() if name not in environment}


def hold_allocator(arguments: Sequence[str]) -> None:
    """Replace this process by ``python -m zigzag`` with ``arguments`` and the malloc variables set, unless they are.

    They are read once, when a process starts. On a C library other than glibc they do nothing, for all sides alike.
    """
    added = missing_allocator_settings(os.environ)
    if added:
        os.execve(sys.executable, [sys.executable, "-m", "zigzag", *arguments], {**os.environ, **added})  # noqa: S606
