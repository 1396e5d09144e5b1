"""The neck on every backend: the literal equations' results and gradients, an image's own results in a padded batch."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import oracle
import pytest
import torch
from cases import as_numpy, normal, poisoned, random_valid
from checks import (
    Problem,
    assert_parity,
    assert_same_bits,
    assert_zero_outside,
    check_forward,
    check_gradients,
    outputs,
    solved,
)
from neck_cases import SIZES, NeckCase, config_of, neck_cases, neck_of, neck_problem, random_parameters

import zigzag
from zigzag.config import PRESETS
from zigzag.nn import RegionContext, ZigZagNeck
from zigzag.reference import neck as literal

STABLE = NeckCase("stable", config_of("stable"), SIZES)
LOW = [replace(STABLE, dtype=dtype) for dtype in (torch.bfloat16, torch.float16)]
CASES = [*neck_cases(), *LOW, replace(LOW[0], padded=True)]
EACH = pytest.mark.parametrize("case", CASES, ids=str)
# Hopper's kernels are region_stats' alone, which runs on them in every case of its own.
ON_EACH = pytest.mark.parametrize(
    ("backend", "case"),
    [
        pytest.param(name, case, id=f"{name}-{case}")
        for name in sorted(zigzag.backends())
        for case in CASES
        if name != "hopper" or case.config == STABLE.config
    ],
    indirect=["backend"],
)

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def ours(case, backend):
    module = neck_of(case.config)

    def implementation(features, parameters, valid):
        return torch.func.functional_call(module, parameters, (features,), {"valid": valid})

    return backend.run(implementation)


def stock(case, backend):
    """On the backend's device: both get their convolutions from one library."""
    return backend.around(
        lambda features, parameters, valid: literal.forward(features, parameters, case.config, valid=valid)
    )


@ON_EACH
def test_forward(case, backend):
    problem = neck_problem(case)
    check_forward(problem, ours(case, backend), stock(case, backend))
    for i, result in enumerate(outputs(problem, ours(case, backend))):
        assert_zero_outside(result, problem.sizes.get(f"features.{i}"), f"level {i}")


@ON_EACH
def test_gradients(case, backend):
    check_gradients(neck_problem(case), ours(case, backend), stock(case, backend), each=False)


@EACH
def test_names_and_shapes_of_the_parameters(case):
    expected = {name: value.shape for name, value in random_parameters(case.config).items()}
    assert {name: value.shape for name, value in neck_of(case.config).state_dict().items()} == expected


def test_two_runs_agree(backend):
    problem = neck_problem(replace(STABLE, padded=True))
    first, second = (solved(problem, ours(STABLE, backend), draws=1) for _ in range(2))
    assert_same_bits(first[0], second[0], "forward")
    assert_same_bits(first[1].values(), second[1].values(), "backward")


def test_a_single_image_stays_channels_last_in_training(backend):
    """Strides of its axis of size 1 say nothing of where its values lie, and convolutions go by them."""
    maps = [torch.randn(1, size, size, 16).permute(0, 3, 1, 2) for size in (9, 5)]
    module = neck_of(config_of("stable", 2, stages=2)).to(backend.device)
    for found in backend.run(module.fuse)(maps):
        assert found.requires_grad
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert not found.is_contiguous()


def test_batch_mates_and_padding_change_nothing(backend):
    """Bit for bit in a batch of one shape; alone, convolutions run on another shape and the ratio holds, as below."""
    problem = neck_problem(replace(STABLE, number=3, padded=True))
    other = dict(problem.tensors)
    for i in range(len(SIZES)):
        name = f"features.{i}"
        other[name] = problem.tensors[name].clone()
        other[name][1:] = poisoned(torch.full_like(other[name][1:], 9.0), problem.sizes[name][1:]).flip(1)
    first, second = (outputs(problem, ours(STABLE, backend), tensors) for tensors in (problem.tensors, other))
    assert_same_bits([level[:1] for level in first], [level[:1] for level in second], "image 0")


def test_image_alone(backend):
    """The result of an image in a padded batch errs as little against the oracle's of the image alone."""
    case = replace(STABLE, number=3, padded=True)
    problem = neck_problem(case)
    parameters = as_numpy(case.parameters())
    together = outputs(problem, ours(case, backend))
    found, by_stock, exact = [], [], []
    for n in range(3):
        sizes = [problem.sizes[f"features.{i}"][n].tolist() for i in range(len(SIZES))]
        features = [problem.tensors[f"features.{i}"][n : n + 1, :, :h, :w] for i, (h, w) in enumerate(sizes)]
        found += [together[i][n : n + 1, :, :h, :w] for i, (h, w) in enumerate(sizes)]
        by_stock += stock(case, backend)(features, case.parameters(), None)
        arrays = [feature.double().numpy() for feature in features]
        exact += [torch.from_numpy(level.astype("float64")) for level in oracle.neck(arrays, parameters, case.config)]
    assert_parity(*(torch.cat([level.flatten() for level in levels]) for levels in (found, by_stock, exact)), "images")


def test_image_sizes_are_in_pixels(backend):
    module = backend.run(neck_of(STABLE.config, random_parameters(STABLE.config)).to(backend.device))
    features, _ = STABLE.features()
    valid = [torch.tensor(sizes) for sizes in ([[9, 12], [3, 4]], [[5, 6], [2, 2]], [[3, 3], [1, 1]])]
    by_level = module(features, valid=valid)
    for sizes in (torch.tensor([[33, 48], [9, 16]]), [[33, 48], [9, 16]], torch.tensor([[33, 48], [9, 16]]).int()):
        assert_same_bits(module(features, sizes), by_level, "image_sizes")


def test_fuse_is_what_follows_the_laterals(backend):
    module = neck_of(STABLE.config, random_parameters(STABLE.config)).to(backend.device)
    features, _ = STABLE.features()

    def in_two_steps(features):
        return module.fuse([lateral(feature) for lateral, feature in zip(module.lateral, features, strict=True)])

    assert_same_bits(backend.run(module)(features), backend.run(in_two_steps)(features), "fuse")


@pytest.mark.parametrize("kind", [list, tuple, dict, OrderedDict])
def test_result_is_of_the_kind_of_the_features(kind):
    module = neck_of(STABLE.config)
    features, _ = STABLE.features()
    keyed = issubclass(kind, dict)
    result = module(kind(zip(("res2", "res3", "res4"), features, strict=True)) if keyed else kind(features))
    assert type(result) is kind
    if keyed:
        assert list(result) == ["res2", "res3", "res4"]
        result = list(result.values())
    assert_same_bits(result, module(features), kind.__name__)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_the_table_of_the_specification(preset):
    table = {
        "gated": ("mean", True, True, 0.5, "linear"),  # the specification's "stable" from other initial values
        "stable": ("mean", True, True, 0.1, "linear"),
        "paper": ("sum", False, False, None, "linear"),
    }
    config = ZigZagNeck((4, 4), 8, preset=preset, norm_groups=2).config
    fields = (config.pool, config.fusion_norm, config.context_norm, config.gain, config.resize)
    assert fields == table[preset]
    assert (config.stages, config.grids, config.kernel_size, config.combine) == (3, (3, 5, 7), 3, "product")


def test_contexts_start_where_the_preset_says():
    for preset, start in (("stable", (1.0, 0.0)), ("gated", (0.2, 1.0))):
        module = ZigZagNeck((4, 4), 8, preset=preset, norm_groups=2)
        norms = [step.context_norm for step in module.modules() if getattr(step, "context_norm", None) is not None]
        assert len(norms) == 6  # of two levels, the one that a sweep begins with, in three sweeps down and three up
        assert all((norm.weight == start[0]).all() and (norm.bias == start[1]).all() for norm in norms)


def test_fusions_start_with_an_identity_where_the_preset_says():
    weights = {}
    for identity in (False, True):
        torch.manual_seed(0)
        module = ZigZagNeck((4, 4), 8, preset="gated", norm_groups=2, fusion_identity=identity)
        weights[identity] = {name: value for name, value in module.named_parameters() if "conv.weight" in name}
    added = torch.zeros(8, 8, 3, 3)
    added[:, :, 1, 1] = torch.eye(8)
    for name, weight in weights[True].items():
        fused = ".fusion." in name or name.startswith("output.")
        assert torch.equal(weight, weights[False][name] + (added if fused else 0)), name
    assert sum(".fusion." in name or name.startswith("output.") for name in weights[True]) == 10


def test_gated_contexts_begin_as_one_plus_their_sum():
    """To first order in their deviation from 1, so that every source is heard and none is silenced by another."""
    config = ZigZagNeck((4, 4, 4, 4), 8, preset="gated", norm_groups=2).config
    generator = torch.Generator().manual_seed(0)
    base = torch.zeros(1, 8, 9, 9, dtype=torch.float64)
    small = [1e-4 * normal(generator, 1, 8, 9, 9, dtype=torch.float64) for _ in range(3)]
    table = torch.full((1, 8), config.context_shift, dtype=torch.float64)
    scale = torch.full((1, 8), config.context_scale, dtype=torch.float64)
    gain = torch.full((8,), config.gain, dtype=torch.float64)
    context = zigzag.ops.dense_pathway(base, small, source_affine=[(scale, table)] * 3, gain=gain)
    expected = config.gain * (1 + config.context_scale * sum(small))
    assert (context - expected).abs().max() < 1e-7


def test_fields_of_a_preset_can_be_given_alone():
    config = ZigZagNeck((4, 4), 8, preset="paper", pool="mean", gain=0.2).config
    assert (config.pool, config.gain, config.fusion_norm) == ("mean", 0.2, False)


def test_weights_may_be_channels_last(backend):
    """Restriding the weights changes where numbers lie, not what is computed: the ratio holds."""
    problem = neck_problem(STABLE)
    restrided = {
        name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in problem.tensors.items()
    }
    results = outputs(problem, ours(STABLE, backend), restrided)
    by_stock = outputs(problem, stock(STABLE, backend))
    for name, result, other, exact in zip(problem.names, results, by_stock, problem.exact(), strict=True):
        assert_parity(result, other, exact, name)


@pytest.mark.parametrize("pool", ["mean", "sum"])
@pytest.mark.parametrize("kernel_size", [3, 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_region_context(dtype, kernel_size, pool, backend):
    config = config_of("stable", 2, channels=6, norm_groups=3, kernel_size=kernel_size, pool=pool)
    prefix = "stages.0.up.0.context"
    parameters = random_parameters(config, dtype)
    parameters = {name: value for name, value in parameters.items() if name.startswith(f"{prefix}.")}
    generator = torch.Generator().manual_seed(0)
    valid = random_valid(generator, 3, 9, 12)
    x = poisoned(normal(generator, 3, 6, 9, 12, dtype=dtype), valid)
    module = RegionContext(6, config.grids, kernel_size, pool)

    def whole(given, valid):
        own = {name.removeprefix(f"{prefix}."): value for name, value in given.items() if name != "x"}
        return torch.func.functional_call(module, own, (given["x"], valid))

    def by_stock(given, valid):
        return literal.region_context(given["x"], given, prefix, config, valid)

    def exact():
        arrays = as_numpy(parameters)
        return (oracle.region_context(as_numpy({"x": x})["x"], arrays, prefix, pool=pool, valid=valid),)

    call = lambda implementation, given: (implementation(given, valid),)  # noqa: E731
    ours, stocks = backend.run(whole), backend.around(by_stock)
    problem = Problem(call, exact, ("R",), {"x": x} | parameters, {"x": valid, "base": valid})
    check_forward(problem, ours, stocks)
    check_gradients(problem, ours, stocks, each=False)


def test_codes_are_those_that_the_context_adds(backend):
    module = RegionContext(4, (3, 2)).to(backend.device)
    x = normal(torch.Generator().manual_seed(0), 2, 4, 9, 12)
    codes = backend.run(module.codes)(x)
    assert codes.shape == (2, 13, 4)
    added = backend.dense_pathway(torch.zeros_like(x), [x], [codes], (3, 2))
    assert_same_bits([backend.run(module)(x)], [added], "R")


def test_initial_neck_is_finite_and_every_parameter_learns(backend):
    torch.manual_seed(0)  # so few channels can all lie below a ReLU by chance
    module = ZigZagNeck((4, 5, 6), 8, norm_groups=2).to(backend.device)
    features = [normal(torch.Generator().manual_seed(i), 1, 4 + i, *size) for i, size in enumerate(SIZES)]
    sum(level.square().sum() for level in backend.run(module)(features)).backward()
    for name, parameter in module.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name
