"""What a contact sheet shows: some images by place, and the worst ones, kept as thumbnails while a test runs."""

import heapq
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from zigzag.data.classes import VOID, Colour
from zigzag.tasks.metrics import Scores
from zigzag.tasks.pictures import Case, Pixels, contact_sheet, thumbnail


class Gallery:
    """Keeps `size` images spread over the data set by their index, and the `size` with the least mIoU.

    Args:
        classes: names, by label.
        size: of both parts.
    """

    def __init__(self, classes: Sequence[str], size: int = 8) -> None:
        self.classes, self.size = classes, size
        self._spread: list[tuple[int, Case]] = []
        self._stride = 1
        self._worst: list[tuple[float, int, Case]] = []

    def add(self, name: str, index: int, image: Pixels, truth: Pixels, prediction: Pixels) -> None:
        """An image (H, W, 3) with labels (H, W)."""
        miou = Scores(self.classes, confusion(truth, prediction, len(self.classes))).miou
        case = thumbnail(Case(f"{name}   mIoU {100 * miou:.1f}", image, truth, prediction))
        if index % self._stride == 0:
            self._spread.append((index, case))
            if len(self._spread) > 2 * self.size:  # half of them, twice as far apart
                self._stride *= 2
                self._spread = [entry for entry in self._spread if entry[0] % self._stride == 0]
        if miou == miou:  # no NaN: something is labelled
            entry = (-miou, index, case)
            (heapq.heappush if len(self._worst) < self.size else heapq.heappushpop)(self._worst, entry)

    def sheet(self, colours: Sequence[Colour]) -> Image.Image:
        """The contact sheet."""
        worst = [case for _, _, case in sorted(self._worst, key=lambda entry: (-entry[0], entry[1]))]
        spread = [case for _, case in sorted(self._spread, key=lambda entry: entry[0])][: 2 * self.size]
        return contact_sheet([("In order", spread), ("Least mean IoU first", worst)], colours)


def confusion(truth: Pixels, prediction: Pixels, classes: int) -> Tensor:
    """Pixels by true (rows) and predicted label (columns), (K, K) int64, void left out."""
    seen = truth != VOID
    pairs = truth[seen].astype("int64") * classes + prediction[seen]
    return torch.bincount(torch.from_numpy(pairs), minlength=classes * classes).view(classes, classes)
