"""The error of a result against float64, and its ratio to stock PyTorch's error in the same dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Results = Mapping[str, Sequence[Tensor]]
"""Named groups of tensors, such as "output" and "gradients of parameters"."""

MOST_RATIO = 2.0
"""A result counts as right while its error is at most this many times stock PyTorch's."""


@dataclass(frozen=True)
class GroupError:
    """Error of one group of tensors.

    Attributes:
        relative: root mean square over the tensors of |result - exact| / |exact| (Euclidean norms).
        rounding: unit roundoff of the coarsest dtype among results and operands.
    """

    relative: float
    rounding: float


@dataclass(frozen=True)
class Verdict:
    """The error of one side, by group, and against stock PyTorch's.

    Attributes:
        errors: relative error against float64 by group.
        ratio: the largest over the groups of this error / stock's error.
        worst: the group that it is found in.
    """

    errors: Mapping[str, float]
    ratio: float
    worst: str

    @property
    def right(self) -> bool:
        """Whether times of this side may be reported."""
        return self.ratio <= MOST_RATIO


def group_errors(results: Results, exact: Results, dtype: torch.dtype = torch.float32) -> dict[str, GroupError]:
    """Errors of ``results`` by group; infinite where a result is not finite or has another shape than ``exact``.

    ``dtype`` is that of the operands: a result in float32 is no closer than operands in bfloat16 let it be.
    """
    errors = {}
    for group, tensors in results.items():
        squares = [_relative_error(ours, right) ** 2 for ours, right in zip(tensors, exact[group], strict=True)]
        rounding = max(torch.finfo(kind).eps for kind in (dtype, *(tensor.dtype for tensor in tensors))) / 2
        errors[group] = GroupError(math.sqrt(sum(squares) / len(squares)), rounding)
    return errors


def _relative_error(result: Tensor, exact: Tensor) -> float:
    if result.shape != exact.shape:
        return math.inf
    difference = float(torch.linalg.vector_norm(exact - result))  # in float64, by promotion
    size = float(torch.linalg.vector_norm(exact))
    error = difference / size if size > 0 else difference
    return error if math.isfinite(error) else math.inf


def judge(errors: Mapping[str, GroupError], stock: Mapping[str, GroupError]) -> Verdict:
    """Weigh the errors of one side against stock PyTorch's, in every group of the former.

    Stock's error counts as at least the unit roundoff of its dtype: nothing is asked to be closer to float64 than that.
    An error of stock's above the root of its roundoff excuses nothing: then the comparison itself is wrong.
    """
    ratios = {}
    for group, error in errors.items():
        reference = stock[group]
        sound = reference.relative <= math.sqrt(reference.rounding)
        ratios[group] = error.relative / max(reference.relative, reference.rounding) if sound else math.inf
    worst = max(ratios, key=lambda group: ratios[group])
    return Verdict({group: error.relative for group, error in errors.items()}, ratios[worst], worst)
