"""Triton's kernels on the CPU under its interpreter: that they read and write the right places; no test of rounding.

The interpreter takes about a millisecond for every operation of a program, so this is a selection of the parity suite,
with few draws of cotangents. It must be chosen before Triton is imported: `make test` starts a process of its own.
"""

from __future__ import annotations

import functools
import os

import pytest
import torch
from cases import CodesCase, NormCase, StatsCase, own_part
from checks import assert_same_bits, check_forward, check_gradients, outputs, solved
from far_maps import AXES, maps, run, spread
from neck_cases import NeckCase, config_of, neck_of, neck_problem
from pathway_cases import FULL, PathwayCase
from pool_cases import PoolCase

import zigzag
from zigzag import reference
from zigzag.nn import ZigZagNeck

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1, as `make test` has it in a process of its own", allow_module_level=True)

import triton
import triton.language as tl
from triton.runtime.errors import OutOfResources

from zigzag.kernels.launch import launches_to
from zigzag.kernels.position_sensitive_pool import position_sensitive_pool, position_sensitive_pool_backward
from zigzag.kernels.region_codes_products import areas
from zigzag.kernels.region_stats import region_stats_backward
from zigzag.kernels.rounding import dither_phase, dithered, dithered_half
from zigzag.kernels.tune import best

TWO, THREE = (True, True), (True, True, True)
ALL = {"codes": THREE, "affines": THREE} | FULL
# Fewer rows than cells, more rows than a strip and columns than a tile, channels that fill no tile; every option once.
CASES = [
    StatsCase((2, 5, 2, 9)),
    StatsCase((2, 3, 35, 67), padded=True),
    StatsCase((1, 20, 6, 5), torch.float64, "contiguous", (2, 4), halo=2, padded=True),
    StatsCase((1, 3, 33, 4), grids=(1,), halo=0),
    StatsCase((0, 3, 5, 4)),
    CodesCase((2, 3, 4, 2)),
    CodesCase((3, 5, 11, 4), grids=(2, 4), halo=0, pool="mean", padded=True),
    CodesCase((2, 20, 8, 6), weight_layout="channels_last", pool="mean"),
    CodesCase((0, 3, 4, 2)),
    NormCase((2, 6, 9, 4), groups=2),
    NormCase((3, 20, 9, 14), torch.float64, torch.float64, torch.float64, groups=2, padded=True),
    NormCase((2, 20, 9, 4), codes_dtype=None, layout="contiguous", groups=4),
    PathwayCase((2, 5, 4, 6), residual=True, padded=True),
    PathwayCase((2, 20, 8, 6), ((4, 3), (8, 6), (2, 2)), **ALL),
    PathwayCase((1, 3, 4, 6), ((2, 9), (11, 4)), layout="contiguous", codes=TWO, combine="sum"),
    PathwayCase((2, 3, 5, 4), ((3, 2), (7, 9)), codes=TWO, affines=TWO, **FULL, padded=True, source_padded=TWO),
    PathwayCase((1, 3, 5, 4), ((3, 2), (7, 9)), codes=(False, True), resize="nearest", gain=True),
    PathwayCase((1, 2, 3, 4), ((2, 2),) * 5, torch.float64, codes=(True,) * 5),
    PoolCase((2, 3, 4, 5), rois=4, size=3, groups=2, padded=True),
    PoolCase((1, 5, 3, 4), torch.float64, "contiguous", rois=3, size=3, groups=1, roi_dtype=torch.float64),
    PoolCase((2, 3, 4, 5), rois=0),
]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operation}-{case}")
DRAWS = 1

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def operation_of(case):
    def operation(*arguments, **options):
        return getattr(zigzag.ops, case.operation)(*arguments, **options, backend="triton")

    return operation


@EACH
def test_parity(case, monkeypatch):
    monkeypatch.setattr("checks.DRAWS", DRAWS)
    stock = getattr(reference, case.operation)
    check_forward(case.problem(), operation_of(case), stock)
    check_gradients(case.problem(), operation_of(case), stock, each=False)


def test_tiles_that_are_loaded_ahead(monkeypatch):
    """As those of two bytes are, which the interpreter does not know."""
    monkeypatch.setattr("zigzag.kernels.region_stats.AHEAD_SIZES", (4,))
    test_parity(StatsCase((2, 3, 35, 67), padded=True), monkeypatch)


def test_a_neck_of_two_levels(monkeypatch):
    """All operations as the neck calls them, forward and backward: one stage, and so one fusion, each way."""
    monkeypatch.setattr("checks.DRAWS", DRAWS)
    config = config_of("stable", 2, channels=4, grids=(2,), stages=1)
    case = NeckCase("two-levels", config, ((4, 3), (2, 2)), number=1)
    module, problem = neck_of(case.config), neck_problem(case)

    def implementation(features, parameters, valid):
        with zigzag.use_backend("triton"):
            return torch.func.functional_call(module, parameters, (features,), {"valid": valid})

    def stock(features, parameters, valid):
        return reference.neck.forward(features, parameters, case.config, valid=valid)

    check_forward(problem, implementation, stock)
    check_gradients(problem, implementation, stock, each=False)


def test_what_gain_makes_small_does_not_overflow_before():
    """A source row collects the gradient of many target rows before gain, and float16 ends at 65504."""
    base, source = torch.zeros(1, 1, 119, 2).half(), torch.ones(1, 1, 15, 1).half()
    gain, grad = torch.tensor([0.01]), torch.full_like(base, 20000)
    none, options = [None], ([1], False, True, False)
    found = torch.ops.zigzag_triton.dense_pathway_backward(
        grad, None, base, [source], none, None, None, none, none, gain, None, none, *options
    )
    expected = 0.01 * 20000 * 2 * 119 / 15
    torch.testing.assert_close(found[4].double().mean().item(), expected, rtol=1e-3, atol=0)
    assert found[4].isfinite().all()


@pytest.fixture(scope="module")
def near():
    return run(torch.ops.zigzag_triton, maps(4))


@pytest.mark.parametrize("axis", AXES)
def test_addresses_are_counted_in_64_bits(axis, near, tmp_path):
    assert_same_bits(run(torch.ops.zigzag_triton, spread(maps(4), axis, tmp_path / "maps")), near, axis)


@triton.jit
def write_areas(valid, rows, to):
    m = tl.arange(0, 16)
    tl.store(to + m, areas(valid, m, rows, 9, 9, 4, 2, tl.float32))


def test_areas_read_no_sizes_of_images_that_are_not_there():
    """A tile's rows past the last: what lies behind the sizes in memory is not theirs."""
    valid = torch.tensor([[4, 6], [9, 9], [9, 9], [9, 9]])[:1]
    found = torch.empty(16)
    write_areas[(1,)](valid, 4, found)
    assert found.tolist() == [6.0] * 16


@pytest.mark.parametrize("padded", [False, True])
def test_what_others_give_the_map_is_added(padded):
    problem = StatsCase((2, 3, 35, 67), padded=padded).problem()
    x, valid = problem.tensors["x"].detach().nan_to_num(), problem.sizes["x"]
    sums, power = zigzag.ops.region_stats(x, (3, 5), 1, valid=valid, backend="triton")
    others = x.transpose(0, 1).contiguous().transpose(0, 1) + 1  # strides of its own
    call = functools.partial(region_stats_backward, x, sums, power, [3, 5], 1, valid)
    assert_same_bits([call(others)], [call(None) + others], "gradient")


@triton.jit
def write_dithered(values, to, half: tl.constexpr):
    at = tl.arange(0, 4096)
    phase = dither_phase(at // 64, at % 64, at * 0 + 5)
    value = tl.load(values + at)
    tl.store(to + at, dithered_half(value, phase) if half else dithered(value, phase, 16, 3e38))


@pytest.mark.parametrize(
    ("dtype", "unit", "value"),
    [(torch.bfloat16, 2.0**-7, 1.0), (torch.float16, 2.0**-10, -1.0), (torch.float16, 2.0**-24, 2.0**-18)],
    ids=["bfloat16", "float16", "float16, not normal"],
)
def test_dithering_adds_no_bias_and_leaves_what_the_type_holds(dtype, unit, value):
    found = torch.empty(4096)
    for share in (0, 0.2, 0.9):
        between = value + share * unit
        write_dithered[(1,)](torch.full((4096,), between), found, half=dtype == torch.float16)
        rounded = found.to(dtype).double()
        assert rounded.mean().item() == pytest.approx(between, abs=0.01 * unit if share else 0)
        assert len(rounded.unique()) == (2 if share else 1)


@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[15]], ids=str)
def test_batch_mates_and_padding_change_nothing(case):
    problem = case.problem()
    together = outputs(problem, operation_of(case))
    alone = case.call(operation_of(case), own_part(problem, 0))
    height, width = problem.sizes.get("base", problem.sizes.get("x"))[0].tolist()
    own = [result[:1, :, :height, :width] if result.ndim == 4 else result[:1] for result in together]
    assert_same_bits(alone, own, "image 0")


@pytest.mark.parametrize("case", [CASES[1], CASES[7], CASES[10], CASES[15]], ids=lambda case: case.operation)
def test_two_runs_agree(case):
    first, second = (solved(case.problem(), operation_of(case), draws=1) for _ in range(2))
    assert_same_bits([*first[0], *first[1].values()], [*second[0], *second[1].values()], "second run")


def launches_of(call):
    """Names of the kernels that a call launches; none of them runs."""
    names = []
    with launches_to(lambda kernel, *_: names.append(kernel.fn.__name__)):
        call()
    return names


def test_launches_of_every_operation():
    """One launch serves all sources, grids and strips; another adds up what several programs have of a sum."""
    expected = {
        StatsCase((2, 3, 15, 15)): (1, 1),
        StatsCase((2, 3, 60, 30)): (2, 1),
        CodesCase((2, 3, 15, 15)): (4, 4),
        NormCase((2, 6, 15, 15), groups=2): (1, 2),
        PoolCase((2, 3, 4, 5)): (2, 2),
        PathwayCase((1, 3, 15, 15), ((30, 30), (8, 8), (60, 60)), **ALL): (1, 5),
        PathwayCase((1, 3, 15, 15), ((8, 8), (4, 4)), **ALL | {"codes": TWO, "affines": TWO}): (1, 4),
    }
    for case, (forward, backward) in expected.items():
        problem = case.problem()
        tensors = {name: tensor.detach().requires_grad_() for name, tensor in problem.tensors.items()}
        results = []
        names = launches_of(lambda: results.extend(problem.call(operation_of(case), tensors)))  # noqa: B023
        assert len(names) == forward, f"{case}: {names}"
        names = launches_of(lambda: torch.autograd.grad(results, tensors.values(), results, allow_unused=True))  # noqa: B023
        assert len(names) == backward, f"{case}: {names}"


def test_launches_of_a_neck_pass():
    """Of the levels of a 473 crop, preset "stable", three stages; benchmarks/NOTES.md states the numbers."""
    module = ZigZagNeck((4,) * 4, 32)
    bases = [torch.zeros(1, 32, size, size) for size in (119, 60, 30, 15)]
    results = []
    with zigzag.use_backend("triton"):
        forward = launches_of(lambda: results.extend(module.fuse(bases)))
        backward = launches_of(lambda: sum(result.sum() for result in results).backward())
    assert (len(forward), len(backward)) == (193, 285), (counts(forward), counts(backward))


def counts(names):
    return {name: names.count(name) for name in dict.fromkeys(names)}


def test_a_tile_that_does_not_fit_is_passed_over():
    tried = []

    def time(_call, return_mode):
        tried.append(return_mode)
        if len(tried) == 2:
            raise OutOfResources(300_000, 232_448, "shared memory")
        return -len(tried)

    shipped = {"CHANNELS": 64, "num_warps": 8}
    assert best("region_stats", shipped, lambda: None, time) == {"CHANNELS": 128, "num_warps": 8}
    assert len(tried) == 4  # each once


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_no_image_pools_nothing(last):
    """RoIs where there is no image, as a compiled call may have them: no image's size is read."""
    valid, rois = torch.zeros(0, 2, dtype=torch.int64), torch.zeros(3, 5)
    with launches_to(lambda kernel, *_: pytest.fail(f"{kernel.fn.__name__} was launched")):
        pooled = position_sensitive_pool(torch.zeros(0, 8, 5, 4), rois, 2, 2, 4, valid)
        gradient = position_sensitive_pool_backward(pooled, rois, 0, 5, 4, last, 2, 4, valid)
    assert pooled.tolist() == torch.zeros(3, 2, 2, 2).tolist()
    assert gradient.shape == ((0, 5, 4, 8) if last else (0, 8, 5, 4))
