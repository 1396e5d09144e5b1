"""What a contact sheet shows: some images by place, and the worst ones, kept as thumbnails while a test runs."""

import heapq
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
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
            self._thin()
        if miou == miou:  # no NaN: something is labelled
            entry = (-miou, index, case)
            (heapq.heappush if len(self._worst) < self.size else heapq.heappushpop)(self._worst, entry)

    def gather(self) -> None:
        """Take in what the other processes have, so that each has what one alone would keep; all of them call it."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        found: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(found, (self._stride, self._spread, self._worst))
        strides, spreads, worst = zip(*found, strict=True)
        by_index = {entry[0]: entry for own in spreads for entry in own}  # surplus images are in several shares
        self._stride, self._spread = max(strides), list(by_index.values())
        self._thin()
        by_place = {entry[:2]: entry for own in worst for entry in own}
        self._worst = [by_place[place] for place in heapq.nlargest(self.size, by_place)]
        heapq.heapify(self._worst)

    def _thin(self) -> None:
        """Keep to the stride, and double it while there are too many."""
        while True:
            self._spread = [entry for entry in self._spread if entry[0] % self._stride == 0]
            if len(self._spread) <= 2 * self.size:
                return
            self._stride *= 2

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
