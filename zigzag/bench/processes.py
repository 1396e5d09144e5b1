"""Several builds, each in a process of its own, timed round by round in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from zigzag.bench.settings import ALLOCATOR, BenchError, Settings

FEWEST, MOST = 8, 40
SECONDS = 4.0
"""For the rounds of one key, all processes together; the fewest rounds are run in any case."""

REST = 0.03
"""Seconds between two turns: a process's threads spin for some milliseconds after their work before they sleep, on the
cores that the next process wants (without it what came first in a turn took up to three times as long)."""

Round = Callable[[str], tuple[float, float]]


def measure_in_turns(roots: Sequence[Path], settings: Settings, keys: Sequence[str]) -> dict[str, list[list[float]]]:
    """By key the speed (floor / ours) of every build, round by round; in every round all builds have their turn.

    Args:
        roots: folders of the builds.
        settings: which cases.
        keys: of them only these; all if there are none.
    """
    with ExitStack() as stack:
        started = [stack.enter_context(_process(root, settings)) for root in roots]
        offered = [ready() for ready, _ in started]
        rounds = [round_ for _, round_ in started]
        chosen = [key for key in offered[0] if not keys or key in keys]
        return {key: _in_turns(rounds, key) for key in chosen}


def _in_turns(rounds: Sequence[Round], key: str) -> list[list[float]]:
    """The first round warms up and counts for nothing but the number of those that follow.

    Every build comes first, second and so on in turn, and of three or more none right after itself.
    """
    spent = sum(sum(one(key)) for one in rounds)
    speeds: list[list[float]] = [[] for _ in rounds]
    for number in range(min(MOST, max(FEWEST, int(SECONDS / spent)))):
        for i in ((place + number) % len(rounds) for place in range(len(rounds))):
            time.sleep(REST)
            floor, ours = rounds[i](key)
            speeds[i].append(floor / ours)
    return speeds


@contextmanager
def _process(root: Path, settings: Settings) -> Iterator[tuple[Callable[[], list[str]], Round]]:
    """A worker that measures the build in ``root``: what waits for its keys, and what times a round."""
    fields = {name: getattr(settings, name) for name in ("suite", "size", "threads", "only")}
    script = Path(__file__).with_name("worker.py")
    # What would put another library in the place of the build's stays out.
    environment = {name: value for name, value in os.environ.items() if name != "ZIGZAG_LIBRARY"} | ALLOCATOR
    process = subprocess.Popen(
        [sys.executable, "-P", str(script), str(root), json.dumps(fields)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    asked, answers = process.stdin, process.stdout
    if asked is None or answers is None:
        raise BenchError("a process of the gate has no pipes")

    def answer() -> list[object]:
        line = answers.readline()
        if not line:
            raise BenchError(
                f"the process that measures {str(root)!r} ended with {process.wait()} (its error is above). Where its "
                "package lacks what today's cases call, store a newer commit to compare with"
            )
        found: list[object] = json.loads(line)
        return found

    def ready() -> list[str]:
        return [str(key) for key in answer()]

    def round_(key: str) -> tuple[float, float]:
        print(key, file=asked, flush=True)
        floor, ours = answer()
        return float(str(floor)), float(str(ours))

    try:
        yield ready, round_
    finally:
        process.kill()
        process.wait()
        asked.close()
        answers.close()
