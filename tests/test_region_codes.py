"""`region_codes` on every backend: the oracle's results, float64's gradients, weights in any layout."""

from __future__ import annotations

import pytest
import torch
from cases import GRIDS, CodesCase, codes_cases
from checks import check_forward, check_gradcheck, check_gradients
from hypothesis import given
from hypothesis import strategies as st

from zigzag import reference

CASES = list(codes_cases())

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(case, backend):
    check_forward(case.problem(), backend.region_codes, reference.region_codes)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case, backend):
    check_gradients(case.problem(), backend.region_codes, reference.region_codes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("compiled", ["cuda"], indirect=True)
def test_narrow_weights_cost_cuda_no_digits_of_what_is_wide(dtype, compiled):
    """The gradient of the sums is float32: the same from narrow weights as from their values in float32."""
    case = CodesCase((2, 32, 9, 7), weight_dtype=dtype, pool="mean")
    tensors = case.problem().tensors
    gradients = []
    for wide in (False, True):
        sums = tensors["sums"].detach().requires_grad_()
        weights = {name: x.float() if wide else x for name, x in tensors.items() if name != "sums"}
        (codes,) = case.call(compiled.region_codes, {"sums": sums, **weights})
        gradients += torch.autograd.grad(codes, sums, torch.ones_like(codes))
    narrow, exact = (gradient.double() for gradient in gradients)
    assert (narrow - exact).norm() < 2**-19 * exact.norm()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("pool", ["sum", "mean"])
@pytest.mark.parametrize("halo", [0, 1])
def test_gradcheck(halo, pool, padded, backend):
    case = CodesCase((2, 2, 4, 2), torch.float64, torch.float64, grids=(2, 3), halo=halo, pool=pool, padded=padded)
    check_gradcheck(case.problem(), backend.region_codes)


@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 24), st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    layout=st.sampled_from(["contiguous", "channels_last"]),
    grids=st.sampled_from(GRIDS),
    halo=st.integers(0, 1),
    pool=st.sampled_from(["sum", "mean"]),
    padded=st.booleans(),
)
def test_sweep(backend, shape, dtype, layout, grids, halo, pool, padded):
    problem = CodesCase(shape, dtype, dtype, layout, grids, halo, pool, padded).problem()
    check_forward(problem, backend.region_codes, reference.region_codes)
    check_gradients(problem, backend.region_codes, reference.region_codes)
