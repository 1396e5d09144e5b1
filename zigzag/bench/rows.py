"""The rows that a run leaves behind: one for each case, variant, direction and side. Their schema has a version.

A file of rows is one JSON object: ``schema``, ``machine`` (what all rows share: `Machine`) and ``rows`` (`Row`), a line
each. Only fields that are not None are written.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

import zigzag
from zigzag.bench.files import whole
from zigzag.bench.settings import BenchError
from zigzag.bench.timing import few

SCHEMA = 2
"""Counts up whenever a field changes its meaning or goes away."""

Status = Literal["ok", "WRONG", "failed"]


@dataclass(frozen=True)
class Machine:
    """Where and with what a run was made.

    Attributes:
        zigzag, torch, torchvision, python: versions.
        commit: of the checkout, 12 digits, with "+" if it has changes; "" outside one.
        system: as the platform names it.
        device: name of the processor or of the GPU that was measured.
        isa: instruction set of the CPU kernels: baseline, avx2 or avx512.
        cpu, cores: of the machine; `threads` of torch.
        load: average of the minute before the run.
        date: UTC, ISO 8601.
    """

    zigzag: str
    commit: str
    torch: str
    torchvision: str
    python: str
    system: str
    device: str
    isa: str
    cpu: str
    cores: int
    threads: int
    load: float
    date: str


@dataclass(frozen=True)
class Row:
    """One side of one case.

    Attributes:
        key: what is measured, as `--filter` takes it; with `backend`, unique in a run.
        case: name in the registry.
        operation: what is measured.
        backend: the side: zigzag (the default backend), triton or cuda, eager, compiled, commuted or floor.
        direction: forward, or forward+backward.
        device: type of the device, cpu or cuda.
        dtype: of the maps.
        layout: of the maps.
        size: side of the photograph's crop, in pixels.
        shape: of the operands.
        kernel: size of the region kernel; None where there is none.
        grids: K of every region grid; () where they play no part.
        cache: "cold" where the caches were emptied before every run; "warm" where they were not.
        timing: by the CPU's monotonic "clock", by CUDA "events", or by events around the replay of a CUDA "graph".
        status: "ok"; "WRONG" for a result that is refused a time; "failed" for one that does not run.
        note: why, where the status is not "ok".
        runs: how often it was timed.
        median: seconds; None unless the status is "ok".
        p20, p80: their spread; None, as every spread, below `zigzag.bench.timing.FEWEST` runs.
        over_floor: median of the paired ratios to the floor.
        over_floor_p20, over_floor_p80: their spread.
        speedup: median of the paired ratios of this side to ours: how many times faster ours is.
        speedup_p20, speedup_p80: their spread.
        noise: whether the difference to ours lies within the spread; None where none is stated.
        bytes, flops: of the work, from `zigzag.cost`.
        roofline: least time by the measured ceilings / median.
        copy_share: bytes / median, as a share of the measured rate of the largest copy.
        error: largest relative error against float64.
        error_ratio: error / stock PyTorch's in the same dtype; None for a floor.
        saved_bytes: what autograd saved in the forward pass.
        peak_bytes: growth of the process's resident memory, or of the GPU's, during the step.
        reproduce: command line.
    """

    key: str
    case: str
    operation: str
    backend: str
    direction: str
    device: str
    dtype: str
    layout: str
    size: int
    shape: str
    kernel: int | None
    grids: tuple[int, ...]
    cache: Literal["cold", "warm"]
    timing: Literal["clock", "events", "graph"]
    status: Status
    note: str
    runs: int
    median: float | None
    p20: float | None
    p80: float | None
    over_floor: float | None
    over_floor_p20: float | None
    over_floor_p80: float | None
    speedup: float | None
    speedup_p20: float | None
    speedup_p80: float | None
    noise: bool | None
    bytes: int
    flops: int
    roofline: float | None
    copy_share: float | None
    error: float | None
    error_ratio: float | None
    saved_bytes: int | None
    peak_bytes: int | None
    reproduce: str

    @property
    def few(self) -> str:
        """As `zigzag.bench.timing.few`: "1 run" or "2 runs" where these are too few for a spread."""
        return few(self.runs)

    @property
    def doubt(self) -> str:
        """What stands beside the speedup where it may be none; "" where it is beyond the spread."""
        if self.few:
            return self.few
        if self.speedup is not None and self.speedup_p20 is None:
            return "few pairs of runs"
        return "noise" if self.noise else ""


@dataclass(frozen=True)
class Run:
    """A file of rows, read."""

    machine: Machine
    rows: Sequence[Row]


def machine(threads: int, device: str = "cpu") -> Machine:
    """Describe this machine, the device that is measured, and what is installed."""
    return Machine(
        zigzag=zigzag.__version__,
        commit=commit(),
        torch=torch.__version__,
        torchvision=_version("torchvision"),
        python=platform.python_version(),
        system=platform.platform(),
        device=cpu_name() if device == "cpu" else torch.cuda.get_device_name(),
        isa=isa(),
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        threads=threads,
        load=round(os.getloadavg()[0], 2),
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def write(path: Path, rows: Sequence[Row], about: Machine) -> None:
    """Write rows and the machine that they come from; a file that is there is replaced at once or not at all."""
    lines = ",\n".join(json.dumps(_written(asdict(row))) for row in rows)
    text = f'{{"schema": {SCHEMA},\n"machine": {json.dumps(asdict(about))},\n"rows": [\n{lines}\n]}}\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _written(fields_: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None, and with as many digits as a measurement has."""
    return {
        name: float(f"{value:.5g}") if isinstance(value, float) else value
        for name, value in fields_.items()
        if value is not None
    }


def read(path: Path) -> Run:
    """Read a file of rows.

    Raises:
        BenchError: there is no such file, it holds no rows, or rows of another schema.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{str(path)!r} cannot be read as rows of zigzag bench: {error}") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise BenchError(f"{str(path)!r} must hold rows of schema {SCHEMA}, got {schema!r}: measure them again")
    try:
        rows = [Row(**{**_ABSENT, **row, "grids": tuple(row["grids"])}) for row in found["rows"]]
        return Run(Machine(**found["machine"]), rows)
    except (TypeError, KeyError, AttributeError) as error:
        raise BenchError(f"{str(path)!r} holds a row that is not of schema {SCHEMA}: {error}") from error


_ABSENT = {field.name: None for field in fields(Row) if "None" in str(field.type)}


@cache
def commit() -> str:
    """The commit of the checkout that zigzag runs from, with "+" if it has changes; "" outside a checkout."""
    here = Path(zigzag.__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return ""
    try:
        found = _git(here, "rev-parse", "--short=12", "HEAD")
        return found + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def isa() -> str:
    """Instruction set that the CPU kernels run with."""
    best = {"AVX2": "avx2", "AVX512": "avx512"}.get(torch.backends.cpu.get_cpu_capability(), "baseline")
    return os.environ.get("ZIGZAG_CPU_ISA") or best


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
