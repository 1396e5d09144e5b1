"""Fixtures of all tests; the helper modules beside this file are importable by name."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch.utils._pytree import tree_map_only

import zigzag
from zigzag.dispatch import WITHOUT_KERNELS

sys.path.insert(0, str(Path(__file__).parent))

import stand_ins

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


# Triton's interpreter takes CPU tensors; it must be chosen before Triton is imported, so for the whole process.
if os.environ.get("TRITON_INTERPRET") == "1":
    stand_ins.interpret_triton()
if not torch.cuda.is_available():
    stand_ins.emulate_cuda()


@pytest.hookimpl(trylast=True)  # after -k has chosen
def pytest_collection_modifyitems(config, items):
    """ZIGZAG_SHARD=2/13 runs every thirteenth test, from number 2 on: for a machine without pytest-xdist."""
    if "ZIGZAG_SHARD" in os.environ:
        first, step = map(int, os.environ["ZIGZAG_SHARD"].split("/"))
        chosen = items[first::step]
        config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % step != first])
        items[:] = chosen


class Backend:
    """The operations of `zigzag.ops` on one backend, from and to the CPU."""

    def __init__(self, backend):
        self.name = backend.name
        for name in zigzag.ops.__all__:
            if (name, backend.name) in WITHOUT_KERNELS:
                continue
            operation = functools.partial(getattr(zigzag.ops, name), backend=backend.name)
            if backend.device == "cuda":
                operation = functools.partial(on_gpu, operation)
            setattr(self, name, operation)

    def __getattr__(self, name):
        """An operation that the backend has no kernels for."""
        if name not in zigzag.ops.__all__:
            raise AttributeError(name)
        pytest.skip(f"backend {self.name!r} has no kernels for {name}")


def on_gpu(operation, *arguments, **options):
    """The operation's results on the CPU, from arguments there; strides survive both ways."""
    arguments, options = tree_map_only(torch.Tensor, lambda tensor: tensor.cuda(), (list(arguments), options))
    return tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), operation(*arguments, **options))


def able(name):
    """The backend, or a skip with the reason why it cannot run here."""
    backend = zigzag.backends()[name]
    if backend.reason is not None:
        pytest.skip(backend.reason)
    return Backend(backend)


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
