"""Region Context Encoding, Eqs. 5 and 6: what each region of a map says, added to every pixel of that region."""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from zigzag.ops import dense_pathway, region_context
from zigzag.ops.arguments import check_grids
from zigzag.ops.region_context import Affine, Norm, Statistics


class Branch(nn.Module):
    """The weights of one grid of K x K regions.

    Attributes:
        conv: the convolution whose result is summed over each region, nn.Conv2d(C, C, k).
        aggregate: the K x K convolution that makes one vector of the regions, nn.Conv2d(C, C, K).
        distribute: the K x K deconvolution that gives the codes Q_K, nn.ConvTranspose2d(C, C, K).
    """

    def __init__(self, channels: int, grid: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)
        self.aggregate = nn.Conv2d(channels, channels, grid)
        self.distribute = nn.ConvTranspose2d(channels, channels, grid)

    def parts(self) -> tuple[Tensor, ...]:
        """The weights and biases in the order that `zigzag.ops.region_codes` takes them."""
        layers = (self.conv, self.aggregate, self.distribute)
        return tuple(cast(Tensor, value) for layer in layers for value in (layer.weight, layer.bias))


def parts_of(norm: nn.GroupNorm) -> Norm:
    """A GroupNorm as `zigzag.ops.region_context` takes it."""
    return norm.weight, norm.bias, norm.num_groups, norm.eps


class RegionContext(nn.Module):
    """R(h, w) = F(h, w) + sum_K Q_K(region of (h, w)): the codes Q_K are a function of the sums over K x K regions.

        Q_K = deconvolution_K(relu(convolution_K(sum or mean over regions of conv(F))))              (Eqs. 5, 6)

    The convolution runs on sums over regions, never at full resolution: both are linear, so they commute.

    Args:
        channels: C.
        grids: K of every branch.
        kernel_size: of the convolution before the sum, 3 or 1.
        pool: what is taken over a region, its "mean" or its "sum".

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument has a value that is not allowed.
    """

    def __init__(
        self,
        channels: int,
        grids: Sequence[int] = (3, 5, 7),
        kernel_size: int = 3,
        pool: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        if type(channels) is not int:
            raise TypeError(f"channels must be an integer, got {channels!r}")
        grids = tuple(check_grids(grids))
        if channels < 1:
            raise ValueError(f"channels must be an integer >= 1, got {channels!r}")
        if len(set(grids)) < len(grids):
            raise ValueError(f"grids must be different integers, got {grids!r}")
        if kernel_size not in (1, 3):
            raise ValueError(f"kernel_size must be 1 or 3, got {kernel_size!r}")
        if pool not in ("mean", "sum"):
            raise ValueError(f"pool must be 'mean' or 'sum', got {pool!r}")
        self.channels = channels
        self.grids = grids
        self.kernel_size = kernel_size
        self.pool = pool
        self.branches = nn.ModuleDict({str(grid): Branch(channels, grid, kernel_size) for grid in grids})

    @property
    def statistics(self) -> tuple[tuple[int, ...], int]:
        """Grids and halo of the sums that a context is made of, as `dense_pathway` takes them."""
        return self.grids, self.kernel_size // 2

    def encode(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        norm: nn.GroupNorm | None = None,
        statistics: Statistics | None = None,
    ) -> tuple[Tensor, Tensor, Affine | None]:
        """R as what `dense_pathway` evaluates it from: F, the codes, and a norm of R folded to scale and shift.

        Args:
            x: F (N, C, H, W).
            valid: (N, 2) integers, every image's own height and width in a padded batch.
            norm: of R.
            statistics: of x, where `dense_pathway` gave them for ``self.statistics``.

        Returns:
            x, codes Q (N, sum K*K, C), and (scale, shift), (N, C) each, or None without ``norm``.

        Raises:
            TypeError: types or dtypes.
            ValueError: shapes, or sizes that do not fit into the map.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor (N, {self.channels}, H, W), got {type(x).__name__}")
        if x.shape[1:2] != (self.channels,):
            raise ValueError(f"x must have shape (N, {self.channels}, H, W), got {tuple(x.shape)}")
        parts = [cast(Branch, branch).parts() for branch in self.branches.values()]
        folded = None if norm is None else parts_of(norm)
        x, codes, affine = region_context(
            x, parts, self.grids, pool=self.pool, norm=folded, valid=valid, statistics=statistics
        )
        return x, cast(Tensor, codes), affine

    def codes(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """The codes Q of every grid, (N, sum K*K, C) in the order grid, cell (row-major); arguments as `forward`."""
        return self.encode(x, valid)[1]

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """R whole, for those who want it: the neck never does.

        Args:
            x: F (N, C, H, W).
            valid: (N, 2) integers, every image's own height and width in a padded batch.

        Returns:
            R (N, C, H, W) in the dtype of ``x``; 0 outside ``valid``.
        """
        x, codes, _ = self.encode(x, valid)
        nothing = torch.zeros_like(x)
        region = dense_pathway(nothing, [x], [codes], self.grids, valid=valid, source_valid=[valid])
        return cast(Tensor, region)

    def extra_repr(self) -> str:
        """The arguments, for print."""
        return f"{self.channels}, grids={self.grids}, kernel_size={self.kernel_size}, pool={self.pool!r}"
