"""The encoders that stand in RCE's place: each against plain PyTorch, alone and in a padded batch, and in a neck."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import normal
from torch.testing import assert_close

import zigzag
from zigzag.config import SCHEMES, NeckConfig
from zigzag.nn import ZigZagNeck
from zigzag.nn.contexts import MapContext, context_of

CHANNELS = 6


def plain(context, x):
    """R of one image (1, C, H, W), written with stock functions."""
    name, mean = type(context).__name__, x.mean((2, 3))
    if name == "ZoomOut":
        first, _, last = context.layers
        return x + last(first(mean).relu())[..., None, None]
    if name == "ParseNet":
        unit = mean / mean.square().sum(1, keepdim=True).sqrt()
        return x + context.layer(context.scale * unit)[..., None, None]
    if name == "PyramidPooling":
        region = x.clone()
        height, width = x.shape[2:]
        for k, layer in zip((1, 2, 3, 6), context.layers, strict=True):
            for row in range(k):
                for column in range(k):
                    rows = [h for h in range(height) if h * k // height == row]
                    columns = [w for w in range(width) if w * k // width == column]
                    if rows and columns:
                        where = (..., slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
                        region[where] += layer(x[where].mean((2, 3))).relu()[..., None, None]
        return region
    if name == "LargeKernel":
        (tall, wide), (wide_first, tall_last) = context.tall_first, context.wide_first
        one = F.conv2d(F.conv2d(x, tall.weight, padding=(7, 0)), wide.weight, wide.bias, padding=(0, 7))
        other = F.conv2d(
            F.conv2d(x, wide_first.weight, padding=(0, 7)), tall_last.weight, tall_last.bias, padding=(7, 0)
        )
        return x + one + other
    rates = zip(context.branches, (6, 12, 18, 24), strict=True)
    return x + sum(F.conv2d(x, branch.weight, branch.bias, padding=rate, dilation=rate) for branch, rate in rates)


def config(context, **fields):
    return NeckConfig((4, 5), CHANNELS, context=context, norm_groups=2, **fields)


def region(context, x, valid=None):
    """R from what the encoder gives to `dense_pathway`."""
    if isinstance(context, MapContext):
        return context(x, valid)
    _, codes, _ = context.encode(x, valid)
    return zigzag.ops.dense_pathway(torch.zeros_like(x), [x], [codes], context.grids, valid=valid, source_valid=[valid])


KINDS = ("zoom_out", "parse_net", "pyramid_pooling", "large_kernel", "atrous_pyramid")


@pytest.mark.parametrize("kind", KINDS)
def test_plain_pytorch_agrees(kind):
    context = context_of(config(kind)).double()
    x = normal(torch.Generator().manual_seed(0), 2, CHANNELS, 9, 13, dtype=torch.float64)
    assert_close(region(context, x), torch.cat([plain(context, image[None]) for image in x]))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_in_a_padded_batch_is_what_it_is_alone(kind):
    context = context_of(config(kind)).double()
    x = normal(torch.Generator().manual_seed(0), 2, CHANNELS, 9, 13, dtype=torch.float64)
    valid = torch.tensor([[9, 13], [5, 7]])
    x[1, :, 5:] = 0
    x[1, :, :, 7:] = 0
    together = region(context, x, valid)
    assert_close(together[1:, :, :5, :7], region(context, x[1:, :, :5, :7]))
    assert not together[1, :, 5:].any()
    assert not together[1, :, :, 7:].any()


@pytest.mark.parametrize("combine", ["product", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_in_a_neck_every_parameter_learns(kind, combine):
    torch.manual_seed(0)
    neck = ZigZagNeck((4, 5), CHANNELS, context=kind, combine=combine, norm_groups=2, stages=2)
    features = [normal(torch.Generator().manual_seed(i), 2, 4 + i, *size) for i, size in enumerate([(9, 12), (5, 6)])]
    result = neck(features)
    assert [tuple(level.shape) for level in result] == [(2, CHANNELS, 9, 12), (2, CHANNELS, 5, 6)]
    sum(level.square().sum() for level in result).backward()
    for name, parameter in neck.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes_are_fields_of_the_neck(scheme):
    fields = {"stages": 3, **SCHEMES[scheme]}
    neck = ZigZagNeck((4, 5), CHANNELS, norm_groups=2, **fields)
    assert (neck.stages[0].up is None) == scheme.endswith("top_down")
    assert len(neck.stages) == (3 if scheme == "zigzag" else 1)


@pytest.mark.parametrize(("field", "value"), [("context", "rcf"), ("dense", 1), ("bottom_up", None)])
def test_what_is_refused(field, value):
    with pytest.raises((TypeError, ValueError), match=field):
        config(**{"context": "rce", field: value})
