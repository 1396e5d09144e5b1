"""The command line: ``zigzag COMMAND``, also ``python -m zigzag COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from zigzag.bench.settings import DTYPES, BenchError, Settings, available_threads, hold_allocator

PROGRAM = "zigzag"
TRAINING = {
    "fit": "train a network for semantic or instance segmentation",
    "validate": "evaluate a network as validation while training does",
    "test": "evaluate a network into tables and files",
    "predict": "draw what a network sees in photographs",
    "ablate": "train and evaluate a set of variants, into one table",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 for a wrong result, 2 for input that cannot be used."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in TRAINING:
        return _train(words)
    options = _parser().parse_args(words)
    if options.command == "evaluate":
        return _evaluate(options)
    try:
        settings = _settings(options)
        hold_allocator(words)
        return _bench(settings)
    except BenchError as error:
        print(f"{PROGRAM} bench: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM} bench: interrupted, nothing written", file=sys.stderr)
        return 130


def _train(words: list[str]) -> int:
    """Run a command of training; lightning and what it brings are imported here and nowhere before."""
    try:
        from zigzag.tasks import ablate, cli
    except ModuleNotFoundError as error:
        needs = f'{error.name} is not installed; training needs: pip install "zigzag[train]"'
        print(f"{PROGRAM} {words[0]}: error: {needs}", file=sys.stderr)
        return 2
    try:
        return ablate.main(words) if words[0] == "ablate" else cli.main(words)
    except KeyboardInterrupt:
        print(f"{PROGRAM} {words[0]}: interrupted", file=sys.stderr)
        return 130


def _evaluate(options: argparse.Namespace) -> int:
    """Score a file of results; pycocotools is imported here and nowhere before."""
    try:
        from zigzag.tasks import coco_scores
    except ModuleNotFoundError as error:
        needs = f'{error.name} is not installed; COCO needs: pip install "zigzag[train]"'
        print(f"{PROGRAM} evaluate: error: {needs}", file=sys.stderr)
        return 2
    try:
        print(coco_scores.evaluate_files(options.annotations, options.results, options.kind).table())
    except ValueError as error:
        print(f"{PROGRAM} evaluate: error: {error}", file=sys.stderr)
        return 2
    return 0


def _bench(settings: Settings) -> int:
    try:
        from zigzag.bench import run
    except ModuleNotFoundError as error:
        raise BenchError(f'{error.name} is not installed; the benchmark needs: pip install "zigzag[bench]"') from error
    return run.run(settings)


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        image=options.image,
        size=options.size,
        backbone=options.backbone,
        weights=options.weights,
        stride_in_1x1=options.stride_in_1x1,
        dtype=options.dtype,
        threads=options.threads,
        only=options.filter,
        quick=options.quick,
        compiled=options.compile,
        out=options.out,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(PROGRAM, description="Fused kernels for ZigZagNet's feature-pyramid neck.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for command, help_ in TRAINING.items():  # shown here, and parsed by zigzag.tasks
        commands.add_parser(command, help=help_, add_help=False)
    evaluate = commands.add_parser("evaluate", help="score a file of results in COCO's format by pycocotools")
    evaluate.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO's instances_SPLIT.json")
    evaluate.add_argument("--results", type=Path, required=True, metavar="FILE", help="results of one kind")
    evaluate.add_argument("--kind", choices=("bbox", "segm"), required=True, help="boxes or masks")
    bench = commands.add_parser(
        "bench",
        help="measure the operations and the neck against stock PyTorch, results checked first",
        description="Measure every operation and the whole neck on the pyramid of a photograph, against stock PyTorch "
        "and against the work that nobody can leave out. Results are checked against float64 before anything is timed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = bench.add_argument
    add("--image", type=Path, metavar="FILE", help="photograph; without it, the sample that matplotlib ships")
    add("--size", type=int, default=Settings.size, metavar="PIXELS", help="side of the square crop")
    add("--backbone", default=Settings.backbone, metavar="NAME", help="ResNet of torchvision")
    add("--weights", type=Path, metavar="FILE", help="state dict of the backbone; without it, seeded random weights")
    add("--stride-in-1x1", action="store_true", help="the weights have a bottleneck's stride in its first convolution")
    add("--dtype", choices=DTYPES, default=Settings.dtype, help="of maps and parameters")
    add("--threads", type=int, default=available_threads(), help="for torch")
    add("--filter", default="", metavar="TEXT", help="only cases whose name contains this")
    add("--quick", action="store_true", help="fewer repetitions, 3x3 region kernel only, no sweeps")
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="also torch.compile, which takes minutes",
    )
    add("--out", type=Path, default=Settings.out, metavar="FOLDER", help="for rows.json, report.html and neck.png")
    return parser
