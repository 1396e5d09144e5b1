"""Another commit's package, built beside this checkout, for the gate to measure."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import zigzag
from zigzag.bench.settings import BenchError

ROOT = Path(zigzag.__file__).resolve().parent.parent
NATIVE = ("csrc", "CMakeLists.txt")
LIBRARY = Path("zigzag") / "_C.so"


def build(revision: str) -> tuple[Path, str]:
    """The folder with the package of ``revision`` and its compiled part, and the commit; quick the second time.

    Its compiled part is a copy of this checkout's where both have the same sources.

    Raises:
        BenchError: this is no checkout, it has no such commit, or the build fails.
    """
    commit = _commit(revision)
    folder = ROOT / "build" / "gate" / commit[:12]
    if (folder / LIBRARY).exists():
        return folder, commit
    if not (ROOT / LIBRARY).exists():
        raise BenchError("the gate measures zigzag/_C.so, and it was not built: run make build")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=BytesIO(_archive(commit))) as archive:
        archive.extractall(folder, filter="tar")
    same = (
        subprocess.run(["git", "-C", str(ROOT), "diff", "--quiet", commit, "--", *NATIVE], check=False).returncode == 0
    )
    built = ROOT / LIBRARY if same else _compile(folder)
    unfinished = folder / f"{LIBRARY}.{os.getpid()}"
    shutil.copyfile(built, unfinished)
    unfinished.replace(folder / LIBRARY)
    return folder, commit


def _commit(revision: str) -> str:
    """The commit's full name. One that a shallow clone lacks is fetched, alone, from where the clone came from."""
    name = ("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    found = _git(*name)
    if not found and re.fullmatch("[0-9a-f]{40}", revision):
        _git("fetch", "--quiet", "--no-tags", "--depth=1", "origin", revision)
        found = _git(*name)
    if not found:
        raise BenchError(
            f"the commit to compare with, {revision!r}, is neither in the checkout {str(ROOT)!r} nor could it be "
            "fetched from its origin. The gate needs git and that commit: git fetch --unshallow, or name another, in "
            "benchmarks/results/gate.json or by --against"
        )
    return found


def _git(*words: str) -> str:
    """What git prints; "" where it fails or is not installed. It asks for no password."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True, env=environment
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _archive(commit: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True).stdout


def _compile(folder: Path) -> Path:
    """The CPU library of the sources in ``folder``."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    cmake, ninja = shutil.which("cmake", path=path), shutil.which("ninja", path=path)
    torch = importlib.util.find_spec("torch")
    if cmake is None or ninja is None or torch is None or not torch.submodule_search_locations:
        raise BenchError("building the commit to compare with needs cmake and ninja: pip install cmake ninja")
    where = folder / "build" / "native"
    commands = (
        [
            *(cmake, "--log-level=NOTICE", "-S", str(folder), "-B", str(where), "-G", "Ninja"),
            *(f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DZIGZAG_TORCH_DIR={torch.submodule_search_locations[0]}"),
        ],
        [cmake, "--build", str(where), "--target", "_C"],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
            raise BenchError(f"building the commit to compare with failed:\n{tail}")
    return where / "_C.so"
