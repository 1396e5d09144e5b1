"""`region_stats` on every backend: the oracle's results, float64's gradients, images alone and in a padded batch."""

from __future__ import annotations

import pytest
import torch
from cases import FLOATS, GRIDS, LAYOUTS, StatsCase, laid_out, normal, own_part, shifted, stats_cases
from checks import assert_same_bits, check_forward, check_gradcheck, check_gradients, outputs
from hypothesis import given
from hypothesis import strategies as st

from zigzag import reference

CASES = list(stats_cases())

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(case, backend):
    check_forward(case.problem(), backend.region_stats, reference.region_stats)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case, backend):
    check_gradients(case.problem(), backend.region_stats, reference.region_stats)


@pytest.mark.parametrize("width", [320, 1024])
@pytest.mark.parametrize("grids", [(1,), (3, 5, 7)], ids=str)
def test_long_rows_keep_their_digits(grids, width, backend):
    case = StatsCase((1, 16, 1, width), torch.bfloat16, grids=grids)
    check_forward(case.problem(), backend.region_stats, reference.region_stats)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("halo", [0, 1, 2])
@pytest.mark.parametrize("grids", GRIDS, ids=str)
def test_gradcheck(grids, halo, padded, backend):
    case = StatsCase((2, 2, 4, 3), torch.float64, grids=grids, halo=halo, padded=padded)
    check_gradcheck(case.problem(), backend.region_stats)


@pytest.mark.parametrize("used", [0, 1], ids=["sums", "power"])
def test_gradient_of_one_result_alone(used, backend):
    x = normal(torch.Generator().manual_seed(0), 2, 5, 6, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(backend.region_stats(x)[used].sum(), x)
    (expected,) = torch.autograd.grad(reference.region_stats(x)[used].sum(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("which", [0, 1], ids=["sums", "power"])
def test_gradients_may_begin_at_any_element(which, backend):
    x = laid_out(normal(torch.Generator().manual_seed(0), 2, 8, 6, 4), "channels_last").requires_grad_()
    results = backend.region_stats(x)
    given = [torch.ones_like(result) for result in results]
    given[which] = shifted(given[which])
    (gradient,) = torch.autograd.grad(results, x, given)
    (expected,) = torch.autograd.grad(reference.region_stats(x), x, given)
    torch.testing.assert_close(gradient, expected)


def test_more_atoms_than_a_block_has_memory_for(backend):
    """At its usual number of channels, on a GPU. Of whole numbers, whose sums are exact in any order."""
    x = torch.randint(-2, 3, (1, 64, 1, 1024), generator=torch.Generator().manual_seed(0)).bfloat16()
    x = laid_out(x, "channels_last")
    given = (3, 5, 7, 8), 2
    assert_same_bits(backend.region_stats(x, *given), reference.region_stats(x, *given), "whole numbers")


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_batch_mates_and_padding_change_nothing(dtype, backend):
    case = StatsCase((3, 20, 13, 17), dtype, padded=True)
    problem = case.problem()
    together = outputs(problem, backend.region_stats)
    for n in range(3):
        alone = case.call(backend.region_stats, own_part(problem, n))
        assert_same_bits(alone, [result[n : n + 1] for result in together], f"image {n}")


def test_sizes_may_be_int32(backend):
    x = normal(torch.Generator().manual_seed(0), 2, 5, 6, 4)
    valid = torch.tensor([[3, 4], [6, 1]])
    results = (backend.region_stats(x, valid=sizes) for sizes in (valid, valid.int()))
    assert_same_bits(*results, "int32")


@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20)),
    dtype=st.sampled_from(FLOATS),
    layout=st.sampled_from(LAYOUTS[:4]),
    grids=st.lists(st.integers(1, 8), min_size=1, max_size=3, unique=True).map(tuple),
    halo=st.integers(0, 2),
    padded=st.booleans(),
)
def test_sweep(backend, shape, dtype, layout, grids, halo, padded):
    problem = StatsCase(shape, dtype, layout, grids, halo, padded).problem()
    check_forward(problem, backend.region_stats, reference.region_stats)
    check_gradients(problem, backend.region_stats, reference.region_stats)
