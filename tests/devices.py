"""Functions of a device's tensors as functions of the CPU's, which checks compare."""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_map_only


class Moved(torch.autograd.Function):
    """A tensor on a device, in a copy of its whole storage: offset, gaps and strides of zero stay as they are."""

    @staticmethod
    def forward(ctx, tensor, device):
        ctx.device = tensor.device
        whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
        return whole.to(device, copy=True).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    @staticmethod
    def backward(ctx, gradient):
        return gradient.to(ctx.device), None


def on_device(device, operation, *arguments, **options):
    """The operation's results on the CPU, from arguments there."""
    arguments, options = tree_map_only(torch.Tensor, lambda x: Moved.apply(x, device), (list(arguments), options))
    return tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), operation(*arguments, **options))
