"""A GPU's rule without a GPU, a plugin of pytest: backends cuda and hopper take no tensor that was not moved there.

    PYTHONPATH=tests python -m pytest -p far_device tests/test_neck.py -k cuda

The kernels are the emulated ones and all memory is the CPU's; what is kept is which of it counts as a GPU's.
"""

from __future__ import annotations

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_far = set()


def _storage(tensor):
    return tensor.untyped_storage()._cdata


def _place(tensor, far):
    (_far.add if far else _far.discard)(_storage(tensor))
    return tensor


class Move(torch.autograd.Function):
    """To the GPU or back, and the gradient the other way."""

    @staticmethod
    def forward(context, tensor, far):
        context.far = far
        return _place(tensor.detach().clone(), far)

    @staticmethod
    def backward(context, gradient):
        return _place(gradient.detach().clone(), not context.far), None


class Places(TorchDispatchMode):
    """What is computed from a GPU's tensors is the GPU's; a convolution of both places' is an error."""

    def __torch_dispatch__(self, operation, _types, arguments=(), options=None):
        given = [_storage(leaf) in _far for leaf in tree_leaves((arguments, options)) if isinstance(leaf, torch.Tensor)]
        if "convolution" in operation.name() and any(given) and not all(given):
            raise RuntimeError(f"{operation.name()} of tensors on the GPU and on the CPU")
        result = operation(*arguments, **(options or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                _place(leaf, any(given))
        return result


def _to(tensor, *arguments, to=torch.Tensor.to, **options):
    """`to("cuda")` moves; a torch.device is one that a tensor named, and so its own."""
    where = arguments[0] if arguments else options.get("device")
    if str(where) == "cuda":
        return Move.apply(tensor, True)
    if where == "cpu" and isinstance(where, str):
        return to(Move.apply(tensor, False), *arguments, **options)
    return to(tensor, *arguments, **options)


@pytest.hookimpl(tryfirst=True)
def pytest_collection():
    """After conftest has registered the stand-ins."""
    backends = sys.modules["zigzag.backends"]

    class Far(backends.Backend):
        def refusal(self, x):
            return None if _storage(x) in _far else "runs on cuda tensors, and these were not moved there"

    for name, otherwise in (("cuda", None), ("hopper", "cuda")):
        backends._register(Far(name, "cuda", lambda: None, None, otherwise))
    torch.Tensor.cuda = lambda tensor: Move.apply(tensor, True)
    torch.Tensor.cpu = lambda tensor: Move.apply(tensor, False)
    torch.Tensor.to = _to


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    with Places():
        return (yield)
