"""``zigzag replay``: a captured call by itself, for ncu, compute-sanitizer and a debugger."""

from __future__ import annotations

import math
from pathlib import Path

import torch

import zigzag
from zigzag.bench.settings import BenchError
from zigzag.bench.timing import Plan, few, interleave, timed
from zigzag.errors import first_line
from zigzag.profile import capture
from zigzag.profile.ranges import named

RANGE = "replay"
"""Name of the range around the first run: ``ncu --nvtx --nvtx-include replay/`` sees nothing else."""


def replay(path: Path, *, backend: str | None, runs: int) -> int:
    """Run a captured call, compare its results with those that were captured, and print both.

    Args:
        path: the file.
        backend: that runs it; None for the one that it was captured on.
        runs: how often; all but the first are timed.

    Returns:
        The exit status: 1 if a bit differs on the backend, instruction set or GPU, and torch of the capture; elsewhere,
        where last bits may differ, if a result is not finite where the captured one is.

    Raises:
        BenchError: the file or the backend cannot be used.
    """
    if runs < 1:
        raise BenchError(f"--runs must be 1 or more, got {runs}")
    call = capture.load(path)
    name = backend or call.backend
    known = zigzag.backends()
    if name not in known or name == "reference":
        raise BenchError(f"--backend must be one of {', '.join(sorted(known.keys() - {'reference'}))}, got {name!r}")
    if not known[name].available:
        raise BenchError(f"backend {name!r} cannot run here: {known[name].reason}")
    captured = f"{call.backend}, {call.origin}"
    call = call.on(name, known[name].device or "cpu")
    print(call)
    seconds, results = _first(call)
    same, difference = capture.differences(results, call.results)
    right = _told(difference, captured, f"{name}, {capture.origin(results)}", same=same)
    print(f"first run {1e3 * seconds:.4g} ms")
    if runs > 1:
        samples = interleave({RANGE: lambda: _finished(call)}, Plan(runs - 1, {RANGE: 1}))[RANGE]
        spread = "" if few(samples.runs) else f", p20-p80 {1e3 * samples.p20:.4g}-{1e3 * samples.p80:.4g}"
        print(f"{samples.runs} more, warm: median {1e3 * samples.median:.4g} ms{spread}")
    return 0 if right else 1


def _told(difference: float, captured: str, here: str, *, same: bool) -> bool:
    """Say how the results differ from those of the capture; whether they may."""
    if same:
        print("results: those that were captured, bit for bit")
    elif here == captured:
        print(f"results: WRONG: differ by {difference:.2g} (norms), and every bit must be that of the capture ({here})")
    else:
        print(f"results: differ by {difference:.2g} (norms); captured on {captured}; this is {here}")
    return same or (here != captured and math.isfinite(difference))


def _first(call: capture.Call) -> tuple[float, list[torch.Tensor]]:
    try:
        with named(RANGE):
            return timed(lambda: _finished(call))
    except (RuntimeError, TypeError, ValueError) as error:
        raise BenchError(f"the call cannot run: {first_line(error)}") from error


def _finished(call: capture.Call) -> list[torch.Tensor]:
    results = call.run()
    if any(result.is_cuda for result in results):
        torch.cuda.synchronize()
    return results
