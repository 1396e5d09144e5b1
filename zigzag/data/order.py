"""The order of images: a function of the seed and the step alone, so that a run can go on where it stopped, exactly."""

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import Sampler

from zigzag.data.source import DataError


class StepBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (index, draw): draw n of a run is image n of an endless row of shuffled passes over the data.

    The batch of a step is the same for any number of processes; each takes every world-th of its draws.

    Args:
        length: number of images.
        batch_size: images of a step, over all processes.
        first: gives the step to begin with, whenever the batches are asked for.
        last: the step to end before.
        seed: of the passes' orders.
        rank: this process's number.
        world: number of processes.

    Raises:
        DataError: the batch cannot be shared out evenly.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        first: Callable[[], int],
        last: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size % world:
            raise DataError(f"data.batch_size must be a multiple of the {world} processes, got {batch_size}")
        self.length, self.batch_size, self.first, self.last = length, batch_size, first, last
        self.seed, self.rank, self.world = seed, rank, world

    def __len__(self) -> int:
        """Number of batches of the whole run, as Lightning counts those before a resumption too."""
        return self.last

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """The batches of this process."""
        shuffled = -1, torch.empty(0, dtype=torch.int64)
        for step in range(self.first(), self.last):
            batch = []
            for draw in range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world):
                turn, place = divmod(draw, self.length)
                if turn != shuffled[0]:
                    generator = torch.Generator().manual_seed(draw_seed(self.seed, turn))
                    shuffled = turn, torch.randperm(self.length, generator=generator)
                batch.append((int(shuffled[1][place]), draw))
            yield batch


class Shard(Sampler[tuple[int, bool]]):
    """This process's share of the images, in order, as (index, counts).

    Every process has equally many, as collective operations want it: the surplus ones do not count.
    """

    def __init__(self, length: int, rank: int = 0, world: int = 1) -> None:
        self.length, self.rank, self.world = length, rank, world

    def __len__(self) -> int:
        """Number of images of this process."""
        return -(-self.length // self.world)

    def __iter__(self) -> Iterator[tuple[int, bool]]:
        """The images of this process."""
        for place in range(self.rank, len(self) * self.world, self.world):
            yield min(place, self.length - 1), place < self.length


def draw_seed(seed: int, draw: int) -> int:
    """A seed for one draw of a run."""
    return (seed * 0x9E3779B97F4A7C15 + draw * 0xBF58476D1CE4E5B9) % (1 << 63)
