"""COCO's scores of detections, by pycocotools: results in its format, average precision, tables, files."""

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools import mask as masks
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from zigzag.data.annotations import are_numbers, indexed, read_annotations, segmentation_problem
from zigzag.data.source import DataError, summary
from zigzag.files import write_text

Kind = Literal["bbox", "segm"]
Result = dict[str, Any]

KINDS: tuple[Kind, ...] = ("bbox", "segm")
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""Of the first six of COCO's summary."""
MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class CocoScores:
    """Average precisions from 0 to 1; NaN where the truth has nothing to find.

    Attributes:
        kind: "bbox" or "segm".
        summary: by the names of `NAMES`; AP is the mean over IoU 0.50 to 0.95.
        by_class: AP by the name of the category.
    """

    kind: Kind
    summary: Mapping[str, float]
    by_class: Mapping[str, float]

    def table(self) -> str:
        """The scores as text, in percent."""
        width = max(map(len, [*self.by_class, *NAMES]))
        rows = [*self.by_class.items(), *self.summary.items()]
        return "\n".join([f"{self.kind:<{width}}      AP", *(f"{name:<{width}}  {_percent(x)}" for name, x in rows)])


def pasted(mask: Tensor, box: Tensor, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask (H, W) of one detection in its image, from its probabilities (1, m, m) over its box (4,)."""
    probabilities = paste_masks_in_image(mask[None].float(), box[None].float(), size)
    inside: npt.NDArray[np.bool_] = (probabilities[0, 0] > MASK_THRESHOLD).cpu().numpy()
    return inside


def results_of(
    image_id: int, found: Mapping[str, Tensor], size: tuple[int, int], category_ids: Mapping[int, int]
) -> Iterator[dict[Kind, Result]]:
    """The detections of one image (H, W) in COCO's format, one after the other, so that one mask is held at a time."""
    boxes = found["boxes"].cpu()
    rows = zip(found["masks"].cpu(), boxes, found["labels"].tolist(), found["scores"].tolist(), strict=True)
    for mask, box, label, score in rows:
        left, top, right, bottom = box.tolist()
        common = {"image_id": image_id, "category_id": category_ids[label], "score": score}
        encoded = masks.encode(np.asfortranarray(pasted(mask, box, size), np.uint8))
        encoded["counts"] = encoded["counts"].decode("ascii")
        yield {
            "bbox": {**common, "bbox": [left, top, right - left, bottom - top]},
            "segm": {**common, "segmentation": encoded},
        }


def evaluate(truth: Any, results: Sequence[Result], kind: Kind) -> CocoScores:
    """The scores of results of a kind against a pycocotools.coco.COCO, over all of its images."""
    with contextlib.redirect_stdout(io.StringIO()):
        found = (
            truth.loadRes([_of_kind(own, kind) for own in results])
            if results
            else indexed({**truth.dataset, "annotations": []})
        )
        measured = COCOeval(truth, found, kind)
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    names = [truth.cats[category]["name"] for category in measured.params.catIds]
    precision = measured.eval["precision"][:, :, :, 0, -1]  # IoU, recall, category; of any area, 100 detections
    by_class = {name: _mean(precision[:, :, place]) for place, name in enumerate(names)}
    values = [float(value) if value > -1 else float("nan") for value in measured.stats[: len(NAMES)]]
    return CocoScores(kind, dict(zip(NAMES, values, strict=True)), by_class)


def _of_kind(entry: Result, kind: Kind) -> Result:
    """An entry with the keys of its kind alone, as loadRes takes another kind or another area by any others."""
    own = {key: entry[key] for key in ("image_id", "category_id", "score")}
    if kind == "bbox":
        return {**own, "bbox": entry["bbox"]}
    encoded = entry["segmentation"]
    if isinstance(encoded["counts"], list):
        encoded = masks.frPyObjects(encoded, *encoded["size"])
    return {**own, "segmentation": encoded}


def main(words: Sequence[str]) -> int:
    """Run ``zigzag evaluate`` and return its exit status: 0, or 2 for files that cannot be used."""
    parser = argparse.ArgumentParser("zigzag evaluate", description="Score a file of results by pycocotools.")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO's instances_SPLIT.json")
    parser.add_argument("--results", type=Path, required=True, metavar="FILE", help="results of one kind")
    parser.add_argument("--kind", choices=KINDS, required=True, help="boxes or masks")
    options = parser.parse_args(list(words[1:]))
    try:
        print(evaluate_files(options.annotations, options.results, options.kind).table())
    except DataError as error:
        print(f"zigzag evaluate: error: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate_files(annotations: Path, results: Path, kind: Kind) -> CocoScores:
    """The scores of a file of results, in COCO's format, against a file of annotations.

    Raises:
        DataError: a file is missing or broken, or results are of other images or categories; the entry is named.
    """
    truth = read_annotations(annotations)
    if not results.is_file():
        raise DataError(f"{results}: there is no such file")
    try:
        content = json.loads(results.read_text())
    except ValueError as error:
        raise DataError(f"{results}: no results in COCO's format: {error}") from error
    if not isinstance(content, list):
        raise DataError(f"{results}: no results in COCO's format: expected a list, got {type(content).__name__}")
    found = [f"entry {place}: {text}" for place, entry in enumerate(content) if (text := _problem(entry, truth, kind))]
    if found:
        raise DataError(summary(f"{results}: results that cannot be used", found))
    return evaluate(truth, content, kind)


def write(folder: Path, scores: Iterable[CocoScores], results: Mapping[Kind, Sequence[Result]]) -> None:
    """scores.json, scores.txt, and results_bbox.json and results_segm.json in COCO's format."""
    folder.mkdir(parents=True, exist_ok=True)
    own = list(scores)
    for kind, entries in results.items():
        write_text(folder / f"results_{kind}.json", json.dumps(list(entries)))
    content = {one.kind: {**_numbers(one.summary), "classes": _numbers(one.by_class)} for one in own}
    write_text(folder / "scores.json", json.dumps(content, indent=1) + "\n")
    write_text(folder / "scores.txt", "\n\n".join(one.table() for one in own) + "\n")


def _problem(entry: Any, truth: Any, kind: Kind) -> str | None:
    if not isinstance(entry, dict):
        return f"it must be an object, got {type(entry).__name__}"
    for key, known in (("image_id", truth.imgs), ("category_id", truth.cats)):
        if type(entry.get(key)) is not int or entry[key] not in known:
            return f"{key} {entry.get(key)!r} is not in the annotations"
    if not are_numbers([entry.get("score")]):
        return f"score must be a number, got {entry.get('score')!r}"
    if kind == "bbox":
        fits = are_numbers(entry.get("bbox"), 4) and min(entry["bbox"][2:]) >= 0
        return None if fits else f"bbox must be x, y, width >= 0, height >= 0, got {entry.get('bbox')!r}"
    if not isinstance(entry.get("segmentation"), dict):
        return "segmentation must be a run-length encoding"
    image = truth.imgs[entry["image_id"]]
    return segmentation_problem(entry["segmentation"], image["height"], image["width"])


def _mean(precision: npt.NDArray[np.float64]) -> float:
    return float(precision.mean()) if precision.size and precision.min() > -1 else float("nan")


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if value != value else value for name, value in values.items()}


def _percent(value: float) -> str:
    return "     -" if value != value else f"{100 * value:6.2f}"
