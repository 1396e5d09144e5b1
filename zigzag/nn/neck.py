"""The ZigZag neck, Eqs. 1-4: context runs down the levels and up again, several times, through dense pathways.

Nothing is written but the maps F, the sums F^d + F^u that fusion convolutions read, and what those convolutions give:
region contexts, norms, resizing and products are evaluated where `zigzag.ops.dense_pathway` writes F (spec section 4).
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields as fields_of
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from zigzag.config import PRESETS, NeckConfig
from zigzag.nn.contexts import context_of, grids_of
from zigzag.nn.levels import ImageSizes, check_maps, check_valid, valid_of
from zigzag.nn.region_context import RegionContext, parts_of
from zigzag.ops import dense_pathway, region_context
from zigzag.ops.dense_pathway import gathers_statistics
from zigzag.ops.region_context import Affine, Statistics

Maps = TypeVar("Maps", bound=Sequence[Tensor] | Mapping[Any, Tensor])


class Source(NamedTuple):
    """The context norm(R) of one level, as what `dense_pathway` evaluates it from."""

    features: Tensor
    codes: Tensor | None
    affine: Affine | None
    valid: Tensor | None


class Fusion(nn.Module):
    """A fusion convolution, relu(norm(conv(F^d + F^u))), but for norm and ReLU: they are applied where it is read.

    Attributes:
        conv: nn.Conv2d, 3x3; it has a bias where there is no norm.
        norm: nn.GroupNorm or None.
    """

    def __init__(self, config: NeckConfig) -> None:
        super().__init__()
        channels = config.out_channels
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=not config.fusion_norm)
        self.norm = nn.GroupNorm(config.norm_groups, channels) if config.fusion_norm else None
        if config.fusion_identity:
            with torch.no_grad():
                self.conv.weight[:, :, 1, 1] += torch.eye(channels)

    def forward(self, merged: Tensor, valid: Tensor | None) -> tuple[Tensor, Affine | None]:
        """From F^d + F^u (N, C, H, W): the convolution's result, and the norm folded to scale and shift."""
        mapped = self.conv(merged)
        if self.norm is None:
            return mapped, None
        mapped, _, affine = region_context(mapped, norm=parts_of(self.norm), valid=valid)
        return mapped, affine

    def whole(self, merged: Tensor, valid: Tensor | None) -> Tensor:
        """P itself (N, C, H, W), norm and ReLU applied, for those who read it as it is: the heads."""
        mapped, affine = self(merged, valid)
        return cast(Tensor, dense_pathway(mapped, [], base_affine=affine, base_relu=True, valid=valid))


class Step(nn.Module):
    """One level of one sweep: F = P + gain * the product of the contexts of the levels before it (Eqs. 1, 3).

    Attributes:
        fusion: makes P; None in the first stage, where P exists already.
        gain: (C,), or None.
        context: encoder of F, a RegionContext or another of `zigzag.nn.contexts`; None where no level follows.
        context_norm: nn.GroupNorm on it, or None.
    """

    def __init__(self, config: NeckConfig, *, fused: bool, has_sources: bool, is_source: bool) -> None:
        super().__init__()
        channels = config.out_channels
        gain = config.gain if has_sources else None
        has_norm = config.context_norm and is_source
        self.config = config
        self.fusion = Fusion(config) if fused else None
        self.gain = None if gain is None else nn.Parameter(torch.full((channels,), gain))
        self.context = context_of(config) if is_source else None
        self.context_norm = nn.GroupNorm(config.norm_groups, channels) if has_norm else None
        if self.context_norm is not None:
            nn.init.constant_(self.context_norm.weight, config.context_scale)
            nn.init.constant_(self.context_norm.bias, config.context_shift)

    def forward(
        self, x: Tensor, sources: Sequence[Source], valid: Tensor | None, residual: Tensor | None
    ) -> tuple[Tensor, Tensor, Statistics | None]:
        """F, F + residual, and the statistics of F where writing F gave them.

        Args:
            x: F^d + F^u where there is a fusion, else P itself, (N, C, H, W).
            sources: contexts of the levels before this one.
            valid: (N, 2) integers, every image's own height and width in a padded batch, or None.
            residual: (N, C, H, W), or None for nothing.

        Returns:
            Two maps (N, C, H, W), the same one twice without residual; sums and power of the first, or None.
        """
        if self.fusion is None and not sources and valid is None:
            return x, x if residual is None else x + residual, None  # F = P
        base, affine = (x, None) if self.fusion is None else self.fusion(x, valid)
        gathers = type(self.context) is RegionContext and gathers_statistics(base)
        result = dense_pathway(
            base,
            [source.features for source in sources],
            [source.codes for source in sources],
            grids_of(self.config),
            base_affine=affine,
            base_relu=self.fusion is not None,
            source_affine=[source.affine for source in sources],
            gain=self.gain,
            combine=self.config.combine,
            resize=self.config.resize,
            residual=residual,
            valid=valid,
            source_valid=None if valid is None else [source.valid for source in sources],
            statistics=cast(RegionContext, self.context).statistics if gathers else None,
        )
        maps = result if isinstance(result, tuple) else (result,)
        statistics = (maps[-2], maps[-1]) if gathers else None
        return maps[0], maps[0] if residual is None else maps[1], statistics

    def source(self, x: Tensor, valid: Tensor | None, statistics: Statistics | None) -> Source | None:
        """What the levels after this one need of F (N, C, H, W); None where there are none."""
        if self.context is None:
            return None
        given = {} if statistics is None else {"statistics": statistics}
        features, codes, affine = self.context.encode(x, valid, self.context_norm, **given)
        return Source(features, codes, affine, valid)


class Stage(nn.Module):
    """A sweep down the levels and one up again.

    Attributes:
        down: one Step for every level, finest first.
        up: likewise, in the last stage for the levels alone that the neck gives; None where it has no sweeps up.
    """

    def __init__(self, config: NeckConfig, *, fused: bool, last: bool) -> None:
        super().__init__()
        levels, top = range(config.levels), config.levels - 1
        self.down = nn.ModuleList(Step(config, fused=fused, has_sources=i < top, is_source=i > 0) for i in levels)
        risen = config.given if last else config.levels
        up = (Step(config, fused=fused, has_sources=i > 0, is_source=i < risen - 1) for i in range(risen))
        self.up = nn.ModuleList(up) if config.bottom_up else None


def sweep(
    steps: nn.ModuleList,
    order: Iterable[int],
    entries: Sequence[Tensor],
    residuals: Sequence[Tensor | None],
    valid: Sequence[Tensor | None],
    *,
    dense: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """All levels in ``order``, with the contexts of those before or (not ``dense``) the last: F, and F + residual."""
    features, merged = list(entries), list(entries)
    sources: list[Source] = []
    for i in order:
        step = cast(Step, steps[i])
        before = sources if dense else sources[-1:]
        features[i], merged[i], statistics = step(entries[i], before, valid[i], residuals[i])
        source = step.source(features[i], valid[i], statistics)
        if source is not None:
            sources.append(source)
    return features, merged


class ZigZagNeck(nn.Module):
    """The neck of ZigZagNet: maps of a backbone, finest first, to as many maps of ``out_channels`` and the same sizes.

        F^{i,d} = P^{i,d} + gain * prod_{j>i} R^{j,d},   P^{i,d} = relu(norm(W * (F^{i,d} + F^{i,u})))        (1, 2)
        F^{j,u} = P^{j,u} + gain * prod_{i<j} R^{i,u},   P^{j,u} likewise                                     (3, 4)

    Args:
        in_channels: channels of every backbone map, finest level first; at least two.
        out_channels: C.
        preset: "gated", "stable" or "paper", the values that fields not given have (`zigzag.config.PRESETS`).
        stages: T, how often context runs down and up.
        fields: any other field of `zigzag.config.NeckConfig`.

    Attributes:
        config: the `NeckConfig`.
        lateral: for every level the nn.Conv2d that brings its map to C channels.
        stages: the T stages.
        output: for every level the last fusion; None where the neck has no fusions.

    Raises:
        TypeError: an unknown field, or ``in_channels`` are no integers.
        ValueError: an unknown preset, fewer than two levels, or a value that is not allowed.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        *,
        preset: str = "stable",
        stages: int = 3,
        **fields: Any,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {preset!r}")
        known = {field.name for field in fields_of(NeckConfig)} - {"in_channels", "out_channels", "stages"}
        for name in fields.keys() - known:
            raise TypeError(f"{name} is not a field of the neck; its fields are {', '.join(sorted(known))}")
        # The config checks what it is given, and makes in_channels a tuple.
        config = NeckConfig(cast(Any, in_channels), out_channels, stages, **{**PRESETS[preset], **fields})
        if config.levels < 2:
            raise ValueError(f"in_channels must name at least two levels, got {in_channels!r}")
        size = config.lateral_kernel_size
        self.config = config
        self.lateral = nn.ModuleList(nn.Conv2d(c, out_channels, size, padding=size // 2) for c in config.in_channels)
        self.stages = nn.ModuleList(
            Stage(config, fused=t > 0 and config.fusion, last=t == stages - 1) for t in range(stages)
        )
        self.output = nn.ModuleList(Fusion(config) for _ in range(config.given)) if config.fusion else None

    def forward(
        self, features: Maps, image_sizes: ImageSizes | None = None, valid: Sequence[Tensor] | None = None
    ) -> Maps:
        """The maps that the heads read, P^i_{T+1}.

        Args:
            features: a list, tuple or dict of maps (N, in_channels[i], H_i, W_i), any H, W >= 1, finest level first.
            image_sizes: for a padded batch, (N, 2) integers: height and width of every image in pixels. At level i
                that is ceil(pixels / config.strides[i]); every image's result is what it would be alone.
            valid: in the place of ``image_sizes``, per level (N, 2) integers.

        Returns:
            Maps (N, out_channels, H_i, W_i), config.outputs of them, 0 outside the images; a list, tuple or dict (with
            its keys), as given.

        Raises:
            TypeError: ``features`` are no such container, or dtypes.
            ValueError: shapes, the order of the levels, or sizes that do not fit into the maps.
        """
        if not isinstance(features, list | tuple | Mapping):
            raise TypeError(f"features must be a list, tuple or dict of maps, got {type(features).__name__}")
        maps = list(features.values() if isinstance(features, Mapping) else features)
        check_maps("features", maps, self.config.in_channels, self._weight)
        if image_sizes is not None:
            if valid is not None:
                raise ValueError("image_sizes and valid say the same: give one of them, got both")
            valid = valid_of(image_sizes, maps, self.config.strides)
        elif valid is not None:
            check_valid(valid, maps)
        if valid is not None:  # a convolution must see zeros around every image
            maps = [cast(Tensor, dense_pathway(x, [], valid=own)) for x, own in zip(maps, valid, strict=True)]
        bases = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        return _as_given(features, self._fuse(bases, valid))

    def fuse(self, bases: Sequence[Tensor], valid: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The stages alone, after the lateral convolutions.

        Args:
            bases: B^i (N, C, H_i, W_i), finest level first.
            valid: for a padded batch, per level (N, 2) integers, every image's own height and width.

        Returns:
            Maps (N, C, H_i, W_i), 0 outside ``valid``.

        Raises:
            TypeError: dtypes.
            ValueError: shapes, the order of the levels, or sizes that do not fit into the maps.
        """
        if not isinstance(bases, list | tuple):
            raise TypeError(f"bases must be a list of maps, got {type(bases).__name__}")
        check_maps("bases", bases, [self.config.out_channels] * self.config.levels, self._weight)
        if valid is not None:
            check_valid(valid, bases)
        return self._fuse(bases, valid)

    @property
    def _weight(self) -> Tensor:
        return cast(nn.Conv2d, self.lateral[0]).weight

    def _fuse(self, bases: Sequence[Tensor], valid: Sequence[Tensor] | None) -> list[Tensor]:
        sizes = [None] * self.config.levels if valid is None else valid
        finest_first, dense = range(self.config.levels), self.config.dense
        nothing: Sequence[Tensor | None] = [None] * self.config.levels
        up, merged = nothing, bases
        for stage in cast(Iterable[Stage], self.stages):
            other = up if self.config.exchange else nothing
            down, merged = sweep(stage.down, reversed(finest_first), merged, other, sizes, dense=dense)  # Eqs. 1, 2
            if stage.up is not None:
                other = down if self.config.exchange else nothing
                up, merged = sweep(stage.up, range(len(stage.up)), merged, other, sizes, dense=dense)  # Eqs. 3, 4
        if self.output is None:
            return list(merged[: self.config.given])
        fusions = cast(Iterable[Fusion], self.output)
        return [fusion.whole(x, own) for fusion, x, own in zip(fusions, merged, sizes, strict=False)]  # the finest


def _as_given(features: Maps, results: list[Tensor]) -> Maps:
    """``results`` in a container of the kind of ``features``."""
    container: Any = results
    if isinstance(features, Mapping):
        kind: Any = OrderedDict if isinstance(features, OrderedDict) else dict
        container = kind(zip(features, results, strict=False))
    elif isinstance(features, tuple):
        container = tuple(results)
    return cast(Maps, container)
