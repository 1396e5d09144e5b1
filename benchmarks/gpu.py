"""Everything that wants a GPU, in one command and under nine minutes; needs no package registry.

    python benchmarks/gpu.py [build] [parity] [gpu] [sanitizer] [bench]     (all of them without arguments; make gpu)

Logs and bench.json go to build/gpu. Each part has its own time limit and can be run alone; a short table comes last.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "gpu"
ON_GPU = "(cuda or triton) and not cpu"
SMALL = "cuda and 2x20x8x6 and float32 and channels_last and test_gradients"
PARITY = (
    "test_region_stats", "test_region_codes", "test_region_norm", "test_dense_pathway", "test_neck",
    "test_position_sensitive_pool",
)  # fmt: skip


def pytest(*arguments):
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]


def sanitizer(tool):
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    files = [f"tests/{name}.py" for name in PARITY[:1] + PARITY[3:4]]
    return [program, f"--tool={tool}", "--error-exitcode=9", *pytest("-x", "-k", SMALL, *files)]


# part: its commands, which run side by side, and the seconds that they may take.
PARTS = {
    "build": ({"build": [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]}, 180),
    "parity": ({name: pytest("-k", ON_GPU, f"tests/{name}.py") for name in PARITY}, 150),
    "gpu": ({name: pytest("-k", "cuda or triton", f"tests/{name}.py")
             for name in ("test_gpu", "test_compile", "test_determinism", "test_cuda_binary")}, 120),
    "sanitizer": ({tool: sanitizer(tool) for tool in ("memcheck", "racecheck")}, 90),
    "bench": ({"bench": [sys.executable, "benchmarks/gpu_bench.py", "--out", str(OUT)]}, 120),
}  # fmt: skip


def environment():
    """Built for the GPU that is here alone; threads shared out among the parts' processes."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    architecture = f"{major}{minor}a-real" if major == 9 else f"{major}{minor}-real"
    mine = {"ZIGZAG_CUDA_ARCHITECTURES": architecture, "OMP_NUM_THREADS": "3", "PYTHONUNBUFFERED": "1"}
    return os.environ | mine | {"PYTHONPATH": str(ROOT)}


def run(part, env):
    """(command, exit code, seconds, last line of its log) of every command of a part."""
    commands, limit = PARTS[part]
    begin = time.monotonic()
    running = {}
    for name, command in commands.items():
        log = (OUT / f"{part}-{name}.log").open("w")
        running[name] = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
    for name, process in running.items():
        try:
            code = process.wait(max(limit - (time.monotonic() - begin), 1))
        except subprocess.TimeoutExpired:
            process.kill()
            code = 124
        lines = (OUT / f"{part}-{name}.log").read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        yield f"{part}: {name}", code, time.monotonic() - begin, last


def main():
    parts = sys.argv[1:] or list(PARTS)
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise SystemExit(f"parts are {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("make gpu: torch sees no GPU here")
    OUT.mkdir(parents=True, exist_ok=True)
    env = environment()
    found = [row for part in parts for row in run(part, env)]
    if "bench" in parts and (OUT / "bench-bench.log").exists():
        print((OUT / "bench-bench.log").read_text())
    for name, code, seconds, last in found:
        print(f"{name:28} {'ok' if code == 0 else f'FAILED ({code})':12} {seconds:6.0f} s  {last[:90]}")
    raise SystemExit(any(code != 0 for _, code, _, _ in found))


if __name__ == "__main__":
    main()
