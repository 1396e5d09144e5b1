"""The timing core: sides of a comparison interleaved in one loop, medians with their spread, ratios of paired runs.

All sides of a comparison run in the same process and in the same rounds, so that a drift of the machine (another
tenant, the clock frequency, memory pressure) hits every side alike; the order alternates from round to round, so that
no side always finds the other's data in the cache. A ratio is the median over the rounds in which both sides ran, and
it is called noise where its own spread covers 1. One or two runs have no spread.

The rounds may be taken in parts with other work between them: a drift of minutes, which one run of a command has and
the next one has not, shows in a spread only if the samples lie as far apart.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")
Run = Callable[[], object]
Clock = Callable[[], float]
Stopwatch = Callable[[Run], tuple[float, object]]
"""Seconds that one call took, and what it returned."""

Spread = tuple[float, float]
"""The 20th and the 80th percentile."""

FEWEST = 3
"""Runs, or pairs of runs, below which no spread is stated: that of a single one would be 0, and call it certain."""

_STABLE = 0.1
"""Warm-up ends when two runs in a row differ by less than this share."""
_MOST_WARM_UPS = 20


def quantile(values: Sequence[float], share: float) -> float:
    """The value that the next one of the kind stays below with probability ``share``.

    The k-th of n values in order stands at k / (n + 1); in between it is interpolated linearly, the outermost hold
    beyond. (With the first at 0 and the last at 1 the few that were seen would pass for all that there are: of rows
    with three normal samples, one in five differs from its like by more than that spread; from this one, one in 17.)
    """
    ordered = sorted(values)
    position = min(max(share * (len(ordered) + 1) - 1, 0), len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def spread(values: Sequence[float]) -> Spread | None:
    """Their 20th and 80th percentile; None for fewer than `FEWEST`."""
    return None if few(len(values)) else (quantile(values, 0.2), quantile(values, 0.8))


def few(runs: int) -> str:
    """What stands where there would be a spread: "1 run" or "2 runs"; "" for `FEWEST` or more."""
    return "" if runs >= FEWEST else f"{runs} run{'' if runs == 1 else 's'}"


@dataclass(frozen=True)
class Samples:
    """Seconds of one side by round; a side may have been left out of some rounds."""

    by_round: Mapping[int, float]

    @property
    def runs(self) -> int:
        """How often the side was timed."""
        return len(self.by_round)

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.by_round.values())

    @property
    def p20(self) -> float:
        """Seconds that one in five runs stays below."""
        return quantile(list(self.by_round.values()), 0.2)

    @property
    def p80(self) -> float:
        """Seconds that one in five runs exceeds."""
        return quantile(list(self.by_round.values()), 0.8)

    @property
    def spread(self) -> Spread | None:
        """Both of them, where the side was timed often enough to state them."""
        return spread(list(self.by_round.values()))


@dataclass(frozen=True)
class Ratio:
    """Time of one side over another's, from paired rounds; the spread is None for fewer than `FEWEST` of them."""

    median: float
    spread: Spread | None
    pairs: int

    @property
    def noise(self) -> bool | None:
        """Whether the difference between the two sides lies within the spread; None where none is stated."""
        return None if self.spread is None else self.spread[0] <= 1.0 <= self.spread[1]


def ratio(numerator: Samples, denominator: Samples) -> Ratio:
    """Paired ratio ``numerator / denominator`` over the rounds in which both ran.

    Raises:
        ValueError: the two sides share no round.
    """
    shared = sorted(numerator.by_round.keys() & denominator.by_round.keys())
    if not shared:
        raise ValueError("the two sides share no round, so their ratio would compare different moments")
    ratios = [numerator.by_round[r] / denominator.by_round[r] for r in shared]
    return Ratio(statistics.median(ratios), spread(ratios), len(ratios))


def timed(run: Callable[[], T], clock: Clock = time.perf_counter) -> tuple[float, T]:
    """Seconds that one call took, and what it returned."""
    start = clock()
    result = run()
    return clock() - start, result


def warm_up(run: Run, seconds: float, stopwatch: Stopwatch = timed) -> float:
    """Run until two times in a row agree within a tenth, or ``seconds`` are spent; the last time, in seconds."""
    last, _ = stopwatch(run)
    spent = last
    for _ in range(_MOST_WARM_UPS):
        if spent >= seconds:
            break
        now, _ = stopwatch(run)
        spent += now
        stable = abs(now - last) <= _STABLE * max(now, last)
        last = now
        if stable:
            break
    return last


@dataclass(frozen=True)
class Plan:
    """How often to time each side: in every ``strides[name]``-th of ``rounds`` rounds."""

    rounds: int
    strides: Mapping[str, int]

    def parts(self, count: int) -> list[range]:
        """Its rounds in ``count`` instalments, equal but for one round; of too few rounds the last get none."""
        starts = [-(-self.rounds * i // count) for i in range(count + 1)]
        return [range(*ends) for ends in pairwise(starts)]

    def seconds(self, estimates: Mapping[str, float], rounds: range | None = None) -> float:
        """What ``rounds`` (None: all) take if every run takes as long as estimated."""
        numbers = range(self.rounds) if rounds is None else rounds
        return sum(estimates[name] for number in numbers for name in self.sides(number))

    def sides(self, number: int) -> list[str]:
        """Who runs in a round, in the order of the plan in even ones and backwards in odd ones."""
        names = [name for name, stride in self.strides.items() if number % stride == 0]
        return names if number % 2 == 0 else names[::-1]


def plan(
    estimates: Mapping[str, float],
    budget: float,
    closely: Collection[str] | None = None,
    least: int = 2,
    most: int = 60,
) -> Plan:
    """Share ``budget`` seconds between sides that take ``estimates`` seconds a run.

    Every side gets an equal share of the time, from one run to ``most``; those to be compared ``closely`` (None: all)
    get ``least`` runs whatever they take. A slow side skips rounds; strides are powers of two, so that any two sides
    meet in every round of the larger stride.
    """
    share = budget / len(estimates)
    wanted = {}
    for name, seconds in estimates.items():
        fewest = least if closely is None or name in closely else 1
        wanted[name] = min(most, max(fewest, int(share / max(seconds, 1e-9))))
    rounds = max(wanted.values())
    strides = {}
    for name, count in wanted.items():
        strides[name] = 1
        while strides[name] < rounds and -(-rounds // (strides[name] * 2)) >= count:
            strides[name] *= 2
    return Plan(rounds, strides)


def interleave(
    sides: Mapping[str, Run],
    schedule: Plan,
    limit: float = math.inf,
    clock: Clock = time.perf_counter,
    before: Run | None = None,
    stopwatch: Stopwatch | None = None,
    rounds: range | None = None,
    each_round: Run | None = None,
) -> dict[str, Samples]:
    """Time all sides in the same rounds, forwards and backwards through the list in turn.

    Args:
        sides: what to run, by name. A result is dropped after the clock has stopped.
        schedule: how often.
        limit: seconds after which no further round begins, for a machine that turns out slower than estimated.
        clock: monotonic seconds.
        before: called ahead of every run, not timed.
        stopwatch: what times a run; None for the clock.
        rounds: of the schedule, those to run now; None for all.
        each_round: called ahead of every round, not timed.

    Returns:
        The samples of every side: one or more each where the rounds begin with the first, in which all sides run.
    """
    rounds = range(schedule.rounds) if rounds is None else rounds
    start, stopwatch = clock(), stopwatch or partial(timed, clock=clock)
    seconds: dict[str, dict[int, float]] = {name: {} for name in sides}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in rounds:
            if number > rounds.start and clock() - start > limit:
                break
            if each_round is not None:
                each_round()
            for name in schedule.sides(number):
                if before is not None:
                    before()
                seconds[name][number], _ = stopwatch(sides[name])
    finally:
        if collecting:
            gc.enable()
    return {name: Samples(by_round) for name, by_round in seconds.items()}


def joined(parts: Sequence[Mapping[str, Samples]]) -> dict[str, Samples]:
    """The samples of all parts of a schedule, by side."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: Samples({k: v for part in parts for k, v in part[name].by_round.items()}) for name in names}
