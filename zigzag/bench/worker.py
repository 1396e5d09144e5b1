"""One build's side of the gate: a process that times one round of a case whenever it is asked to.

    python -P worker.py ROOT SETTINGS

ROOT holds the zigzag package to measure. The benchmark's own code comes from beside this file, whatever ROOT has, so
that two builds are measured by the same cases; modules it needs and ROOT is too old to have come with it. SETTINGS is
a JSON object of `Settings`. The first line on standard output is the list of keys; then every line on standard input
is a key, and the answer, one JSON line, the seconds of the floor and of ours in one round.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path


def overlay(root: Path) -> None:
    """Make ``zigzag`` the package in ``root``, ``zigzag.bench`` the one beside this file, and add what it lacks."""
    sys.path.insert(0, str(root))
    import zigzag

    here = Path(__file__).parent
    spec = importlib.util.spec_from_file_location(
        "zigzag.bench", here / "__init__.py", submodule_search_locations=[str(here)]
    )
    if spec is None or spec.loader is None or Path(zigzag.__file__).parent.parent != root:
        raise ImportError(f"{root} holds no zigzag package")
    zigzag.__path__.append(str(here.parent))
    sys.modules["zigzag.bench"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def rounds(fields: Mapping[str, object]) -> dict[str, Callable[[], tuple[float, float]]]:
    """For every key of the settings a call that times one round: seconds of the floor, seconds of ours."""
    import torch

    from zigzag.bench.devices import evict
    from zigzag.bench.prepare import Source
    from zigzag.bench.registry import grouped, select
    from zigzag.bench.settings import Settings
    from zigzag.bench.timing import timed, warm_up
    from zigzag.bench.workload import OURS

    settings = Settings(**fields)  # type: ignore[arg-type]
    torch.set_num_threads(settings.threads)
    source = Source(settings)
    found: dict[str, Callable[[], tuple[float, float]]] = {}

    def add(key: str, floor: Callable[[], object], ours: Callable[[], object]) -> None:
        turns = [0]

        def one() -> tuple[float, float]:
            if turns[0] == 0:
                warm_up(floor, 0.2)
                warm_up(ours, 0.2)
            turns[0] += 1
            seconds = {}
            for run in (floor, ours)[:: 1 if turns[0] % 2 else -1]:
                evict()
                seconds[run], _ = timed(run)
            return seconds[floor], seconds[ours]

        found[key] = one

    for subjects in grouped(select(settings)):
        work = source.workload(subjects)
        for subject in subjects:
            case = subject.build(work)
            for direction, key in zip(subject.directions, subject.keys, strict=True):
                ours = case.formulations[OURS]
                add(key, case.floors[direction], lambda ours=ours, direction=direction: ours.run(direction))  # type: ignore[misc]
    return found


def main(root: str, settings: str) -> None:
    """Serve until standard input ends."""
    overlay(Path(root).resolve())
    found = rounds(json.loads(settings))
    print(json.dumps(list(found)), flush=True)
    for line in sys.stdin:
        print(json.dumps(found[line.strip()]()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
