"""The words of ``zigzag report``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from zigzag.bench.settings import BenchError, Settings


def main(words: Sequence[str]) -> int:
    """Run ``zigzag report`` with ``words``; the exit status.

    Raises:
        BenchError: an input cannot be used.
    """
    options = _parser().parse_args(words)
    for path in (options.folder, options.history):
        if path is not None and not path.is_dir():
            raise BenchError(f"there is no folder {str(path)!r}")
    try:
        from zigzag.report import page
    except ModuleNotFoundError as error:
        raise BenchError(f'{error.name} is not installed; the report needs: pip install "zigzag[bench]"') from error
    print(page.write(options.folder, options.history))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "zigzag report",
        description="Put what zigzag bench, profile and scale have written into a folder on one page, which needs no "
        "network: report.html.",
    )
    add = parser.add_argument
    add("folder", type=Path, nargs="?", default=Settings.out, help="that they wrote to (default: %(default)s)")
    add("--history", type=Path, metavar="FOLDER", help="of stored rows, such as benchmarks/results")
    return parser
