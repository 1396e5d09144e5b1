"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to instead of ``path``; it takes its place at the end of the block, and vanishes if that fails.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.parent / f".{os.getpid()}.{path.name}"
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file of text, in UTF-8.

    Raises:
        OSError: the file cannot be written.
    """
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
