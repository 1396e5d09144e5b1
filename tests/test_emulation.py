"""The emulation that runs CUDA kernels on the CPU finds what it is there to find: each fault planted here, by name."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILER = shutil.which(os.environ.get("CXX", "c++"))

pytestmark = pytest.mark.skipif(
    COMPILER is None or not (ROOT / "csrc" / "cuda").is_dir(), reason="needs a C++ compiler and the source tree"
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Runs tests/native/planted.cu, built with a sanitizer."""
    programs = {}

    def run(sanitizer, what):
        if sanitizer not in programs:
            program = tmp_path_factory.mktemp("planted") / sanitizer
            flags = ["-std=c++20", "-O1", "-g", f"-fsanitize={sanitizer}", "-Wno-unknown-pragmas"]
            sources = ["-I", ROOT / "tests/native", "-x", "c++", ROOT / "tests/native/planted.cu"]
            subprocess.run([COMPILER, *flags, *sources, "-o", program], check=True)
            programs[sanitizer] = program
        # A sanitizer's shadow memory may collide with a randomized layout.
        command = [*(["setarch", "-R"] if shutil.which("setarch") else []), programs[sanitizer], what]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_missing_barrier_is_a_race(planted):
    sound, broken = planted("thread", "barrier"), planted("thread", "no-barrier")
    assert sound.returncode == 0, sound.stderr
    assert broken.returncode != 0
    assert "data race" in broken.stderr
    assert "planted.cu:18" in broken.stderr


def test_overrun_of_shared_memory_is_found(planted):
    sound, broken = planted("address", "no-overrun"), planted("address", "overrun")
    assert sound.returncode == 0, sound.stderr
    assert broken.returncode != 0
    assert "heap-buffer-overflow" in broken.stderr


def test_barrier_that_not_all_threads_reach_is_found(planted):
    diverged = planted("address", "diverge")
    assert diverged.returncode != 0
    assert "32 of 64 threads left while the others wait at a barrier" in diverged.stderr


def test_misaligned_vector_is_found(planted):
    sound, broken = planted("address", "aligned"), planted("address", "misaligned")
    assert sound.returncode == 0, sound.stderr
    assert broken.returncode != 0
    assert "an access to 16 bytes at" in broken.stderr


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("unasked", "a wait for a copy that is not on its way"),
        ("unawaited", "a block left before its copies arrived"),
    ],
)
def test_bulk_copy_that_nobody_makes_or_waits_for_is_found(planted, fault, message):
    sound, broken = planted("address", "copied"), planted("address", fault)
    assert sound.returncode == 0, sound.stderr
    assert broken.returncode != 0
    assert message in broken.stderr


def test_bulk_copy_over_what_is_still_read_is_a_race(planted):
    sound, broken = planted("thread", "copied"), planted("thread", "overwritten")
    assert sound.returncode == 0, sound.stderr
    assert broken.returncode != 0
    assert "data race" in broken.stderr
