"""Memory: what autograd keeps between forward and backward, and how far the process grows."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class SavedBytes:
    """Bytes that autograd saved, by storage: a storage saved twice, or through two views, counts once."""

    def __init__(self) -> None:
        self.by_storage: dict[int, int] = {}

    @property
    def total(self) -> int:
        """Bytes of all distinct storages."""
        return sum(self.by_storage.values())


@contextmanager
def saved_bytes(excluded: Iterable[Tensor] = ()) -> Iterator[SavedBytes]:
    """Count what autograd saves inside the block, without the storages of ``excluded`` (the parameters)."""
    known = {tensor.untyped_storage().data_ptr() for tensor in excluded}
    saved = SavedBytes()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved.by_storage[storage.data_ptr()] = storage.nbytes()
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield saved


def peak_growth(run: Callable[[], T], device: str = "cpu") -> tuple[T, int | None]:
    """What ``run`` returns, and by how many bytes memory rose at its peak: the process's, or what torch has on the GPU.

    None where the system does not say (it takes Linux's /proc).
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        return run(), torch.cuda.max_memory_allocated() - allocated
    _return_free_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return run(), None
    before = _status("VmRSS")
    result = run()
    return result, max(0, _status("VmHWM") - before)


def _return_free_memory() -> None:
    """Have the allocator hand back what it keeps, so that reuse of it shows as growth."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
