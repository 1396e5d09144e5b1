"""How a run is timed on a device, and how its caches are emptied before it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor

from zigzag.bench.timing import Run, Stopwatch, timed

T = TypeVar("T")
Timing = Literal["clock", "events", "graph"]

_LEAST_EVICTED = 1 << 27
_GPU_EVICTED = 1 << 28
"""Bytes: more than the caches of any GPU."""
_GPU_PASSES = 48
"""Over those bytes: about three milliseconds, in which the launches of what is timed run ahead of the GPU."""


def stopwatch(device: str) -> Stopwatch:
    """What times a run on ``device``: the monotonic clock on a CPU, events in the current stream on a GPU."""
    return timed if device == "cpu" else event_timed


def event_timed(run: Callable[[], T]) -> tuple[float, T]:
    """Seconds between two events around a call, by the GPU's own clock, and what the call returned.

    What empties the caches runs ahead in the same stream: while it does, the launches of ``run`` queue up behind it.
    """
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    result = run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3, result


def graphed(run: Run) -> Run:
    """A call that replays ``run`` as one CUDA graph: its kernels alone, without the time that launching them takes."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return partial(_replay, graph, result)


def _replay(graph: torch.cuda.CUDAGraph, _kept: object) -> None:
    """Replay; the results that the capture made stay alive with the call."""
    graph.replay()


@cache
def _evictor(device: str) -> Tensor:
    size = _GPU_EVICTED if device == "cuda" else max(_LEAST_EVICTED, 4 * last_cache())
    return torch.ones(size // 4, device=device)


def evict(device: str = "cpu") -> None:
    """Empty the caches: what is timed next finds none of its data there, as in a neck after a convolution."""
    for _ in range(_GPU_PASSES if device == "cuda" else 1):
        _evictor(device).sum()


def last_cache() -> int:
    """Bytes of the processor's last cache; 0 where the system does not say."""
    levels = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    try:
        text = levels[-1].read_text(encoding="ascii").strip()
        return int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]]
    except (IndexError, KeyError, OSError, ValueError):
        return 0
