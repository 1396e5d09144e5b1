"""Another commit's package, built beside this checkout, for the gate to measure."""

from __future__ import annotations

import importlib.util
import os
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
    commit = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", otherwise=_missing(revision))
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


def _missing(revision: str) -> str:
    return (
        f"--against {revision!r} names no commit of the checkout {str(ROOT)!r}; the gate needs git and the history "
        "(git fetch --unshallow)"
    )


def _git(*words: str, otherwise: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchError(otherwise) from error
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
