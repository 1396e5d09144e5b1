"""Fixtures of all tests; the helper modules beside this file are importable by name."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import zigzag

sys.path.insert(0, str(Path(__file__).parent))

# The suite runs in several processes; that the number of threads changes nothing is test_determinism's to show.
torch.set_num_threads(1)


@pytest.fixture
def poisoned_memory():
    """Every tensor that torch allocates without filling it starts as NaN, in compiled operations too."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


class Backend:
    """The operations of `zigzag.ops` on one backend."""

    def __init__(self, name):
        self.name = name
        for operation in ("region_stats", "region_codes", "region_norm", "dense_pathway"):
            setattr(self, operation, functools.partial(getattr(zigzag.ops, operation), backend=name))


def able(name):
    """The backend, or a skip with the reason why it cannot run here."""
    reason = zigzag.backends()[name].reason
    if reason is not None:
        pytest.skip(reason)
    return Backend(name)


@pytest.fixture(scope="session", params=sorted(zigzag.backends()))
def backend(request):
    """Every backend that the package knows."""
    return able(request.param)


@pytest.fixture(scope="session", params=sorted(set(zigzag.backends()) - {"reference"}))
def compiled(request):
    """Every backend with kernels of its own."""
    return able(request.param)


settings.register_profile("zigzag", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("zigzag")
