"""What can run an operation: the backends, what each needs, and the choice between them (spec section 6).

A backend is chosen by name in a call (``backend="cpu"``), for a block of code with `use_backend`, and otherwise by
default: the fastest that can run, by the table in `zigzag.dispatch`. A backend that was named and cannot run raises.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from zigzag import _library, dispatch


@dataclass(frozen=True)
class Backend:
    """One implementation of all operations.

    Attributes:
        name: what it is called in ``backend=``.
        device: the type of the devices that it runs on; None for all of them.
        check: finds out why it cannot run here, one sentence; None where it can. Asked once, when it is needed.
        dtypes: what it takes; None for float64, float32, bfloat16 and float16.
        otherwise: the backend whose kernels run what this one has none for, maps included; None where nothing does.
    """

    name: str
    device: str | None
    check: Callable[[], str | None]
    dtypes: tuple[torch.dtype, ...] | None = None
    otherwise: str | None = None

    @cached_property
    def reason(self) -> str | None:
        """Why it cannot run here, one sentence; None where it can."""
        return self.check()

    @property
    def available(self) -> bool:
        """Whether it can run here."""
        return self.reason is None

    def refusal(self, x: Tensor) -> str | None:
        """Why it does not take ``x``, or None."""
        if self.device not in (None, x.device.type):
            return f"runs on {self.device} tensors, and these are on {x.device.type!r}"
        if self.dtypes is not None and x.dtype not in self.dtypes:
            return f"takes {', '.join(map(str, self.dtypes))}, got {x.dtype}"
        return None

    def __str__(self) -> str:
        where = f"{self.device} tensors" if self.device else "tensors on every device"
        if self.otherwise is not None:
            where += f"; the rest, and maps that its kernels do not take, {self.otherwise} runs"
        return f"{self.name}: runs on {where}" if self.available else f"{self.name}: cannot run: {self.reason}"


class Backends(dict[str, Backend]):
    """Backends by name; printed, one line each, then the table by which one is chosen."""

    def __str__(self) -> str:
        return "\n".join(map(str, [*self.values(), *dispatch.RULES]))


_REGISTRY = Backends()
_chosen: str | None = None


def backends() -> Backends:
    """All backends by name, each with what it runs on or why it cannot run here; printed, the table of defaults too."""
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


def select(name: str | None, operation: str, x: Tensor) -> str:
    """The backend of a call of ``operation`` on ``x``: ``name``, or `use_backend`'s, or the first that can run."""
    name = name or _chosen
    if name is None:
        return next(each for each in dispatch.order(operation, x) if _can_run(each) and not _REGISTRY[each].refusal(x))
    backend = _named(name)
    refusal = backend.refusal(x)
    if (operation, name) in dispatch.WITHOUT_KERNELS:
        if backend.otherwise is not None:
            return select(backend.otherwise, operation, x)
        refusal = f"has no kernels for {operation}"
    if refusal is not None:
        raise RuntimeError(f"backend {name!r} {refusal}")
    return name


def _named(name: str) -> Backend:
    if name not in _REGISTRY:
        raise ValueError(f"backend must be one of {', '.join(map(repr, _REGISTRY))}, got {name!r}")
    if not _can_run(name):
        raise RuntimeError(f"backend {name!r} cannot run here: {_REGISTRY[name].reason}")
    return _REGISTRY[name]


def _can_run(name: str) -> bool:
    return _REGISTRY[name].available


# A trace takes the answer as it is: loading a library is nothing to be traced. (torch.compiler's own decorator for this
# sets this attribute, and imports the whole compiler to do so.)
_can_run._dynamo_marked_constant = True  # type: ignore[attr-defined]  # noqa: SLF001


def _register(backend: Backend) -> None:
    _REGISTRY[backend.name] = backend


def _no_gpu() -> str | None:
    if torch.cuda.is_available():
        return None
    built_for = torch.version.cuda or torch.version.hip
    return "torch sees no GPU here" if built_for else f"torch {torch.__version__} was built without support for GPUs"


def _why_no_cuda() -> str | None:
    reason = _no_gpu()
    if reason is None and torch.version.cuda is None:
        reason = f"its kernels are for CUDA, and torch {torch.__version__} was built for other GPUs"
    return reason or _library.load("_C_cuda").reason or _no_code(since=0)


def _why_no_hopper() -> str | None:
    reason = _why_no_cuda()
    if reason is None and min(_capabilities()) < (9, 0):
        reason = "needs all GPUs that torch sees to be of compute capability 9.0 or later"
    return reason or _no_code(since=90)


def _capabilities() -> list[tuple[int, int]]:
    """Of all GPUs that torch sees."""
    return [torch.cuda.get_device_capability(device) for device in range(torch.cuda.device_count())]


def _no_code(since: int) -> str | None:
    """The GPU that the library has nothing for among what it is compiled for from architecture ``since`` on."""
    gpus = _library.build_info("_C_cuda").get("gpus", "").split()
    for major, minor in _capabilities():
        if gpus and not any(_runs(name, major, minor, since) for name in gpus):
            own = f"a GPU of compute capability {major}.{minor}"
            return f"zigzag/_C_cuda.so is compiled for {' '.join(gpus)}, and torch sees {own}"
    return None


_ARCHITECTURE = re.compile(r"(\d+)(\d)(a?)(-real|-virtual)?")


def _runs(name: str, major: int, minor: int, since: int) -> bool:
    """Whether a GPU runs what is compiled for one of CMake's CUDA_ARCHITECTURES; "native" and the like are believed.

    Code runs on later GPUs of the same major version, PTX on all later ones, and either with "a" on no others.
    """
    found = _ARCHITECTURE.fullmatch(name)
    if found is None:
        return True
    own, kind = (int(found[1]), int(found[2])), found[4]
    if 10 * own[0] + own[1] < since or (found[3] and own != (major, minor)):
        return False
    return own <= (major, minor) and (kind != "-real" or own[0] == major)


def _why_no_triton() -> str | None:
    missing = importlib.util.find_spec("triton") is None
    return "the triton package is not installed" if missing else _no_gpu()


_library.load()  # so that torch.ops.zigzag has its kernels; what a GPU needs is loaded when it is asked for
_register(Backend("cpu", "cpu", lambda: _library.load().reason))
_register(Backend("triton", "cuda", _why_no_triton))
_register(Backend("cuda", "cuda", _why_no_cuda))
_register(Backend("hopper", "cuda", _why_no_hopper, otherwise="cuda"))
_register(Backend("reference", None, lambda: None))
