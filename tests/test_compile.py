"""What torch asks of operations: opcheck, torch.compile over one graph with dynamic sizes, FLOP formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import CodesCase, NormCase, StatsCase
from checks import solved
from neck_cases import NeckCase, config_of, neck_of
from pathway_cases import FULL, PathwayCase
from pool_cases import PoolCase
from spies import Spy
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

import zigzag
from zigzag.dispatch import WITHOUT_KERNELS
from zigzag.ops.registration import NAMESPACES

# No two sizes are equal, nor equal to a K: a trace takes sizes that start out equal for one and the same.
TWO = ((4, 3), (11, 9))
BOTH = (True, True)
CASES = [
    StatsCase((10, 6, 8, 7)),
    StatsCase((10, 6, 8, 7), torch.bfloat16, "contiguous", halo=0, padded=True),
    CodesCase((10, 6, 8, 7)),
    CodesCase((10, 6, 8, 7), pool="mean", padded=True),
    PathwayCase((10, 6, 8, 7)),
    PathwayCase((10, 6, 8, 7), TWO, codes=BOTH, affines=BOTH, **FULL),
    PathwayCase((10, 6, 8, 7), TWO, torch.bfloat16, codes=(False, True), affines=(True, False), base_relu=True),
    PathwayCase((10, 6, 8, 7), TWO, padded=True, source_padded=BOTH, resize="nearest", combine="sum", **FULL),
    PathwayCase((10, 12, 8, 7), TWO, codes=BOTH, affines=BOTH, statistics=((3, 2), 1), **FULL),
    NormCase((10, 6, 8, 7), groups=2),
    NormCase((10, 6, 8, 7), torch.float64, torch.bfloat16, torch.bfloat16, "permuted", groups=2, padded=True),
    NormCase((10, 6, 8, 7), codes_dtype=None, grids=(2,), groups=3),
    PoolCase((10, 5, 8, 7), rois=17),
    PoolCase((10, 5, 8, 7), torch.bfloat16, "contiguous", rois=17, groups=1, padded=True),
]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operation}-{case}")


def larger(case):
    """The case at another size, in every dimension but the channels."""
    sources = {"sources": ((6, 5), (14, 12))} if getattr(case, "sources", ()) else {}
    return replace(case, shape=(4, case.shape[1], 13, 10), **sources)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def calls_of(case, compiled):
    """Every compiled operation that the case runs, forward and backward, once each with what it is given."""
    with Spy() as spy:
        solved(case.problem(), getattr(compiled, case.operation), draws=1)
    return {call[0].name(): call for call in spy.calls}


@EACH
def test_opcheck(case, compiled):
    """Schema, fake kernel, autograd and traces; of what runs in a backward pass nothing is differentiated again."""
    calls = calls_of(case, compiled)
    assert calls
    for name, (operation, arguments, options) in calls.items():
        if name.endswith("backward"):
            arguments = tree_map_only(torch.Tensor, torch.Tensor.detach, arguments)
        torch.library.opcheck(operation, arguments, options)


def test_every_operation_is_checked(compiled):
    cases = [case for case in CASES if (case.operation, compiled.name) not in WITHOUT_KERNELS]
    checked = {name for case in cases for name in calls_of(case, compiled)}
    prefix = f"{NAMESPACES[compiled.name]}::"
    assert checked == {name for name in torch._C._dispatch_get_all_op_names() if name.startswith(prefix)}


def check_compilation(case, compiled, **options):
    """Results and gradients as without compilation, at two sizes; what moves tensors to a device is not compiled."""
    eager = getattr(compiled, case.operation)
    traced = torch.compile(compiled.bare(case.operation), fullgraph=True, dynamic=True, **options)
    for problem in (case.problem(), larger(case).problem()):
        results, gradients, _ = solved(problem, eager, draws=1)
        found, found_gradients, _ = solved(problem, compiled.around(traced), draws=1)
        for one, other in zip(results, found, strict=True):
            torch.testing.assert_close(other, one)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found_gradients[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@EACH
def test_one_graph_for_all_sizes(case, compiled):
    counter = CompileCounterWithBackend("aot_eager")
    check_compilation(case, compiled, backend=counter)
    # Where torch starts over, as it does to fix the value of a float argument, it leaves an empty graph behind.
    assert sum("torch.ops.zigzag" in graph.code for graph in counter.graphs) == 1


def test_inductor(compiled):
    check_compilation(CASES[5], compiled)


def neck_steps(module, case, device):
    """Maps and gradients of a training step at two sizes, eager and compiled in turn."""
    traced = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=True)
    for sizes in (((9, 12), (5, 6)), ((11, 8), (6, 4))):
        given = replace(case, sizes=sizes).features()
        features, valid = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), given)
        for call in (module, traced):
            leaves = [feature.detach().requires_grad_() for feature in features]
            results = call(leaves, valid=valid)
            total = sum(result.square().sum() for result in results)
            yield [*results, *torch.autograd.grad(total, [*leaves, *module.parameters()])]


def check_neck(case, backend, device="cpu"):
    """In float64, where another order of operations stays far below what assert_close lets pass."""
    case = replace(case, dtype=torch.float64)
    module = neck_of(case.config, case.parameters()).double().to(device)
    with zigzag.use_backend(backend):
        eager, traced, eager_larger, traced_larger = neck_steps(module, case, device)
    torch.testing.assert_close(traced, eager)
    torch.testing.assert_close(traced_larger, eager_larger)


# Hopper's kernels are region_stats' alone, of which there is one graph above.
NECKS = pytest.mark.parametrize("compiled", sorted(set(zigzag.backends()) - {"reference", "hopper"}), indirect=True)


@NECKS
def test_neck_in_one_graph(compiled):
    check_neck(NeckCase("", config_of("stable", 2, channels=8, stages=2), ()), compiled.name, compiled.device)


@NECKS
def test_padded_neck_in_one_graph(compiled):
    case = NeckCase("", config_of("stable", 2, channels=8, stages=1), (), number=4, padded=True)
    check_neck(case, compiled.name, compiled.device)


def test_reference_neck_in_one_graph():
    """Not with `valid`: the reference cuts every image out, and sizes that are data are no graph's."""
    check_neck(NeckCase("", config_of("stable", 2, channels=8, stages=1), ()), "reference")


@EACH
def test_flops_are_counted(case, compiled):
    with FlopCounterMode(display=False) as counter:
        solved(case.problem(), getattr(compiled, case.operation), draws=1)
    counted = {str(operation): flops for operation, flops in counter.get_flop_counts()["Global"].items()}
    for name in calls_of(case, compiled):
        assert name.replace("::", ".") in counted
