"""Check, then time in instalments: the rows of one case."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from zigzag.bench.accuracy import GroupError, Results, Verdict, group_errors, judge
from zigzag.bench.ceilings import Ceilings
from zigzag.bench.devices import Timing, evict, graphed, stopwatch
from zigzag.bench.memory import peak_growth, saved_bytes
from zigzag.bench.placement import Mover
from zigzag.bench.rows import Row, Status
from zigzag.bench.settings import Settings
from zigzag.bench.timing import Ratio, Run, Samples, interleave, joined, plan, ratio, timed, warm_up
from zigzag.bench.workload import COMPILED, EAGER, FLOOR, OURS, SIDES, Case, Direction, key
from zigzag.cost import total
from zigzag.errors import first_line

Tell = Callable[[str], None]

INSTALMENTS = 3
"""Into so many the rounds of a case are parted, with those of other cases in between: the memory of a shared machine is
faster or slower by a half for minutes at a time, and samples of one second would not show it."""

_WARM_UP = 0.2
"""Seconds for the warm-up of a side. One that takes longer in its check is warm from it."""


@dataclass(frozen=True)
class Check:
    """What the first run of a side showed.

    Attributes:
        seconds: that it took.
        errors: against float64, by group.
        verdict: filled in once stock PyTorch's errors are known.
        saved: bytes that autograd saved.
        peak: growth of the process, in bytes.
        failure: why there is no result; "" where there is one.
    """

    seconds: float = 0.0
    errors: Mapping[str, GroupError] = field(default_factory=dict)
    verdict: Verdict | None = None
    saved: int | None = None
    peak: int | None = None
    failure: str = ""

    @property
    def right(self) -> bool:
        """Whether the side may be timed."""
        return self.verdict is not None and self.verdict.right


class Measurement:
    """A case that is checked as this is made, then timed in instalments. A side whose result is wrong gets no time.

    Args:
        case: what to measure.
        directions: in which.
        settings: of the run.
        tell: says what is going on.
    """

    def __init__(self, case: Case, directions: Sequence[Direction], settings: Settings, tell: Tell) -> None:
        self.case, self._settings, self._tell = case, settings, tell
        tell(f"{self._key(directions[0])}: checking against float64")
        self._checked = check_directions(case, directions, settings.device)
        # What is compiled does not outlive the next case's compiling, and a GPU has no room for all cases at once.
        together = COMPILED in case.formulations or settings.device != "cpu"
        self._instalments = 1 if together else INSTALMENTS
        self._running = {
            direction: instalments(case, direction, checks, settings, self._instalments)
            for direction, checks in self._checked.items()
        }
        self._taken: dict[Direction, list[Mapping[str, Samples]]] = {direction: [] for direction in directions}

    @property
    def done(self) -> bool:
        """Whether all instalments are taken."""
        return all(len(taken) == self._instalments for taken in self._taken.values())

    def take(self) -> None:
        """Time the next instalment of every direction; nothing where there is none left."""
        for direction, taken in self._taken.items():
            if len(taken) < self._instalments:
                part = f", {len(taken) + 1} of {self._instalments}" if self._instalments > 1 else ""
                self._tell(f"{self._key(direction)}: timing{part}")
                taken.append(next(self._running[direction]))

    def rows(self, ceilings: Ceilings, size: int) -> list[Row]:
        """The rows of every side and direction, from all instalments that were taken.

        Args:
            ceilings: for the share of the roofline.
            size: of the photograph's crop.
        """
        rows = []
        for direction, taken in self._taken.items():
            checks = {**self._checked[direction], FLOOR: Check()}
            context = _Context(self.case, direction, joined(taken), ceilings, self._settings, size)
            rows += [context.row(side, checks[side]) for side in SIDES if side in checks]
        return rows

    def _key(self, direction: Direction) -> str:
        return key(self.case.name, direction, self.case.variant)


def check_directions(
    case: Case, directions: Sequence[Direction], device: str = "cpu"
) -> dict[Direction, dict[str, Check]]:
    """`check` for every direction, against the float64 results of the last: those of a backward pass hold both."""
    last = directions[-1]
    with case.checking(last):
        exact = _exact(case, last)
        if device == "cuda":
            torch.cuda.empty_cache()  # float64 took more memory than all that follows
        return {direction: check(case, direction, exact, device) for direction in directions}


def _exact(case: Case, direction: Direction) -> Results:
    """The float64 results, whose convolutions run once: trying every algorithm would take longer than any of them."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        return case.exact(direction)
    finally:
        torch.backends.cudnn.benchmark = before


def check(case: Case, direction: Direction, exact: Results, device: str = "cpu") -> dict[str, Check]:
    """Run every side once and compare what it gives with float64."""
    found = {}
    # Eager last: it needs the most memory, and the heap that it leaves behind serves all sides of the timing alike.
    for side in sorted(case.formulations, key=lambda name: (name == EAGER, name)):
        found[side] = _first_run(case, side, direction, exact, device)
    stock: dict[str, GroupError] = {}
    for side in case.stock.values():
        stock |= found[side].errors
    return {side: replace(one, verdict=_verdict(one, stock)) for side, one in found.items()}


def _first_run(case: Case, side: str, direction: Direction, exact: Results, device: str) -> Check:
    formulation, dtype = case.formulations[side], getattr(torch, case.variant.dtype)

    def run() -> tuple[float, Results]:
        return timed(lambda: formulation.run(direction))

    try:
        if device == "cuda":
            run()  # a first run may tune its kernels, in memory of its own
        if direction == "forward":
            seconds, results = run()
            return Check(seconds, group_errors(results, exact, dtype))
        with saved_bytes(formulation.parameters) as saved:
            (seconds, results), peak = peak_growth(run, device)
        return Check(seconds, group_errors(results, exact, dtype), saved=saved.total, peak=peak)
    except Exception as error:  # noqa: BLE001 - a kernel's compiler raises what it likes, and the other sides go on
        return Check(failure=first_line(error))


def _verdict(check: Check, stock: Mapping[str, GroupError]) -> Verdict | None:
    if check.failure or not check.errors.keys() <= stock.keys():
        return None
    return judge(check.errors, stock)


def instalments(
    case: Case, direction: Direction, checks: dict[str, Check], settings: Settings, count: int
) -> Iterator[dict[str, Samples]]:
    """Interleaved samples of the floor and of every side whose result is right; on request of their CUDA graphs.

    Args:
        case: what is timed.
        direction: in which.
        checks: of its sides; a side that cannot be captured fails here.
        settings: of the run.
        count: how many instalments there are.
    """
    sides: dict[str, Callable[[], object]] = {FLOOR: case.floors[direction]}
    for side, check in checks.items():
        if check.right:
            sides[side] = partial(case.formulations[side].run, direction)
    if settings.graph:
        sides = _graphs(sides, checks)
    watch, device = stopwatch(settings.device), settings.device
    estimates = {}
    for side, run in sides.items():
        known = side in checks and side != COMPILED and device == "cpu"  # a first run compiles, or tunes its kernels
        first = checks[side].seconds if known else 0.0
        estimates[side] = first if first >= _WARM_UP else warm_up(run, _WARM_UP, watch)
    budget = case.seconds[direction] / (4 if settings.quick else 1)
    before, move = partial(evict, device), Mover(case.operands(direction)) if device == "cpu" else None
    pause = min(timed(before)[0] for _ in range(3))
    costs = {side: seconds + pause for side, seconds in estimates.items()}
    schedule = plan(costs, budget, closely=(OURS, FLOOR), least=3)
    for rounds in schedule.parts(count):
        for side, run in sides.items():
            if rounds.start > 0 and estimates[side] < _WARM_UP:
                watch(run)  # another case has run in between
        limit = 2 * schedule.seconds(costs, rounds) if device == "cpu" else math.inf
        yield interleave(sides, schedule, limit, before=before, stopwatch=watch, rounds=rounds, each_round=move)


def _graphs(sides: Mapping[str, Run], checks: dict[str, Check]) -> dict[str, Run]:
    found = {}
    for side, run in sides.items():
        try:
            found[side] = graphed(run)
        except RuntimeError as error:
            checks[side] = Check(failure=f"no CUDA graph: {first_line(error)}")
    return found


_NO_SPREAD = (None, None)


@dataclass(frozen=True)
class _Context:
    case: Case
    direction: Direction
    samples: Mapping[str, Samples]
    ceilings: Ceilings
    settings: Settings
    size: int

    def row(self, side: str, check: Check) -> Row:
        """The row of one side."""
        case, own = self.case, self.samples.get(side)
        status, note = _status(check) if side != FLOOR else ("ok", "")
        floor = self._ratio(side, FLOOR)
        speedup = self._ratio(side, OURS)
        cost = total(case.costs[self.direction])
        p20, p80 = (own.spread if own else None) or _NO_SPREAD
        floor_p20, floor_p80 = (floor.spread if floor else None) or _NO_SPREAD
        speedup_p20, speedup_p80 = (speedup.spread if speedup else None) or _NO_SPREAD
        errors = [error.relative for error in check.errors.values()]
        name = key(case.name, self.direction, case.variant)
        return Row(
            key=name,
            case=case.name,
            operation=case.operation,
            backend=side,
            direction=self.direction,
            device=self.settings.device,
            dtype=case.variant.dtype,
            layout=case.variant.layout,
            size=case.size or self.size,
            shape=case.shape,
            kernel=case.variant.kernel,
            grids=case.variant.grids,
            cache="cold",
            timing=_timing(self.settings),
            status=status,
            note=note,
            runs=own.runs if own else 0,
            median=own.median if own else None,
            p20=p20,
            p80=p80,
            over_floor=floor.median if floor else None,
            over_floor_p20=floor_p20,
            over_floor_p80=floor_p80,
            speedup=speedup.median if speedup else None,
            speedup_p20=speedup_p20,
            speedup_p80=speedup_p80,
            noise=speedup.noise if speedup and side != OURS else None,
            bytes=cost.bytes,
            flops=cost.flops,
            roofline=self.ceilings.least_seconds(case.costs[self.direction]) / own.median if own else None,
            copy_share=cost.bytes / own.median / self.ceilings.copy if own else None,
            error=max(errors) if errors else None,
            error_ratio=check.verdict.ratio if check.verdict else None,
            saved_bytes=check.saved,
            peak_bytes=check.peak,
            reproduce=self.settings.command(name),
        )

    def _ratio(self, numerator: str, denominator: str) -> Ratio | None:
        if numerator not in self.samples or denominator not in self.samples:
            return None
        return ratio(self.samples[numerator], self.samples[denominator])


def _timing(settings: Settings) -> Timing:
    if settings.graph:
        return "graph"
    return "clock" if settings.device == "cpu" else "events"


def _status(check: Check) -> tuple[Status, str]:
    if check.failure:
        return "failed", check.failure
    if check.verdict is None:
        return "failed", "stock PyTorch gave no result to compare with"
    if not check.verdict.right:
        return "WRONG", f"{check.verdict.worst}: error {check.verdict.ratio:.3g} times stock PyTorch's"
    return "ok", ""
