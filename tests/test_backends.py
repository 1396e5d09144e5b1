"""Which backend runs: the one that is named, the one that is set, or the first that can; and why one cannot."""

from __future__ import annotations

import sys

import pytest
import torch
from cases import FULL, CodesCase, PathwayCase, StatsCase
from checks import outputs
from spies import Spy

import zigzag

CASES = [
    StatsCase((2, 4, 6, 5)),
    CodesCase((2, 4, 6, 5)),
    PathwayCase((2, 4, 6, 5), ((3, 3),), codes=(True,), **FULL),
]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.operation)


def compiled_calls(case, **options):
    """Names of the compiled operations that a call runs."""

    def operation(*arguments, **others):
        return getattr(zigzag.ops, case.operation)(*arguments, **others, **options)

    with Spy() as spy:
        outputs(case.problem(), operation)
    return spy.names


@pytest.fixture
def missing():
    """A backend "missing" that cannot run, in front of all others."""
    module = sys.modules["zigzag.backends"]
    before = dict(module._REGISTRY)
    module._REGISTRY.clear()
    module._REGISTRY["missing"] = module.Backend("missing", "cpu", "there is no such machine")
    module._REGISTRY.update(before)
    yield
    module._REGISTRY.clear()
    module._REGISTRY.update(before)


def test_table_says_what_runs_and_why_not(missing):
    table = zigzag.backends()
    assert {"reference", "cpu", "missing"} <= set(table)
    assert table["reference"].available
    assert not table["missing"].available
    assert "missing: cannot run: there is no such machine" in str(table).splitlines()
    for backend in table.values():
        assert backend.available == (backend.reason is None)


def test_table_is_a_copy():
    zigzag.backends().clear()
    assert "reference" in zigzag.backends()


@EACH
def test_named_backend_runs(case, backend):
    assert bool(compiled_calls(case, backend=backend.name)) == (backend.name != "reference")


@EACH
def test_backend_of_the_context_runs(case, backend):
    with zigzag.use_backend(backend.name):
        assert bool(compiled_calls(case)) == (backend.name != "reference")


@EACH
def test_named_backend_goes_before_the_context(case, backend):
    with zigzag.use_backend("reference"):
        assert bool(compiled_calls(case, backend=backend.name)) == (backend.name != "reference")


@EACH
def test_default_is_the_first_that_can_run(case, missing):
    first = next(name for name, backend in zigzag.backends().items() if backend.available and backend.device != "cuda")
    assert compiled_calls(case) == compiled_calls(case, backend=first)


@EACH
def test_backward_stays_with_the_backend_of_its_forward(case, backend):
    problem = case.problem()
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in problem.tensors.items()}
    results = problem.call(getattr(backend, case.operation), tensors)
    with zigzag.use_backend("reference"), Spy() as spy:
        torch.autograd.grad(sum(result.sum() for result in results), list(tensors.values()))
    assert bool(spy.calls) == (backend.name != "reference")


def test_context_ends_with_its_block_and_nests():
    case = CASES[0]
    before = compiled_calls(case)
    with zigzag.use_backend("reference"):
        with zigzag.use_backend("reference"):
            pass
        assert not compiled_calls(case)
    assert compiled_calls(case) == before


def test_context_ends_with_an_exception():
    case = CASES[0]
    before = compiled_calls(case)
    with pytest.raises(KeyError), zigzag.use_backend("reference"):
        raise KeyError
    assert compiled_calls(case) == before


@EACH
def test_backend_that_cannot_run_is_an_error_with_its_reason(case, missing):
    with pytest.raises(RuntimeError, match=r"missing.*there is no such machine"):
        compiled_calls(case, backend="missing")


def test_context_of_a_backend_that_cannot_run_is_an_error(missing):
    with pytest.raises(RuntimeError, match=r"missing.*there is no such machine"), zigzag.use_backend("missing"):
        pass
    with pytest.raises(ValueError, match=r"backend.*'abacus'"), zigzag.use_backend("abacus"):
        pass


def test_backend_of_another_device_is_an_error(backend):
    if zigzag.backends()[backend.name].device is None:
        backend.region_stats(torch.zeros(1, 1, 1, 1))
        return
    with pytest.raises(RuntimeError, match=f"{backend.name}.*meta"):
        backend.region_stats(torch.zeros(1, 1, 1, 1, device="meta"))
