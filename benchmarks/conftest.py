"""The cases of ``zigzag bench`` as pytest-benchmark tests: pytest benchmarks [--size 473] [--threads 2] [-k forward].

Their results are checked against float64 first: a wrong one fails instead of being timed.
"""

from __future__ import annotations

import functools

import pytest
import torch

from zigzag.bench import pyramid, runner
from zigzag.bench.baselines import evict
from zigzag.bench.cases import REGISTRY
from zigzag.bench.settings import Settings, available_threads
from zigzag.bench.workload import COMMUTED, EAGER, FLOOR, OURS, Workload, build_neck

SIDES = (OURS, EAGER, COMMUTED, FLOOR)


def pytest_addoption(parser):
    group = parser.getgroup("zigzag")
    group.addoption("--size", type=int, default=Settings.size, help="side of the photograph's crop, in pixels")
    group.addoption("--threads", type=int, default=available_threads(), help="for torch")


def pytest_generate_tests(metafunc):
    """One test for every case of the module's operation, its region kernels, its directions and the sides."""
    if "subject" not in metafunc.fixturenames:
        return
    operation = metafunc.module.OPERATION
    subjects = [
        pytest.param((entry.name, kernel, direction), side, id=f"{entry.name}-{kernel}x{kernel}-{direction}-{side}")
        for entry in REGISTRY
        if entry.name.split(".")[0] == operation
        for kernel in entry.kernels
        for direction in entry.directions
        for side in SIDES
    ]
    metafunc.parametrize(("subject", "side"), subjects)


@pytest.fixture(scope="session")
def workload(request):
    """The shared maps and neck for a size of the region kernel."""
    settings = Settings(size=request.config.getoption("size"), threads=request.config.getoption("threads"))
    torch.set_num_threads(settings.threads)
    image = pyramid.normalised(pyramid.crop(pyramid.load_photograph(None), settings.size))
    features = pyramid.features(pyramid.load_backbone(settings), image)

    @functools.lru_cache(maxsize=1)
    def make(kernel):
        return Workload(features, build_neck(features, kernel))

    return make


@pytest.fixture(scope="session")
def checked(workload):
    """A case and what its check in one direction found, by name, kernel and direction."""

    @functools.lru_cache(maxsize=1)
    def make(name, kernel, direction):
        entry = next(entry for entry in REGISTRY if entry.name == name)
        case = entry.build(workload(kernel))
        with case.checking(direction):
            return case, runner.check(case, direction, case.exact(direction))

    return make


@pytest.fixture
def timed(benchmark, checked):
    """Time one side of one case, if it is there and right."""

    def run(subject, side):
        case, checks = checked(*subject)
        name, kernel, direction = subject
        benchmark.group = f"{name} {kernel}x{kernel} {direction}"
        if side == FLOOR:
            call = case.floors[direction]
        elif side in checks:
            assert checks[side].right, checks[side]
            benchmark.extra_info["error ratio"] = checks[side].verdict.ratio
            call = functools.partial(case.formulations[side].run, direction)
        else:
            pytest.skip(f"{name} has no {side} side of its own")
        benchmark.extra_info["shape"] = case.shape
        rounds = 3 if name.startswith("neck") else 20
        benchmark.pedantic(call, setup=evict, rounds=rounds, warmup_rounds=1)

    return run
