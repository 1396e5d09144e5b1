"""Times the operations and the neck on a GPU (CUDA events, cold cache, medians), each result checked first.

    python benchmarks/gpu_bench.py --out build/gpu

bfloat16, channels_last, C = 256, the levels of a 473 crop. Writes bench.json; prints a table last.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import predict
import torch

import zigzag
from zigzag import cost
from zigzag.bench.baselines import Convolutions
from zigzag.nn import ZigZagNeck

DTYPE, CHANNELS, BATCH = torch.bfloat16, 256, 16
FLUSH = 256 << 20  # bytes: more than the caches of any GPU
SAMPLES = 15


@dataclass
class Row:
    case: str
    side: str
    milliseconds: float
    spread: float  # interquartile range over the median
    share: float | None = None  # of the measured copy bandwidth
    ratio: float | None = None  # over the convolutions alone


class Bench:
    def __init__(self):
        self.flush = torch.empty(FLUSH, dtype=torch.uint8, device="cuda")
        self.rows = []
        self.bandwidth = 0.0

    def time(self, call):
        """Milliseconds of `call`, median and relative spread, with cold caches."""
        for _ in range(3):
            call()
        samples = []
        for _ in range(SAMPLES):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.flush.zero_()
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            samples.append(begin.elapsed_time(end))
        low, middle, high = statistics.quantiles(samples, n=4)
        return middle, (high - low) / middle

    def add(self, case, side, call, *, moved=None, floor=None):
        median, spread = self.time(call)
        share = None if moved is None else moved.bytes / (median * 1e-3) / self.bandwidth
        self.rows.append(Row(case, side, median, spread, share, None if floor is None else median / floor))
        print(self.rows[-1], flush=True)
        return median


def copy_bandwidth(bench):
    """Bytes/s, read plus written, of a copy that no cache holds."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (bench.time(lambda: target.copy_(source))[0] * 1e-3)


def noise(*shape, dtype=DTYPE):
    x = torch.randn(*shape, device="cuda", dtype=dtype)
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x


def close(results, expected):
    for one, other in zip(results, expected, strict=True):
        error = (one.float() - other.float()).norm() / other.float().norm()
        if not error < 0.02:
            raise SystemExit(f"a result is wrong, so nothing is timed: relative error {error:.3g}")


def gradients(operation, leaves):
    """(results, one backward pass over them as a call)"""
    results = operation()
    results = results if isinstance(results, tuple) else (results,)
    weights = [torch.randn_like(result) for result in results]
    return results, lambda: torch.autograd.grad(results, leaves, weights, retain_graph=True)


def both_directions(bench, case, side, operation, leaves, costs):
    with torch.no_grad():
        bench.add(f"{case} forward", side, operation, moved=costs[0])
    bench.add(f"{case} backward", side, gradients(operation, leaves)[1], moved=costs[1])


def operations(bench, sides):
    sizes = predict.LEVELS
    shape = (BATCH, CHANNELS, *sizes[0])
    x = noise(*shape).requires_grad_()
    sources = [noise(BATCH, CHANNELS, *size).requires_grad_() for size in sizes[1:]]
    codes = [noise(BATCH, 83, CHANNELS, dtype=torch.float32) for _ in sources]
    affine = noise(BATCH, CHANNELS, dtype=torch.float32), noise(BATCH, CHANNELS, dtype=torch.float32)
    gain, residual = noise(CHANNELS, dtype=torch.float32), noise(*shape)
    options = {"base_affine": affine, "base_relu": True, "source_affine": [affine] * 3, "gain": gain}

    def stats(side):
        return zigzag.ops.region_stats(x, backend=side)

    def pathway(side):
        return zigzag.ops.dense_pathway(x, sources, codes, **options, residual=residual, backend=side)

    pathway_costs = [
        cost.dense_pathway(
            shape, sizes[1:], base_affine=True, base_relu=True, source_affine=True, gain=True, residual=True,
            itemsize=2, backward=backward,
        )
        for backward in (False, True)
    ]  # fmt: skip
    stats_costs = [cost.region_stats(shape, itemsize=2, backward=backward) for backward in (False, True)]
    for side in sides:
        with torch.no_grad():
            close(stats(side), stats("reference"))
            close(pathway(side), pathway("reference"))
        both_directions(bench, "region_stats", side, lambda side=side: stats(side), [x], stats_costs)
        both_directions(bench, "dense_pathway", side, lambda side=side: pathway(side), [x, *sources], pathway_costs)


def necks(bench, sides):
    torch.manual_seed(0)
    config = predict.config_of()
    module = ZigZagNeck(config.in_channels).cuda().to(DTYPE).to(memory_format=torch.channels_last)
    bases = [noise(BATCH, CHANNELS, *size).requires_grad_() for size in predict.LEVELS]
    weight = module.output[0].conv.weight
    steps = cost.neck(config, predict.LEVELS, batch=BATCH, itemsize=2)
    floor = Convolutions([(bases[step.level], weight, None) for step in steps if step.part == "fusion"])
    forward_floor = bench.add("neck.fuse forward", "convolutions", floor.forward)
    step_floor = bench.add("neck.fuse forward+backward", "convolutions", floor.training_step)
    parameters = [p for name, p in module.named_parameters() if not name.startswith("lateral.")]

    def step():
        results = module.fuse(bases)
        return torch.autograd.grad(results, [*bases, *parameters], [torch.ones_like(r) for r in results])

    def eager():
        return zigzag.reference.neck.fuse(bases, dict(module.named_parameters()), config)

    peaks = {}
    for side in (*sides, "eager"):
        call = eager if side == "eager" else lambda: module.fuse(bases)
        train = step if side != "eager" else lambda: torch.autograd.grad(
            eager(), [*bases, *parameters], [torch.ones_like(b) for b in bases]
        )  # fmt: skip
        with zigzag.use_backend("reference" if side == "eager" else side):
            with torch.no_grad():
                bench.add("neck.fuse forward", side, call, floor=forward_floor)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            bench.add("neck.fuse forward+backward", side, train, floor=step_floor)
            peaks[side] = torch.cuda.max_memory_allocated() - before
    small_images(bench, module, sides)
    return peaks


def small_images(bench, module, sides):
    """N = 1, a 224 crop: launches are what counts."""
    features = [noise(1, c, s, s) for c, s in zip(module.config.in_channels, (56, 28, 14, 7), strict=True)]
    with torch.no_grad():
        for side in sides:
            with zigzag.use_backend(side):
                bench.add("neck 224 N=1 forward", side, lambda: module(features))
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    module(features)
                bench.add("neck 224 N=1 forward", f"{side}, graph", graph.replay)
        parameters = dict(module.named_parameters())
        bench.add("neck 224 N=1 forward", "eager",
                  lambda: zigzag.reference.neck.forward(features, parameters, module.config))  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    arguments = parser.parse_args()
    sides = [name for name in ("cuda", "triton") if zigzag.backends()[name].available]
    bench = Bench()
    bench.bandwidth = copy_bandwidth(bench)
    operations(bench, sides)
    peaks = necks(bench, sides)
    machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "bandwidth": bench.bandwidth}
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = {"machine": machine, "peak_bytes": peaks, "rows": [asdict(row) for row in bench.rows]}
    (arguments.out / "bench.json").write_text(json.dumps(found, indent=1))
    print(f"\n{machine['gpu']}, torch {machine['torch']}, copy {bench.bandwidth / 1e12:.2f} TB/s")
    for row in bench.rows:
        share = "" if row.share is None else f"{row.share:7.0%} of copy bandwidth"
        ratio = "" if row.ratio is None else f"{row.ratio:7.2f} x convolutions"
        print(f"{row.case:30} {row.side:14} {row.milliseconds:9.3f} ms  +-{row.spread:4.0%} {share}{ratio}")
    print("peak memory of a training step:", {side: f"{peak / 2**30:.2f} GiB" for side, peak in peaks.items()})


if __name__ == "__main__":
    main()
