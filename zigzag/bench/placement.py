"""Where operands lie in memory: moved from round to round, because the pages that they lie in change the time of a run.

One process gives a map one place, and a run that is bound by memory takes up to a tenth more or less for it. With the
operands where they came to lie, a spread says nothing of that luck; the next process has another.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from zigzag.bench.settings import SEED

LEAST_MOVED = 1 << 24
"""Bytes a round at which it is enough: copying all there is, every time, would take as long as the runs."""
_LARGEST_GAP = 1 << 22
"""Bytes up to which a gap is left ahead of a new place, or the allocator would go to and fro between two of them."""


class Mover:
    """Moves tensors to fresh memory, some in each call, all in turn; who holds one of them sees it move.

    Args:
        tensors: to move, the most important first. What shares memory with one of them stays where it is.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._next = 0
        self._random = random.Random(SEED)  # noqa: S311 - places, no secrets
        self._gaps: list[Tensor] = []

    def __call__(self) -> None:
        """Move the next ones."""
        self._gaps.clear()
        moved = 0
        for _ in self._tensors:
            tensor = self._tensors[self._next]
            self._next = (self._next + 1) % len(self._tensors)
            self._gaps.append(torch.empty(self._random.randrange(_LARGEST_GAP), dtype=torch.uint8))
            tensor.data = tensor.data.clone()
            moved += tensor.nbytes
            if moved >= LEAST_MOVED:
                break
