"""Rows kept in the repository, by device and commit: ``benchmarks/results/DEVICE/COMMIT-SUITE.json``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from zigzag.bench import rows
from zigzag.bench.rows import Machine, Row, Run
from zigzag.bench.settings import BenchError


def keep(folder: Path, found: Sequence[Row], about: Machine, suite: str) -> Path:
    """Write rows to their place in ``folder``, and return it.

    Raises:
        BenchError: nobody could say later what was measured: there is no commit, or files differ from it.
    """
    if not about.commit or about.commit.endswith("+"):
        raise BenchError(f"--store keeps rows by commit: commit the changes first, got {about.commit or 'no commit'!r}")
    path = folder / slug(about) / f"{about.commit}-{suite}.json"
    rows.write(path, found, about)
    return path


def slug(about: Machine) -> str:
    """A folder's name for the device: what times depend on before anything else."""
    isa = [] if about.device != about.cpu else [about.isa]
    return re.sub(r"[^a-z0-9]+", "-", " ".join([about.device, *isa, f"{about.threads} threads"]).lower()).strip("-")


def find(name: str, folder: Path) -> Run:
    """The rows of a file, or those that ``folder`` has of a commit (its first digits suffice).

    Raises:
        BenchError: there are none, or those of several devices or suites.
    """
    if Path(name).is_file():
        return rows.read(Path(name))
    paths = sorted(folder.glob(f"*/{name}*.json")) if re.fullmatch(r"[0-9a-f]{4,40}", name) else []
    if len(paths) != 1:
        several = (
            f"name one of {', '.join(map(str, paths))}" if paths else f"{str(folder)!r} has rows of no such commit"
        )
        raise BenchError(f"{name!r} must be a file of rows or a commit: {several}")
    return rows.read(paths[0])


def history(folder: Path) -> list[Run]:
    """All runs in ``folder``, oldest first."""
    found = [rows.read(path) for path in sorted(folder.glob("*/*.json"))]
    return sorted(found, key=lambda run: run.machine.date)
