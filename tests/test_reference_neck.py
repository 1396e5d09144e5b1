"""The literal neck of the reference against the oracle's, and its gradients."""

from __future__ import annotations

import oracle
import pytest
import torch
from cases import normal, poisoned, random_valid
from checks import assert_same_bits, assert_sane, to_real
from neck_cases import SIZES, NeckCase, config_of, neck_cases, random_parameters

from zigzag.reference import neck


@pytest.mark.parametrize("case", list(neck_cases()), ids=str)
def test_neck_matches_oracle(case):
    parameters = case.parameters()
    features, valid = case.features()
    exact = oracle.neck(
        [to_real(feature) for feature in features],
        {name: to_real(value) for name, value in parameters.items()},
        case.config,
        valid=valid,
    )
    results = neck.forward(features, parameters, case.config, valid=valid)
    for i, (result, truth) in enumerate(zip(results, exact, strict=True)):
        assert result.dtype == case.dtype
        assert_sane(result, truth, f"level {i}")


@pytest.mark.parametrize("pool", ["mean", "sum"])
@pytest.mark.parametrize("kernel_size", [3, 1])
def test_region_context_matches_oracle(kernel_size, pool):
    case = NeckCase(
        "", config_of("stable", 2, channels=5, norm_groups=5, kernel_size=kernel_size, pool=pool), SIZES[:2]
    )
    parameters = random_parameters(case.config)
    generator = torch.Generator().manual_seed(0)
    valid = random_valid(generator, 3, 9, 12)
    x = poisoned(normal(generator, 3, 5, 9, 12), valid)
    prefix = "stages.1.up.0.context"
    result = neck.region_context(x, parameters, prefix, case.config, valid)
    arrays = {name: to_real(value) for name, value in parameters.items()}
    exact = oracle.region_context(to_real(x), arrays, prefix, pool=pool, valid=valid)
    assert_sane(result, exact, "region context")


def test_image_sizes_are_in_pixels():
    case = NeckCase("", config_of("stable"), SIZES, number=2)
    parameters, (features, _) = case.parameters(), case.features()
    by_pixels = neck.forward(features, parameters, case.config, image_sizes=[(33, 48), (9, 16)])
    valid = [torch.tensor(sizes) for sizes in ([[9, 12], [3, 4]], [[5, 6], [2, 2]], [[3, 3], [1, 1]])]
    by_level = neck.forward(features, parameters, case.config, valid=valid)
    assert_same_bits(by_pixels, by_level, "image_sizes")
