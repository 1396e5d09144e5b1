"""Custom operations: schema, fake kernel, and one boundary of autograd for eager calls and for traces.

Every operation is defined once per backend that has kernels, `torch.ops.zigzag.NAME` being the CPU's,
`torch.ops.zigzag_triton.NAME`, `torch.ops.zigzag_cuda.NAME` and `torch.ops.zigzag_hopper.NAME` the others': a compiled
graph, a profile and a backward pass name the backend that they run on.

`torch.library.register_autograd` does not see the tensors in a list with None among them, and costs two trips through
the dispatcher. Here one `autograd.Function` stands behind both ways into an operation: called eagerly, an `Operation`
applies it directly; a trace (or anyone who calls `torch.ops.zigzag`) meets it at the dispatcher's Autograd key.
"""

# ruff: noqa: SLF001 - what torch.library itself is made of has no public name
from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from zigzag.dispatch import has_kernel

NAMESPACES = {"cpu": "zigzag", "triton": "zigzag_triton", "cuda": "zigzag_cuda", "hopper": "zigzag_hopper"}
"""Where the operations of each backend stand in `torch.ops`."""

_LIBRARIES: dict[str, Any] = {
    backend: torch.library.Library(namespace, "DEF")  # type: ignore[no-untyped-call]
    for backend, namespace in NAMESPACES.items()
}
# Kernels read strides, and what arrives has been made dense: a compiler must not lay tensors out anew.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)

Arguments = tuple[Any, ...]


class Operation:
    """One operation, differentiable once, on every backend that has kernels.

    Args:
        schema: name, arguments and results. Kernels are registered elsewhere, per backend and device.
        fake: the shapes, dtypes and strides of the results, from the same arguments.
        setup_context: (ctx, arguments, results): saves what ``backward`` needs.
        backward: (ctx, *gradients of the results) to one entry per argument, a list for a list; without it the
            gradient of the operation raises. ``ctx.backend`` is the backend that the forward pass ran on.

    Attributes:
        on_backend: the operation as each backend has it that has kernels for it.
    """

    def __init__(
        self,
        schema: str,
        fake: Callable[..., Any],
        setup_context: Callable[[Any, Arguments, Any], None] | None = None,
        backward: Callable[..., Sequence[Any]] | None = None,
    ) -> None:
        self.name = schema[: schema.index("(")]
        self.setup_context = setup_context
        self.backward = backward
        public = self.name.removesuffix("_backward")
        backends = [backend for backend in NAMESPACES if has_kernel(public, backend)]
        self.on_backend = {backend: BackendOperation(self, backend, schema, fake) for backend in backends}

    def on(self, backend: str) -> BackendOperation:
        """The operation as this backend has it."""
        return self.on_backend[backend]


class BackendOperation:
    """An `Operation` on one backend."""

    def __init__(self, operation: Operation, backend: str, schema: str, fake: Callable[..., Any]) -> None:
        name, library, namespace = operation.name, _LIBRARIES[backend], NAMESPACES[backend]
        library.define(schema, tags=_TAGS)
        library.impl(name, self._at_autograd_key, "Autograd")
        torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)
        if backend == "triton":
            library.impl(name, self._first_triton_call, "CUDA")
        self.operation = operation
        self.backend = backend
        self.name = f"{namespace}::{name}"
        self.packet: Any = getattr(getattr(torch.ops, namespace), name)
        self.call: Any = self.packet.default
        arguments = self.call._schema.arguments
        self.tensors = [i for i, argument in enumerate(arguments) if "Tensor" in str(argument.type)]
        self.returns_list = schema.endswith("[]")

    def __call__(self, *args: Any) -> Any:
        """The results: a tensor, a tuple or a list, as the schema says."""
        return self.call(*args) if torch.compiler.is_compiling() else self._at_autograd_key(*args)

    def _at_autograd_key(self, *args: Any) -> Any:
        if transforms_active():
            raise RuntimeError(
                f"{self.name} does not support forward-mode derivatives and torch.func: "
                "call the operation with backend='reference', which does"
            )
        if torch.is_grad_enabled():
            tensors = self.flatten(args)  # of a list with None in it, torch would not see the tensors
            if torch._C._any_requires_grad(*tensors):
                results = _Boundary.apply(self, args, *tensors)
                return list(results) if self.returns_list else results
        return self.below_autograd(args)

    def below_autograd(self, args: Arguments) -> Any:
        """The results without a record for autograd; modes such as FlopCounterMode still see the call."""
        with torch._C._AutoDispatchBelowAutograd():
            return self.call(*args)

    def flatten(self, args: Sequence[Any]) -> list[Tensor | None]:
        """The arguments (or their gradients) that are tensors, those in lists included."""
        flat: list[Tensor | None] = []
        for index in self.tensors:
            value = args[index]
            if isinstance(value, (list, tuple)):
                flat.extend(value)
            else:
                flat.append(value)
        return flat

    def _first_triton_call(self, *args: Any) -> Any:
        """Imports the kernels, and with them Triton, when the first of them is called."""
        name = self.operation.name
        module = importlib.import_module(f"zigzag.kernels.{name.removesuffix('_backward')}")
        return getattr(module, name)(*args)


def transforms_active() -> bool:
    """Whether torch.func or forward-mode derivatives are at work, which see no `torch.autograd.Function`."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


class Record:
    """One call among several behind one boundary of autograd: the ctx of its `setup_context` and `backward`.

    Attributes:
        backend: that the call ran on.
        saved_tensors: what the backward pass needs; the boundary hands them to autograd and sets them again.
    """

    def __init__(self, operation: BackendOperation, args: Arguments, results: Any) -> None:
        self.backend = operation.backend
        self.saved_tensors: tuple[Tensor | None, ...] = ()
        setup_context, backward = operation.operation.setup_context, operation.operation.backward
        if setup_context is None or backward is None:
            raise RuntimeError(f"{operation.name} has no derivative to be recorded")
        self._backward = backward
        setup_context(self, args, results)

    def gradient(self, *grads: Tensor | None) -> Sequence[Any]:
        """What `Operation.backward` returns: one entry per argument, a list for a list."""
        return self._backward(self, *grads)

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """As autograd's ctx has it."""
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *_: Tensor) -> None:
        """Nothing: the boundary returns no such result."""


class _Boundary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operation: BackendOperation, args: Arguments, *tensors: Tensor | None) -> Any:  # noqa: ARG004
        results = operation.below_autograd(args)
        ctx.operation, ctx.backend = operation, operation.backend
        if operation.operation.setup_context is not None:
            operation.operation.setup_context(ctx, args, results)
        return tuple(results) if operation.returns_list else results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        operation: BackendOperation = ctx.operation
        backward = operation.operation.backward
        if backward is None:
            raise RuntimeError(
                f"{operation.name} has no derivative, so this second derivative does not exist: "
                "call the operation with backend='reference', which has all of them"
            )
        return None, None, *operation.flatten(backward(ctx, *grads))
