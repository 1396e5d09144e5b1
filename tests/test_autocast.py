"""Autocast: maps stay in the low dtype, sums in float32; nothing that only moves bytes is cast up."""

from __future__ import annotations

import pytest
import torch
from cases import CodesCase, NormCase, StatsCase, normal
from checks import Problem, assert_same_bits, check_forward, check_gradients, outputs
from neck_cases import SIZES, NeckCase, config_of, neck_of, random_parameters
from pool_cases import PoolCase

from zigzag.reference import neck as literal

LOW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def autocast(backend, dtype=torch.bfloat16):
    """On the device that the backend's maps are on."""
    return torch.autocast(backend.device, dtype)


@LOW
@pytest.mark.parametrize("map_dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_sums_are_as_without_autocast(map_dtype, dtype, backend):
    problem = StatsCase((2, 5, 6, 4), map_dtype).problem()
    before = outputs(problem, backend.region_stats)
    with autocast(backend, dtype):
        assert_same_bits(outputs(problem, backend.region_stats), before, "region_stats")


def test_codes_are_as_without_autocast(backend):
    problem = CodesCase((2, 5, 6, 4)).problem()
    before = outputs(problem, backend.region_codes)
    with autocast(backend):
        assert_same_bits(outputs(problem, backend.region_codes), before, "region_codes")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_norms_are_as_without_autocast(dtype, backend):
    problem = NormCase((2, 6, 6, 4), weight_dtype=dtype, codes_dtype=dtype, groups=2).problem()
    before = outputs(problem, backend.region_norm)
    with autocast(backend):
        assert_same_bits(outputs(problem, backend.region_norm), before, "region_norm")


@LOW
def test_regions_are_pooled_as_without_autocast(dtype, backend):
    for own in (torch.float32, dtype):
        problem = PoolCase((2, 5, 6, 4), own).problem()
        before = outputs(problem, backend.position_sensitive_pool)
        with autocast(backend, dtype):
            assert_same_bits(outputs(problem, backend.position_sensitive_pool), before, "position_sensitive_pool")


def maps(*dtypes):
    generator = torch.Generator().manual_seed(0)
    return [normal(generator, 2, 5, 6, 4, dtype=dtype) for dtype in dtypes]


@LOW
def test_maps_of_one_dtype_keep_it(dtype, backend):
    for own in (torch.float32, dtype):
        base, source = maps(own, own)
        before = backend.dense_pathway(base, [source])
        with autocast(backend, dtype):
            after = backend.dense_pathway(base, [source])
        assert after.dtype == own
        assert_same_bits([after], [before], "dense_pathway")


@LOW
def test_maps_of_several_dtypes_meet_in_the_low_one(dtype, backend):
    base, source, residual = maps(torch.float32, dtype, torch.float32)
    with pytest.raises(TypeError, match="sources"):
        backend.dense_pathway(base, [source], residual=residual)
    with autocast(backend, dtype):
        mixed = backend.dense_pathway(base, [source], residual=residual)
    low = backend.dense_pathway(base.to(dtype), [source], residual=residual.to(dtype))
    assert_same_bits(mixed, low, "dense_pathway")


def autocast_problem(backend):
    """The neck with float32 parameters and features, under autocast; stock is the literal one under autocast."""
    case = NeckCase("", config_of("stable", stages=2), SIZES)
    features, _ = case.features()
    tensors = {f"features.{i}": feature for i, feature in enumerate(features)}
    tensors |= {name: value.float() for name, value in random_parameters(case.config, torch.bfloat16).items()}

    def call(implementation, given):
        parameters = {name: value for name, value in given.items() if not name.startswith("features.")}
        maps = [given[f"features.{i}"] for i in range(len(features))]
        with torch.autocast(backend.device, torch.bfloat16, enabled=maps[0].dtype == torch.float32):
            return tuple(implementation(maps, parameters))

    def exact():
        wide = {name: tensor.double() for name, tensor in tensors.items()}
        return tuple(level.numpy() for level in call(stock(case), wide))

    names = tuple(f"level {i}" for i in range(len(features)))
    return case, Problem(call, exact, names, tensors, narrow=torch.bfloat16)


def stock(case):
    def implementation(features, parameters):
        low = parameters["lateral.0.weight"].dtype == torch.float32
        results = literal.forward(features, parameters, case.config)
        return [result.to(torch.bfloat16) if low else result for result in results]

    return implementation


def test_neck(backend):
    case, problem = autocast_problem(backend)
    module = neck_of(case.config)
    ours = backend.run(lambda features, parameters: torch.func.functional_call(module, parameters, (features,)))
    stocks = backend.around(stock(case))
    assert {result.dtype for result in outputs(problem, ours)} == {torch.bfloat16}
    check_forward(problem, ours, stocks)
    check_gradients(problem, ours, stocks, each=False)
