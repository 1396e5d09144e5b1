"""The GPU kernels as the PTX that Triton and nvcc make of them, on the CPU: rounding in types of two bytes, too.

Compiling a kernel takes ten seconds, so this is a selection of the parity suite. All of that runs so as well:
`make test-ptx PTX_TESTS='tests/test_region_stats.py -k "triton or cuda or hopper"'`, and with PTX_TARGET=sm_80 by
the other instructions that Triton has for products.
"""

from __future__ import annotations

import os
import subprocess

import pytest
import torch
from cases import CodesCase, NormCase, StatsCase
from checks import assert_same_bits, check_forward, check_gradients, solved
from conftest import able
from pathway_cases import FULL, PathwayCase
from pool_cases import PoolCase
from stand_ins import PTX, emulated_count

from zigzag import reference

if "ZIGZAG_PTX" not in os.environ:
    pytest.skip("needs ZIGZAG_PTX=sm_90, as `make test` has it in a process of its own", allow_module_level=True)
if torch.cuda.is_available():
    pytest.skip("a GPU runs the kernels themselves", allow_module_level=True)

BFLOAT, TWO, THREE = torch.bfloat16, (True, True), (True, True, True)
# More rows than a strip and columns than a tile, channels that fill no tile; every option; sources finer and coarser.
STATS = StatsCase((2, 72, 35, 67), BFLOAT, padded=True)
NORM = NormCase((2, 20, 9, 4), torch.float32, BFLOAT, BFLOAT, groups=4, padded=True)
TRITON = [
    STATS,
    CodesCase((2, 64, 8, 6), weight_layout="channels_last"),
    NORM,
    PathwayCase((2, 24, 8, 6), ((4, 3), (8, 6), (2, 2)), BFLOAT, codes=THREE, affines=THREE, **FULL),
    PoolCase((2, 3, 4, 5), BFLOAT, rois=4, size=3, groups=2, padded=True),
]
CUDA = [
    STATS,
    CodesCase((2, 64, 8, 6), weight_dtype=BFLOAT, pool="mean", padded=True),
    NORM,
    PathwayCase(
        (2, 24, 5, 4), ((3, 2), (7, 9)), BFLOAT, codes=TWO, affines=TWO, padded=True, source_padded=TWO, **FULL
    ),
]
EACH = [("triton", case) for case in TRITON]
if PTX.is_file():
    EACH += [*(("cuda", case) for case in CUDA), ("hopper", StatsCase((2, 128, 35, 67), BFLOAT, padded=True))]


def assert_same_solution(first, second, what):
    assert_same_bits([*first[0], *first[1].values()], [*second[0], *second[1].values()], what)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(("name", "case"), EACH, ids=str)
def test_parity(name, case, monkeypatch):
    operation, stock = able(name).bare(case.operation), getattr(reference, case.operation)
    copies = emulated_count("copies") if name == "hopper" else 0
    check_forward(case.problem(), operation, stock)
    check_gradients(case.problem(), operation, stock, each=False)
    first = solved(case.problem(), operation, draws=1)
    monkeypatch.setenv("ZIGZAG_EMULATED_ORDER", "reversed")
    assert_same_solution(first, solved(case.problem(), operation, draws=1), "blocks the other way round")
    assert name != "hopper" or emulated_count("copies") > copies


LAUNCHED = [
    StatsCase((1, 8, 4, 3), BFLOAT),
    CodesCase((1, 16, 3, 3), weight_dtype=BFLOAT, grids=(2,)),
    NormCase((1, 8, 3, 3), groups=2),
    PathwayCase((1, 8, 3, 3), ((2, 2), (4, 5)), BFLOAT, codes=TWO, affines=TWO, **FULL),
]


@pytest.mark.skipif(not PTX.is_file(), reason="no nvcc has compiled the CUDA kernels")
@pytest.mark.parametrize("case", LAUNCHED, ids=lambda case: f"{case.operation}-{case}")
def test_every_launch_is_checked(case):
    """Whichever fails, the operation says so, and the next call is none the worse."""
    import cuda_ptx

    operation, before = able("cuda").bare(case.operation), emulated_count("launches")
    first = solved(case.problem(), operation, draws=1)
    launches = emulated_count("launches") - before
    assert launches > 1
    for index in range(launches):
        cuda_ptx.refuse_launch(PTX, index)
        with pytest.raises(RuntimeError, match=rf"zigzag: {case.operation}.*: unspecified launch failure"):
            solved(case.problem(), operation, draws=1)
    assert_same_solution(first, solved(case.problem(), operation, draws=1), "the call after failures")


@pytest.mark.skipif(not PTX.is_file(), reason="no nvcc has compiled the CUDA kernels")
def test_launching_asks_nothing_of_the_gpu():
    """No allocation, copy or synchronisation: what tests/native/cudart.cpp has not would be missing."""
    listed = subprocess.run(["nm", "-D", "-u", PTX], check=True, capture_output=True, text=True)
    symbols = listed.stdout.split()
    assert [name for name in symbols if name.startswith(("cu", "__cuda"))] == []
