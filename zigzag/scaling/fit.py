"""The exponent of a curve: p of y = a x^p, by least squares of the logarithms."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zigzag.bench.timing import Samples, quantile


@dataclass(frozen=True)
class Exponent:
    """An exponent, and its spread over the rounds that it was fitted in (p20 and p80)."""

    median: float
    p20: float
    p80: float


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The exponent through points (x, y), all positive.

    Raises:
        ValueError: the points have fewer than two different x.
    """
    line = statistics.linear_regression([math.log(x) for x, _ in points], [math.log(y) for _, y in points])
    return line.slope


def exponent(samples: Mapping[int, Samples]) -> Exponent:
    """The exponent of seconds over x, fitted in every round that all points ran in, so that drift hits them alike.

    Raises:
        ValueError: there is no such round, or fewer than two points.
    """
    shared = set.intersection(*(set(own.by_round) for own in samples.values())) if samples else set()
    if not shared:
        raise ValueError("the points share no round, so their exponent would compare different moments")
    found = [slope([(x, own.by_round[r]) for x, own in samples.items()]) for r in shared]
    return Exponent(statistics.median(found), quantile(found, 0.2), quantile(found, 0.8))
