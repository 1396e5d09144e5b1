"""The rows that a run leaves behind: one schema, one row for each case, direction, region kernel and side."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch

import zigzag

SCHEMA = 1

Status = Literal["ok", "WRONG", "failed"]


@dataclass(frozen=True)
class Machine:
    """Where and with what a run was made: the part that all of its rows share."""

    zigzag: str
    commit: str
    torch: str
    torchvision: str
    python: str
    system: str
    cpu: str
    cores: int
    threads: int
    load: float
    date: str


@dataclass(frozen=True)
class Row:
    """One side of one case.

    Attributes:
        case: name in the registry.
        operation: what is measured.
        backend: the side: zigzag, eager, compiled, commuted or floor.
        direction: forward, or forward+backward.
        dtype: of the maps.
        layout: of the maps.
        size: side of the photograph's crop, in pixels.
        shape: of the operands.
        kernel: size of the region kernel; None where there is none.
        status: "ok"; "WRONG" for a result that is refused a time; "failed" for one that does not run.
        note: why, where the status is not "ok".
        runs: how often it was timed.
        median, p20, p80: seconds; None unless the status is "ok".
        over_floor: median of the paired ratios to the floor.
        over_floor_p20, over_floor_p80: their spread.
        speedup: median of the paired ratios of this side to ours: how many times faster ours is.
        noise: whether the difference to ours lies within the spread.
        bytes, flops: of the work, from `zigzag.cost`.
        roofline: least time by the measured ceilings / median.
        error: largest relative error against float64.
        error_ratio: error / stock PyTorch's in the same dtype; None for a floor.
        saved_bytes: what autograd saved in the forward pass.
        peak_bytes: growth of the process's resident memory during the step.
        reproduce: command line.
    """

    case: str
    operation: str
    backend: str
    direction: str
    dtype: str
    layout: str
    size: int
    shape: str
    kernel: int | None
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
    noise: bool | None
    bytes: int
    flops: int
    roofline: float | None
    error: float | None
    error_ratio: float | None
    saved_bytes: int | None
    peak_bytes: int | None
    reproduce: str


def machine(threads: int) -> Machine:
    """Describe this machine and what is installed on it."""
    return Machine(
        zigzag=zigzag.__version__,
        commit=commit(),
        torch=torch.__version__,
        torchvision=_version("torchvision"),
        python=platform.python_version(),
        system=platform.platform(),
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        threads=threads,
        load=round(os.getloadavg()[0], 2),
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def write(path: Path, rows: Sequence[Row], about: Machine) -> None:
    """Write rows to a JSON file, each complete with the machine that it comes from."""
    shared = asdict(about)
    lines = [json.dumps({"schema": SCHEMA, **asdict(row), **shared}) for row in rows]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


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
