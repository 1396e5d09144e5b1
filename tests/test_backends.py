"""Which backend runs: the one that is named, the one that is set, or the first that can; and why one cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import CodesCase, StatsCase
from checks import outputs
from pathway_cases import FULL, PathwayCase
from spies import Spy

import zigzag
from zigzag import dispatch
from zigzag.ops.registration import NAMESPACES

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
def missing(monkeypatch):
    """A backend "missing" that cannot run, preferred to all others."""
    module = sys.modules["zigzag.backends"]
    missing = module.Backend("missing", "cpu", lambda: "there is no such machine")
    monkeypatch.setitem(module._REGISTRY, "missing", missing)
    monkeypatch.setattr(dispatch, "RULES", (dispatch.Rule("cpu", ("missing", "cpu"), "a test"),))


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


SHIPPED = "80-real 90a-real 100-real 100-virtual"
CUDA, HOPPER = {"cuda"}, {"cuda", "hopper"}


@pytest.mark.parametrize(
    ("gpus", "capability", "expected"),
    [
        (SHIPPED, (8, 0), CUDA),
        (SHIPPED, (8, 9), CUDA),
        (SHIPPED, (9, 0), HOPPER),
        (SHIPPED, (10, 3), HOPPER),
        (SHIPPED, (12, 0), HOPPER),
        (SHIPPED, (7, 5), set()),
        ("90a-real", (9, 0), HOPPER),
        ("90a-real", (8, 0), set()),
        ("90a-real", (10, 0), set()),
        ("90a-virtual", (10, 0), set()),
        ("86-real", (8, 0), set()),
        ("80-virtual", (9, 0), CUDA),  # without instructions of Hopper
        ("80", (12, 0), CUDA),
        ("90", (12, 0), HOPPER),
        ("100-real", (12, 0), set()),
        ("native", (9, 0), HOPPER),
        ("native", (8, 0), CUDA),
    ],
)
def test_kernels_run_on_the_gpus_that_they_are_compiled_for(monkeypatch, gpus, capability, expected):
    module = sys.modules["zigzag.backends"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(module._library, "load", lambda _: SimpleNamespace(reason=None))
    monkeypatch.setattr(module._library, "build_info", lambda _: {"gpus": gpus})
    found = {"cuda": module._why_no_cuda(), "hopper": module._why_no_hopper()}
    assert {name for name, reason in found.items() if reason is None} == expected
    assert all(reason is None or gpus in reason or "9.0 or later" in reason for reason in found.values())
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "was built for other GPUs" in module._why_no_cuda()


@EACH
def test_named_backend_runs(case, backend):
    assert bool(compiled_calls(case, backend=backend.name)) == (backend.name != "reference")


def test_backend_without_kernels_for_an_operation_says_so(monkeypatch):
    monkeypatch.setattr(dispatch, "WITHOUT_KERNELS", {("region_stats", "cpu")})
    with pytest.raises(RuntimeError, match="'cpu' has no kernels for region_stats"):
        compiled_calls(CASES[0], backend="cpu")


@EACH
def test_calls_carry_the_name_of_their_backend(case, compiled):
    own = dispatch.has_kernel(case.operation, compiled.name)
    prefix = f"{NAMESPACES[compiled.name if own else zigzag.backends()[compiled.name].otherwise]}::"
    assert all(name.startswith(prefix) for name in compiled_calls(case, backend=compiled.name))


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
    first = next(name for name in ("cpu", "reference") if zigzag.backends()[name].available)
    assert compiled_calls(case) == compiled_calls(case, backend=first)


@EACH
def test_backward_stays_with_the_backend_of_its_forward(case, backend):
    problem = case.problem()
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in problem.tensors.items()}
    results = problem.call(getattr(backend, case.operation), tensors)
    with zigzag.use_backend("reference"), Spy() as spy:
        torch.autograd.grad(sum(result.sum() for result in results), list(tensors.values()))
    assert bool(spy.calls) == (backend.name != "reference")
    assert all(name.startswith(f"{NAMESPACES.get(backend.name)}::") for name in spy.names)


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


def test_backend_that_does_not_take_a_dtype_is_an_error_and_no_default(monkeypatch):
    module = sys.modules["zigzag.backends"]
    narrow = module.Backend("narrow", "cpu", lambda: None, (torch.float32,))
    monkeypatch.setitem(module._REGISTRY, "narrow", narrow)
    monkeypatch.setattr(dispatch, "RULES", (dispatch.Rule("cpu", ("narrow",), "a test"),))
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"'narrow' takes torch.float32, got torch.float64"):
        zigzag.ops.region_stats(x, backend="narrow")
    zigzag.ops.region_stats(x)


def test_first_rule_that_fits_is_the_default(monkeypatch):
    rules = (
        dispatch.Rule("cpu", ("a",), "here", "region_stats", (torch.float32,), "contiguous", most=12),
        dispatch.Rule("cpu", ("b",), "there", "region_stats"),
        dispatch.Rule("meta", ("c",), "nowhere"),
    )
    monkeypatch.setattr(dispatch, "RULES", rules)
    x = torch.zeros(1, 3, 2, 2)
    assert dispatch.order("region_stats", x) == ("a", "reference")
    assert dispatch.order("region_stats", x.double()) == ("b", "reference")
    assert dispatch.order("region_stats", x.to(memory_format=torch.channels_last)) == ("b", "reference")
    assert dispatch.order("region_stats", torch.zeros(1, 3, 2, 3)) == ("b", "reference")
    assert dispatch.order("region_codes", x) == ("reference",)
    assert dispatch.order("region_codes", x.to("meta")) == ("c", "reference")
    rows = str(zigzag.backends()).splitlines()
    assert "default on cpu: region_stats, float32, contiguous, up to 12 elements: a (here)" in rows
    assert "default on meta: every operation: c (nowhere)" in rows


def test_the_cpu_rule_names_what_was_measured():
    folder = Path(__file__).parents[1] / "benchmarks" / "results"
    paths = sorted(folder.glob("*/*.json"))
    if not paths:
        pytest.skip("needs the source tree")
    rows = [row for path in paths for row in json.loads(path.read_text())["rows"]]
    (rule,) = (rule for rule in dispatch.RULES if rule.device == "cpu")
    for row in rows:
        assert row["dtype"] in rule.measured
        assert row["layout"] in rule.measured
    assert rule.measured.endswith("all else is a guess")
