"""The neck, Eqs. 1-6 taken literally: convolve at full resolution, sum, spread, normalise, resize, multiply.

This is the specification of the network and the baseline "eager" (spec section 7): nothing is commuted or folded, and
every map exists in memory. Parameters come in a mapping from their names in ``ZigZagNeck.state_dict()``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from zigzag.config import NeckConfig
from zigzag.geometry import cell_areas, crop_images, level_sizes, membership, pad_images
from zigzag.reference.dense_pathway import resize_map

Parameters = Mapping[str, Tensor]


def forward(
    features: Sequence[Tensor],
    parameters: Parameters,
    config: NeckConfig,
    *,
    image_sizes: Tensor | Sequence[Sequence[int]] | None = None,
    valid: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """The neck with its lateral convolutions: B^i = lateral_i * features[i], then `fuse`.

    Args:
        features: backbone maps (N, config.in_channels[i], H_i, W_i), finest level first.
        parameters: name -> tensor.
        config: what the neck computes.
        image_sizes: (N, 2), height and width of every image in pixels: valid = ceil(size / config.strides[i]).
        valid: in the place of ``image_sizes``, per level (N, 2) integers.

    Returns:
        The maps P^i_{T+1} (N, C, H_i, W_i), finest first; with sizes given, 0 outside every image.
    """
    if image_sizes is not None:
        valid = level_sizes(image_sizes, config.strides)
    if valid is not None and features[0].shape[0] > 0:
        return _image_by_image(forward, features, parameters, config, valid)
    padding = config.lateral_kernel_size // 2
    laterals = []
    for i, feature in enumerate(features):
        weight, bias = parameters[f"lateral.{i}.weight"], parameters[f"lateral.{i}.bias"]
        laterals.append(F.conv2d(feature, weight, bias, padding=padding))
    return fuse(laterals, parameters, config)


def fuse(
    bases: Sequence[Tensor], parameters: Parameters, config: NeckConfig, *, valid: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """The T stages of Eqs. 1-4 and the last fusion, P^i_{T+1}, from the lateral maps B^i.

    Args:
        bases: B^i (N, C, H_i, W_i), finest level first.
        parameters: name -> tensor.
        config: what the neck computes, with ``context`` "rce".
        valid: per level (N, 2) integers, every image's own height and width.

    Returns:
        The maps P^i_{T+1} (N, C, H_i, W_i), finest first, config.outputs of them; 0 outside ``valid``.
    """
    if valid is not None and bases[0].shape[0] > 0:
        return _image_by_image(fuse, bases, parameters, config, valid)
    merged = list(bases)
    up: Sequence[Tensor] | None = None
    for t in range(config.stages):
        entry = merged if t == 0 else _fusions(merged, f"stages.{t}.down", parameters, config)  # Eq. 2
        down = _sweep(entry, range(config.levels - 1, -1, -1), f"stages.{t}.down", parameters, config)  # Eq. 1
        merged = _merged(down, up, config)
        if config.bottom_up:
            risen = config.given if t == config.stages - 1 else config.levels
            entry = merged if t == 0 else _fusions(merged[:risen], f"stages.{t}.up", parameters, config)  # Eq. 4
            up = _sweep(entry[:risen], range(risen), f"stages.{t}.up", parameters, config)  # Eq. 3
            merged = _merged(up, down, config)
    return _fusions(merged[: config.given], "output", parameters, config, suffix="")


def region_context(
    x: Tensor, parameters: Parameters, prefix: str, config: NeckConfig, valid: Tensor | None = None
) -> Tensor:
    """R = RCE(F), Eqs. 5 and 6: R(h, w) = F(h, w) + sum_K Q_K(cell of (h, w)).

    For each K: a convolution at full resolution, its sum (or mean) over K x K cells, a K x K convolution and a ReLU
    that leave one vector, and a K x K deconvolution that gives the codes Q_K.

    Args:
        x: F (N, C, H, W).
        parameters: name -> tensor, ``{prefix}.branches.{K}.{conv,aggregate,distribute}.{weight,bias}``.
        prefix: where in ``parameters`` the encoder is, such as "stages.0.down.1.context".
        config: grids, kernel_size and pool are read.
        valid: (N, 2) integers, every image's own height and width; the result is 0 outside.

    Returns:
        R (N, C, H, W).
    """
    height, width = x.shape[2:]
    if valid is not None and x.shape[0] > 0:
        images = [region_context(image, parameters, prefix, config) for image in crop_images(x, valid)]
        return pad_images(images, height, width)
    region = x
    for k in config.grids:
        branch = f"{prefix}.branches.{k}"
        mapped = F.conv2d(x, *_pair(parameters, f"{branch}.conv"), padding=config.kernel_size // 2)
        cells = _cell_sums(mapped, k)
        if config.pool == "mean":
            cells = cells / cell_areas(height, width, [k], x.device).view(k, k).clamp(min=1).to(x.dtype)
        vector = F.relu(F.conv2d(cells, *_pair(parameters, f"{branch}.aggregate")))
        codes = F.conv_transpose2d(vector, *_pair(parameters, f"{branch}.distribute"))
        region = region + resize_map(codes, height, width, "nearest")  # row h lies in cell floor(h*K/H)
    return region


def _sweep(
    entries: Sequence[Tensor], order: Sequence[int], prefix: str, parameters: Parameters, config: NeckConfig
) -> list[Tensor]:
    """One direction of one stage (Eqs. 1, 3): F^i = P^i + gain * the product of the R^j that precede i in ``order``."""
    outputs = list(entries)
    contexts: list[Tensor] = []
    for i in order:
        height, width = entries[i].shape[2:]
        if contexts:
            read = contexts if config.dense else contexts[-1:]
            resized = [resize_map(context, height, width, config.resize) for context in read]
            combined = reduce(torch.mul if config.combine == "product" else torch.add, resized)
            if config.gain is not None:
                combined = combined * parameters[f"{prefix}.{i}.gain"][:, None, None]
            outputs[i] = entries[i] + combined
        if i != order[-1]:
            context = region_context(outputs[i], parameters, f"{prefix}.{i}.context", config)
            if config.context_norm:
                context = F.group_norm(context, config.norm_groups, *_pair(parameters, f"{prefix}.{i}.context_norm"))
            contexts.append(context)
    return outputs


def _merged(latest: Sequence[Tensor], other: Sequence[Tensor] | None, config: NeckConfig) -> list[Tensor]:
    """F^{i,d} + F^{i,u} for all levels; the latest alone where there is no other, or nothing is exchanged."""
    if other is None or not config.exchange:
        return list(latest)
    return [x + y for x, y in zip(latest, other, strict=False)]  # the last sweep up may stop early


def _fusions(
    merged: Sequence[Tensor], prefix: str, parameters: Parameters, config: NeckConfig, suffix: str = ".fusion"
) -> list[Tensor]:
    """P^i = relu(W^i * (F^{i,d} + F^{i,u})) for all levels (Eqs. 2, 4), with a GroupNorm before the ReLU by option."""
    if not config.fusion:
        return list(merged)
    fused = []
    for i, x in enumerate(merged):
        name = f"{prefix}.{i}{suffix}"
        bias = None if config.fusion_norm else parameters[f"{name}.conv.bias"]
        mapped = F.conv2d(x, parameters[f"{name}.conv.weight"], bias, padding=1)
        if config.fusion_norm:
            mapped = F.group_norm(mapped, config.norm_groups, *_pair(parameters, f"{name}.norm"))
        fused.append(F.relu(mapped))
    return fused


def _cell_sums(x: Tensor, cells: int) -> Tensor:
    """Sums over a partition in cells x cells, columns first: (N, C, H, W) -> (N, C, cells, cells)."""
    rows = membership(x.shape[2], cells, 0, x.dtype, x.device)
    columns = membership(x.shape[3], cells, 0, x.dtype, x.device)
    column_sums = columns @ x.permute(0, 2, 3, 1)  # (N, H, cells, C)
    sums = rows @ column_sums.flatten(2)
    return sums.view(x.shape[0], cells, cells, x.shape[1]).permute(0, 3, 1, 2)


def _image_by_image(
    neck: Callable[[Sequence[Tensor], Parameters, NeckConfig], list[Tensor]],
    maps: Sequence[Tensor],
    parameters: Parameters,
    config: NeckConfig,
    valid: Sequence[Tensor],
) -> list[Tensor]:
    """A neck on every image of a padded batch alone, put back into a batch that is 0 outside the images."""
    images = zip(*(crop_images(level, own) for level, own in zip(maps, valid, strict=True)), strict=True)
    results = [neck(image, parameters, config) for image in images]
    levels = zip(maps, zip(*results, strict=True), strict=False)  # the finest that the neck gives
    return [pad_images(level, *whole.shape[2:]) for whole, level in levels]


def _pair(parameters: Parameters, name: str) -> tuple[Tensor, Tensor]:
    return parameters[f"{name}.weight"], parameters[f"{name}.bias"]
