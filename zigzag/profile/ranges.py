"""Names in a profile for what the neck does, by pass, stage, direction and level.

The neck knows nothing of them: for as long as they are wanted, its steps are wrapped from outside, so that a neck that
nobody profiles pays nothing. A backward pass has no modules: there, the autograd nodes that a step left behind carry
the step's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.profiler import record_function
from torch.utils._pytree import tree_leaves

from zigzag.cost import Direction, place
from zigzag.nn.neck import Stage, Step, ZigZagNeck

FORWARD, BACKWARD = "forward", "backward"


@contextmanager
def named(name: str) -> Iterator[None]:
    """A range of that name in torch's profile and, on a GPU, in NVTX."""
    with record_function(name):
        if not torch.cuda.is_available():
            yield
            return
        torch.cuda.nvtx.range_push(name)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]


@contextmanager
def ranges(neck: ZigZagNeck) -> Iterator[None]:
    """Inside the block every step of the neck runs in a range such as "forward: stage 2, down, level 1".

    Within a step's range are "fusion" and "context"; backward passes of what ran inside the block have ranges too, as
    far as they run inside it.
    """
    wrapper = _Wrapper()
    try:
        for level, lateral in enumerate(neck.lateral):
            wrapper.wrap(lateral, "forward", place(0, "lateral", level))
        for number, stage in enumerate(cast(Iterable[Stage], neck.stages)):
            sweeps: tuple[tuple[Direction, Sequence[nn.Module]], ...] = (
                ("down", list(stage.down)),
                ("up", list(stage.up or ())),
            )
            for direction, steps in sweeps:
                for level, step in enumerate(steps):
                    wrapper.wrap_step(cast(Step, step), place(number, direction, level))
        for level, fusion in enumerate(neck.output or ()):
            where = place(neck.config.stages, "output", level)
            wrapper.wrap(fusion, "forward", where, "fusion")
            wrapper.wrap(fusion, "whole", where)
        yield
    finally:
        wrapper.remove()


class _Wrapper:
    """Wrapped methods and the autograd nodes that they left behind."""

    def __init__(self) -> None:
        self._wrapped: list[tuple[nn.Module, str]] = []
        self._nodes: dict[Node, str] = {}  # their wrappers in Python live, and stay the same, as long as they are here
        self._hooks: list[Any] = []
        self._open: list[ExitStack] = []

    def wrap_step(self, step: Step, where: str) -> None:
        if step.fusion is not None:
            self.wrap(step.fusion, "forward", where, "fusion")
        self.wrap(step, "forward", where)
        self.wrap(step, "source", where, "context")

    def wrap(self, module: nn.Module, method: str, where: str, part: str | None = None) -> None:
        """Run a method of one module in a range; a ``part`` has a range of its own inside the place's."""
        original: Callable[..., Any] = getattr(module, method)
        inside = part == "fusion"  # of a step that is in its range already

        def call(*args: Any, **options: Any) -> Any:
            with ExitStack() as stack:
                if not inside:
                    stack.enter_context(named(f"{FORWARD}: {where}"))
                if part is not None:
                    stack.enter_context(named(part))
                results = original(*args, **options)
            if torch.is_grad_enabled():
                self._follow(results, (args, options), where)
            return results

        module.__dict__[method] = call
        self._wrapped.append((module, method))

    def remove(self) -> None:
        """Leave everything as it was."""
        for module, method in self._wrapped:
            del module.__dict__[method]
        for hook in self._hooks:
            hook.remove()
        self._nodes.clear()

    def _follow(self, results: Any, given: Any, where: str) -> None:
        """Have the nodes between ``given`` and ``results`` that have no name yet run in a range."""
        known = {tensor.grad_fn for tensor in tree_leaves(given) if isinstance(tensor, Tensor)}
        waiting = [tensor.grad_fn for tensor in tree_leaves(results) if isinstance(tensor, Tensor)]
        while waiting:
            node = waiting.pop()
            if node is None or node in known or node in self._nodes:
                continue
            self._nodes[node] = where
            waiting += [previous for previous, _ in node.next_functions]
            self._hooks += [
                node.register_prehook(lambda _: self._enter(f"{BACKWARD}: {where}")),
                node.register_hook(lambda *_: self._leave()),
            ]

    def _enter(self, name: str) -> None:
        stack = ExitStack()
        stack.enter_context(named(name))
        self._open.append(stack)

    def _leave(self) -> None:
        self._open.pop().close()
