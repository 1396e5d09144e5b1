"""What torch asks of operations: opcheck, torch.compile over one graph with dynamic sizes, FLOP formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import FULL, CodesCase, PathwayCase, StatsCase
from checks import solved
from spies import Spy
from torch._dynamo.testing import CompileCounterWithBackend

TWO = ((4, 3), (11, 9))
BOTH = (True, True)
CASES = [
    StatsCase((2, 6, 8, 7)),
    StatsCase((2, 6, 8, 7), torch.bfloat16, "contiguous", halo=0, padded=True),
    CodesCase((2, 6, 8, 7)),
    CodesCase((2, 6, 8, 7), pool="mean", padded=True),
    PathwayCase((2, 6, 8, 7)),
    PathwayCase((2, 6, 8, 7), TWO, codes=BOTH, affines=BOTH, **FULL),
    PathwayCase((2, 6, 8, 7), TWO, torch.bfloat16, codes=(False, True), affines=(True, False), base_relu=True),
    PathwayCase((2, 6, 8, 7), TWO, padded=True, source_padded=BOTH, resize="nearest", combine="sum", **FULL),
]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operation}-{case}")


def larger(case):
    """The case at another size, in every dimension but the channels."""
    sources = {"sources": ((6, 5), (14, 12))} if getattr(case, "sources", ()) else {}
    return replace(case, shape=(3, 6, 13, 10), **sources)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@EACH
def test_opcheck(case, compiled):
    """Schema, fake kernels and dispatch of every operation that a call runs, forward and backward."""
    with Spy() as spy:
        solved(case.problem(), getattr(compiled, case.operation))
    assert spy.calls
    for operation, arguments, options in {call[0].name(): call for call in spy.calls}.values():
        torch.library.opcheck(operation, arguments, options)


def test_every_operation_is_checked(compiled):
    with Spy() as spy:
        for case in CASES:
            solved(case.problem(), getattr(compiled, case.operation))
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("zigzag::")}
    assert spy.names == registered


@EACH
def test_one_graph_with_dynamic_sizes(case, backend):
    """Results and gradients as without compilation, at two sizes from one."""
    counter = CompileCounterWithBackend("aot_eager")
    operation = torch.compile(getattr(backend, case.operation), backend=counter, fullgraph=True, dynamic=True)
    for problem in (case.problem(), larger(case).problem()):
        eager = solved(problem, getattr(backend, case.operation))
        found = solved(problem, operation)
        for one, other in zip(eager[0], found[0], strict=True):
            torch.testing.assert_close(one, other)
        for name, gradient in eager[1].items():
            torch.testing.assert_close(gradient, found[1][name], msg=name)
    assert counter.frame_count == 1
