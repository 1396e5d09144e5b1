"""The words of ``zigzag scale``: its options and what they come to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from zigzag.bench.settings import BenchError, Settings, available_threads, hold_allocator
from zigzag.scaling.axes import AXES, Shape


def main(words: Sequence[str]) -> int:
    """Run ``zigzag scale`` with ``words``; the exit status.

    Raises:
        BenchError: an input cannot be used.
    """
    options = _parser().parse_args(words)
    unknown = [name for name in options.axes if name not in AXES]
    if unknown:
        raise BenchError(f"axes must be among {', '.join(AXES)}, got {unknown[0]!r}")
    try:
        from zigzag.scaling import run
    except ModuleNotFoundError as error:
        raise BenchError(f'{error.name} is not installed; scaling needs: pip install "zigzag[bench]"') from error
    middle = Shape(side=options.side, channels=options.channels, threads=options.threads)
    asked = run.Asked(options.axes or AXES, middle, options.seconds, options.out)
    hold_allocator(["scale", *words])
    return run.run(asked)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "zigzag scale",
        description="How time and memory of the neck's stages grow: exponents, fitted and predicted by the cost "
        "model, along one axis at a time; and a training step on several processes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("axes", nargs="*", metavar="AXIS", help=f"what varies, of {', '.join(AXES)}; without any, all of them")
    add("--side", type=int, default=64, metavar="PIXELS", help="of the finest map, where it does not vary")
    add("--channels", type=int, default=128, metavar="C", help="of all maps, where they do not vary")
    add("--threads", type=int, default=available_threads(), help="for torch, and the most processes")
    add("--seconds", type=float, default=15.0, help="of timing for every axis, about")
    add("--out", type=Path, default=Settings.out, metavar="FOLDER", help="for scaling.json and report.html")
    return parser
