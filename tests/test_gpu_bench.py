"""The benchmark that meets a GPU: run here on tiny maps of the CPU, with stand-ins for what only CUDA has."""

from __future__ import annotations

import importlib
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import zigzag

FOLDER = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the source tree")


@pytest.fixture
def benchmark_of(monkeypatch):
    """Imports a script of benchmarks/."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in ("gpu", "gpu_bench", "gpu_cases", "predict"):
        sys.modules.pop(name, None)


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, end):
        return (end.at - self.at) * 1e3


class Graph:
    def replay(self):
        pass


@pytest.fixture
def tiny(benchmark_of, monkeypatch):
    """gpu_bench on the CPU: backends "cpu" and "reference" in the place of cuda and triton."""
    bench, cases = benchmark_of("gpu_bench"), benchmark_of("gpu_cases")
    sizes = {"DEVICE": "cpu", "CHANNELS": 16, "BATCH": 2, "GROUPS": 4, "LEVELS": ((9, 8), (5, 4), (3, 2), (2, 1))}
    for name, value in (sizes | {"SMALL_LEVELS": (4, 3, 2, 1)}).items():
        monkeypatch.setattr(cases, name, value)
    for name, value in {"FLUSH": 64, "COPIED": 64, "SAMPLES": 2, "SIDES": ("cpu", "reference")}.items():
        monkeypatch.setattr(bench, name, value)
    nothing = {name: lambda *_: 0 for name in ("synchronize", "_sleep", "reset_peak_memory_stats", "memory_allocated")}
    stand_ins = {"max_memory_allocated": lambda: 1, "get_device_name": lambda: "none", "Event": Event}
    for name, value in (nothing | stand_ins | {"CUDAGraph": Graph, "graph": nullcontext}).items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    return bench


def test_every_figure_is_printed(tiny, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        tiny.main(["operations", "neck", "small", "compiled", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert left.value.code == 0, printed
    for side in ("cpu", "reference"):
        for operation in ("region_stats", "dense_pathway"):
            for way in ("forward", "backward"):
                assert f"{operation} {way}, {side}: share of copy bandwidth" in printed
        for figure in (
            f"neck forward, {side} / convolutions",
            f"neck forward+backward, {side} / convolutions",
            f"neck forward+backward, eager / {side}",
            f"neck forward+backward, compiled (max-autotune) / {side}",
            f"peak memory of a training step, {side} / eager",
            f"neck 224 forward, eager / {side} with a graph",
        ):
            assert figure in printed
    for operation in tiny.OPERATIONS:
        assert f"{operation} backward, triton / cuda" in printed
    assert {path.stem for path in tmp_path.glob("*.json")} == set(tiny.PARTS)
    rows = json.loads((tmp_path / "operations.json").read_text())["rows"]
    assert all(row["error"] <= 2 and row["share"] > 0 for row in rows)


def test_wrong_results_are_not_timed(tiny, tmp_path, capsys, monkeypatch):
    right = zigzag.ops.region_stats

    def wrong(x, *arguments, backend):
        sums, power = right(x, *arguments, backend=backend)
        return sums * (1.1 if backend == "cpu" else 1), power

    monkeypatch.setattr(zigzag.ops, "region_stats", wrong)
    with pytest.raises(SystemExit) as left:
        tiny.main(["operations", "--out", str(tmp_path)])
    assert left.value.code == 1
    found = json.loads((tmp_path / "operations.json").read_text())
    assert ("region_stats forward", "cpu") not in {(row["case"], row["side"]) for row in found["rows"]}
    assert ("region_stats forward", "reference") in {(row["case"], row["side"]) for row in found["rows"]}
    assert "region_stats, cpu: error" in found["faults"][0]


def test_limits_add_up_to_less_than_nine_minutes(benchmark_of):
    assert sum(limit for _, limit in benchmark_of("gpu").STEPS) < 9 * 60


@pytest.mark.parametrize(
    ("code", "limit", "state"),
    [("print('fine')", 60, 0), ("raise SystemExit(3)", 60, 3), ("import time; time.sleep(60)", 0.01, 124)],
)
def test_jobs_report_how_they_ended(benchmark_of, monkeypatch, tmp_path, code, limit, state):
    gpu = benchmark_of("gpu")
    monkeypatch.setattr(gpu, "OUT", tmp_path)
    found, _, last = gpu.run(gpu.Job("part", "a name", [sys.executable, "-c", code]), limit, {})
    assert found == state
    assert last == ("fine" if state == 0 else "")
    missing = gpu.run(gpu.Job("part", "none", [str(tmp_path / "nothing")]), limit, {})
    assert missing[0] == 127
