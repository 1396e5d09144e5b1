"""One run of the benchmark, from the photograph to the report."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL.Image import Image
from torch import Tensor

import zigzag
from zigzag.bench import ceilings, page, pictures, pyramid, rows, runner, sweep
from zigzag.bench.cases import Entry, select
from zigzag.bench.console import Screen
from zigzag.bench.figures import figures
from zigzag.bench.rows import Row
from zigzag.bench.settings import ALLOCATOR, BenchError, Settings
from zigzag.bench.sweep import Point
from zigzag.bench.workload import OURS, Workload, build_neck

BUSY = 0.5
"""Load average above which a run warns that it does not have the machine for itself."""


def run(settings: Settings, screen: Screen | None = None) -> int:
    """Measure what ``settings`` ask for, show it and write it down.

    Returns:
        The exit status: 0, or 1 if a result was wrong or ours did not run.

    Raises:
        BenchError: an input cannot be used; the message says why.
    """
    screen = screen or Screen()
    chosen = select(settings.only, settings.kernels)
    if not chosen:
        names = ", ".join(sorted({entry.name for entry, _ in select("", (3, 1))}))
        raise BenchError(f"--filter {settings.only!r} matches none of {names}")
    torch.set_num_threads(settings.threads)
    about = rows.machine(settings.threads)
    warnings = _warnings(about)
    _introduce(screen, about, warnings)
    session = _Session(settings, screen)
    with screen.working(len(chosen) + 4):
        session.prepare()
        session.measure(chosen)
    swept = [point.row for point in session.points if point.row not in session.rows]
    refused = _refused([*session.rows, *swept])
    screen.rows(session.rows)
    found = figures(session.rows)
    screen.figures(found)
    settings.out.mkdir(parents=True, exist_ok=True)
    rows.write(settings.out / "rows.json", [*session.rows, *swept], about)
    pictures.side_by_side([image for _, image in session.pictures]).save(settings.out / "neck.png")
    report = page.Report(
        machine=about,
        command=settings.command(),
        rows=session.rows,
        figures=found,
        points=session.points,
        ceilings=session.ceilings,
        pictures=[(caption, pictures.data_uri(image)) for caption, image in session.pictures],
        warnings=[*refused, *warnings],
    )
    page.write(settings.out / "report.html", report)
    screen.note(f"in {settings.out}: report.html, rows.json, neck.png")
    for refusal in refused:
        screen.note(refusal, warning=True)
    return 1 if refused else 0


class _Session:
    """The state of one run."""

    def __init__(self, settings: Settings, screen: Screen) -> None:
        self.settings = settings
        self.screen = screen
        self.rows: list[Row] = []
        self.points: list[Point] = []
        self.photograph: Image
        self.ceilings: ceilings.Ceilings
        self.pictures: list[tuple[str, Image]] = []

    def prepare(self) -> None:
        """Photograph, backbone, pyramid, ceilings."""
        self.screen.tell("photograph and backbone")
        self._original = pyramid.load_photograph(self.settings.image)
        self._backbone = pyramid.load_backbone(self.settings)
        self.photograph = pyramid.crop(self._original, self.settings.size)
        self._features = self._pyramid(self.settings.size)
        self.screen.advance()
        self.screen.tell("ceilings of the roofline")
        self.ceilings = ceilings.measure(self._features[0].dtype)
        self.screen.advance()

    def _pyramid(self, size: int) -> list[Tensor]:
        image = pyramid.normalised(pyramid.crop(self._original, size))
        dtype = getattr(torch, self.settings.dtype)
        return [level.to(dtype) for level in pyramid.features(self._backbone, image)]

    def measure(self, chosen: Sequence[tuple[Entry, int]]) -> None:
        """All chosen cases, one region kernel after the other, and the sweeps."""
        for kernel in dict.fromkeys(kernel for _, kernel in chosen):
            self.screen.tell(f"building the neck, {kernel}x{kernel} region kernel")
            work = Workload(self._features, build_neck(self._features, kernel), compiled=self.settings.compiled)
            for entry, own in chosen:
                if own == kernel:
                    self._case(entry, work)
            if kernel == chosen[0][1]:
                self._sweeps(work)
                self._picture(work)

    def _case(self, entry: Entry, work: Workload) -> None:
        case = entry.build(work)
        self.rows += runner.measure(
            case, entry.directions, self.settings, self.ceilings, self.settings.size, self.screen.tell
        )
        self.screen.advance()

    def _sweeps(self, work: Workload) -> None:
        if not self.settings.quick and not self.settings.only:
            tell = self.screen.tell
            self.points += sweep.grids(work, self.settings, self.ceilings, tell)
            self.points += sweep.sizes(work, self._pyramid, self.settings, self.ceilings, tell)
            whole = [row for row in self.rows if row.case == "neck.fuse" and row.direction == "forward"]
            self.points += [Point("size", self.settings.size, row) for row in whole]
        self.screen.advance()

    def _picture(self, work: Workload) -> None:
        self.screen.tell("picture")
        with torch.no_grad():
            finest = work.neck.fuse(work.bases)[0]
        self.pictures = [
            (f"The photograph, {self.settings.size} × {self.settings.size} pixels", self.photograph),
            (
                f"P¹, the neck's finest map: norm over its {finest.shape[1]} channels, logarithmic",
                pictures.energy(finest),
            ),
            (
                "P¹: the directions of its pixels, three principal components as red, green, blue",
                pictures.principal(finest),
            ),
        ]
        self.screen.advance()


def _introduce(screen: Screen, about: rows.Machine, warnings: Sequence[str]) -> None:
    screen.note(
        f"zigzag {about.zigzag} {about.commit}, torch {about.torch}, "
        f"{about.cpu}, {about.threads} of {about.cores} cores"
    )
    screen.note("allocator held for all sides: " + " ".join(f"{name}={value}" for name, value in ALLOCATOR.items()))
    for warning in warnings:
        screen.note(warning, warning=True)


def _warnings(about: rows.Machine) -> list[str]:
    found = []
    missing = [str(backend) for backend in zigzag.backends().values() if not backend.available]
    if missing:
        found.append(f"'{OURS}' is the default backend, and it is not the fastest: {'; '.join(missing)}")
    if about.load > BUSY:
        found.append(f"The machine was busy when the run began (load {about.load:.1f}): times are worth less.")
    return found


def _refused(found: Sequence[Row]) -> list[str]:
    """What makes the run a failure: a wrong result of any side, and ours where it does not run."""
    lines = []
    for row in found:
        if row.status == "WRONG" or (row.status == "failed" and row.backend == OURS):
            kernel = f", {row.kernel}x{row.kernel}" if row.kernel else ""
            lines.append(f"{row.status}: {row.backend}, {row.case}{kernel}, {row.direction}: {row.note}")
    return lines
