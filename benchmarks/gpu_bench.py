"""Times the operations and the neck on a GPU (CUDA events, cold cache, medians), each result checked first.

    python benchmarks/gpu_bench.py [operations] [neck] [small] [compiled] [--out build/gpu]

bfloat16, channels_last, C = 256, the levels of a 473 crop, N = 16; small: N = 1, a 224 crop. Without names all but
compiled, which is torch.compile (max-autotune) of eager and takes minutes to compile. Every name leaves NAME.json.
A result counts as right while its error against float64 is at most twice stock PyTorch's; a wrong one is not timed.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import gpu_cases
import torch

import zigzag

FLUSH = 256 << 20  # bytes: more than the caches of any GPU
COPIED = 1 << 30  # bytes
AHEAD = 4_000_000  # cycles that the GPU waits, so that launches are not what is timed
SAMPLES = 15
SIDES = ("cuda", "triton")
OPERATIONS = ("region_stats", "dense_pathway", "region_codes", "region_norm")


@dataclass
class Row:
    case: str
    side: str
    milliseconds: float
    spread: float  # interquartile range over the median
    share: float | None = None  # of the measured copy bandwidth
    error: float | None = None  # over stock PyTorch's


class Bench:
    """Rows of one run, and what was wrong or failed in it."""

    def __init__(self):
        self.flush = torch.ones(FLUSH // 4, device=gpu_cases.DEVICE)
        self.sides = [name for name in SIDES if zigzag.backends()[name].available]
        self.rows, self.faults, self.peaks = [], [], {}
        self.bandwidth = self.copy_bandwidth()

    def copy_bandwidth(self):
        """Bytes/s, read plus written, of a copy that no cache holds."""
        source = torch.empty(COPIED, dtype=torch.uint8, device=gpu_cases.DEVICE)
        target = torch.empty_like(source)
        return 2 * source.numel() / (self.time(lambda: target.copy_(source), ahead=True)[0] * 1e-3)

    def time(self, call, ahead=False):
        """Milliseconds of `call`, median and relative spread, with cold caches; `ahead`: all is launched before."""
        for _ in range(3):
            call()
        samples = []
        for _ in range(SAMPLES):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            if ahead:
                torch.cuda._sleep(AHEAD)  # noqa: SLF001 - torch's own tests have no other
            self.flush.sum()  # read, not written: nothing is left to be written back
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            samples.append(begin.elapsed_time(end))
        low, middle, high = statistics.quantiles(samples, n=4)
        return middle, (high - low) / middle

    def add(self, case, side, call, *, moved=None, error=None, ahead=False):
        median, spread = self.time(call, ahead)
        share = None if moved is None else moved.bytes / (median * 1e-3) / self.bandwidth
        self.rows.append(Row(case, side, median, spread, share, error))
        print(self.rows[-1], flush=True)

    def attempt(self, work, *arguments):
        """Do a part of the work; what it raises is a fault, and no reason to learn nothing of the others."""
        try:
            work(self, *arguments)
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            self.faults.append(f"{work.__name__}{[x for x in arguments if isinstance(x, str)]}: {error!r}")

    def right(self, case, side, ratio):
        """The error ratio where it lets times be reported; otherwise a fault, and None."""
        error = ratio()
        if error <= gpu_cases.MOST_RATIO:
            return error
        self.faults.append(f"{case}, {side}: error {error:.2f} times stock PyTorch's")
        return None


def operations(bench):
    for case in gpu_cases.operations():
        exact, stock = case.solved("reference", torch.float64), case.solved("reference")
        for side in bench.sides:
            bench.attempt(operation, case, side, exact, stock)


def operation(bench, case, side, exact, stock):
    error = bench.right(case.name, side, lambda: gpu_cases.error_ratio(case.solved(side), stock, exact))
    if error is None:
        return
    leaves = gpu_cases.leaves_of(case.tensors)
    forward, backward = case.costs
    with torch.no_grad():
        bench.add(f"{case.name} forward", side, lambda: case.call(leaves, side), moved=forward, error=error, ahead=True)
    results = case.call(leaves, side)
    weights, inputs = [torch.ones_like(result) for result in results], list(leaves.values())
    bench.add(
        f"{case.name} backward", side, lambda: torch.autograd.grad(results, inputs, weights, retain_graph=True),
        moved=backward, error=error, ahead=True,
    )  # fmt: skip


def neck(bench):
    work = gpu_cases.Neck()
    floor = work.floor()
    bench.add("neck forward", "convolutions", floor.forward)
    bench.add("neck forward+backward", "convolutions", floor.training_step)
    del floor
    for side in (*bench.sides, "eager"):
        bench.attempt(neck_on, work, side)


def neck_on(bench, work, side):
    error = 1.0 if side == "eager" else bench.right("neck", side, lambda: work.ratio(side))
    if error is None:
        return
    bench.add("neck forward", side, lambda: work.forward(side), error=error)
    bench.add("neck forward+backward", side, lambda: work.step(side), error=error)
    bench.peaks[side] = peak(lambda: work.step(side))


def peak(call):
    """Bytes that a call allocates at most, beyond what is there before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def small(bench):
    """N = 1, a 224 crop: launches are what counts."""
    module = gpu_cases.Neck().module
    channels = module.config.in_channels
    features = [gpu_cases.noise(1, c, s, s) for c, s in zip(channels, gpu_cases.SMALL_LEVELS, strict=True)]
    parameters = dict(module.named_parameters())

    def eager():
        return zigzag.reference.neck.forward(features, parameters, module.config)

    with torch.no_grad():
        bench.add("neck 224 forward", "eager", eager)
        for side in bench.sides:
            bench.attempt(small_on, module, features, side)


def small_on(bench, module, features, side):
    error = bench.right("neck 224", side, lambda: small_ratio(module, features, side))
    if error is None:
        return
    with zigzag.use_backend(side):
        bench.add("neck 224 forward", side, lambda: module(features), error=error)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            module(features)
        bench.add("neck 224 forward", f"{side}, graph", graph.replay, error=error)


def small_ratio(module, features, side):
    """The error of a side's whole neck, against eager's."""
    parameters, config = dict(module.named_parameters()), module.config
    doubles = {name: parameter.double() for name, parameter in parameters.items()}
    exact = zigzag.reference.neck.forward([x.double() for x in features], doubles, config)
    stock = zigzag.reference.neck.forward(features, parameters, config)
    with zigzag.use_backend(side):
        ours = module(features)
    return gpu_cases.error_ratio({"outputs": ours}, {"outputs": stock}, {"outputs": exact})


def compiled(bench):
    """Eager under torch.compile, beside ours in the same run."""
    work = gpu_cases.Neck()
    traced = torch.compile(work.eager, mode="max-autotune")

    def step():
        torch.compiler.cudagraph_mark_step_begin()
        return work.step(traced)

    case = "neck forward+backward"
    for side in bench.sides:
        error = bench.right("neck", side, functools.partial(work.ratio, side))
        if error is not None:
            bench.add(case, side, functools.partial(work.step, side), error=error)
    bench.add(case, "compiled", step)


PARTS = {"operations": operations, "neck": neck, "small": small, "compiled": compiled}


# --- what is asked of the figures -------------------------------------------------------------------------------------


def figures(rows, peaks):
    """Lines: every figure that is asked for and that these rows hold, beside its target."""
    times = {(row.case, row.side): row.milliseconds for row in rows}

    def ratio(label, above, below, target):
        if above in times and below in times:
            yield f"{label:64} {times[above] / times[below]:8.2f}   {target}"

    for row in rows:
        if row.share is not None and row.case.split()[0] in OPERATIONS[:2]:
            yield f"{f'{row.case}, {row.side}: share of copy bandwidth':64} {row.share:8.0%}   >= 85%"
    for way in ("forward", "backward"):
        for name in OPERATIONS:
            cuda, triton = ((f"{name} {way}", side) for side in SIDES)
            yield from ratio(f"{name} {way}, triton / cuda", triton, cuda, "the better of both is the default")
    step = "neck forward+backward"
    for side in SIDES:
        for case in ("neck forward", step):
            yield from ratio(f"{case}, {side} / convolutions", (case, side), (case, "convolutions"), "<= 1.35")
        yield from ratio(f"{step}, eager / {side}", (step, "eager"), (step, side), ">= 4")
        yield from ratio(f"{step}, compiled (max-autotune) / {side}", (step, "compiled"), (step, side), ">= 2")
        if side in peaks and "eager" in peaks:
            label = f"peak memory of a training step, {side} / eager"
            yield f"{label:64} {peaks[side] / peaks['eager']:8.2f}   <= 0.4"
        case = "neck 224 forward"
        yield from ratio(f"{case}, eager / {side} with a graph", (case, "eager"), (case, f"{side}, graph"), ">= 4")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    arguments = parser.parse_args(arguments)
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"parts are {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    torch.backends.cudnn.benchmark = True  # for the convolutions of all sides
    arguments.out.mkdir(parents=True, exist_ok=True)
    bench = Bench()
    machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "bandwidth": bench.bandwidth}
    for part in arguments.parts or [name for name in PARTS if name != "compiled"]:
        before = len(bench.rows)
        bench.attempt(PARTS[part])
        rows = [asdict(row) for row in bench.rows[before:]]
        found = {"machine": machine, "peak_bytes": bench.peaks, "faults": bench.faults, "rows": rows}
        (arguments.out / f"{part}.json").write_text(json.dumps(found, indent=1))
    print(f"\n{machine['gpu']}, torch {machine['torch']}, copy {bench.bandwidth / 1e12:.2f} TB/s")
    for row in bench.rows:
        share = "" if row.share is None else f"{row.share:6.0%} of copy bandwidth"
        print(f"{row.case:26} {row.side:14} {row.milliseconds:9.3f} ms  +-{row.spread:4.0%} {share}")
    print("\n".join(["", *figures(bench.rows, bench.peaks), *bench.faults]))
    raise SystemExit(bool(bench.faults))


if __name__ == "__main__":
    main()
