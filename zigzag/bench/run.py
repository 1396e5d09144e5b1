"""One run of the benchmark, from the photograph to the report."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from PIL.Image import Image

import zigzag
from zigzag.bench import ceilings, pictures, rows, store, sweep
from zigzag.bench import session as sessions
from zigzag.bench.ceilings import Ceilings
from zigzag.bench.console import Screen
from zigzag.bench.figures import figures
from zigzag.bench.files import whole
from zigzag.bench.prepare import Source
from zigzag.bench.registry import REGISTRY, Subject, grouped, select, shared
from zigzag.bench.rows import Row
from zigzag.bench.runner import INSTALMENTS, Measurement
from zigzag.bench.session import Session
from zigzag.bench.settings import ALLOCATOR, BenchError, Settings
from zigzag.bench.sweep import Point
from zigzag.bench.workload import FUSED, OURS, Case, Direction, Workload
from zigzag.errors import first_line
from zigzag.report import page

BUSY = 0.5
"""Load average above which a run warns that it does not have the machine for itself."""
_CUT_OFF = "This run was cut off: cases are missing."


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes:
        rows: of the cases.
        faults: sentences: wrong results of any side, and cases and fused sides that did not run.
    """

    rows: Sequence[Row]
    faults: Sequence[str]


def run(settings: Settings, screen: Screen | None = None) -> int:
    """Measure what ``settings`` ask for, show it and write it down; the exit status: 1 if there were faults.

    Raises:
        BenchError: an input cannot be used; the message says why.
    """
    return 1 if measure(settings, screen or Screen()).faults else 0


def measure(settings: Settings, screen: Screen) -> Outcome:
    """As `run`, and hand it back.

    Raises:
        BenchError: an input cannot be used; the message says why.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BenchError("--device cuda: torch sees no GPU here")
    chosen = chosen_by(settings)
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.benchmark = settings.device == "cuda"  # of all sides alike
    about = rows.machine(settings.threads, settings.device)
    warnings = _warnings(about, settings.device)
    _introduce(screen, about, warnings, settings.device)
    session = _Session(settings, screen, about, warnings)
    with screen.working(INSTALMENTS * (len(chosen) + (sweep.STEPS if settings.sweeps else 0)) + 3):
        session.prepare(chosen)
        session.measure(chosen)
    screen.rows(session.rows, settings.command(""))
    screen.figures(figures(session.rows))
    faults = session.save()
    if session.pictures:
        with whole(settings.out / "neck.png") as temporary:
            pictures.side_by_side([image for _, image in session.pictures]).save(temporary)
    if settings.store is not None:
        screen.note(f"kept: {store.keep(settings.store, session.rows, about, settings.suite)}")
    if session.rows:
        page.write(settings.out, settings.store)
    screen.note(f"in {settings.out}: {page.NAME}, rows.json, {sessions.NAME}, neck.png")
    for fault in faults:
        screen.note(fault, warning=True)
    return Outcome(session.rows, faults)


def chosen_by(settings: Settings) -> list[Subject]:
    """The subjects of ``settings``.

    Raises:
        BenchError: there are none.
    """
    chosen = select(settings)
    if not chosen:
        names = ", ".join(sorted(entry.name for entry in REGISTRY))
        raise BenchError(f"--filter {settings.only!r} matches none of {names}; --list shows the words of each")
    return chosen


@dataclass(frozen=True)
class _Task:
    """A case to measure.

    Attributes:
        name: for what is said of it.
        build: makes the case.
        directions: those to measure.
        size: of the photograph's crop.
        keep: takes its rows.
    """

    name: str
    build: Callable[[], Case]
    directions: Sequence[Direction]
    size: int
    keep: Callable[[list[Row]], None]


class _Session:
    """The state of one run."""

    def __init__(self, settings: Settings, screen: Screen, about: rows.Machine, warnings: Sequence[str]) -> None:
        self.settings = settings
        self.screen = screen
        self.about = about
        self.warnings = warnings
        self.rows: list[Row] = []
        self.faults: list[str] = []
        self.points: list[Point] = []
        self.ceilings: dict[str, Ceilings] = {}
        self.pictures: list[tuple[str, Image]] = []

    def prepare(self, chosen: Sequence[Subject]) -> None:
        """Photograph, backbone, ceilings."""
        self.screen.tell("photograph and backbone")
        self.source = Source(self.settings)
        self.screen.advance()
        self.screen.tell("ceilings of the roofline")
        self.ceilings = {
            dtype: ceilings.measure(getattr(torch, dtype), self.settings.device, cold=True)
            for dtype in dict.fromkeys(subject.variant.dtype for subject in chosen)
        }
        self.screen.advance()

    def measure(self, chosen: Sequence[Subject]) -> None:
        """All chosen cases, those of one variant in turns; with the first variant the sweeps and the picture."""
        for variant, groups in groupby(grouped(chosen), key=lambda subjects: shared(subjects[0].variant)):
            first = variant == shared(chosen[0].variant)
            self._in_turns(self._tasks(groups, first=first))
            if first and self.settings.sweeps:
                self.points += [Point("size", row.size, row) for row in self.rows if _whole(row)]

    def save(self, *more: str) -> list[str]:
        """Write down what is measured so far, with more warnings for the top of the page; the faults so far."""
        swept = [point.row for point in self.points if point.row not in self.rows]
        faults = [*self.faults, *_refused([*self.rows, *swept])]
        numbers = {id(row): number for number, row in enumerate([*self.rows, *swept])}
        left = Session(
            command=self.settings.command(),
            cases=len(self.rows),
            points=[(point.axis, point.value, numbers[id(point.row)]) for point in self.points],
            ceilings=self.ceilings,
            pictures=[(caption, pictures.data_uri(image)) for caption, image in self.pictures],
            warnings=[*more, *faults, *self.warnings],
        )
        rows.write(self.settings.out / "rows.json", [*self.rows, *swept], self.about)
        sessions.write(self.settings.out / sessions.NAME, left)
        return faults

    def _tasks(self, groups: Iterable[list[Subject]], *, first: bool) -> Iterator[_Task]:
        """The cases of one variant, their neck built when they are reached; after the first variant's, the sweeps."""
        for subjects in groups:
            self.screen.tell(f"building the neck for {subjects[0].keys[0]}")
            work = self.source.workload(subjects)
            for subject in subjects:
                build = partial(subject.build, work)
                yield _Task(subject.keys[0], build, subject.directions, self.settings.size, self.rows.extend)
        if first:
            self._attempt("picture", partial(self._picture, work))
            self.screen.advance()
        if first and self.settings.sweeps:
            for step in sweep.steps(work, self.source, self.settings):
                name = f"sweep over the {step.axis}: {step.value}"
                yield _Task(name, step.build, ["forward"], step.size, partial(self._add_points, step))

    def _in_turns(self, tasks: Iterable[_Task]) -> None:
        """Check them one after the other, each timed a first time at once, then time all of them again in turn.

        So the samples of a row lie as far apart as the time that the variant takes allows. Rows are written as they
        come, and a run that is cut off leaves them.
        """
        going: list[tuple[_Task, Measurement]] = []
        for task in tasks:
            self._attempt(task.name, partial(self._begin, task, going))
            goes_on = bool(going) and going[-1][0] is task
            self.screen.advance(1 if goes_on else INSTALMENTS)
        for _ in range(1, INSTALMENTS):
            for task, measurement in going.copy():
                if not self._attempt(task.name, measurement.take):
                    going.remove((task, measurement))
                self.screen.advance()
        for task, measurement in going:
            self._attempt(task.name, partial(self._end, task, measurement))
        self.save(_CUT_OFF)

    def _begin(self, task: _Task, going: list[tuple[_Task, Measurement]]) -> None:
        measurement = Measurement(task.build(), task.directions, self.settings, self.screen.tell)
        measurement.take()
        if measurement.done:
            self._end(task, measurement)
            self.save(_CUT_OFF)
        else:
            going.append((task, measurement))

    def _end(self, task: _Task, measurement: Measurement) -> None:
        task.keep(measurement.rows(self.ceilings[measurement.case.variant.dtype], task.size))

    def _add_points(self, step: sweep.Step, found: Sequence[Row]) -> None:
        self.points += [Point(step.axis, step.value, row) for row in found]

    def _attempt(self, name: str, part: Callable[[], None]) -> bool:
        """Whether it went well; what cannot be built or timed is a fault, no reason to learn nothing of the rest."""
        try:
            part()
        except BenchError:
            raise
        except Exception as error:  # noqa: BLE001
            self.screen.note(traceback.format_exc(), warning=True)
            self.faults.append(f"failed: {name}: {first_line(error)}")
            return False
        return True

    def _picture(self, work: Workload) -> None:
        self.screen.tell("picture")
        with torch.no_grad():
            finest = work.neck.fuse(work.bases)[0][:1].cpu()
        self.pictures = [
            (f"The photograph, {self.settings.size} × {self.settings.size} pixels", self.source.photograph),
            (
                f"P¹, the neck's finest map: norm over its {finest.shape[1]} channels, logarithmic",
                pictures.energy(finest),
            ),
            (
                "P¹: the directions of its pixels, three principal components as red, green, blue",
                pictures.principal(finest),
            ),
        ]


def _whole(row: Row) -> bool:
    """Whether it belongs to the sweep over sizes, at the run's own."""
    return row.case == "neck.fuse" and row.direction == "forward"


def _introduce(screen: Screen, about: rows.Machine, warnings: Sequence[str], device: str) -> None:
    screen.note(
        f"zigzag {about.zigzag} {about.commit}, torch {about.torch}, "
        f"{about.cpu}, {about.threads} of {about.cores} cores" + (f", {about.device}" if device == "cuda" else "")
    )
    if device == "cpu":
        screen.note("allocator held for all sides: " + " ".join(f"{name}={value}" for name, value in ALLOCATOR.items()))
    for warning in warnings:
        screen.note(warning, warning=True)


def _warnings(about: rows.Machine, device: str) -> list[str]:
    found = []
    own = [backend for backend in zigzag.backends().values() if backend.device == device]
    missing = [str(backend) for backend in own if not backend.available]
    if missing:
        found.append(f"'{OURS}' is the fastest backend that can run, and not all can: {'; '.join(missing)}")
    if about.load > BUSY:
        found.append(f"The machine was busy when the run began (load {about.load:.1f}): times are worth less.")
    return found


def _refused(found: Sequence[Row]) -> list[str]:
    """What makes the run a failure: a wrong result of any side, and a fused side that does not run."""
    return [
        f"{row.status}: {row.backend}, {row.key}: {row.note}"
        for row in found
        if row.status == "WRONG" or (row.status == "failed" and row.backend in (OURS, *FUSED))
    ]
