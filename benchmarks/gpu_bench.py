"""``zigzag bench`` as a GPU wants it: the registry's cases in parts, each part a run and a folder of its own.

    python benchmarks/gpu_bench.py [operations] [neck] [small] [graph] [compiled] [--out build/gpu]

bfloat16, channels_last, C = 256, the levels of a 473 crop, N = 16; small: N = 1, a 224 crop, launched and as CUDA
graphs; graph: the neck of the large crop once more, as CUDA graphs, should launching be what takes its time. Without
names all but compiled, which is torch.compile (max-autotune) of eager and takes minutes. Every result is checked
against float64 first and a wrong one is not timed; what fails is a fault, and the rest is measured. After each part
stands every figure that is asked of a GPU and was measured so far, beside its target.
"""

from __future__ import annotations

import argparse
import traceback
from pathlib import Path

from zigzag.bench import run
from zigzag.bench.console import Screen
from zigzag.bench.figures import figures
from zigzag.bench.settings import Settings, available_threads

COMMON = {"device": "cuda", "dtype": "bfloat16", "quick": True}
LARGE = {"size": 473, "batch": 16}
SMALL = {"size": 224, "only": "neck.whole forward"}
PARTS = {
    "operations": {"operations": {**LARGE, "only": "region_|dense_pathway"}},
    "neck": {"neck": {**LARGE, "only": "neck.fuse"}},
    "small": {"small": SMALL, "small-graph": {**SMALL, "graph": True}},
    "graph": {"neck-graph": {**LARGE, "only": "neck.fuse", "graph": True}},
    "compiled": {"compiled": {**LARGE, "only": "neck.fuse forward+backward", "compiled": "max-autotune"}},
}


def measure(name, settings):
    """Rows and faults of a run; what stops it is a fault, and no reason to learn nothing of the other parts."""
    print(f"\n{name}: {settings.command()}", flush=True)
    try:
        found = run.measure(settings, Screen())
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return [], [f"{name}: {error!r}"]
    return found.rows, [f"{name}: {fault}" for fault in found.faults]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    arguments = parser.parse_args(arguments)
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"parts are {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    rows, faults = [], []
    for part in arguments.parts or [name for name in PARTS if name != "compiled"]:
        for name, fields in PARTS[part].items():
            settings = Settings(**COMMON, **fields, threads=available_threads(), out=arguments.out / name)
            measured, failed = measure(name, settings)
            rows, faults = [*rows, *measured], [*faults, *failed]
            Screen().figures(figures(rows))  # of all so far: the next may be cut off
    print("\n".join(faults))
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
