"""Which compiled operations run, seen where torch dispatches them."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode

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
