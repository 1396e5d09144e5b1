"""Necks of whole networks: the ZigZag neck, its eager form in stock PyTorch, and a plain FPN to compare with."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from zigzag import reference
from zigzag.config import PRESETS, SCHEMES, Combine, Context, Pool, Resize
from zigzag.nn import ZigZagNeck


@dataclass(frozen=True)
class NeckOptions:
    """A neck. Fields that are None have the value of the preset or the scheme, or `zigzag.config.NeckConfig`'s own.

    An "fpn" takes `channels` alone; the preset, which a shared configuration may name, says nothing of it.

    Attributes:
        kind: "zigzag"; "eager", the same network by its literal equations in stock PyTorch; or "fpn", torchvision's
            FeaturePyramidNetwork.
        channels: of every map.
        preset: "gated" (which trains best, benchmarks/NOTES.md), "stable" or "paper".
        scheme: one of the paper's Figure 1: "top_down", "dense_top_down", "successive", "zigzag".
        stages, grids, kernel_size, lateral_kernel_size, pool, fusion_norm, fusion_identity, context_norm, norm_groups,
            gain, context_scale, context_shift, resize, combine, context, dense, exchange, fusion, bottom_up: as
            `zigzag.config.NeckConfig`'s.
    """

    kind: Literal["zigzag", "eager", "fpn"] = "zigzag"
    channels: int = 256
    preset: Literal["gated", "stable", "paper"] = "gated"
    scheme: Literal["top_down", "dense_top_down", "successive", "zigzag"] = "zigzag"
    stages: int | None = None
    grids: tuple[int, ...] | None = None
    kernel_size: int | None = None
    lateral_kernel_size: int | None = None
    pool: Pool | None = None
    fusion_norm: bool | None = None
    fusion_identity: bool | None = None
    context_norm: bool | None = None
    norm_groups: int | None = None
    gain: float | None = None
    context_scale: float | None = None
    context_shift: float | None = None
    resize: Resize | None = None
    combine: Combine | None = None
    context: Context | None = None
    dense: bool | None = None
    exchange: bool | None = None
    fusion: bool | None = None
    bottom_up: bool | None = None

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"neck.channels must be 1 or more, got {self.channels}")
        if self.kind == "eager" and self.context not in (None, "rce"):
            raise ValueError(f"neck.context must be 'rce' for kind 'eager', got {self.context!r}")
        if self.kind == "fpn":
            given = {f.name: f.default for f in fields(self) if getattr(self, f.name) != f.default}
            wrong = [name for name in given if name not in ("kind", "channels", "preset")]
            if wrong:
                got = ", ".join(f"{name}={getattr(self, name)!r}" for name in wrong)
                left = ", ".join(f"{name}={given[name]!r}" for name in wrong)
                raise ValueError(f"neck.kind 'fpn' takes channels alone, expected {left}, got {got}")

    def fields(self) -> dict[str, Any]:
        """The fields of the neck that these options come to."""
        own = {name: value for name, value in vars(self).items() if value is not None}
        for name in ("kind", "channels", "preset", "scheme"):
            del own[name]
        return {**PRESETS[self.preset], **SCHEMES[self.scheme], **own}


class EagerNeck(ZigZagNeck):
    """The neck by `zigzag.reference.neck`: nothing commuted, nothing fused, the same state_dict."""

    def forward(self, features: Any, image_sizes: Any = None, valid: Any = None) -> Any:
        """As `ZigZagNeck.forward`, for a list of maps."""
        parameters = dict(self.named_parameters())
        return reference.neck.forward(features, parameters, self.config, image_sizes=image_sizes, valid=valid)


class PlainFPN(nn.Module):
    """A feature pyramid network (Lin et al., CVPR 2017): laterals, nearest upsampling, sums, a 3x3 convolution each.

    Args:
        in_channels: of the backbone's maps, finest first.
        channels: of every map.
        outputs: how many of the maps, the finest, are given.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.body = FeaturePyramidNetwork(list(in_channels), channels)
        self.body.layer_blocks[outputs:].requires_grad_(requires_grad=False)  # nobody reads them

    def forward(self, features: Sequence[Tensor], image_sizes: Any = None) -> list[Tensor]:
        """Maps (N, channels, H_i, W_i), finest first; padded batches are not told apart."""
        if image_sizes is not None:
            raise ValueError(f"image_sizes must be None for a plain FPN, got {image_sizes!r}")
        named = OrderedDict((str(i), x) for i, x in enumerate(features))
        return list(self.body(named).values())[: self.outputs]


def build_neck(options: NeckOptions, in_channels: Sequence[int], outputs: int | None = None) -> nn.Module:
    """The neck of ``options`` on maps of ``in_channels``, giving its ``outputs`` finest maps, or all.

    Raises:
        TypeError, ValueError: a field has a value that is not allowed; the message names it.
    """
    if options.kind == "fpn":
        return PlainFPN(in_channels, options.channels, outputs or len(in_channels))
    build = ZigZagNeck if options.kind == "zigzag" else EagerNeck
    return build(in_channels, options.channels, preset=options.preset, outputs=outputs, **options.fields())
