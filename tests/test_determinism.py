"""Bit for bit the same from run to run and with any number of threads; second derivatives right, or an error."""

from __future__ import annotations

import pytest
import torch
from cases import CodesCase, NormCase, StatsCase
from checks import assert_same_bits, check_gradgradcheck, solved
from pathway_cases import FULL, PathwayCase
from pool_cases import PoolCase
from torch.autograd.gradcheck import GradcheckError

from zigzag.nn import ZigZagNeck

BOTH = (True, True)
# Wide and narrow, one image and several, more tasks than threads and fewer.
CASES = [
    StatsCase((1, 64, 119, 60)),
    StatsCase((1, 256, 3, 2)),
    StatsCase((5, 3, 40, 7), torch.bfloat16),
    StatsCase((2, 20, 31, 33), torch.float64, "contiguous", padded=True),
    CodesCase((1, 64, 15, 15)),
    CodesCase((3, 20, 9, 8), padded=True, pool="mean"),
    NormCase((1, 64, 15, 15), groups=16),
    NormCase((5, 20, 9, 8), torch.float64, codes_dtype=None, groups=4, padded=True),
    NormCase((7, 36, 9, 8), groups=4, padded=True),
    PathwayCase((1, 64, 119, 60), ((60, 30), (30, 15)), codes=BOTH, affines=BOTH, **FULL),
    PathwayCase((1, 256, 2, 2), ((3, 2), (4, 4)), codes=BOTH, affines=BOTH, **FULL),
    PathwayCase((5, 3, 40, 7), ((20, 4), (80, 14)), torch.bfloat16, codes=BOTH, affines=BOTH, **FULL),
    PathwayCase(
        (2, 20, 31, 33), ((15, 16), (8, 8)), layout="contiguous", codes=BOTH, **FULL, padded=True, source_padded=BOTH
    ),
    PoolCase((1, 64, 31, 33), rois=50, groups=1),
    PoolCase((5, 3, 9, 7), torch.bfloat16, rois=50, padded=True),
]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operation}-{case}")
SECOND = [
    StatsCase((2, 2, 3, 2), torch.float64, grids=(1, 2)),
    CodesCase((2, 2, 3, 2), torch.float64, torch.float64, grids=(1, 2)),
    NormCase((2, 4, 3, 2), torch.float64, torch.float64, torch.float64, grids=(1, 2), groups=2),
    PathwayCase((2, 2, 2, 3), ((1, 2), (3, 4)), torch.float64, grids=(2,), codes=BOTH, affines=BOTH, **FULL),
    PoolCase((2, 2, 4, 3), torch.float64, size=4, groups=2),
]


@pytest.fixture
def threads():
    """Sets the number of threads; restores it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def bits(case, backend):
    """Results and gradients, in order."""
    results, gradients, _ = solved(case.problem(), getattr(backend, case.operation), draws=1)
    return [*results, *gradients.values()]


@EACH
def test_two_runs_agree(case, backend, threads):
    threads(2)
    assert_same_bits(bits(case, backend), bits(case, backend), "second run")


@EACH
def test_threads_change_nothing(case, compiled, threads):
    """Not of the reference: libraries that it rests on may cut a long sum by the number of threads."""
    counts = (1, 2, 3, 5)
    found = []
    for count in counts:
        threads(count)
        found.append(bits(case, compiled))
    for count, other in zip(counts[1:], found[1:], strict=True):
        assert_same_bits(found[0], other, f"{count} threads")


def test_threads_change_nothing_in_the_neck(compiled, threads):
    """But for the gradients of the library's convolutions: it may cut their sums by the number of threads."""
    torch.manual_seed(0)
    module = ZigZagNeck((16, 16), 64, stages=2).to(compiled.device)
    features = [torch.randn(1, 16, size, size) for size in (60, 30)]
    found = []
    for count in (1, 2, 3, 5):
        threads(count)
        results = compiled.run(module)(features)
        total = sum(result.square().sum() for result in results)
        ours = [p for name, p in module.named_parameters() if "context" in name or "norm" in name or "gain" in name]
        found.append([*results, *torch.autograd.grad(total, ours)])
    for other in found[1:]:
        assert_same_bits(found[0], other, "threads")


@pytest.mark.parametrize("case", SECOND, ids=lambda case: case.operation)
def test_second_derivative_is_right_or_an_error(case, backend):
    try:
        check_gradgradcheck(case.problem(), getattr(backend, case.operation))
    except GradcheckError:
        raise
    except RuntimeError as error:
        message = str(error)
    else:
        return
    assert backend.name != "reference"
    assert case.operation in message
    assert "second derivative" in message
