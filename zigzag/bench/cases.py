"""The one registry of what is measured. ``zigzag bench`` and the pytest-benchmark suite both read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from zigzag.bench import neck, operations
from zigzag.bench.workload import DIRECTIONS, Case, Direction, Workload


@dataclass(frozen=True)
class Entry:
    """A case before it is built.

    Attributes:
        name: of the case.
        build: makes the case from a workload.
        kernels: sizes of the region kernel that it is measured with; one entry if the size plays no part.
        directions: in which it is measured.
    """

    name: str
    build: Callable[[Workload], Case]
    kernels: tuple[int, ...] = (3, 1)
    directions: tuple[Direction, ...] = DIRECTIONS


REGISTRY: tuple[Entry, ...] = (
    Entry("region_stats.level1", partial(operations.region_stats, level=0)),
    Entry("region_stats.norm.level1", partial(operations.norm_stats, level=0), kernels=(3,)),
    Entry("region_codes", operations.region_codes),
    Entry("region_norm", operations.region_norm, kernels=(3,)),
    Entry("dense_pathway.level1", partial(operations.dense_pathway, level=0, sources=(1, 2, 3)), kernels=(3,)),
    Entry("dense_pathway.level4", partial(operations.dense_pathway, level=3, sources=(0, 1, 2)), kernels=(3,)),
    Entry("neck.fuse", neck.fuse),
    Entry("neck.whole", neck.whole, kernels=(3,), directions=("forward",)),
)


def select(only: str, kernels: Sequence[int]) -> list[tuple[Entry, int]]:
    """The entries whose name contains ``only``, one for each of their region kernels that is in ``kernels``."""
    return [(entry, k) for k in kernels for entry in REGISTRY if only in entry.name and k in entry.kernels]
