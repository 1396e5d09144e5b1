"""How many CUDA kernels a call launches, as the emulation counts them; README and benchmarks/NOTES.md state it."""

import pytest
import torch
from cases import CodesCase, NormCase, StatsCase
from pathway_cases import FULL, PathwayCase
from stand_ins import emulated_count

import zigzag
from zigzag import dispatch
from zigzag.nn import ZigZagNeck

BACKEND = zigzag.backends()["cuda"]
SIZES = (12, 11, 10, 9)  # the number of launches is the same for any

pytestmark = pytest.mark.skipif(
    not BACKEND.available or BACKEND.device != "cpu", reason="the emulation of the CUDA kernels was not built"
)


def launches_of(call):
    """(how many, the call's result)."""
    before = emulated_count("launches")
    result = call()
    return emulated_count("launches") - before, result


def test_launches_of_every_operation():
    """One launch serves all sources and grids."""
    expected = {
        StatsCase((2, 3, 15, 15)): (2, 1),
        CodesCase((2, 3, 15, 15)): (7, 10),
        NormCase((2, 6, 15, 15), groups=2): (1, 2),
        PathwayCase((1, 3, 5, 5), ((3, 3), (8, 8), (2, 2)), codes=(True,) * 3, affines=(True,) * 3, **FULL): (1, 3),
    }
    for case, wanted in expected.items():
        problem = case.problem()
        tensors = {name: tensor.detach().requires_grad_() for name, tensor in problem.tensors.items()}
        with zigzag.use_backend("cuda"):
            operation = getattr(zigzag.ops, case.operation)
            forward, results = launches_of(lambda: problem.call(operation, tensors))  # noqa: B023
            own = [result for result in results if result is not None]
            backward, _ = launches_of(lambda: torch.autograd.grad(own, tensors.values(), own, allow_unused=True))  # noqa: B023
        assert (forward, backward) == wanted, case


@pytest.mark.parametrize(("gathered", "expected"), [(0, (266, 363)), (2, (258, 363))])
def test_launches_of_a_neck_pass(gathered, expected, monkeypatch):
    """Four levels, preset "stable", three stages; so many of the finest levels have their sums gathered."""
    large = {size * size for size in SIZES[:gathered]}
    monkeypatch.setattr(dispatch, "gathers", lambda _, shape: shape[2] * shape[3] in large)
    module = ZigZagNeck((4,) * 4, 32)
    bases = [torch.zeros(2, size, size, 32).permute(0, 3, 1, 2) for size in SIZES]  # channels_last
    with zigzag.use_backend("cuda"):
        forward, results = launches_of(lambda: module.fuse(bases))
        backward, _ = launches_of(lambda: sum(result.sum() for result in results).backward())
    assert (forward, backward) == expected
