"""`region_stats` by bulk copies: where a map is taken they are what runs, and their sums are the plain kernel's.

What the operation computes is shown by tests/test_region_stats.py, on this backend as on all others.
"""

from __future__ import annotations

import pytest
import torch
from cases import FLOATS, StatsCase, laid_out, normal
from checks import assert_same_bits
from spies import Spy
from stand_ins import emulated_count

import zigzag

BACKEND = zigzag.backends()["hopper"]
EMULATED = BACKEND.available and BACKEND.device == "cpu"
LINE = 128
"""Bytes of a pixel that a block copies."""

# Rows of several copies, more rows than are on their way at once, single rows and pixels, images of their own sizes.
TAKEN = [
    *(StatsCase((2, 64, 119, 9), dtype) for dtype in FLOATS),
    *(StatsCase((1, 128, 13, 60), dtype, padded=True) for dtype in FLOATS),
    StatsCase((3, 64, 40, 7), torch.bfloat16, padded=True),
    StatsCase((1, 64, 5, 260), grids=(1,), halo=0),
    StatsCase((2, 32, 7, 1)),
    StatsCase((2, 64, 9, 7), torch.bfloat16, grids=(2, 4), halo=2),
]
# Fewer channels than a block takes, other layouts, rows too long for shared memory.
LEFT = [
    StatsCase((1, 48, 9, 7), torch.bfloat16),
    StatsCase((1, 16, 9, 7)),
    StatsCase((2, 64, 9, 7), torch.bfloat16, "contiguous"),
    StatsCase((1, 64, 3, 600), torch.bfloat16),
    StatsCase((0, 64, 9, 7), torch.bfloat16),
]

pytestmark = [
    pytest.mark.skipif(not BACKEND.available, reason=str(BACKEND.reason)),
    pytest.mark.usefixtures("poisoned_memory"),
]


def found(case):
    """The results on both backends, and how many copies were made."""
    x = case.problem().tensors["x"]
    valid = case.problem().sizes["x"] if case.padded else None
    if BACKEND.device == "cuda":
        x, valid = x.cuda(), None if valid is None else valid.cuda()
    before = emulated_count("copies") if EMULATED else 0
    bulk = zigzag.ops.region_stats(x, case.grids, case.halo, valid=valid, backend="hopper")
    made = emulated_count("copies") - before if EMULATED else None
    return bulk, zigzag.ops.region_stats(x, case.grids, case.halo, valid=valid, backend="cuda"), made


@pytest.mark.parametrize("case", TAKEN, ids=str)
def test_sums_are_the_plain_kernels_bit_for_bit(case):
    bulk, plain, made = found(case)
    assert_same_bits(bulk, plain, str(case))
    if EMULATED and not case.padded:
        number, channels, height, width = case.shape
        chunks = channels * case.dtype.itemsize // LINE
        assert made == number * height * chunks * -(-width // 256)
    elif EMULATED:
        assert made > 0


@pytest.mark.parametrize("case", LEFT, ids=str)
def test_what_bulk_copies_do_not_take_the_plain_kernel_does(case):
    bulk, plain, made = found(case)
    assert_same_bits(bulk, plain, str(case))
    assert not made


def test_a_slice_of_a_larger_map_is_taken_where_its_pixels_stay_side_by_side():
    whole = laid_out(normal(torch.Generator().manual_seed(0), 2, 64, 12, 9, dtype=torch.bfloat16), "channels_last")
    part = whole.to(BACKEND.device)[:, :, 2:9]  # the public function would copy it
    before = emulated_count("copies") if EMULATED else 0
    bulk = torch.ops.zigzag_hopper.region_stats(part, [3, 5, 7], 1, None)
    assert not EMULATED or emulated_count("copies") - before == 2 * 7
    assert_same_bits(bulk, torch.ops.zigzag_cuda.region_stats(part, [3, 5, 7], 1, None), "slice")


def test_gradients_are_the_plain_kernels():
    case = TAKEN[0]
    gradients = []
    for backend in ("hopper", "cuda"):
        x = case.problem().tensors["x"].detach().requires_grad_()
        if BACKEND.device == "cuda":
            x = x.detach().cuda().requires_grad_()
        results = zigzag.ops.region_stats(x, case.grids, case.halo, backend=backend)
        gradients += torch.autograd.grad(sum(result.sum() for result in results), x)
    assert_same_bits(gradients[:1], gradients[1:], "gradient")


def test_other_operations_run_on_the_plain_kernels():
    x = torch.ones(1, 1, 1, 1).to(BACKEND.device)
    with Spy() as spy:
        assert zigzag.ops.dense_pathway(x, [x], backend="hopper").item() == 2
    assert spy.names == {"zigzag_cuda::dense_pathway"}
    rois = torch.zeros(1, 5, device=x.device)
    with pytest.raises(RuntimeError, match="'cuda' has no kernels for position_sensitive_pool"):
        zigzag.ops.position_sensitive_pool(x, rois, size=1, groups=1, stride=1, backend="hopper")
