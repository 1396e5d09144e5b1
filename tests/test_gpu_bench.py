"""The benchmark that meets a GPU: run here on tiny maps of the CPU, with stand-ins for what only CUDA has."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import call

import zigzag

FOLDER = Path(__file__).parents[1] / "benchmarks"
NEEDED = ("matplotlib", "rich", "torchvision")

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the source tree")


@pytest.fixture
def benchmark_of(monkeypatch):
    """Imports a script of benchmarks/."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in ("gpu", "gpu_bench"):
        sys.modules.pop(name, None)


@pytest.fixture
def tiny(benchmark_of, monkeypatch):
    """gpu_bench on the CPU: backends "cpu" and "reference" under the names of cuda and triton."""
    for name in NEEDED:
        pytest.importorskip(name)
    bench = benchmark_of("gpu_bench")
    from zigzag.backends import Backend, Backends
    from zigzag.bench import ceilings, figures, registry, run, runner, timing, workload
    from zigzag.bench.settings import Settings

    for part in bench.PARTS.values():
        for fields in part.values():
            monkeypatch.setitem(fields, "size", 64)
            monkeypatch.setitem(fields, "batch", min(fields.get("batch", 1), 2))
    monkeypatch.setattr(bench, "COMMON", {"device": "cpu", "backbone": "resnet18", "quick": True})
    monkeypatch.setattr(Settings, "__post_init__", lambda _: None)  # which asks for a GPU for graphs
    monkeypatch.setattr(figures, "LINES", {"cpu": figures.LINES["cuda"]})
    stand_ins = {"cuda": "cpu", "hopper": "cpu", "triton": "reference"}
    found = Backends({name: Backend(name, "cuda", lambda: None) for name in stand_ins})
    monkeypatch.setattr(zigzag, "backends", lambda: found)
    rivals = registry.rivals
    monkeypatch.setattr(registry, "rivals", lambda operation, _: rivals(operation, "cuda"))
    under = workload.Formulation.under
    monkeypatch.setattr(workload.Formulation, "under", lambda self, name: under(self, stand_ins.get(name, name)))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    nothing = ceilings.Ceilings({1: 1e9}, {1: 1e9}, 1e9)
    for name, value in {
        (ceilings, "measure"): lambda *_, **__: nothing,
        (run.page, "write"): lambda *_: None,
        (runner, "evict"): lambda _: None,
        (runner, "graphed"): lambda call: call,
        (runner, "peak_growth"): lambda call, _: (call(), 1 << 20),
        (runner, "_WARM_UP"): 0.0,
        (runner, "plan"): lambda estimates, _, **__: timing.plan(estimates, 1e-9, least=1, most=1),
    }.items():
        monkeypatch.setattr(*name, value)
    importlib.import_module("zigzag.models")  # its necks are not to be the small ones
    original = zigzag.nn.ZigZagNeck
    monkeypatch.setattr(
        zigzag.nn, "ZigZagNeck", lambda in_channels, **own: original(in_channels, 8, norm_groups=4, **own)
    )
    return bench


def ran(bench, capsys, *arguments):
    """(exit code, what was printed)."""
    with pytest.raises(SystemExit) as left:
        bench.main([*map(str, arguments)])
    return left.value.code, capsys.readouterr().out


def test_every_figure_is_printed(tiny, tmp_path, capsys):
    from zigzag.bench import rows, session

    code, printed = ran(tiny, capsys, "operations", "neck", "small", "graph", "compiled", "--out", tmp_path)
    assert code == 0, printed
    table = printed[printed.rindex("Figures") :]
    for operation in ("region_stats", "dense_pathway"):
        for way in ("forward", "backward"):
            assert f"{operation}, level 1, {way}: share of the copy bandwidth" in table
    for figure, target in {
        "neck, forward / its fusion convolutions alone": "≤ 1.35",
        "neck, forward + backward / the same of those convolutions": "≤ 1.35",
        "neck, forward, both as CUDA graphs": "≤ 1.35",
        "neck, forward + backward, both as CUDA graphs": "≤ 1.35",
        "neck, forward + backward: eager / this": "≥ 4",
        "neck, forward + backward: compiled / this": "≥ 2",
        "peak memory of the neck's forward + backward / eager's": "≤ 0.4",
        "neck of a small image, forward: eager / a CUDA graph of this": "≥ 4",
    }.items():
        line = next(line for line in table.splitlines() if figure in line)
        assert target in line
    for operation in ("region_stats", "dense_pathway", "region_codes", "region_norm"):
        for way in ("forward", "forward+backward"):
            assert f"{operation}, {way} / the fastest backend" in table
    assert {path.parent.name for path in tmp_path.glob("*/rows.json")} == {
        "operations",
        "neck",
        "small",
        "small-graph",
        "neck-graph",
        "compiled",
    }
    found = rows.read(tmp_path / "operations" / "rows.json").rows
    assert {"zigzag", "cuda", "triton", "eager", "floor"} <= {row.backend for row in found}
    assert all(row.status == "ok" and row.copy_share > 0 for row in found)
    assert not any("cut off" in text for text in session.read(tmp_path / "operations" / session.NAME).warnings)
    for name in ("small-graph", "neck-graph"):
        assert {row.timing for row in rows.read(tmp_path / name / "rows.json").rows} == {"graph"}


def test_wrong_results_are_not_timed(tiny, tmp_path, capsys, monkeypatch):
    from zigzag.bench import rows

    right = zigzag.ops.region_stats

    def wrong(x, *arguments, **named):
        sums, power = right(x, *arguments, **named)
        spoiled = importlib.import_module("zigzag.backends")._chosen == "cpu"
        return sums * (1.1 if spoiled else 1), power

    monkeypatch.setattr(zigzag.ops, "region_stats", wrong)
    code, printed = ran(tiny, capsys, "operations", "--out", tmp_path)
    assert code == 1
    assert "operations: WRONG: cuda, region_stats.level1 3x3 forward" in printed
    found = {(row.backend, row.key.split()[0]): row for row in rows.read(tmp_path / "operations" / "rows.json").rows}
    assert found["cuda", "region_stats.level1"].median is None
    assert found["triton", "region_stats.level1"].median is not None
    assert found["cuda", "dense_pathway.level1"].median is not None


def test_what_is_cut_off_leaves_the_rows_of_what_was_done(tiny, tmp_path, capsys, monkeypatch):
    from zigzag.bench import rows, run, runner, session

    begun = []

    def take(self, right=runner.Measurement.take):
        begun.append(self.case.name)
        if len(begun) == 3:
            raise KeyboardInterrupt
        right(self)

    monkeypatch.setattr(runner, "INSTALMENTS", 1)  # as on a GPU
    monkeypatch.setattr(run.Measurement, "take", take)
    with pytest.raises(KeyboardInterrupt):
        tiny.main(["operations", "--out", str(tmp_path)])
    found = rows.read(tmp_path / "operations" / "rows.json").rows
    assert {row.case for row in found} == set(begun[:2])
    left = session.read(tmp_path / "operations" / session.NAME)
    assert left.cases == len(found)
    assert "cut off" in left.warnings[0]


def test_what_fails_keeps_nothing_else_from_being_measured(tiny, tmp_path, capsys, monkeypatch):
    from zigzag.bench import operations, rows, run

    class CompilationError(Exception):
        """As Triton's: no RuntimeError."""

    def broken(*_, **__):
        raise CompilationError("no such kernel")

    def failing(settings, screen, right=run.measure):
        return broken() if settings.graph else right(settings, screen)

    monkeypatch.setattr(operations, "_away_from_kink", broken)
    monkeypatch.setattr(run, "measure", failing)
    code, printed = ran(tiny, capsys, "operations", "small", "--out", tmp_path)
    assert code == 1
    assert "operations: failed: dense_pathway.level1 forward float32 channels_last K=3,5,7: no such kernel" in printed
    assert "small-graph: CompilationError('no such kernel')" in printed
    assert "dense_pathway" not in {row.operation for row in rows.read(tmp_path / "operations" / "rows.json").rows}
    assert all(row.status == "ok" for row in rows.read(tmp_path / "operations" / "rows.json").rows)
    assert rows.read(tmp_path / "small" / "rows.json").rows


def test_limits_add_up_to_less_than_nine_minutes(benchmark_of):
    gpu = benchmark_of("gpu")
    assert sum(limit + gpu.GRACE for _, limit in gpu.STEPS) < 9 * 60


@pytest.mark.parametrize(
    ("code", "limit", "state"),
    [("print('fine')", 60, 0), ("raise SystemExit(3)", 60, 3), ("import time; time.sleep(60)", 0.01, 124)],
)
def test_jobs_report_how_they_ended(benchmark_of, monkeypatch, tmp_path, code, limit, state):
    gpu = benchmark_of("gpu")
    monkeypatch.setattr(gpu, "OUT", tmp_path)
    found, _, last = gpu.run(gpu.Job("part", "a name", [sys.executable, "-c", code]), limit, {})
    assert found == state
    assert last in {0: ["fine"], 3: [""], 124: ["", "KeyboardInterrupt"]}[state]  # heard, or before it could be
    missing = gpu.run(gpu.Job("part", "none", [str(tmp_path / "nothing")]), limit, {})
    assert missing[0] == gpu.ABSENT


INTERRUPTED = """
import pathlib, sys, time
try:
    pathlib.Path(sys.argv[1]).touch()
    time.sleep(600)
except KeyboardInterrupt:
    print("what is known")
    if len(sys.argv) > 2:
        time.sleep(600)
"""


@pytest.mark.parametrize("more", [[], ["and does not end"]], ids=["ends", "stays"])
def test_jobs_that_take_too_long_say_what_they_know(benchmark_of, monkeypatch, tmp_path, more):
    """Their times are counted here from what they have done, as a busy machine may let them wait for any time."""
    gpu = benchmark_of("gpu")
    monkeypatch.setattr(gpu, "OUT", tmp_path)
    monkeypatch.setattr(gpu, "GRACE", 0.2)
    begun = tmp_path / "begun"
    reached = [begun.exists, (tmp_path / "part-a-name.log").read_text]

    class Popen(subprocess.Popen):
        def wait(self, timeout=None):
            while reached and not reached[0]() and self.poll() is None:
                time.sleep(0.01)
            del reached[:1]
            return super().wait(timeout)

    monkeypatch.setattr(gpu.subprocess, "Popen", Popen)
    command = [sys.executable, "-u", "-c", INTERRUPTED, str(begun), *more]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as gpu.main does
    try:
        found, _, last = gpu.run(gpu.Job("part", "a name", command), 0.5, {})
    finally:
        signal.signal(signal.SIGINT, before)
    assert (found, last) == (gpu.TOO_LONG, "what is known")


def test_a_tool_that_the_machine_refuses_is_absent(benchmark_of, monkeypatch, tmp_path):
    gpu = benchmark_of("gpu")
    monkeypatch.setattr(gpu, "OUT", tmp_path)
    code = f"print('========= Error: {gpu.REFUSED}'); raise SystemExit(1)"
    assert gpu.run(gpu.Job("part", "a name", [sys.executable, "-c", code]), 60, {})[0] == gpu.ABSENT


@pytest.mark.parametrize(
    ("part", "expected"), [("small", {"evaluate", "sum_strips"}), ("operations", {"evaluate", "spread", "spread_sums"})]
)
def test_shares_compile_every_kernel_once(benchmark_of, monkeypatch, part, expected):
    """On tensors without values, in the place of those of a GPU."""
    pytest.importorskip("triton")
    from zigzag.backends import Backend
    from zigzag.kernels.launch import launches_to
    from zigzag.ops import registration

    def below_autograd(self, arguments):
        module = importlib.import_module(f"zigzag.kernels.{self.operation.name.removesuffix('_backward')}")
        with torch._C._AutoDispatchBelowAutograd():
            return getattr(module, self.operation.name)(*arguments)

    monkeypatch.setitem(sys.modules["zigzag.backends"]._REGISTRY, "triton", Backend("triton", "meta", lambda: None))
    monkeypatch.setattr(registration.BackendOperation, "below_autograd", below_autograd)
    # What else runs has no generator and no autocast there.
    monkeypatch.setattr("zigzag.bench.operations.noise_like", lambda tensors: [torch.empty_like(x) for x in tensors])
    monkeypatch.setattr(torch, "autocast", lambda *_, **_options: contextlib.nullcontext())
    warm = benchmark_of("gpu_warm")
    compiled = []

    class Kernel:
        def __init__(self, kernel, arguments):
            self.__name__, self.params = kernel.__name__, kernel.params
            self.key = warm.key_of(kernel, arguments, {})

        def warmup(self, *_, **options):
            del options["grid"]
            compiled.append((self.__name__, self.key, *sorted(options.items(), key=str)))
            return self

        run = None

    shares = [warm.Share(number, 3) for number in range(3)]
    for share in shares:
        hook = lambda kernel, grid, arguments, options: share(Kernel(kernel, arguments), grid, arguments, options)  # noqa: B023, E731
        with launches_to(hook), zigzag.use_backend("triton"):
            getattr(warm, part)("meta")
    assert len(set(compiled)) == len(compiled) == len(shares[0].seen)
    assert all(share.compiled > 0 for share in shares)
    assert expected <= {name for name, *_ in compiled}


def backends_with(**reasons):
    """cuda, triton and hopper as a GPU has them; those named cannot run, for a reason."""
    from zigzag.backends import Backend, Backends

    names = ("cuda", "triton", "hopper")
    return Backends({name: Backend(name, "cuda", lambda name=name: reasons.get(name)) for name in names})


@pytest.mark.parametrize(
    ("reasons", "capability", "said"),
    [
        ({}, (9, 0), []),
        ({"cuda": "was not built"}, (8, 0), ["cuda: was not built"]),
        ({"hopper": "needs 9.0"}, (8, 0), []),
        ({"triton": "is not installed", "hopper": "needs 9.0"}, (9, 0), ["triton: is not", "hopper: needs 9.0"]),
    ],
)
def test_backends_that_should_run_here_and_do_not_are_named(benchmark_of, monkeypatch, reasons, capability, said):
    gpu = benchmark_of("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(zigzag, "backends", lambda: backends_with(**reasons))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "backends"])
    with pytest.raises(SystemExit) as left:
        gpu.main()
    assert bool(left.value.code) == bool(said)
    assert all(part in str(left.value.code) for part in said)


def exit_code(gpu, monkeypatch, tmp_path, part, codes):
    """Of `make gpu` with one part, whose jobs and the check of backends end as `codes` says, else with 0."""

    def run(job, *_):
        (tmp_path / f"{job.part}-{job.name}.log").write_text("")
        return codes.get(job.part, 0), 1.0, f"said by {job.part}"

    for name, value in {"run": run, "OUT": tmp_path, "environment": dict}.items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "argv", ["gpu.py", part])
    with pytest.raises(SystemExit) as left:
        gpu.main()
    return left.value.code


@pytest.mark.parametrize(("part", "code"), [("parity", 1), ("sanitizer", 1), ("bench", 1), ("build", 0)])
def test_a_part_by_itself_fails_without_the_backends(benchmark_of, monkeypatch, tmp_path, capsys, part, code):
    """Its tests would all be skipped, and it would be "ok"."""
    assert exit_code(benchmark_of("gpu"), monkeypatch, tmp_path, part, {"backends": 1}) == code
    assert ("said by backends" in capsys.readouterr().out) == (code == 1)


@pytest.mark.parametrize(
    ("part", "ended", "state", "code"),
    [
        ("sanitizer", 127, "absent", 0),
        ("sanitizer", 9, "FAILED (9)", 1),
        ("compiled", 124, "TOO LONG", 0),
        ("compiled", 1, "FAILED (1)", 1),
        ("bench", 124, "TOO LONG", 1),
    ],
)
def test_what_is_absent_or_torchs_own_to_search_is_no_failure(
    benchmark_of, monkeypatch, tmp_path, capsys, part, ended, state, code
):
    assert exit_code(benchmark_of("gpu"), monkeypatch, tmp_path, part, {part: ended}) == code
    assert state in capsys.readouterr().out


@pytest.mark.parametrize("known", [False, True])
def test_the_toolkit_comes_last_where_nvcc_is_nowhere_else(benchmark_of, monkeypatch, tmp_path, known):
    gpu = benchmark_of("gpu")
    monkeypatch.setattr(gpu, "TOOLKIT", tmp_path)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: f"/bin/{name}" if known else None)
    monkeypatch.setenv("PATH", "/bin")
    assert gpu.search_path() == ("/bin" if known else f"/bin:{tmp_path}")


@pytest.mark.parametrize(("which", "most"), [("cuda", 25), ("triton", 10), ("hopper", 2)])
def test_the_sanitizers_run_every_operation(benchmark_of, which, most):
    """On small cases, of which there are few: each takes long there."""
    gpu = benchmark_of("gpu")
    words = gpu.sanitizer("memcheck", which)
    command = [sys.executable, "-m", "pytest", "--collect-only", *words[words.index("pytest") + 1 :]]
    found = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=True).stdout
    tests = re.findall(r"test_(\w+)\.py::test_gradients\[\S*?(cpu|cuda|hopper|triton|reference)-(\S+)\]", found)
    assert {backend for _, backend, _ in tests} == {which}
    wanted = {"region_stats"} if which == "hopper" else set(gpu.OPERATIONS[:4])
    assert wanted <= {name for name, *_ in tests} <= set(gpu.OPERATIONS[:4])
    on_tensor_cores = [
        case for name, _, case in tests if name == "region_codes" and "2x16x8x6-float32-bfloat16" in case
    ]
    assert bool(on_tensor_cores) == (which != "hopper")
    assert len(tests) <= most


def test_the_sanitizers_know_tritons_kernels_by_name(benchmark_of):
    words = benchmark_of("gpu").sanitizer("racecheck", "triton")
    assert {"kne=sum_strips", "kne=evaluate", "kne=gather"} <= set(words)


# One of each way in which tests give a backend something other than an operation of its own.
MOVED = "cuda and not cpu and (learns or fuse or image_sizes or single_image or image_alone or codes_are or in_the_neck"
MOVED += " or fewer_passes or (test_region_context and float32-3-mean)"
MOVED += " or (test_gradients and stable-2-float32-channels_last-valid))"


@pytest.mark.skipif(zigzag.backends()["cuda"].device != "cpu", reason="the emulated CUDA kernels are not loaded")
def test_necks_of_tests_are_moved_to_the_gpu(monkeypatch):
    """Without one, the stand-ins take what was not."""
    tests = FOLDER.parent / "tests"
    files = [str(tests / f"test_{name}.py") for name in ("neck", "determinism", "dense_pathway_stats")]
    monkeypatch.setenv("PYTHONPATH", str(tests), prepend=os.pathsep)
    call(["-m", "pytest", "-q", "-p", "far_device", "-p", "no:cacheprovider", "-k", MOVED, *files], FOLDER.parent)
