"""The command line: ``zigzag COMMAND``, also ``python -m zigzag COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from zigzag.bench import command
from zigzag.bench.settings import BenchError

PROGRAM = "zigzag"
MEASURING = {"bench": "measure the operations and the neck against stock PyTorch, results checked first"}
TRAINING = {
    "fit": "train a network for semantic segmentation",
    "validate": "evaluate a network as validation while training does",
    "test": "evaluate a network, with every scale, into tables and a contact sheet",
    "predict": "draw what a network sees in photographs",
    "ablate": "train and evaluate a set of variants, into one table",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 for a wrong result, 2 for input that cannot be used."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in TRAINING:
        return _train(words)
    if words and words[0] == "bench":
        return _bench(words[1:])
    _parser().parse_args(words)
    return 2


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


def _bench(words: list[str]) -> int:
    try:
        return command.main(words)
    except BenchError as error:
        print(f"{PROGRAM} bench: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM} bench: interrupted, nothing written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    """Shows the commands and refuses what is none; each parses its own words."""
    parser = argparse.ArgumentParser(PROGRAM, description="Fused kernels for ZigZagNet's feature-pyramid neck.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, help_ in {**MEASURING, **TRAINING}.items():
        commands.add_parser(name, help=help_, add_help=False)
    return parser
