"""The words of ``zigzag bench``: its options and what they come to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from zigzag.bench.settings import (
    COMPILE_MODES,
    DEVICES,
    DTYPES,
    SUITES,
    BenchError,
    Settings,
    available_threads,
    hold_allocator,
)

PROGRAM = "zigzag bench"
STORE = Path("benchmarks") / "results"


def main(words: Sequence[str]) -> int:
    """Run ``zigzag bench`` with ``words``; the exit status.

    Raises:
        BenchError: an input cannot be used.
    """
    try:
        return _OTHERS[words[0]](words[1:]) if words and words[0] in _OTHERS else _measure(words)
    except ModuleNotFoundError as error:
        raise BenchError(f'{error.name} is not installed; the benchmark needs: pip install "zigzag[bench]"') from error


def _measure(words: Sequence[str]) -> int:
    options = parser().parse_args(words)
    settings = settings_of(options)
    if not (options.list or options.dry_run):
        hold_allocator(["bench", *words])
    from zigzag.bench import listing, run

    if options.list or options.dry_run:
        return listing.show(settings, times=options.dry_run)
    return run.run(settings)


def _gate(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        f"{PROGRAM} gate",
        description="Fail where this checkout is slower, against the floor, than a baseline commit measured beside it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--against", metavar="COMMIT", help="the baseline; without it, the one stored in benchmarks/results/gate.json")
    add("--filter", default="", metavar="WORDS", help="only these of the cases of --suite ci")
    add("--size", type=int, default=Settings.size, metavar="PIXELS", help="side of the square crop")
    add("--threads", type=int, default=available_threads(), help="for torch")
    options = parser.parse_args(words)
    from zigzag.bench import gate

    settings = Settings(suite="ci", only=options.filter, size=options.size, threads=options.threads)
    return gate.run(settings, options.against)


def _compare(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        f"{PROGRAM} compare",
        description="Show how the second run differs from the first. Exit status 1: something is slower by more than "
        "the spread that the runs state.",
    )
    for name in ("A", "B"):
        parser.add_argument(name, help="a file of rows (rows.json), or a commit that the store has rows of")
    parser.add_argument("--store", type=Path, default=STORE, metavar="FOLDER", help=f"by default {STORE}")
    options = parser.parse_args(words)
    from zigzag.bench import compare

    return compare.run(options.A, options.B, options.store)


def settings_of(options: argparse.Namespace) -> Settings:
    """What the parsed options ask for."""
    return Settings(
        image=options.image,
        size=options.size,
        backbone=options.backbone,
        weights=options.weights,
        stride_in_1x1=options.stride_in_1x1,
        suite=options.suite,
        dtype=options.dtype,
        batch=options.batch,
        device=options.device,
        graph=options.graph,
        threads=options.threads,
        only=options.filter,
        quick=options.quick,
        compiled=options.compile,
        store=options.store,
        out=options.out,
    )


_OTHERS = {"gate": _gate, "compare": _compare}


def parser() -> argparse.ArgumentParser:
    """All options of a measurement."""
    bench = argparse.ArgumentParser(
        PROGRAM,
        description="Measure every operation and the whole neck on the pyramid of a photograph, against stock PyTorch "
        "and against the work that nobody can leave out. Results are checked against float64 before anything is timed.",
        epilog="zigzag bench compare A B compares two files of rows; zigzag bench gate compares two commits. Both have "
        "their own --help.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_source(bench)
    add = bench.add_argument
    add("--suite", choices=SUITES, default=Settings.suite, help="which cases; ci: what the gate compares")
    add(
        "--filter",
        default="",
        metavar="WORDS",
        help="only cases with these in their name or key (see --list); a|b: either",
    )
    add("--dtype", choices=DTYPES, help="of maps and parameters, in the place of float32")
    add("--batch", type=int, default=Settings.batch, metavar="N", help="the photograph, so often")
    add("--device", choices=DEVICES, default=Settings.device, help="where to measure")
    add("--graph", action="store_true", help="on a GPU, time every side as one CUDA graph")
    add("--threads", type=int, default=available_threads(), help="for torch")
    add("--list", action="store_true", help="show the key of every case and stop")
    add("--dry-run", action="store_true", help="show the cases with the time they would take, and stop")
    add("--quick", action="store_true", help="fewer repetitions, 3x3 region kernel only, no sweeps")
    add(
        "--compile",
        nargs="?",
        choices=COMPILE_MODES,
        const=COMPILE_MODES[0],
        metavar="MODE",
        help=f"also torch.compile, which takes minutes; MODE: {', '.join(COMPILE_MODES)}",
    )
    add("--store", type=Path, metavar="FOLDER", help="keep the rows there too, by device and commit")
    add("--out", type=Path, default=Settings.out, metavar="FOLDER", help="for rows.json, report.html and neck.png")
    return bench


def add_source(parser: argparse.ArgumentParser) -> None:
    """The options that say where the maps come from."""
    add = parser.add_argument
    add("--image", type=Path, metavar="FILE", help="photograph; without it, the sample that matplotlib ships")
    add("--size", type=int, default=Settings.size, metavar="PIXELS", help="side of the square crop")
    add("--backbone", default=Settings.backbone, metavar="NAME", help="ResNet of torchvision")
    add("--weights", type=Path, metavar="FILE", help="state dict of the backbone; without it, seeded random weights")
    add("--stride-in-1x1", action="store_true", help="the weights have a bottleneck's stride in its first convolution")
