"""The reference, called by itself: the same as through `zigzag.ops`, right twice differentiated.

That it agrees with the oracle is asserted by every parity test, which takes it as stock PyTorch.
"""

from __future__ import annotations

import pytest
import torch
from cases import CodesCase, NormCase, StatsCase
from checks import assert_same_bits, check_gradgradcheck, outputs
from pathway_cases import FULL, PathwayCase

import zigzag

CASES = [
    StatsCase((2, 1, 3, 2), torch.float64, grids=(1, 2), padded=True),
    CodesCase((2, 1, 3, 2), torch.float64, torch.float64, grids=(1, 2), padded=True),
    NormCase((2, 4, 3, 2), torch.float64, torch.float64, torch.float64, grids=(1, 2), groups=2, padded=True),
    PathwayCase((2, 1, 2, 3), ((1, 2), (3, 4)), torch.float64, grids=(2,), codes=(True, True), **FULL),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.operation)
def test_same_as_through_ops(case):
    def through_ops(*arguments, **options):
        return getattr(zigzag.ops, case.operation)(*arguments, backend="reference", **options)

    problem = case.problem()
    direct = outputs(problem, getattr(zigzag.reference, case.operation))
    assert_same_bits(direct, outputs(problem, through_ops), case.operation)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.operation)
def test_second_derivative(case):
    check_gradgradcheck(case.problem(), getattr(zigzag.reference, case.operation))
