"""COCO's annotation files, checked entry by entry, so that a broken one is found before training."""

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any

from zigzag.data.source import DataError, summary

Entry = dict[str, Any]


def read_annotations(path: Path) -> Any:
    """The pycocotools.coco.COCO of a file.

    Raises:
        DataError: there is no such file, it is no annotations of COCO, or entries cannot be used; the first ones are
            named by their image and annotation ids.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path}: no annotations of COCO: {error}") from error
    found = list(problems(content))
    if found:
        raise DataError(summary(f"{path}: no annotations of COCO that can be used", found))
    return indexed(content)


def indexed(content: Entry) -> Any:
    """The pycocotools.coco.COCO of annotations in memory."""
    try:
        from pycocotools.coco import COCO
    except ModuleNotFoundError as error:
        raise DataError(f'{error.name} is not installed; COCO needs: pip install "zigzag[train]"') from error
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def problems(content: Any) -> Iterator[str]:
    """What is wrong with annotations, naming the ids."""
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            yield f"{key} must be a list"
            return
    images: dict[int, Entry] = {}
    yield from _unique("image", content["images"], _image_problem, images)
    categories: dict[int, Entry] = {}
    yield from _unique("category", content["categories"], _category_problem, categories)

    def annotation_problem(entry: Entry) -> str | None:
        if not _is_id(entry.get("image_id")) or entry["image_id"] not in images:
            return f"there is no image {entry.get('image_id')!r}"
        problem = _annotation_problem(entry, images[entry["image_id"]], categories)
        return None if problem is None else f"image {entry['image_id']}: {problem}"

    yield from _unique("annotation", content["annotations"], annotation_problem, {})


def _unique(
    what: str, entries: list[Any], problem_of: Callable[[Entry], str | None], known: dict[int, Entry]
) -> Iterator[str]:
    """Problems of entries that need an id each; those with an id of their own become known."""
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_id(entry.get("id")):
            yield f"{what} at place {place}: it has no integer id"
            continue
        problem = "another has the same id" if entry["id"] in known else problem_of(entry)
        known.setdefault(entry["id"], entry)
        if problem is not None:
            yield f"{what} {entry['id']}: {problem}"


def _image_problem(entry: Entry) -> str | None:
    if not isinstance(entry.get("file_name"), str):
        return f"file_name must be a text, got {entry.get('file_name')!r}"
    for key in ("height", "width"):
        if not _is_id(entry.get(key)) or entry[key] < 1:
            return f"{key} must be an integer >= 1, got {entry.get(key)!r}"
    return None


def _category_problem(entry: Entry) -> str | None:
    return None if isinstance(entry.get("name"), str) else f"name must be a text, got {entry.get('name')!r}"


def _annotation_problem(entry: Entry, image: Entry, categories: dict[int, Entry]) -> str | None:
    if not _is_id(entry.get("category_id")) or entry["category_id"] not in categories:
        return f"there is no category {entry.get('category_id')!r}"
    if entry.get("iscrowd") not in (0, 1):
        return f"iscrowd must be 0 or 1, got {entry.get('iscrowd')!r}"
    if not are_numbers(entry.get("bbox"), 4) or min(entry["bbox"][2:]) < 0:
        return f"bbox must be x, y, width >= 0, height >= 0, got {entry.get('bbox')!r}"
    if not are_numbers([entry.get("area")], 1) or entry["area"] < 0:
        return f"area must be a number >= 0, got {entry.get('area')!r}"
    return segmentation_problem(entry.get("segmentation"), image["height"], image["width"])


def segmentation_problem(value: Any, height: int, width: int) -> str | None:
    """What is wrong with polygons or a run-length encoding of an image of this size, or None."""
    if isinstance(value, dict):
        return _rle_problem(value, height, width)
    if not isinstance(value, list) or not value:
        return f"segmentation must be polygons or a run-length encoding, got {_short(value)}"
    for polygon in value:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not are_numbers(polygon):
            return f"a polygon must be three or more pairs of numbers, got {_short(polygon)}"
    return None


def _rle_problem(value: Entry, height: int, width: int) -> str | None:
    if value.get("size") != [height, width]:
        return f"the run-length encoding is of size {value.get('size')!r}, its image [{height}, {width}]"
    counts = value.get("counts")
    try:
        runs = run_lengths(counts) if isinstance(counts, str) else counts
    except IndexError:
        return "the run-length encoding ends within a number"
    if not isinstance(runs, list) or not all(_is_id(run) and run >= 0 for run in runs):
        return f"counts of a run-length encoding must be a text or integers >= 0, got {_short(counts)}"
    if sum(runs) != height * width:
        return f"the run-length encoding covers {sum(runs)} of {height * width} pixels"
    return None


def run_lengths(counts: str) -> list[int]:
    """The runs of COCO's compressed encoding: base 32, lowest digits first, each less the one two before."""
    runs: list[int] = []
    place = 0
    while place < len(counts):
        value = shift = 0
        more = True
        while more:
            digit = ord(counts[place]) - 48
            value |= (digit & 31) << shift
            more = bool(digit & 32)
            place, shift = place + 1, shift + 5
            if not more and digit & 16:
                value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def are_numbers(values: Any, count: int | None = None) -> bool:
    """Whether ``values`` is a list of finite numbers, ``count`` of them."""
    return (
        isinstance(values, list)
        and count in (None, len(values))
        and all(isinstance(x, int | float) and not isinstance(x, bool) and isfinite(x) for x in values)
    )


def _is_id(value: Any) -> bool:
    return type(value) is int


def _short(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
