"""Scores of a segmentation, all from its confusion matrix."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zigzag.files import whole, write_text


@dataclass(frozen=True)
class Scores:
    """Scores from a confusion matrix.

    Attributes:
        classes: names, by label.
        confusion: (K, K) int64, pixels by true label (rows) and predicted label (columns).
    """

    classes: Sequence[str]
    confusion: Tensor

    @property
    def iou(self) -> Tensor:
        """Intersection over union of every class (K,) float64; NaN where neither truth nor prediction has it."""
        inside = self.confusion.diagonal().double()
        union = self.confusion.sum(0) + self.confusion.sum(1) - self.confusion.diagonal()
        return inside / union

    @property
    def recall(self) -> Tensor:
        """Share of every class's pixels that are found (K,); NaN where there are none."""
        return self.confusion.diagonal().double() / self.confusion.sum(1)

    @property
    def miou(self) -> float:
        """Mean of the IoUs that are no NaN."""
        return float(self.iou.nanmean())

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that are right."""
        return float(self.confusion.diagonal().sum().double() / self.confusion.sum())

    def table(self) -> str:
        """The scores of every class and the means, as text."""
        width = max(map(len, [*self.classes, "pixel accuracy"]))
        share = self.confusion.sum(1).double() / self.confusion.sum()
        lines = [f"{'class':<{width}}  {'IoU':>6}  {'recall':>6}  {'pixels':>6}"]
        rows = zip(self.classes, self.iou, self.recall, share, strict=True)
        lines += [f"{name:<{width}}  {_percent(i)}  {_percent(r)}  {_percent(s)}" for name, i, r, s in rows]
        return "\n".join(
            [
                *lines,
                f"{'mean IoU':<{width}}  {100 * self.miou:6.2f}",
                f"{'pixel accuracy':<{width}}  {100 * self.pixel_accuracy:6.2f}",
            ]
        )

    def write(self, folder: Path) -> None:
        """scores.json, and the confusion matrix as confusion.csv."""
        folder.mkdir(parents=True, exist_ok=True)
        by_class = {name: _number(value) for name, value in zip(self.classes, self.iou, strict=True)}
        means = {"miou": _number(self.miou), "pixel_accuracy": _number(self.pixel_accuracy)}
        content = {**means, "iou": by_class}
        write_text(folder / "scores.json", json.dumps(content, indent=1) + "\n")
        with whole(folder / "confusion.csv") as path, path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["truth \\ prediction", *self.classes])
            writer.writerows([name, *row] for name, row in zip(self.classes, self.confusion.tolist(), strict=True))


def _percent(value: Tensor) -> str:
    return "     -" if torch.isnan(value) else f"{100 * float(value):6.2f}"


def _number(value: Tensor | float) -> float | None:
    return None if math.isnan(value) else float(value)
