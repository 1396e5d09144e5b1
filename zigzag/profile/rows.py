"""The rows of a profile: the time of the trace beside the bytes and flops of the cost model."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from zigzag import cost
from zigzag.bench.ceilings import Ceilings
from zigzag.bench.timing import quantile
from zigzag.config import NeckConfig
from zigzag.dispatch import gathers
from zigzag.profile.ranges import BACKWARD, FORWARD
from zigzag.profile.trace import Key, Moment, Pass

COLUMNS = ("calls", "ms", "p20-p80", "of the pass", "MB", "GB/s", "Gflop", "Gflop/s", "roofline")
"""Headings of `Row.cells`."""

Costs = Mapping[Key, Sequence[cost.Cost]]


@dataclass(frozen=True)
class Row:
    """What one operation took, at one place or at all of them.

    Attributes:
        direction, place, operation: as in `Key`; place is "" for all places together.
        calls: in one pass.
        seconds: of one pass, the median over the passes.
        p20, p80: their spread.
        share: of the time of the pass.
        bytes, flops: from `zigzag.cost`; 0 for what the cost model does not know.
        roofline: least seconds by the measured ceilings / seconds; None for what the cost model does not know.
        kernels: name, seconds and launches of the kernels on a GPU, the longest first.
    """

    direction: str
    place: str
    operation: str
    calls: int
    seconds: float
    p20: float
    p80: float
    share: float
    bytes: int
    flops: int
    roofline: float | None
    kernels: Sequence[tuple[str, float, int]]

    def cells(self) -> tuple[str, ...]:
        """For a table with `COLUMNS`; empty where the cost model knows nothing."""
        spread = f"{1e3 * self.p20:.4g}-{1e3 * self.p80:.4g}"
        times = str(self.calls or ""), f"{1e3 * self.seconds:.4g}", spread, f"{self.share:.1%}"
        if self.roofline is None:
            return (*times, "", "", "", "", "")
        moved, done = self.bytes / 1e9, self.flops / 1e9
        rates = f"{moved / self.seconds:.3g}", f"{done:.3g}", f"{done / self.seconds:.3g}"
        return (*times, f"{1e3 * moved:.4g}", *rates, f"{self.roofline:.0%}")


@dataclass(frozen=True)
class Peak:
    """Memory while one part of the pass ran, in bytes above what was there when the pass began."""

    direction: str
    part: str
    peak: int
    end: int


def costs(
    config: NeckConfig,
    sizes: Sequence[cost.Size],
    *,
    batch: int,
    itemsize: int,
    laterals: bool = True,
    backend: str = "reference",
) -> dict[Key, list[cost.Cost]]:
    """The cost model's steps of both directions, by key; ``backend``: the one that dense pathways run on."""
    found: dict[Key, list[cost.Cost]] = defaultdict(list)
    for direction in (FORWARD, BACKWARD):
        backward = direction == BACKWARD
        options: dict[str, Any] = {"batch": batch, "itemsize": itemsize, "gathers": partial(gathers, backend)}
        for step in cost.neck(config, sizes, **options, laterals=laterals, backward=backward):
            found[Key(direction, step.place, step.part)].append(step.cost)
    return dict(found)


def rows(passes: Sequence[Pass], known: Costs, ceilings: Ceilings, *, places: bool) -> list[Row]:
    """One row for every operation and direction, and on request for every place; the longest first."""

    def group(key: Key) -> Key:
        return key if places else key._replace(place="")

    order = (FORWARD, BACKWARD, "")
    return sorted(_rows(passes, known, ceilings, group), key=lambda row: (order.index(row.direction), -row.seconds))


def _rows(passes: Sequence[Pass], known: Costs, ceilings: Ceilings, group: Callable[[Key], Key]) -> list[Row]:
    times = [_times(one, group) for one in passes]
    members: dict[Key, list[Key]] = defaultdict(list)
    for key in passes[0].spent:
        members[group(key)].append(key)
    whole = statistics.median(sum(own.values()) for own in times)
    found = []
    for key, keys in members.items():
        seconds = [own.get(key, 0.0) for own in times]
        steps = [step for one in keys for step in known.get(one, ())]
        middle, all_ = statistics.median(seconds), cost.total(steps)
        least = ceilings.least_seconds(steps) if steps else None
        found.append(
            Row(
                *key,
                calls=sum(passes[0].spent[one].calls for one in keys),
                seconds=middle,
                p20=quantile(seconds, 0.2),
                p80=quantile(seconds, 0.8),
                share=middle / whole if whole else 0.0,
                bytes=all_.bytes,
                flops=all_.flops,
                roofline=least / middle if least is not None and middle > 0 else None,
                kernels=_kernels(passes, keys),
            )
        )
    return found


def _times(one: Pass, group: Callable[[Key], Key]) -> dict[Key, float]:
    found: dict[Key, float] = defaultdict(float)
    for key, spent in one.spent.items():
        found[group(key)] += spent.time / 1e6
    return found


def _kernels(passes: Sequence[Pass], keys: Sequence[Key]) -> list[tuple[str, float, int]]:
    """Mean seconds and launches of a pass."""
    seconds: dict[str, float] = defaultdict(float)
    launches: dict[str, int] = defaultdict(int)
    for one in passes:
        for key in keys:
            for name, (time, count) in one.spent[key].kernels.items() if key in one.spent else ():
                seconds[name] += time / 1e6 / len(passes)
                launches[name] += count
    return sorted(
        ((name, own, launches[name] // len(passes)) for name, own in seconds.items()), key=lambda one: -one[1]
    )


def part_of(place: str) -> str:
    """The sweep or row of convolutions that a place belongs to: "stage 2, down" of "stage 2, down, level 1"."""
    return place.rpartition(", level")[0]


def peaks(moments: Sequence[Moment]) -> list[Peak]:
    """The peak of memory in every part of a pass, in the order in which they run."""
    found: dict[tuple[str, str], Peak] = {}
    for moment in moments:
        key = moment.direction, part_of(moment.place)
        if all(key):
            before = found.get(key)
            peak = max(moment.allocated, before.peak if before else 0)
            found[key] = Peak(*key, peak, moment.allocated)
    return list(found.values())
