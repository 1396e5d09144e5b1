"""Predicts the neck's time on a GPU from `zigzag.cost`: what no implementation can be faster than, level by level.

    python benchmarks/predict.py [--size 473] [--batch 16] [--backward] [--gather]
    python benchmarks/predict.py --against [--size 224 --batch 1 --laterals]    (seconds: the operations of eager)

Every step takes the longer of its bytes over the bandwidth and its flops over the bf16 rate; steps follow each other.
The ceilings are an H100 SXM's data sheet, not measurements: a first measured run is to be held against the table.

`--against` counts in the same way what stock PyTorch does in every operation of the literal neck, as it stands (eager)
and fused as far as a compiler may (`stock.fused` says what is assumed), and prints ratios to ours. Where kernels are
launched one by one and not from a CUDA graph, a pass takes at least LAUNCH for each: an assumption, as no other here.
Last comes Triton against cuda, from the bytes that each moves by count.
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
LAUNCH = 2e-6  # seconds from one launch to the next, assumed: Python alone takes longer
# MB that the kernels of an operation move at level 1 of a 473 crop, N = 16, by the counts in NOTES.md; the less where
# the caches keep what is read again.
MOVED = {
    "region_stats forward": {"cuda": (128, 194), "triton": (147, 166)},
    "region_stats backward": {"cuda": (244, 244), "triton": (244, 244)},
    "region_codes forward": {"cuda": (38, 38), "triton": (38, 38)},
    "region_codes backward": {"cuda": (75, 75), "triton": (75, 75)},
    "dense_pathway forward": {"cuda": (507, 507), "triton": (507, 507)},
    "dense_pathway backward": {"cuda": (752, 752), "triton": (890, 890)},
}
PARTS = ("lateral", "fusion", "region_stats", "region_codes", "region_norm", "dense_pathway")


def config_of(kernel_size=3):
    return NeckConfig((256, 512, 1024, 2048), kernel_size=kernel_size)


def levels_of(size):
    """Sizes of the levels of a square crop."""
    return tuple((-(-size // stride),) * 2 for stride in config_of().strides)


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
    for level in sorted({step.level for step in steps}):
        yield f"level {level + 1}", [step for step in steps if step.level == level]
    yield "neck", steps


def table(steps):
    """Lines: microseconds by part, their sum, and the sum over that of the convolutions."""
    parts = [part for part in PARTS if any(step.part == part for step in steps)]
    yield f"{'us':16}" + "".join(f"{part:>15}" for part in parts) + f"{'all':>9}{'ratio':>8}"
    for what, own in rows(steps):
        seconds = predicted(own)
        total, floor = sum(seconds.values()), seconds["fusion"] + seconds["lateral"]
        ratio = f"{total / floor:8.2f}" if floor else f"{'-':>8}"
        cells = "".join(f"{seconds[part] * 1e6:15.1f}" for part in parts)
        yield f"{what:16}{cells}{total * 1e6:9.1f}{ratio}"


def ours(kernel_size, size, batch, *, laterals=False, backward=False, gather=True):
    """The neck's steps, forward or forward and backward."""
    given = {"batch": batch, "itemsize": 2, "laterals": laterals}
    if gather:
        given["gathers"] = partial(gathers, "cuda")
    config, sizes = config_of(kernel_size), levels_of(size)
    return cost.neck(config, sizes, **given) + (cost.neck(config, sizes, **given, backward=True) if backward else [])


def seconds(costs):
    return sum(each.seconds(BANDWIDTH, ARITHMETIC) for each in costs)


def against(kernel_size, size, batch, *, laterals=False):
    """{"forward", "forward + backward": seconds of ours, eager, compiled; launches of eager}, by the model."""
    import stock

    passes = stock.operations(config_of(kernel_size), levels_of(size), batch=batch, laterals=laterals)
    found = {}
    for way, operations in zip(("forward", "forward + backward"), passes, strict=True):
        steps = ours(kernel_size, size, batch, laterals=laterals, backward=way != "forward")
        found[way] = {
            "ours": seconds(step.cost for step in steps),
            "eager": seconds(operation.cost for operation in operations),
            "compiled": seconds(stock.fused(operations)),
            "launches": len(operations),
        }
    return found


def ratios(found):
    """Lines: what eager and a compiler take, over ours."""
    yield f"{'':20}{'ours':>9}{'eager':>9}{'compiled':>10} ms{'eager/ours':>14}{'compiled/ours':>15}"
    for way, row in found.items():
        times = f"{row['ours'] * 1e3:9.2f}{row['eager'] * 1e3:9.2f}{row['compiled'] * 1e3:10.2f}   "
        yield f"{way:20}{times}{row['eager'] / row['ours']:14.2f}{row['compiled'] / row['ours']:15.2f}"
        launched = max(row["eager"], row["launches"] * LAUNCH)
        assumed = f"{row['launches']} launches of eager at {LAUNCH * 1e6:.0f} us each (assumed)"
        yield f"{'':20}launched: {assumed}: {launched * 1e3:.2f} ms, {launched / row['ours']:.1f} times ours as a graph"


def backends():
    """Lines: Triton's time over cuda's, by the bytes that either moves."""
    for operation, moved in MOVED.items():
        few, many = (triton / cuda for triton, cuda in zip(moved["triton"], moved["cuda"], strict=True))
        yield f"{operation:24}{few:6.2f}" + (f" (caches keep what is read again) to {many:.2f}" if few != many else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=473, help="of the crop that the levels belong to")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--laterals", action="store_true", help="with the lateral convolutions")
    parser.add_argument("--backward", action="store_true", help="forward + backward")
    parser.add_argument(
        "--gather", action="store_true", help="sums of a map from the kernel that writes it, as on CUDA"
    )
    parser.add_argument("--against", action="store_true", help="eager and compiled over ours, Triton over cuda")
    given = parser.parse_args()
    for kernel_size in (3, 1):
        case = (kernel_size, given.size, given.batch)
        shape = f"region kernel {kernel_size}x{kernel_size}, N = {given.batch}, bf16, C = 256, a {given.size} crop"
        print(f"\n{shape}: predicted")
        if given.against:
            print("\n".join(ratios(against(*case, laterals=given.laterals))))
        else:
            steps = ours(*case, laterals=given.laterals, backward=given.backward, gather=given.gather)
            print("\n".join(table(steps)))
    if given.against:
        print("\ntriton / cuda by the bytes that their kernels move, level 1 of a 473 crop, N = 16: predicted")
        print("\n".join(backends()))


if __name__ == "__main__":
    main()
