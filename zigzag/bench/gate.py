"""The gate: fails where ours has become slower, against the floor, than at the stored baseline commit.

A ratio of two times depends on the machine: its caches, its memory, its instruction set, its neighbours of the hour.
Ratios that one machine stored say little about a change that another one measures, and even the same machine an hour
later differs by more than the noise within a run. So what is stored is a commit, ``benchmarks/results/gate.json``. Its
package is built (or takes this checkout's compiled part, where the sources are the same) and measured beside this one,
by the same cases, on whatever machine the gate runs: three processes, the baseline twice and this checkout once, take
turns round by round. In every round each times the floor (stock PyTorch, which no commit here can change) and ours,
caches emptied; their quotient, the speed, is what is compared, so that a drift of the machine hits everything alike.
Which process starts first changes with every generation of them: it gets other memory, and was seen to be slower.

The two baseline processes show what no change looks like: how far apart two runs of the same build end up. A fall
counts if it is larger than that luck of processes (where their memory came to lie), than the noise of the rounds, and
than `LEAST`. What seems to have fallen is measured again, by `GENERATIONS` of fresh processes, and all are weighed
together: luck goes out of their median, and does not block a merge; a slowdown stays. Where the machine is noisy the
gate sees less, not wrongly, and says how large a fall it would have seen. Small falls add up against a baseline that
stays where it is.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zigzag.bench import builds
from zigzag.bench.processes import measure_in_turns
from zigzag.bench.settings import BenchError, Settings
from zigzag.bench.timing import quantile

LEAST = 0.03
"""Falls up to this share pass: where code comes to lie in memory alone can move a kernel by so much."""
GENERATIONS = 6
"""Fresh processes for what seems to have fallen, so often in all: each side starts first, second and last twice."""
STORED = Path("benchmarks") / "results" / "gate.json"
SIDES = ("baseline", "baseline again", "this")

Speeds = Sequence[Sequence[float]]
"""For each of `SIDES` the speed, floor / ours, round by round."""
Measure = Callable[[Sequence[str]], Mapping[str, Speeds]]
"""Starts fresh processes and measures the keys, or all that there are where none are given."""


@dataclass(frozen=True)
class Change:
    """What one generation of processes says about one key; all as logarithms of quotients of speeds.

    Attributes:
        now: this checkout over the mean of the two baselines, median over the rounds.
        error: standard error of that median, from the rounds' 20th and 80th percentile.
        control: one baseline over the other: what no change looks like.
    """

    now: float
    error: float
    control: float


@dataclass(frozen=True)
class Verdict:
    """One line of the gate's table.

    Attributes:
        key: of the case.
        change: share by which the speed changed: -0.1 is a tenth slower.
        limit: likewise, the fall from which on it counts.
        mildest: the change in the generation of processes that shows the least of it.
        generations: of processes that measured it.
    """

    key: str
    change: float
    limit: float
    mildest: float
    generations: int

    @property
    def fell(self) -> bool:
        """Whether the change is a fall that counts: beyond the limit, and every generation shows half of that."""
        return self.generations == GENERATIONS and self.change < self.limit and self.mildest < self.limit / 2


def change(speeds: Speeds) -> Change:
    """Weigh the rounds of one key."""
    baseline, again, this = ([math.log(speed) for speed in side] for side in speeds)
    now = [c - (a + b) / 2 for a, b, c in zip(baseline, again, this, strict=True)]
    control = [b - a for a, b in zip(baseline, again, strict=True)]
    # Of n values with standard deviation s the median has the error 1.25 s / sqrt(n), and p80 - p20 is 1.68 s.
    error = 1.25 * (quantile(now, 0.8) - quantile(now, 0.2)) / 1.68 / math.sqrt(len(now))
    return Change(statistics.median(now), error, statistics.median(control))


def weigh(key: str, changes: Sequence[Change], controls: Sequence[float]) -> Verdict:
    """The verdict on one key after one or more generations; ``controls`` are those of all keys of the run.

    With a luck of s a process, a control has the standard deviation 1.41 s and a change 1.22 s: the limit lies five of
    the latter below zero, by this key's controls or by the run's (whose 80th percentile is 1.28 of theirs).
    """
    count = len(changes)
    rounds = 4 * math.sqrt(sum(each.error**2 for each in changes)) / count
    own = math.sqrt(sum(each.control**2 for each in changes) / count)
    typical = quantile([abs(control) for control in controls], 0.8) / 1.28
    luck = 5 * 1.22 / 1.41 * max(own, typical) / math.sqrt(count)
    limit = max(rounds, luck, -math.log1p(-LEAST))
    falls = [each.now for each in changes]
    return Verdict(key, math.expm1(statistics.median(falls)), math.expm1(-limit), math.expm1(max(falls)), count)


def judge(measure: Measure) -> list[Verdict]:
    """Measure all keys once, and what seems to have fallen again; the verdicts, in the order of the keys."""
    seen: dict[str, list[Change]] = {}
    suspects: list[str] = []
    for _ in range(GENERATIONS):
        for key, speeds in measure(suspects).items():
            seen.setdefault(key, []).append(change(speeds))
        controls = [each.control for changes in seen.values() for each in changes]
        verdicts = [weigh(key, changes, controls) for key, changes in seen.items()]
        suspects = [verdict.key for verdict in verdicts if verdict.change < verdict.limit / 2]
        if not suspects:
            break
    return verdicts


def run(settings: Settings, against: str | None) -> int:
    """Compare this checkout with ``against``, by default the stored commit; the exit status: 1 if anything fell.

    Raises:
        BenchError: there is nothing to compare with, or a process of it fails.
    """
    folder, commit = builds.build(against or stored())
    print(f"this checkout against {commit[:12]}; speed: the floor's time over ours, in the same round", flush=True)
    roots = dict(zip(SIDES, (folder, folder, builds.ROOT), strict=True))
    order = deque(SIDES)

    def measure(keys: Sequence[str]) -> dict[str, list[list[float]]]:
        print(f"measuring again: {', '.join(keys)}" if keys else "measuring", flush=True)
        found = measure_in_turns([roots[side] for side in order], settings, keys)
        places = [order.index(side) for side in SIDES]
        order.rotate()
        return {key: [speeds[place] for place in places] for key, speeds in found.items()}

    verdicts = judge(measure)
    show(verdicts)
    return 1 if any(verdict.fell for verdict in verdicts) else 0


def show(verdicts: Sequence[Verdict]) -> None:
    """Print the table."""
    print(f"{'speed':>8}{'falls from':>12}{'measured':>10}  case")
    for each in verdicts:
        mark = "  FELL" if each.fell else ""
        print(f"{each.change:>+8.1%}{each.limit:>+12.1%}{each.generations:>9}x  {each.key}{mark}")
    fell = sum(each.fell for each in verdicts)
    middle = statistics.median(each.limit for each in verdicts)
    print(
        f"FAILED: {fell} of {len(verdicts)} fell"
        if fell
        else f"passed: nothing fell; half of the cases would have shown a fall of {-middle:.0%}"
    )


def stored() -> str:
    """The stored baseline commit.

    Raises:
        BenchError: there is none.
    """
    path = builds.ROOT / STORED
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["commit"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{str(path)!r} must hold the commit to compare with, or --against must name one") from error
