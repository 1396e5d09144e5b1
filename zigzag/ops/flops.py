"""FLOP formulas of the operations for `torch.utils.flop_counter`, registered when that module is first imported.

Importing it here would import Triton, which takes longer than all of zigzag.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from zigzag.ops.registration import Operation

_COUNTER = "torch.utils.flop_counter"


def register(operation: Operation, formula: Callable[..., int]) -> None:
    """Let FlopCounterMode count ``operation`` on every backend; the formula takes its arguments, shapes for tensors."""

    def action() -> None:
        packets = [each.packet for each in operation.on_backend.values()]
        sys.modules[_COUNTER].register_flop_formula(packets)(formula)

    if _COUNTER in sys.modules:
        action()
    else:
        _watch.actions.append(action)


class _Watch(MetaPathFinder):
    """Finds the module once, on behalf of the ordinary finders, and acts when it has been executed."""

    def __init__(self) -> None:
        self.actions: list[Callable[[], None]] = []

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        loader: Any = None if spec is None else spec.loader
        if loader is None:
            return spec
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for action in self.actions:
                action()

        loader.exec_module = exec_module
        return spec


_watch = _Watch()
if _COUNTER not in sys.modules:
    sys.meta_path.insert(0, _watch)
