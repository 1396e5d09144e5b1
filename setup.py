"""Builds the compiled part with CMake; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

ROOT = Path(__file__).resolve().parent
BUILD_DIR = ROOT / "build" / "native"
WITHOUT = "set ZIGZAG_NO_BUILD=1 to install without the compiled part (the reference backend still works)"


def tool(name: str) -> str | None:
    """The program `name`, first from the environment that runs this build, then from PATH."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def torch_dir() -> Path:
    """The installed torch package, found without the seconds that importing it takes."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(f"building zigzag needs torch in {sys.prefix}: use pip --no-build-isolation, or {WITHOUT}")
    return Path(spec.submodule_search_locations[0])


def commit() -> str:
    """The commit being built, marked where files differ from it; "unknown" outside a checkout."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


class CMakeBuild(build_ext):
    """Configures and builds CMakeLists.txt, then takes each declared extension's library from it."""

    def get_ext_filename(self, fullname: str) -> str:
        """One binary serves every Python, so the name carries no version."""
        return fullname.replace(".", os.sep) + ".so"

    def run(self) -> None:
        cmake, ninja = tool("cmake"), tool("ninja")
        if cmake is None:
            raise SetupError(f"building zigzag needs cmake (pip install cmake ninja); or {WITHOUT}")
        configure = [
            cmake, "--log-level=NOTICE", "-S", str(ROOT), "-B", str(BUILD_DIR),
            f"-DZIGZAG_TORCH_DIR={torch_dir()}",
            f"-DZIGZAG_VERSION={self.distribution.get_version()}",
            f"-DZIGZAG_COMMIT={commit()}",
            f"-DZIGZAG_ALLOW_SPILLS={os.environ.get('ZIGZAG_ALLOW_SPILLS', 'OFF')}",
        ]  # fmt: skip
        # Unset, it is forgotten: CMake's cache would keep what an earlier build was asked for.
        asked = os.environ.get("ZIGZAG_CUDA_ARCHITECTURES")
        configure.append(f"-DZIGZAG_CUDA_ARCHITECTURES={asked}" if asked else "-UZIGZAG_CUDA_ARCHITECTURES")
        if ninja is not None:
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        self.call(configure)
        self.call([cmake, "--build", str(BUILD_DIR), "--parallel", str(os.cpu_count() or 1)])
        super().run()

    def call(self, command: list[str]) -> None:
        if subprocess.run(command, check=False).returncode != 0:
            raise SetupError(f"building zigzag's compiled part failed (output above); fix that, or {WITHOUT}")

    def build_extension(self, ext: Extension) -> None:
        built = BUILD_DIR / (ext.name.rpartition(".")[2] + ".so")
        if ext.optional and not built.exists():
            return  # CMake found no CUDA compiler
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(built), str(target))


class AnyPythonWheel(bdist_wheel):
    """Tags the wheel for this platform and any Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


without = os.environ.get("ZIGZAG_NO_BUILD", "0") not in ("", "0")
setup(
    ext_modules=[] if without else [Extension("zigzag._C", []), Extension("zigzag._C_cuda", [], optional=True)],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": AnyPythonWheel},
)
