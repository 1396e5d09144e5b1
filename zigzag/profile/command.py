"""The words of ``zigzag profile`` and ``zigzag replay``. What they run is imported when they are called."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from zigzag.bench.command import add_source
from zigzag.bench.settings import DEVICES, DTYPES, BenchError, Settings, available_threads, hold_allocator


def profile(words: Sequence[str]) -> int:
    """Run ``zigzag profile`` with ``words``; the exit status.

    Raises:
        BenchError: an input cannot be used.
    """
    options = _profile_parser().parse_args(words)
    settings = Settings(
        image=options.image,
        size=options.size,
        backbone=options.backbone,
        weights=options.weights,
        stride_in_1x1=options.stride_in_1x1,
        dtype=options.dtype,
        batch=options.batch,
        device=options.device,
        threads=options.threads,
        out=options.out,
    )
    hold_allocator(["profile", *words])
    try:
        from zigzag.profile import run
    except ModuleNotFoundError as error:
        raise BenchError(f'{error.name} is not installed; a profile needs: pip install "zigzag[bench]"') from error
    capture = options.capture and (options.capture[0], Path(options.capture[1]))
    return run.run(run.Asked(settings, options.kernel, not options.forward, options.backend, capture))


def replay(words: Sequence[str]) -> int:
    """Run ``zigzag replay`` with ``words``; the exit status.

    Raises:
        BenchError: an input cannot be used.
    """
    options = _replay_parser().parse_args(words)
    from zigzag.profile.replay import replay

    return replay(options.file, backend=options.backend, runs=options.runs)


def _profile_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "zigzag profile",
        description="Trace a training step of the neck on the pyramid of a photograph, with ranges by pass, stage, "
        "direction and level, and say where time and memory go; or capture what one call was given.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_source(parser)
    add = parser.add_argument
    add("--kernel", type=int, choices=(3, 1), default=3, help="size of the region kernel")
    add("--forward", action="store_true", help="the forward pass alone")
    add("--backend", metavar="NAME", help="of the operations; without it, the default of the device")
    add("--dtype", choices=DTYPES, default="float32", help="of maps and parameters")
    add("--batch", type=int, default=Settings.batch, metavar="N", help="the photograph, so often")
    add("--device", choices=DEVICES, default=Settings.device, help="where to run")
    add("--threads", type=int, default=available_threads(), help="for torch")
    add(
        "--capture",
        nargs=2,
        metavar=("NAME:NUMBER", "FILE"),
        help="in the place of a profile: write all that one call of an operation was given to a file for zigzag "
        "replay; region_stats:3 is the third of region_stats, dense_pathway_backward:1 the first of that",
    )
    add("--out", type=Path, default=Settings.out, metavar="FOLDER", help="for trace.json.gz, profile.json, report.html")
    return parser


def _replay_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "zigzag replay",
        description="Run a call that zigzag profile --capture wrote, and nothing else, and compare its results with "
        "those of that time: for ncu, compute-sanitizer and debuggers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="the captured call")
    parser.add_argument("--backend", metavar="NAME", help="that runs it; without it, the one that it was captured on")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="how often; all but the first are timed")
    return parser
