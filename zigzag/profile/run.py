"""One run of ``zigzag profile``: a trace of the neck on the pyramid of a photograph, and what it says."""

from __future__ import annotations

import statistics
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity

import zigzag
from zigzag.backends import select
from zigzag.bench import ceilings
from zigzag.bench import rows as bench_rows
from zigzag.bench.console import Screen
from zigzag.bench.files import whole
from zigzag.bench.prepare import Source
from zigzag.bench.settings import BenchError, Settings
from zigzag.bench.timing import Plan, interleave
from zigzag.bench.workload import Variant, build_neck, leaf, noise_like
from zigzag.profile import capture, result, rows, trace
from zigzag.profile.ranges import BACKWARD, FORWARD, named, ranges
from zigzag.profile.result import Result
from zigzag.report import page

TRACE = "trace.json.gz"

_PASSES = 3
_MOST_MOMENTS = 1500
"""Moments of memory that are kept, the peak of every stretch: more cannot be told apart in a picture."""


@dataclass(frozen=True)
class Asked:
    """The command line of ``zigzag profile``, checked.

    Attributes:
        settings: photograph, backbone, dtype, batch, device, threads and folder.
        kernel: size of the region kernel.
        backward: profile a training step, not the forward pass alone.
        backend: of the operations; None for the default.
        capture: the call to capture, NAME:NUMBER, and the file for it.
    """

    settings: Settings
    kernel: int = 3
    backward: bool = True
    backend: str | None = None
    capture: tuple[str, Path] | None = None

    def __post_init__(self) -> None:
        device = self.settings.device
        able = {
            name: backend.reason or ("" if backend.device == device else f"runs on {backend.device} tensors")
            for name, backend in zigzag.backends().items()
            if name != "reference"  # stock PyTorch throughout: nothing in its profile tells one operation from another
        }
        wanted = (
            able if self.backend is None else {self.backend: able.get(self.backend, f"not one of {', '.join(able)}")}
        )
        if all(wanted.values()):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in wanted.items())
            raise BenchError(f"no backend can be profiled on {device}: {reasons}")

    def command(self) -> str:
        """The command line that does this again."""
        words = [self.settings.command().replace("bench", "profile", 1), f"--kernel {self.kernel}"]
        words += [] if self.backward else ["--forward"]
        return " ".join([*words, f"--backend {self.backend}"] if self.backend else words)


class Subject:
    """The neck on its maps, ready to run."""

    def __init__(self, asked: Asked) -> None:
        settings = asked.settings
        torch.set_num_threads(settings.threads)
        variant = Variant(asked.kernel, settings.dtype or "float32", "channels_last", ())
        self.maps = [leaf(values) for values in Source(settings).maps(settings.size, variant)]
        self.neck = build_neck(self.maps, asked.kernel)
        self.backward = asked.backward
        self.gradients: list[Tensor] = []

    def run(self) -> None:
        """One forward pass and, if asked for, one backward pass."""
        with named(FORWARD), torch.set_grad_enabled(self.backward):
            outputs = self.neck(self.maps)
        if self.backward:
            self.gradients = self.gradients or noise_like(outputs)
            with named(BACKWARD):
                torch.autograd.grad(outputs, [*self.maps, *self.neck.parameters()], self.gradients)
        if self.maps[0].is_cuda:
            torch.cuda.synchronize()

    def run_named(self) -> None:
        """The same with the neck's steps named."""
        with ranges(self.neck):
            self.run()


def run(asked: Asked, screen: Screen | None = None) -> int:
    """Profile, show what was found and write it down, or capture one call.

    Returns:
        The exit status, 0.

    Raises:
        BenchError: an input cannot be used; the message says why.
    """
    screen = screen or Screen()
    wanted = asked.capture and capture.parse(asked.capture[0])
    screen.tell("photograph, backbone and neck")
    subject = Subject(asked)
    with zigzag.use_backend(asked.backend) if asked.backend else nullcontext():
        subject.run()
        if wanted is None or asked.capture is None:
            return _profile(asked, subject, screen)
        call, path = capture.capture(subject.run, *wanted), asked.capture[1]
    capture.save(path, call)
    screen.note(f"{call}: in {path}; zigzag replay {path} runs it")
    return 0


def _profile(asked: Asked, subject: Subject, screen: Screen) -> int:
    settings = asked.settings
    screen.tell("ceilings of the roofline")
    ceiling = ceilings.measure(subject.maps[0].dtype, settings.device)
    screen.tell("passes without a profiler")
    plain = interleave({"plain": subject.run, "named": subject.run_named}, Plan(_PASSES, {"plain": 1, "named": 1}))
    screen.tell("passes under the profiler")
    settings.out.mkdir(parents=True, exist_ok=True)
    passes = _traced(subject, settings.out / TRACE)
    sizes = [(values.shape[2], values.shape[3]) for values in subject.maps]
    backend, itemsize = select(asked.backend, "dense_pathway", subject.maps[0]), subject.maps[0].element_size()
    known = rows.costs(subject.neck.config, sizes, batch=settings.batch, itemsize=itemsize, backend=backend)
    found = Result(
        command=asked.command(),
        machine=bench_rows.machine(settings.threads, settings.device),
        seconds={name: samples.median for name, samples in plain.items()}
        | {"profiled": statistics.median(one.wall for one in passes) / 1e6},
        operations=rows.rows(passes, known, ceiling, places=False),
        places=rows.rows(passes, known, ceiling, places=True),
        peaks=rows.peaks(passes[-1].memory),
        memory=result.thinned(passes[-1].memory, _MOST_MOMENTS),
    )
    result.write(settings.out / page.PROFILE, found)
    _show(found, screen)
    page.write(settings.out)
    screen.note(f"in {settings.out}: {TRACE} (for ui.perfetto.dev or chrome://tracing), {page.PROFILE}, {page.NAME}")
    return 0


def _traced(subject: Subject, path: Path) -> list[trace.Pass]:
    """Profile some passes into a Chrome trace, and read it."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if subject.maps[0].is_cuda else [])]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        for _ in range(_PASSES):
            with named(trace.WHOLE):
                subject.run_named()
    with whole(path) as temporary:
        profiler.export_chrome_trace(str(temporary))
    return trace.read(path)


def _show(found: Result, screen: Screen) -> None:
    table = Table(header_style="bold", pad_edge=False, box=None)
    table.add_column("pass")
    table.add_column("operation")
    for name in rows.COLUMNS:
        table.add_column(name, justify="right")
    last = ""
    for row in found.operations:
        if row.direction != last:
            table.add_section()
        table.add_row(row.direction if row.direction != last else "", row.operation, *row.cells())
        last = row.direction
    screen.console.print(table)
    plain, with_names, profiled = (found.seconds[name] for name in ("plain", "named", "profiled"))
    screen.note(
        f"a pass takes {plain:.4g} s; with its steps named {with_names / plain - 1:+.1%}, "
        f"under the profiler {profiled / plain - 1:+.1%}"
    )
    if found.peaks:
        highest = max(found.peaks, key=lambda peak: peak.peak)
        where = f"{highest.direction}, {highest.part}"
        screen.note(f"memory: at most {highest.peak / 2**20:.1f} MiB above the start of the pass, in {where}")
