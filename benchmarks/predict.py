"""Predicts the neck's time on a GPU from `zigzag.cost`: what no implementation can be faster than, level by level.

    python benchmarks/predict.py [--batch 16] [--backward] [--gather]

Every step takes the longer of its bytes over the bandwidth and its flops over the bf16 rate; steps follow each other.
The ceilings are an H100 SXM's data sheet, not measurements: a first measured run is to be held against the table.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from functools import partial

from zigzag import cost
from zigzag.config import NeckConfig
from zigzag.dispatch import gathers

BANDWIDTH = 3.35e12  # bytes/s
ARITHMETIC = 989e12  # flop/s, bf16, dense
LEVELS = ((119, 119), (60, 60), (30, 30), (15, 15))  # of a 473 crop
PARTS = ("fusion", "region_stats", "region_codes", "region_norm", "dense_pathway")


def config_of(kernel_size=3):
    return NeckConfig((256, 512, 1024, 2048), kernel_size=kernel_size)


def predicted(steps):
    """Seconds by part, of `cost.Step`s."""
    seconds = defaultdict(float)
    for step in steps:
        seconds[step.part] += step.cost.seconds(BANDWIDTH, ARITHMETIC)
    return seconds


def rows(steps):
    """(what, its steps): every stage and direction, every level, the whole."""
    for stage, direction in dict.fromkeys((step.stage, step.direction) for step in steps):
        yield f"stage {stage} {direction}", [s for s in steps if (s.stage, s.direction) == (stage, direction)]
    for level in range(len(LEVELS)):
        yield f"level {level + 1}", [step for step in steps if step.level == level]
    yield "neck", steps


def table(steps):
    """Lines: microseconds by part, their sum, and the sum over that of the convolutions."""
    yield f"{'us':16}" + "".join(f"{part:>15}" for part in PARTS) + f"{'all':>9}{'ratio':>8}"
    for what, own in rows(steps):
        seconds = predicted(own)
        total, floor = sum(seconds.values()), seconds["fusion"]
        ratio = f"{total / floor:8.2f}" if floor else f"{'-':>8}"
        cells = "".join(f"{seconds[part] * 1e6:15.1f}" for part in PARTS)
        yield f"{what:16}{cells}{total * 1e6:9.1f}{ratio}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--backward", action="store_true", help="forward + backward")
    parser.add_argument(
        "--gather", action="store_true", help="sums of a map from the kernel that writes it, as on CUDA"
    )
    arguments = parser.parse_args()
    for kernel_size in (3, 1):
        given = {"batch": arguments.batch, "itemsize": 2}
        if arguments.gather:
            given["gathers"] = partial(gathers, "cuda")
        steps = cost.neck(config_of(kernel_size), LEVELS, **given)
        if arguments.backward:
            steps += cost.neck(config_of(kernel_size), LEVELS, **given, backward=True)
        print(
            f"\nregion kernel {kernel_size}x{kernel_size}, N = {arguments.batch}, bf16, C = 256, a 473 crop: predicted"
        )
        print("\n".join(table(steps)))


if __name__ == "__main__":
    main()
