"""Which compiled operations run, and what memory tensors take, seen where torch dispatches operations."""

from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zigzag.ops.registration import NAMESPACES


class Spy(TorchDispatchMode):
    """Records every call of a compiled operation inside a `with` block, forward and backward."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operation, _types, arguments=(), options=None):
        if operation.namespace in NAMESPACES.values():
            self.calls.append((operation, arguments, options or {}))
        return operation(*arguments, **(options or {}))

    @property
    def names(self):
        return {operation.name() for operation, _, _ in self.calls}


class Allocated(TorchDispatchMode):
    """The bytes of the tensors that operations inside a `with` block made, and the most of them alive at once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = set()

    def __torch_dispatch__(self, operation, _types, arguments=(), options=None):
        before = {id(leaf.untyped_storage()) for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)}
        result = operation(*arguments, **(options or {}))
        for leaf in tree_leaves(result):
            storage = leaf.untyped_storage() if isinstance(leaf, torch.Tensor) else None
            if storage is not None and id(storage) not in before | self._known:
                self._known.add(id(storage))
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _freed(self, key, size):
        self._known.discard(key)
        self.now -= size
