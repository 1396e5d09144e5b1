"""The CPU kernels of every instruction set that this machine has; one that it has not is an error when named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.parametrize("compiled", ["cpu"], indirect=True)

SETS = ("baseline", "avx2", "avx512")
AVAILABLE = SETS[: {"AVX2": 2, "AVX512": 3}.get(torch.backends.cpu.get_cpu_capability(), 1)]
PARITY = [f"test_{name}.py" for name in ("region_stats", "region_codes", "dense_pathway", "position_sensitive_pool")]
# Every dtype and layout, a channel count that is no multiple of a vector, and the sizes that are traps.
REDUCED = "cpu and (test_forward or test_gradients) and (2x20x8x6 or 1x16x2x9 or 1x3x123x4 or 2x70x13x11 or 3x17x7x9)"
STATS = "import torch, zigzag; zigzag.ops.region_stats(torch.zeros(1, 1, 1, 1), backend='cpu')"


def python(isa, *arguments):
    environment = os.environ | {"ZIGZAG_CPU_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )


# The main run of the suite takes the best set.
@pytest.mark.parametrize("isa", AVAILABLE[:-1])
def test_parity(isa, compiled):
    run = python(isa, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *PARITY, "-k", REDUCED)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-1000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout


@pytest.mark.parametrize("isa", AVAILABLE)
def test_set_can_be_named(isa, compiled):
    run = python(isa, "-c", STATS)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("isa", [*SETS[len(AVAILABLE) :], "abacus"])
def test_set_that_cannot_run_is_an_error(isa, compiled):
    run = python(isa, "-c", STATS)
    assert run.returncode != 0
    assert f"ZIGZAG_CPU_ISA={isa}" in run.stderr
