"""Every checker sees the fault it is there for: faults are planted around the reference and must be reported."""

from __future__ import annotations

from dataclasses import replace
from functools import wraps

import pytest
import torch
import torch.nn.functional as F
from cases import CodesCase, StatsCase
from checks import assert_parity, assert_same_bits, check_forward, check_gradients
from devices import on_device
from pathway_cases import PathwayCase

from zigzag import reference

PATHWAY = PathwayCase((2, 20, 8, 6), ((4, 3), (11, 9)), codes=(True, True), gain=True, residual=True)
LOW = replace(PATHWAY, dtype=torch.bfloat16)
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def faulty(operation, fault):
    """The operation with `fault` applied to its first result."""

    @wraps(operation)
    def planted(*arguments, **options):
        result = operation(*arguments, **options)
        return (fault(result[0]), *result[1:]) if isinstance(result, tuple) else fault(result)

    return planted


class SlightlyWrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(_, gradient):
        return 1.02 * gradient


def test_untouched_reference_passes():
    for case in (StatsCase((2, 5, 9, 7)), CodesCase((2, 5, 9, 7)), PATHWAY):
        operation = getattr(reference, case.operation)
        check_forward(case.problem(), operation, operation)
        check_gradients(case.problem(), operation, operation)


def test_what_is_moved_to_a_device_keeps_its_layout():
    """Of maps that are dense, and of those that `Tensor.to` would make so: parts, every second column, one row."""
    whole = torch.randn(2, 3, 8, 6, requires_grad=True)
    views = [whole, whole[:, 1:, 2:5], whole[..., ::2], whole.mT, whole[:, :, :1].expand(2, 3, 8, 6)]
    given = [view.detach().requires_grad_() for view in views]

    def operation(*maps):
        assert all(x.data_ptr() != own.data_ptr() for x, own in zip(maps, given, strict=True))
        found = [(x.stride(), x.storage_offset()) for x in maps]
        assert found == [(x.stride(), x.storage_offset()) for x in views]
        return [x.square() for x in maps]

    results = on_device("cpu", operation, *given)
    torch.stack([result.sum() for result in results]).sum().backward()
    for x, result in zip(given, results, strict=True):
        assert torch.equal(result, x.square())
        assert torch.equal(x.grad, 2 * x)


def stats_by_float_cells(x, grids, halo, valid=None):
    """The trap of section 2: cells from float32 arithmetic, as interpolate(mode="nearest") finds them."""
    height, width = x.shape[2:]
    sums = []
    for grid in grids:
        cells = torch.arange(grid).float()[None, None]
        rows, columns = (F.interpolate(cells, size=size, mode="nearest")[0, 0].long() for size in (height, width))
        region = (rows[:, None] * grid + columns[None, :]).flatten()
        cells = x.new_zeros(x.shape[0], grid * grid, x.shape[1])
        sums.append(cells.index_add(1, region, x.flatten(2).transpose(1, 2)))
    return torch.cat(sums, 1), x.square().sum((2, 3))


def test_wrong_cell_is_seen_at_123():
    problem = StatsCase((1, 3, 123, 4), grids=(3,), halo=0).problem()
    with pytest.raises(AssertionError, match=r"sums.*relative L2"):
        check_forward(problem, stats_by_float_cells, reference.region_stats)
    fine = StatsCase((1, 3, 120, 4), grids=(3,), halo=0).problem()
    check_forward(fine, stats_by_float_cells, reference.region_stats)


@BOTH
def test_dropped_tap_is_seen(dtype):
    def drop(sums):
        sums = sums.clone()
        sums[:, 8] = 0  # the last tap of the first cell
        return sums

    problem = StatsCase((2, 64, 60, 30), dtype).problem()
    with pytest.raises(AssertionError, match="sums"):
        check_forward(problem, faulty(reference.region_stats, drop), reference.region_stats)


@BOTH
def test_unwritten_element_is_seen(dtype, poisoned_memory):
    def skip_last(result):
        fresh = torch.empty_like(result)
        fresh.flatten()[:-1] = result.flatten()[:-1]
        return fresh

    problem = PathwayCase((2, 20, 8, 6), ((4, 3),), dtype, layout="contiguous").problem()
    with pytest.raises(AssertionError, match="not finite"):
        check_forward(problem, faulty(reference.dense_pathway, skip_last), reference.dense_pathway)


@pytest.mark.parametrize("case", [StatsCase((1, 16, 119, 60)), CodesCase((1, 64, 15, 15)), LOW], ids=str)
def test_three_times_the_error_is_seen(case):
    operation = getattr(reference, case.operation)
    problem = case.problem()
    stock, exact = problem.call(operation, problem.tensors)[0], problem.exact()[0]
    truth = torch.from_numpy(exact.astype("float64"))
    tripled = (truth + 3 * (stock - truth)).to(stock.dtype)
    assert_parity(stock, stock, exact, "stock")
    with pytest.raises(AssertionError, match="allowed"):
        assert_parity(tripled, stock, exact, "tripled")


def test_one_bad_element_among_many_is_seen():
    exact = torch.linspace(-1, 1, 100_000, dtype=torch.float64)
    stock = exact.float()
    result = stock.clone()
    result[77] += 6e-7
    with pytest.raises(AssertionError, match="largest error"):
        assert_parity(result, stock, exact, "result")


def test_small_error_everywhere_is_seen():
    exact = torch.ones(1000, dtype=torch.float64)
    stock = exact.float() + 1e-5 * torch.eye(1000)[0]
    with pytest.raises(AssertionError, match="relative L2"):
        assert_parity(exact.float() + 1e-5, stock, exact, "result")


def test_wrong_formula_of_stock_itself_is_seen():
    exact = torch.ones(10, dtype=torch.float64)
    wrong = torch.full((10,), 1.01)
    with pytest.raises(AssertionError, match=r"stock.*relative L2"):
        assert_parity(wrong, wrong, exact, "result")


def test_wrong_dtype_and_shape_are_seen():
    ones = torch.ones(10)
    with pytest.raises(AssertionError, match="float64"):
        assert_parity(ones.double(), ones, ones, "result")
    with pytest.raises(AssertionError, match="shape"):
        assert_parity(ones[:9], ones, ones, "result")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_wrong_gradient_is_seen(dtype):
    def scaled(x, *arguments, **options):
        return reference.region_stats(SlightlyWrongGradient.apply(x), *arguments, **options)

    with pytest.raises(AssertionError, match="gradient"):
        check_gradients(StatsCase((2, 20, 8, 6), dtype).problem(), scaled, reference.region_stats)


def test_different_bits_are_seen():
    ones = torch.ones(10)
    assert_same_bits([ones], [ones.clone()], "ones")
    with pytest.raises(AssertionError, match="differs"):
        assert_same_bits([ones], [torch.nextafter(ones, 2 * ones)], "ones")
