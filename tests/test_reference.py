"""The reference against the oracle: it is what every backend is measured by, so it is held to the equations itself."""

from __future__ import annotations

import pytest
from cases import codes_cases, pathway_cases, stats_cases
from checks import assert_sane, outputs

from zigzag import reference

CASES = [*stats_cases(), *codes_cases(), *pathway_cases()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operation}-{case}")
def test_results_match_oracle(case):
    problem = case.problem()
    results, exact = outputs(problem, getattr(reference, case.operation)), problem.exact()
    for name, result, truth in zip(problem.names, results, exact, strict=True):
        assert_sane(result, truth, name)
