"""`position_sensitive_pool` on every backend: the oracle's results, float64's gradients, FCIS's rounding rules."""

from __future__ import annotations

import pytest
import torch
from cases import FLOATS, LAYOUTS, normal
from checks import assert_same_bits, check_forward, check_gradcheck, check_gradients, outputs
from hypothesis import given
from hypothesis import strategies as st
from pool_cases import PoolCase, bins_of, pool_cases, rounded

from zigzag import reference
from zigzag.geometry import nearest_pixel, roi_bins

CASES = list(pool_cases())

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(case, backend):
    check_forward(case.problem(), backend.position_sensitive_pool, reference.position_sensitive_pool)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case, backend):
    check_gradients(case.problem(), backend.position_sensitive_pool, reference.position_sensitive_pool)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_gradcheck(groups, padded, backend):
    case = PoolCase((2, 2, 4, 3), torch.float64, size=4, groups=groups, padded=padded)
    check_gradcheck(case.problem(), backend.position_sensitive_pool)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_batch_mates_and_padding_change_nothing(dtype, backend):
    case = PoolCase((3, 5, 9, 12), dtype, rois=12, padded=True)
    problem = case.problem()
    rois, valid = problem.call.keywords["rois"], problem.sizes["x"]
    (together,) = outputs(problem, backend.position_sensitive_pool)
    for n, (height, width) in enumerate(valid.tolist()):
        own = rois[rois[:, 0] == n] * torch.tensor([0.0, 1, 1, 1, 1])
        alone = problem.tensors["x"][n : n + 1, :, :height, :width]
        (result,) = case.call(backend.position_sensitive_pool, {"x": alone}, rois=own)
        assert_same_bits([result], [together[rois[:, 0] == n]], f"image {n}")


def test_by_hand(backend):
    """A map of row numbers at stride 2, an RoI of pixels 1..6 in three bins: its edges are 1/2, 3/2, 5/2 and 7/2."""
    x = torch.arange(5.0)[None, None, :, None].expand(1, 1, 5, 3).contiguous()
    rois = torch.tensor([[0, 0.5, 0.5, 5.5, 5.5]])  # rounds to 1..6
    pooled = backend.position_sensitive_pool(x, rois, 3, 1, stride=2)
    assert pooled[0, 0, :, 0].tolist() == [0.5, 1.5, 2.5]


def test_bins_of_a_cell_read_its_own_channels(backend):
    x = torch.arange(2 * 9.0)[None, :, None, None].expand(1, 18, 4, 4).contiguous()
    pooled = backend.position_sensitive_pool(x, torch.tensor([[0.0, 0, 0, 3, 3]]), 6, 3, stride=1)
    cells = torch.arange(6) // 2
    expected = cells[:, None] * 3 + cells
    assert torch.equal(pooled[0], torch.stack([expected, expected + 9.0]))


def test_the_same_as_torchvision_where_the_rules_meet(backend):
    """At stride 1 with as many bins as cells. There the last corner lies outside, and no RoI has the last row."""
    ops = pytest.importorskip("torchvision.ops")
    generator = torch.Generator().manual_seed(0)
    x = normal(generator, 2, 3 * 9, 26, 23)
    first = torch.randint(-4, 12, (20, 2), generator=generator)
    last = first + 3 * torch.randint(1, 4, (20, 2), generator=generator)
    image = torch.randint(2, (20, 1), generator=generator)
    expected = ops.ps_roi_pool(x, torch.cat([image, first, last], 1).float(), 3)
    pooled = backend.position_sensitive_pool(x, torch.cat([image, first, last - 1], 1).float(), 3, 3, stride=1)
    torch.testing.assert_close(pooled, expected)


@given(
    first=st.integers(-100, 2000),
    length=st.integers(-50, 2000),
    size=st.integers(1, 30),
    stride=st.integers(1, 64),
    rows=st.integers(1, 100),
)
def test_bins_are_those_of_exact_arithmetic(first, length, size, stride, rows):
    starts, ends = roi_bins(torch.tensor([first]), torch.tensor([first + length]), size, stride, rows)
    expected = bins_of(first, first + length, size, stride, rows)
    assert list(zip(starts[0].tolist(), ends[0].tolist(), strict=True)) == [(b.start, b.stop) for b in expected]


@given(st.floats(-1e6, 1e6, width=32) | st.integers(-1000, 1000).map(lambda n: n / 2))
def test_halves_are_rounded_away_from_zero(value):
    assert nearest_pixel(torch.tensor([value])).item() == rounded(value)


def test_corners_far_away_and_on_the_last_digit(compiled):
    """0.49999997 is below a half, and a corner beyond all integers is not undefined behaviour."""
    x = normal(torch.Generator().manual_seed(0), 1, 2, 6, 5)
    corners = [[0.49999997, -0.5, 3.5, 4.49999997], [-1e30, -1e30, 1e30, 1e30], [1e9, 1e9, 2e9, 2e9], [-9, -9, -7, -7]]
    rois = torch.tensor([[0, *corner] for corner in corners])
    found = compiled.position_sensitive_pool(x, rois, 3, 1, stride=1)
    torch.testing.assert_close(found, reference.position_sensitive_pool(x, rois, 3, 1, stride=1))
    assert not found[2:].any()


def test_what_cannot_be_checked_pools_nothing(compiled):
    """In a compiled call the values of RoIs are not checked: no crash, and zeros."""
    x = normal(torch.Generator().manual_seed(0), 2, 2, 6, 5)
    rois = torch.tensor([[2.0, 0, 0, 3, 3], [-1, 0, 0, 3, 3], [0, float("nan"), 0, 3, 3], [1, 0, 0, 3, 3]])

    pool = compiled.bare("position_sensitive_pool")

    @compiled.around
    @torch.compile(backend="eager", fullgraph=True)
    def call(x, rois):
        return pool(x, rois, 3, 1, stride=1)

    found = call(x, rois)
    assert not found[:3].any()
    assert found[3].any()


@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 20), st.integers(1, 12), st.integers(1, 12)),
    dtype=st.sampled_from(FLOATS),
    layout=st.sampled_from(LAYOUTS[:4]),
    rois=st.integers(0, 10),
    size=st.integers(1, 9),
    groups=st.integers(1, 4),
    stride=st.sampled_from([1, 2, 5, 16]),
    padded=st.booleans(),
)
def test_sweep(backend, shape, dtype, layout, rois, size, groups, stride, padded):
    problem = PoolCase(shape, dtype, layout, rois, size, groups, stride, padded).problem()
    check_forward(problem, backend.position_sensitive_pool, reference.position_sensitive_pool)
    check_gradients(problem, backend.position_sensitive_pool, reference.position_sensitive_pool)
