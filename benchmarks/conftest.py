"""The cases of ``zigzag bench`` as pytest-benchmark tests.

    pytest benchmarks [--suite full] [--size 473] [--threads 2] [--compile default] [-k "forward and not neck"]
    pytest benchmarks --benchmark-autosave, then pytest benchmarks --benchmark-compare

Results are checked against float64 first: a wrong one fails instead of being timed.
"""

from __future__ import annotations

import functools

import pytest
import torch

from zigzag.bench import runner
from zigzag.bench.devices import evict
from zigzag.bench.placement import Mover
from zigzag.bench.prepare import Source
from zigzag.bench.registry import select
from zigzag.bench.settings import COMPILE_MODES, SUITES, Settings, available_threads
from zigzag.bench.workload import COMMUTED, COMPILED, EAGER, FLOOR, OURS, key

SIDES = (OURS, EAGER, COMPILED, COMMUTED, FLOOR)


def pytest_addoption(parser):
    group = parser.getgroup("zigzag")
    group.addoption("--suite", choices=SUITES, default=Settings.suite, help="of the registry")
    group.addoption("--size", type=int, default=Settings.size, help="side of the photograph's crop, in pixels")
    group.addoption(
        "--compile", choices=COMPILE_MODES, help="mode of torch.compile for one more side, which takes minutes"
    )
    group.addoption("--threads", type=int, default=available_threads(), help="for torch")


def _settings(config):
    names = ("suite", "size", "threads")
    return Settings(compiled=config.getoption("compile"), **{name: config.getoption(name) for name in names})


def pytest_generate_tests(metafunc):
    """One test for every subject of the module's operation, its directions and the sides."""
    if "subject" not in metafunc.fixturenames:
        return
    operation = metafunc.module.OPERATION
    subjects = [
        pytest.param((subject, direction), side, id=f"{name.replace(' ', '-')}-{side}")
        for subject in select(_settings(metafunc.config))
        if subject.entry.name.split(".")[0] == operation
        for direction, name in zip(subject.directions, subject.keys, strict=True)
        for side in SIDES
        if side != COMPILED or subject.compiled is not None
    ]
    metafunc.parametrize(("subject", "side"), subjects)


@pytest.fixture(scope="session")
def checked(request):
    """A case and what its check in one direction found, by subject and direction."""
    settings = _settings(request.config)
    torch.set_num_threads(settings.threads)
    source = Source(settings)
    work = functools.lru_cache(maxsize=1)(lambda subject: source.workload([subject]))

    @functools.lru_cache(maxsize=1)
    def make(subject, direction):
        case = subject.build(work(subject))
        with case.checking(direction):
            return case, runner.check(case, direction, case.exact(direction))

    return make


@pytest.fixture
def timed(benchmark, checked):
    """Time one side of one case, if it is there and right."""

    def run(subject, side):
        case, checks = checked(*subject)
        direction = subject[1]
        benchmark.group = key(case.name, direction, case.variant)
        if side == FLOOR:
            call = case.floors[direction]
        elif side in checks:
            assert checks[side].right, checks[side]
            benchmark.extra_info["error ratio"] = checks[side].verdict.ratio
            call = functools.partial(case.formulations[side].run, direction)
        else:
            pytest.skip(f"{case.name} has no {side} side of its own")
        benchmark.extra_info["shape"] = case.shape
        rounds = 3 if case.name.startswith(("neck", "model")) else 20
        move = Mover(case.operands(direction))

        def afresh():
            move()
            evict()

        benchmark.pedantic(call, setup=afresh, rounds=rounds, warmup_rounds=1)

    return run
