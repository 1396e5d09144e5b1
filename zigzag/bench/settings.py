"""What one run of the benchmark is asked to do, and the environment that it holds equal for all sides."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DTYPES = ("float32", "bfloat16", "float16")
SUITES = ("default", "ci", "full", "all")
DEVICES = ("cpu", "cuda")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
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
        suite: which cases: "default", "ci", "full" or "all" (`zigzag.bench.registry`).
        dtype: of maps and parameters, by name; None for what the suite has.
        batch: N; the photograph, so often.
        device: where: cpu or cuda.
        graph: on a GPU, time each side as one CUDA graph.
        threads: for torch.
        only: words of the keys that are measured; "" for all.
        quick: fewer repetitions, 3x3 region kernel only, no sweep over sizes and grids.
        compiled: also measure torch.compile of the eager version, in this mode; None for what the suite has.
        store: folder in which the rows are kept by device and commit; None for none.
        out: folder for the rows, the report and the picture.
    """

    image: Path | None = None
    size: int = 473
    backbone: str = "resnet50"
    weights: Path | None = None
    stride_in_1x1: bool = False
    suite: str = "default"
    dtype: str | None = None
    batch: int = 1
    device: str = "cpu"
    graph: bool = False
    threads: int = 1
    only: str = ""
    quick: bool = False
    compiled: str | None = None
    store: Path | None = None
    out: Path = Path("bench-results")

    def __post_init__(self) -> None:
        if not SMALLEST_SIZE <= self.size <= LARGEST_SIZE:
            raise BenchError(f"--size must be {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, got {self.size}")
        if self.threads < 1:
            raise BenchError(f"--threads must be 1 or more, got {self.threads}")
        if self.batch < 1:
            raise BenchError(f"--batch must be 1 or more, got {self.batch}")
        for option, value, allowed in (
            ("--dtype", self.dtype or DTYPES[0], DTYPES),
            ("--suite", self.suite, SUITES),
            ("--device", self.device, DEVICES),
            ("--compile", self.compiled or COMPILE_MODES[0], COMPILE_MODES),
        ):
            if value not in allowed:
                raise BenchError(f"{option} must be one of {', '.join(allowed)}, got {value!r}")
        if self.graph and self.device != "cuda":
            raise BenchError("--graph is for a GPU: it needs --device cuda")
        for option, path in (("--image", self.image), ("--weights", self.weights)):
            if path is not None and not path.is_file():
                raise BenchError(f"{option}: there is no file {str(path)!r}")
        if self.out.exists() and not self.out.is_dir():
            raise BenchError(f"--out must name a folder, and {str(self.out)!r} is a file")

    @property
    def kernels(self) -> tuple[int, ...]:
        """Sizes of the region kernel to measure."""
        return (3,) if self.quick else (3, 1)

    @property
    def sweeps(self) -> bool:
        """Whether the run sweeps over sizes and grids."""
        return self.suite in ("default", "full") and not self.quick and not self.only

    def command(self, only: str | None = None) -> str:
        """The command line that measures this again, or only what ``only`` names: a row's key."""
        words = ["zigzag bench", f"--size {self.size}", f"--threads {self.threads}"]
        for option, value, default in (
            ("--suite", self.suite, "default" if only is None else self.suite),
            ("--dtype", self.dtype, None if only is None else self.dtype),
            ("--batch", self.batch, 1),
            ("--device", self.device, "cpu"),
            ("--compile", self.compiled, None),
        ):
            if value != default:
                words.append(f"{option} {value}")
        if self.image is not None:
            words.append(f"--image {self.image}")
        if self.backbone != "resnet50":
            words.append(f"--backbone {self.backbone}")
        if self.weights is not None:
            words.append(f"--weights {self.weights}")
        flags = {
            "--stride-in-1x1": self.stride_in_1x1,
            "--quick": self.quick,
            "--graph": self.graph,
        }
        words += [flag for flag, given in flags.items() if given]
        chosen = self.only if only is None else only
        return " ".join([*words, f"--filter {shlex.quote(chosen)}"] if chosen else words)


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
