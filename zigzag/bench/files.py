"""The bench's files, each there whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zigzag import files
from zigzag.bench.settings import BenchError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """As `zigzag.files.whole`.

    Raises:
        BenchError: the file cannot be written.
    """
    try:
        with files.whole(path) as temporary:
            yield temporary
    except OSError as error:
        raise BenchError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def write_json(path: Path, content: DataclassInstance, schema: int) -> None:
    """Write a dataclass as one JSON object, with the number of its schema.

    Raises:
        BenchError: the file cannot be written.
    """
    with whole(path) as temporary:
        temporary.write_text(json.dumps({"schema": schema, **asdict(content)}), encoding="utf-8")


def read_json(path: Path, kind: str, schema: int) -> dict[str, Any]:
    """The content of a JSON file that holds a ``kind`` of one ``schema``.

    Raises:
        BenchError: there is no such file, or something else is in it.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise BenchError(f"{str(path)!r} is no JSON file: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != schema:
        found = content.get("schema") if isinstance(content, dict) else None
        raise BenchError(f"{str(path)!r} must hold {kind} of schema {schema}, got schema {found!r}")
    return content
