"""Everything that wants a GPU, in one command and under nine minutes; needs no package registry.

    python benchmarks/gpu.py [build] [warm] [parity] [gpu] [sanitizer] [bench] [compiled]    (all without any; make gpu)

Logs and the benchmark's JSON go to build/gpu. Each part has its own time limit, after which it is interrupted so that
its log says what it knows, and can be run alone; a short table comes last. A backend that should run here and does not
is a failure of every part but the build: tests would skip it.
A tool that is not installed is "absent", and no failure.
What is timed has the GPU to itself; the tests share it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "gpu"
OPERATIONS = ("region_stats", "region_codes", "region_norm", "dense_pathway", "position_sensitive_pool")
_MORE = "region_stats_hopper", "dense_pathway_stats", "neck", "autocast"
GPU = [f"tests/test_{name}.py" for name in ("gpu", "compile", "determinism")]
PARITY = [f"tests/test_{name}.py" for name in (*OPERATIONS, *_MORE)]
# A sweep draws new shapes all the time, and Triton would compile each.
ON_GPU = "((cuda or triton or hopper) and not cpu) and not (triton and sweep)"
# Every operation forward and backward once; with weights of two bytes and 16 channels products run on tensor cores.
_NORM = "(tapped and groups4 and not valid)"
SMALL = {
    "cuda": f"test_gradients and cuda and ((2x20x8x6 and float32 and (channels_last or {_NORM}))"
    " or (2x16x8x6 and bfloat16 and channels_last))",
    "hopper": "test_gradients and hopper and 2x64x15x15 and float32 and channels_last",
    "triton": f"test_gradients and triton and ((2x20x8x6 and float32"
    f" and ((channels_last and (halo1 or codes111)) or {_NORM}))"
    " or (2x16x8x6 and bfloat16 and channels_last))",
}
# Else the allocator puts tensors side by side, and what runs over one's end finds the next.
APART = {"memcheck": (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),), "racecheck": ()}
TOO_LONG, ABSENT = 124, 127
REFUSED = "Device not supported"  # compute-sanitizer, where it is not allowed to look
TOOLKIT = Path("/usr/local/cuda/bin")
GRACE = 8.0  # seconds to say what is known
SHARDS = 13  # odd: backends take turns among the tests
WARMERS = 6  # each takes memory for a training step
LARGE = "more_elements"  # of tests that want most of the memory


@dataclass(frozen=True)
class Job:
    part: str
    name: str
    command: list[str]
    variables: tuple[tuple[str, str], ...] = ()


def pytest(*arguments):
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]


def sanitizer(tool, backend):
    """Our kernels alone are looked at, and no error that the CUDA runtime recovers from in torch."""
    program = shutil.which("compute-sanitizer") or str(TOOLKIT / "compute-sanitizer")
    kernels = [f"kne={name}" for name in triton_kernels()] if backend == "triton" else ["kns=zigzag"]
    named = [word for kernel in kernels for word in ("--kernel-name", kernel)]
    options = [f"--tool={tool}", "--error-exitcode=9", *named, "--report-api-errors", "no"]
    return [program, *options, *pytest("-x", "-k", SMALL[backend], *PARITY[: len(OPERATIONS) - 1])]


def shards(count):
    return [(f"shard {i}", (("ZIGZAG_SHARD", f"{i}/{count}"),)) for i in range(count)]


def triton_kernels():
    """Names of all Triton functions; a kernel has its function's, and no namespace."""
    sources = (path.read_text() for path in sorted((ROOT / "zigzag" / "kernels").glob("*.py")))
    return [name for source in sources for name in re.findall(r"@triton\.jit(?:\(.*\))?\ndef (\w+)", source)]


def bench(*parts):
    return [sys.executable, "benchmarks/gpu_bench.py", "--out", str(OUT), *parts]


# What runs side by side, and the seconds that it may take.
STEPS = (
    ([Job("build", "build", [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"])], 80),
    (
        [
            Job("backends", "backends", [sys.executable, "benchmarks/gpu.py", "backends"]),
            *(Job("warm", f"{i} of {WARMERS}", [sys.executable, "benchmarks/gpu_warm.py", f"{i}/{WARMERS}"])
              for i in range(WARMERS)),
            *(Job("parity", name, pytest("-k", ON_GPU, *PARITY), variables) for name, variables in shards(SHARDS)),
            *(Job("gpu", name, pytest("-k", f"(cuda or triton or hopper) and not {LARGE}", *GPU), variables)
              for name, variables in shards(len(GPU) + 2)),
            Job("gpu", "large", pytest("-k", LARGE, "tests/test_gpu.py")),
            Job("gpu", "binary", pytest("tests/test_cuda_binary.py")),
            *(Job("sanitizer", f"{tool} {backend}", sanitizer(tool, backend), APART[tool])
              for tool in APART for backend in SMALL),
        ],
        240,
    ),
    ([Job("bench", "bench", bench())], 100),
    ([Job("compiled", "compiled", bench("compiled"))], 84),
)  # fmt: skip
PARTS = list(dict.fromkeys(job.part for jobs, _ in STEPS for job in jobs))


def unable(backends, capability):
    """Why backends do not run that a GPU of this compute capability has; one sentence each."""
    wanted = ("cuda", "triton", "hopper") if capability >= (9, 0) else ("cuda", "triton")
    return [f"{name}: {backends[name].reason}" for name in wanted if not backends[name].available]


def environment():
    """Built for the GPU that is here alone; one thread each, many processes share the processor."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    architecture = f"{major}{minor}a-real" if major == 9 else f"{major}{minor}-real"
    # Another compiler may spill a register: a test says so, and all else is measured.
    mine = {"ZIGZAG_CUDA_ARCHITECTURES": architecture, "ZIGZAG_ALLOW_SPILLS": "1"}
    mine |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return os.environ | mine | {"PYTHONPATH": str(ROOT), "PATH": search_path()}


def search_path():
    """PATH, with the CUDA toolkit where nvcc is nowhere else: CMake looks for it there alone."""
    path = os.environ.get("PATH", "")
    elsewhere = shutil.which("nvcc") is None and TOOLKIT.is_dir()
    return f"{path}{os.pathsep}{TOOLKIT}" if elsewhere else path


def run(job, limit, env):
    """(exit code, seconds, last line of its log)."""
    begin = time.monotonic()
    path = OUT / f"{job.part}-{job.name.replace(' ', '-')}.log"
    with path.open("w") as log:
        try:
            process = subprocess.Popen(
                job.command, cwd=ROOT, env=env | dict(job.variables), stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError as error:
            return ABSENT, 0.0, str(error)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            stop(process)
            code = TOO_LONG
    text = path.read_text(errors="replace")
    if code and REFUSED in text:
        code = ABSENT
    return code, time.monotonic() - begin, next((line for line in reversed(text.split("\n")) if line.strip()), "")


def stop(process):
    """Interrupted, pytest prints the failures that it has seen; what it started ends with it."""
    os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def failed(job, code):
    """What was not compiled ahead, the benchmark compiles; how long max-autotune searches is for torch to say."""
    excused = job.part == "warm" or (job.part == "compiled" and code == TOO_LONG)
    return code not in (0, ABSENT) and not excused


def main():
    parts = sys.argv[1:] or PARTS
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise SystemExit(f"parts are {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("make gpu: torch sees no GPU here")
    if parts == ["backends"]:
        import zigzag

        raise SystemExit("; ".join(unable(zigzag.backends(), torch.cuda.get_device_capability())) or 0)
    parts = [*parts, *(["backends"] if set(parts) - {"build"} else [])]
    OUT.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, it would be by all jobs
    env = environment()
    table = []
    for jobs, limit in STEPS:
        chosen = [job for job in jobs if job.part in parts]
        with ThreadPoolExecutor(len(chosen) or 1) as pool:
            table += zip(chosen, pool.map(lambda job: run(job, limit, env), chosen), strict=True)  # noqa: B023
    for job, _ in table:
        if job.part in ("bench", "compiled"):
            print((OUT / f"{job.part}-{job.name}.log").read_text())
    for job, (code, seconds, last) in table:
        state = {0: "ok", TOO_LONG: "TOO LONG", ABSENT: "absent"}.get(code, f"FAILED ({code})")
        print(f"{f'{job.part}: {job.name}':28} {state:12} {seconds:6.0f} s  {last[:90]}")
    raise SystemExit(any(failed(job, code) for job, (code, _, _) in table))


if __name__ == "__main__":
    main()
