"""Fixtures of all tests; the helper modules beside this file are importable by name."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import zigzag
from zigzag.dispatch import WITHOUT_KERNELS

sys.path.insert(0, str(Path(__file__).parent))

import stand_ins
from devices import on_device

# The suite runs in several processes; that the number of threads changes nothing is test_determinism's to show.
torch.set_num_threads(1)


@pytest.fixture
def poisoned_memory():
    """Every tensor that torch allocates without filling it starts as NaN, in compiled operations too."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    # Stock PyTorch has operations on a GPU that are not.
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


@pytest.fixture
def few_images(monkeypatch):
    """Generated shapes of a few images, for training in seconds; needs zigzag[train]."""
    from segmentation_files import FEW

    from zigzag.data import shapes

    monkeypatch.setattr(shapes, "COUNTS", FEW)


# Triton's interpreter takes CPU tensors; it must be chosen before Triton is imported, so for the whole process.
if os.environ.get("TRITON_INTERPRET") == "1":
    stand_ins.interpret_triton()
if torch.cuda.is_available():
    # What libraries compute around our kernels is to have float32's digits, and the same ones every time.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
elif "ZIGZAG_PTX" in os.environ:
    stand_ins.run_ptx()
else:
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
    """The operations of `zigzag.ops` on one backend, from and to the CPU; modules are moved to `device` by tests."""

    def __init__(self, backend):
        self.name = backend.name
        self.device = backend.device or "cpu"

    def bare(self, name):
        """The operation from and to `device`; a skip where the backend has no kernels for it."""
        if (name, self.name) in WITHOUT_KERNELS:
            pytest.skip(f"backend {self.name!r} has no kernels for {name}")
        return functools.partial(getattr(zigzag.ops, name), backend=self.name)

    def around(self, function):
        """The function from and to the CPU, where it is one from and to `device`."""
        return function if self.device == "cpu" else functools.partial(on_device, self.device, function)

    def run(self, function):
        """As `around`, and operations that name no backend run on this one."""

        def call(*arguments, **options):
            with zigzag.use_backend(self.name):
                return function(*arguments, **options)

        return self.around(call)

    def __getattr__(self, name):
        """An operation, from and to the CPU."""
        if name not in zigzag.ops.__all__:
            raise AttributeError(name)
        return self.around(self.bare(name))


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
