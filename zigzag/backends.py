"""What can run an operation: the backends, what each needs, and the choice between them (spec section 6).

A backend is chosen by name in a call (``backend="cpu"``), for a block of code with `use_backend`, and otherwise by
default: the fastest that can run on the device at hand. A backend that was named and cannot run raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zigzag import _library


@dataclass(frozen=True)
class Backend:
    """One implementation of all operations.

    Attributes:
        name: what it is called in ``backend=``.
        device: the type of the devices that it runs on; None for all of them.
        reason: why it cannot run here, one sentence; None where it can.
    """

    name: str
    device: str | None
    reason: str | None

    @property
    def available(self) -> bool:
        """Whether it can run here."""
        return self.reason is None

    def __str__(self) -> str:
        where = f"{self.device} tensors" if self.device else "tensors on every device"
        return f"{self.name}: runs on {where}" if self.available else f"{self.name}: cannot run: {self.reason}"


class Backends(dict[str, Backend]):
    """Backends by name, the fastest first; printed, one line each."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.values()))


_REGISTRY = Backends()
_chosen: str | None = None


def backends() -> Backends:
    """All backends by name, the fastest first, each with what it runs on or why it cannot run here."""
    return Backends(_REGISTRY)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Make ``name`` the backend of all calls in a ``with`` block that do not name one themselves.

    The choice holds for the whole process, all threads included. A backward pass stays with the backend of its
    forward pass.

    Raises:
        ValueError: there is no backend of that name.
        RuntimeError: it cannot run here.
    """
    global _chosen
    _named(name)
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before


def select(name: str | None, device: str) -> str:
    """The name of the backend of a call: ``name``, or `use_backend`'s, or the first that runs on ``device``."""
    name = name or _chosen
    if name is None:
        return next(b.name for b in _REGISTRY.values() if b.reason is None and b.device in (None, device))
    backend = _named(name)
    if backend.device not in (None, device):
        raise RuntimeError(f"backend {name!r} runs on {backend.device} tensors, and these are on {device!r}")
    return name


def _named(name: str) -> Backend:
    backend = _REGISTRY.get(name)
    if backend is None:
        raise ValueError(f"backend must be one of {', '.join(map(repr, _REGISTRY))}, got {name!r}")
    if backend.reason is not None:
        raise RuntimeError(f"backend {name!r} cannot run here: {backend.reason}")
    return backend


def _register(backend: Backend) -> None:
    """Add a backend; those added first are preferred. The order is that of measured speed."""
    _REGISTRY[backend.name] = backend


_register(Backend("cpu", "cpu", _library.load().reason))
_register(Backend("reference", None, None))
