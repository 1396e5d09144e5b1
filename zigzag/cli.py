"""The command line: ``zigzag COMMAND``, also ``python -m zigzag COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from zigzag.bench import command
from zigzag.bench.settings import BenchError
from zigzag.profile import command as profile
from zigzag.report import command as report
from zigzag.scaling import command as scaling

PROGRAM = "zigzag"
MEASURING: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "bench": (command.main, "measure the operations and the neck against stock PyTorch, results checked first"),
    "profile": (profile.profile, "where the neck's time and memory go; or one call, captured"),
    "replay": (profile.replay, "run one captured call by itself, for ncu and compute-sanitizer"),
    "scale": (scaling.main, "how time and memory grow, beside what the cost model predicts"),
    "report": (report.main, "what these have measured, as one page"),
}
TRAINING = {
    "fit": "train a network for semantic or instance segmentation",
    "validate": "evaluate a network as validation while training does",
    "test": "evaluate a network into tables and files",
    "predict": "draw what a network sees in photographs",
    "ablate": "train and evaluate a set of variants, into one table",
    "evaluate": "score a file of results in COCO's format by pycocotools",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 for a wrong result, 2 for input that cannot be used."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in TRAINING:
        return _train(words)
    if words and words[0] in MEASURING:
        return _measure(words)
    _parser().parse_args(words)
    return 2


def _train(words: list[str]) -> int:
    """Run a command of training; lightning and what it brings are imported here and nowhere before."""
    try:
        from zigzag.tasks import ablate, cli, coco_scores
    except ModuleNotFoundError as error:
        needs = f'{error.name} is not installed; training needs: pip install "zigzag[train]"'
        print(f"{PROGRAM} {words[0]}: error: {needs}", file=sys.stderr)
        return 2
    run = {"ablate": ablate.main, "evaluate": coco_scores.main}.get(words[0], cli.main)
    try:
        return run(words)
    except KeyboardInterrupt:
        print(f"{PROGRAM} {words[0]}: interrupted", file=sys.stderr)
        return 130


def _measure(words: list[str]) -> int:
    run, _ = MEASURING[words[0]]
    try:
        return run(words[1:])
    except BenchError as error:
        print(f"{PROGRAM} {words[0]}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM} {words[0]}: interrupted, nothing written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    """Shows the commands and refuses what is none; each parses its own words."""
    parser = argparse.ArgumentParser(PROGRAM, description="Fused kernels for ZigZagNet's feature-pyramid neck.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, help_ in {**{name: help_ for name, (_, help_) in MEASURING.items()}, **TRAINING}.items():
        commands.add_parser(name, help=help_, add_help=False)
    return parser
