"""What a trace of torch's profiler says about the neck: its time by pass, place and operation, and its memory.

The file that one looks at in Perfetto is what is read here, so that the tables say what the picture shows. An event's
own time is its duration less that of the events inside it; own times go to the innermost operation of ours or
convolution around them, and add up to the pass. Where kernels ran on a GPU, their time counts, at the operation that
launched them.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from zigzag.ops.registration import NAMESPACES

WHOLE = "whole pass"
"""Name of the range around everything that is profiled, once for each repetition."""

OTHER = "other operations"
HOST = "between operations"
CONVOLUTION = "convolution"

_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_OURS = tuple(f"{namespace}::" for namespace in NAMESPACES.values())
_CONVOLUTIONS = ("aten::conv2d", "aten::convolution", "aten::convolution_backward")
_JOINED = {"dense_pathway_stats": "dense_pathway"}  # with its sums, as `zigzag.cost.neck` books them
_RANGE = re.compile(r"(forward|backward)(?:: (.+))?")


class Key(NamedTuple):
    """Where time went.

    Attributes:
        direction: "forward" or "backward"; "" for what is between them.
        place: as `zigzag.cost.Step.place` has it; "" for what belongs to none.
        operation: a `zigzag.cost.Part`, or `CONVOLUTION` for one outside the neck, `OTHER` for what else of stock
            PyTorch runs, `HOST` for what passes between operations.
    """

    direction: str
    place: str
    operation: str


@dataclass
class Spent:
    """Microseconds and calls of one key; kernels on a GPU by name: their microseconds and launches."""

    time: float = 0.0
    calls: int = 0
    kernels: dict[str, tuple[float, int]] = field(default_factory=dict)


class Moment(NamedTuple):
    """Memory after one allocation or release: microseconds and bytes since the pass began, and where it happened."""

    time: float
    allocated: int
    direction: str
    place: str


@dataclass(frozen=True)
class Pass:
    """One repetition.

    Attributes:
        wall: microseconds from its begin to its end.
        spent: by key, in the order in which the keys were met.
        memory: its moments in order; empty where the trace has none.
        launches: kernels on a GPU, 0 where there are none.
    """

    wall: float
    spent: dict[Key, Spent]
    memory: list[Moment]
    launches: int


@dataclass
class _Event:
    name: str
    start: float
    end: float
    annotation: bool
    number: int | None
    children: list[_Event] = field(default_factory=list)

    @property
    def own(self) -> float:
        return self.end - self.start - sum(child.end - child.start for child in self.children)


def read(path: Path) -> list[Pass]:
    """The passes of a Chrome trace, ``.json`` or ``.json.gz``."""
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return passes(json.loads(text)["traceEvents"])


def passes(events: Sequence[dict[str, Any]]) -> list[Pass]:
    """The same from the trace's events."""
    kernels: dict[int, list[tuple[str, float]]] = defaultdict(list)
    for event in events:
        if event.get("cat") in _DEVICE:
            kernels[event["args"].get("External id")].append((event["name"], event["dur"]))
    allocations = sorted(
        (event["ts"], event["args"]["Bytes"], event["args"].get("Device Type", 0))
        for event in events
        if event.get("name") == "[memory]"
    )
    threads: dict[Any, list[_Event]] = defaultdict(list)
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in ("cpu_op", "user_annotation"):
            number = event.get("args", {}).get("External id")
            annotation = event["cat"] == "user_annotation"
            start = event["ts"]
            threads[event["tid"]].append(_Event(event["name"], start, start + event["dur"], annotation, number))
    forests = {thread: _nest(own) for thread, own in threads.items()}
    found = []
    for thread, forest in forests.items():
        others = [root for other, own in forests.items() if other != thread for root in own]
        found += [_pass(root, others, kernels, allocations) for root in forest if root.name == WHOLE]
    return found


def _nest(events: list[_Event]) -> list[_Event]:
    """Events of one thread as a forest: what begins inside another ends inside it."""
    roots: list[_Event] = []
    around: list[_Event] = []
    for event in sorted(events, key=lambda one: (one.start, -one.end)):
        while around and around[-1].end <= event.start:
            around.pop()
        if around:
            event.end = min(event.end, around[-1].end)  # clocks are rounded
        (around[-1].children if around else roots).append(event)
        around.append(event)
    return roots


def _pass(
    event: _Event,
    others: Iterable[_Event],
    kernels: dict[int, list[tuple[str, float]]],
    allocations: Sequence[tuple[float, int, int]],
) -> Pass:
    account = _Account(kernels)
    account.take(event, Key("", "", HOST))
    for root in others:  # a GPU's backward pass has a thread of its own
        if event.start <= root.start < event.end:
            account.take(root, Key("backward", "", HOST))
    spent, launches = account.spent, sum(count for one in account.spent.values() for _, count in one.kernels.values())
    if launches:
        for one in spent.values():
            one.time = sum(time for time, _ in one.kernels.values())
    device = int(any(kind == 1 for _, _, kind in allocations))
    inside = [(time, size) for time, size, kind in allocations if event.start <= time <= event.end and kind == device]
    return Pass(event.end - event.start, spent, _moments(event.start, inside, account.places), launches)


class _Account:
    """Adds up own times on the way down a tree of events."""

    def __init__(self, kernels: dict[int, list[tuple[str, float]]]) -> None:
        self.spent: dict[Key, Spent] = {}
        self.places: list[tuple[float, float, str, str]] = []
        self._kernels = kernels

    def take(self, event: _Event, around: Key) -> None:
        key = _key(event, around)
        one = self.spent.setdefault(key, Spent())
        one.time += event.own
        one.calls += key.operation not in (around.operation, HOST)
        for name, duration in self._kernels.get(event.number, ()) if event.number is not None else ():
            time, launches = one.kernels.get(name, (0.0, 0))
            one.kernels[name] = time + duration, launches + 1
        if event.annotation and key.direction:
            self.places.append((event.start, event.end, key.direction, key.place))
        for child in event.children:
            self.take(child, key)


def _key(event: _Event, around: Key) -> Key:
    if event.annotation:
        match = _RANGE.fullmatch(event.name)
        return Key(match[1], match[2] or "", HOST) if match else around
    if around.operation not in (HOST, OTHER):
        return around  # what an operation calls is part of it
    if event.name.startswith(_OURS):
        name = event.name.partition("::")[2].removesuffix("_backward")
        return around._replace(operation=_JOINED.get(name, name))
    if event.name in _CONVOLUTIONS:
        return around._replace(operation=_convolution(around.place))
    return around._replace(operation=OTHER if event.name.startswith("aten::") else around.operation)


def _convolution(place: str) -> str:
    if place.startswith("lateral"):
        return "lateral"
    return "fusion" if place else CONVOLUTION


def _moments(
    start: float, allocations: Sequence[tuple[float, int]], places: Sequence[tuple[float, float, str, str]]
) -> list[Moment]:
    """Running sums; a moment is in the innermost of the ranges around it, which come later than those around them."""
    found, allocated = [], 0
    ordered = sorted(places)
    open_: list[tuple[float, float, str, str]] = []
    following = 0
    for time, size in allocations:
        while following < len(ordered) and ordered[following][0] <= time:
            open_.append(ordered[following])
            following += 1
        open_ = [one for one in open_ if one[1] >= time]
        allocated += size
        _, _, direction, place = open_[-1] if open_ else (0.0, 0.0, "", "")
        found.append(Moment(time - start, allocated, direction, place))
    return found
