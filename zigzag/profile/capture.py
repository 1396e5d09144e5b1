"""One call of one operation, taken out of a real pass with everything it was given, and run again by itself."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import zigzag
from zigzag.bench.files import whole
from zigzag.bench.rows import isa
from zigzag.bench.settings import BenchError
from zigzag.ops.registration import NAMESPACES

FORMAT = 2

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_BACKENDS = {namespace: backend for backend, namespace in NAMESPACES.items()}


@dataclass(frozen=True)
class Call:
    """A call below autograd, as the kernels get it.

    Attributes:
        operation: its name, such as "region_stats" or "dense_pathway_backward".
        backend: that it ran on.
        number: which of the operation's calls in the pass it was, from 1.
        arguments: tensors, numbers, None, and lists of them, in the order of the operation's schema.
        results: what it gave, flat.
        origin: where and with what it ran, as `origin` says.
    """

    operation: str
    backend: str
    number: int
    arguments: list[Any]
    results: list[Tensor]
    origin: str

    def run(self) -> list[Tensor]:
        """Run it again: the results, flat."""
        packet = getattr(getattr(torch.ops, NAMESPACES[self.backend]), self.operation)
        return list(tree_leaves(packet.default(*self.arguments)))

    def on(self, backend: str, device: str) -> Call:
        """The same call for another backend, its tensors on ``device``."""
        arguments = tree_map_only(Tensor, lambda tensor: tensor.to(device), self.arguments)
        results = [result.to(device) for result in self.results]
        return replace(self, backend=backend, arguments=arguments, results=results)

    def __str__(self) -> str:
        tensors = [value for value in tree_leaves(self.arguments) if isinstance(value, Tensor)]
        maps = ", ".join("x".join(map(str, tensor.shape)) for tensor in tensors if tensor.dim() == 4)
        return f"{self.operation}, call {self.number}, {self.backend}, {tensors[0].dtype}, maps {maps or 'none'}"


def parse(text: str) -> tuple[str, int]:
    """Operation and number of "region_stats:3".

    Raises:
        BenchError: the text is of another form.
    """
    match = re.fullmatch(r"(\w+):([1-9]\d*)", text)
    if match is None:
        raise BenchError(f"--capture must be NAME:NUMBER, such as region_stats:3, calls counted from 1, got {text!r}")
    return match[1], int(match[2])


def capture(run: Callable[[], object], operation: str, number: int) -> Call:
    """The ``number``-th call of ``operation`` while ``run`` runs.

    Raises:
        BenchError: there is no such call; the message says which there are.
    """
    recorder = _Recorder(operation, number)
    with recorder:
        run()
    if recorder.call is None:
        seen = ", ".join(f"{name}:1 to {count}" for name, count in sorted(recorder.counts.items()))
        raise BenchError(f"--capture: {operation}:{number} does not run here; what does: {seen or 'no operation'}")
    return recorder.call


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, operation: str, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wanted = operation, number
        self.counts: Counter[str] = Counter()
        self.call: Call | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        namespace, _, name = func.name().partition("::")
        if namespace in _BACKENDS:
            self.counts[name] += 1
            if (name, self.counts[name]) == self.wanted:
                given, gave = tree_map_only(Tensor, _compact, (list(args), list(tree_leaves(results))))
                self.call = Call(name, _BACKENDS[namespace], self.counts[name], given, gave, origin(gave))
        return results


def origin(results: Sequence[Tensor]) -> str:
    """What the bits of ``results`` depend on besides the backend: instruction set or GPU, and version of torch."""
    on_gpu = any(result.is_cuda for result in results)
    return f"{torch.cuda.get_device_name() if on_gpu else isa()}, torch {torch.__version__}"


def _compact(tensor: Tensor) -> Tensor:
    """A copy with the same strides that owns no more memory than it reaches."""
    if tensor.numel() == 0:
        return tensor.detach().clone()
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    flat = tensor.detach().as_strided((reach,), (1,)).clone()
    return flat.as_strided(tensor.shape, tensor.stride())


def save(path: Path, call: Call) -> None:
    """Write the call to a file: whole, or not at all.

    Raises:
        BenchError: it cannot be written.
    """
    with whole(path) as temporary, temporary.open("wb") as file:
        torch.save({"zigzag": zigzag.__version__, "format": FORMAT, **vars(call)}, file)


def load(path: Path) -> Call:
    """Read a call from a file. No code in it is run.

    Raises:
        BenchError: there is no such file, or it holds no whole call.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BenchError(f"there is no file {str(path)!r}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        summary = (str(error).strip() or "it is empty").splitlines()[0]
        raise BenchError(f"{str(path)!r} cannot be read as a captured call: {summary}") from error
    fields = content if isinstance(content, dict) else {}
    if fields.pop("zigzag", None) is None or fields.pop("format", None) != FORMAT:
        raise BenchError(f"{str(path)!r} is no call that this version of zigzag captured (format {FORMAT})")
    return _checked(path, fields)


def _checked(path: Path, fields: dict[str, Any]) -> Call:
    kinds = {"operation": str, "backend": str, "number": int, "arguments": list, "results": list, "origin": str}
    known = fields.keys() == kinds.keys() and all(isinstance(fields[name], kind) for name, kind in kinds.items())
    known = known and any(isinstance(value, Tensor) for value in tree_leaves(fields["arguments"]))
    if not known or fields["backend"] not in NAMESPACES or not _has(fields["backend"], fields["operation"]):
        raise BenchError(f"{str(path)!r} names no operation of zigzag with its arguments")
    return Call(**fields)


def _has(backend: str, operation: str) -> bool:
    return hasattr(getattr(torch.ops, NAMESPACES[backend]), operation)


def differences(results: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[bool, float]:
    """Whether results are the expected ones bit for bit, and the largest relative difference among them (norms).

    It is taken where the expected ones are finite, and not finite itself where ours are not finite there.
    """
    same, shares = True, [torch.zeros((), dtype=torch.float64)]
    for ours, theirs in zip(results, expected, strict=True):
        same &= torch.equal(*(values.view(_BITS[values.element_size()]) for values in (ours, theirs)))
        finite = theirs.isfinite()
        known = torch.where(finite, theirs.double(), 0)
        distance = torch.linalg.vector_norm(torch.where(finite, ours.double(), 0) - known)
        size = torch.linalg.vector_norm(known)
        shares.append((distance / size if size > 0 else distance).cpu())
    return same, float(torch.stack(shares).max())  # NaN where one is
