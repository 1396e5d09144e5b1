"""What stock PyTorch does when it runs the neck's equations: every operation, its bytes and flops, from shapes alone.

The literal neck (`zigzag.reference.neck`) runs on meta tensors, which have no values, forward and, by autograd,
backward. Each operation that reaches the dispatcher is noted with the bytes of the tensors that it reads and writes,
each once, and with torch's own count of flops (products alone: element-wise arithmetic hides behind its bytes). Views
cost nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import zigzag
from zigzag.cost import Cost

PRODUCTS = ("convolution", "convolution_backward", "mm", "bmm", "addmm", "baddbmm")
"""What a compiler leaves to a library; all else it is assumed to fuse."""
REDUCTIONS = ("sum", "mean", "native_group_norm", "native_group_norm_backward")
"""Fused with what makes their operands, but what reads their results must wait for the whole of them."""


@dataclass(frozen=True)
class Operation:
    """One operation: its name, and the memory that it reads and writes (an identity and bytes for each)."""

    name: str
    inputs: dict[int, int]
    outputs: dict[int, int]
    flops: int

    @property
    def cost(self):
        return Cost(sum(self.inputs.values()), sum(self.outputs.values()), self.flops)


class Recorder(TorchDispatchMode):
    """Notes every operation that is no view."""

    def __init__(self):
        super().__init__()
        self.operations = []
        self.kept = []  # or memory that is freed would lend its identity to other tensors

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        made = [x for x in tree_leaves(results) if isinstance(x, torch.Tensor)]
        self.kept += made
        inputs, outputs = memory(given), memory(made)
        name = func.name().removeprefix("aten::").partition(".")[0]
        in_place = name.endswith("_")
        if outputs and (in_place or not outputs.keys() <= inputs.keys()):
            formula = flop_registry.get(func._overloadpacket)  # noqa: SLF001
            flops = formula(*args, **kwargs, out_val=results) if formula else 0
            self.operations.append(Operation(name.removesuffix("_"), inputs, outputs, flops))
        return results


def memory(tensors):
    """Identity of each storage -> bytes of it that are touched; an expanded axis is touched once."""
    found = defaultdict(int)
    for x in tensors:
        values = x.element_size()
        for size, stride in zip(x.shape, x.stride(), strict=True):
            values *= size if stride else 1
        key = x.untyped_storage()._cdata  # noqa: SLF001
        found[key] = max(found[key], values)
    return dict(found)


def operations(config, sizes, *, batch, dtype=torch.bfloat16, laterals=False):
    """(forward, forward and backward) of the literal neck on channels_last maps: `Operation`s in their order."""
    with torch.device("meta"):
        neck = zigzag.nn.ZigZagNeck(**neck_arguments(config)).to(dtype)
    parameters = {name: p for name, p in neck.named_parameters() if laterals or not name.startswith("lateral.")}
    channels = config.in_channels if laterals else (config.out_channels,) * config.levels
    maps = [
        torch.empty(batch, c, *size, device="meta", dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
        for c, size in zip(channels, sizes, strict=True)
    ]
    literal = zigzag.reference.neck.forward if laterals else zigzag.reference.neck.fuse
    recorder = Recorder()
    with recorder:
        results = literal(maps, parameters, config)
    forward, gradients = list(recorder.operations), [torch.empty_like(result) for result in results]
    with recorder:
        torch.autograd.grad(results, [*maps, *parameters.values()], gradients)
    return forward, recorder.operations


def neck_arguments(config):
    """As ZigZagNeck takes them; the fields that decide the parameters' shapes are enough."""
    names = ("in_channels", "out_channels", "stages", "grids", "kernel_size", "norm_groups")
    return {name: getattr(config, name) for name in names}


def fused(found):
    """The same operations as a compiler may run them: `Cost`s of its kernels, the products among them.

    Assumed: everything but products is fused with all that it reads and all that reads it, across resizes too; a
    kernel reads each operand once and writes what others read. A reduction (a GroupNorm's statistics) ends a kernel.
    Values that autograd saves are written and read again, as in eager: nothing is computed twice.
    """
    depth, groups, maker = {}, defaultdict(list), {}
    for number, operation in enumerate(found):
        single = operation.name in PRODUCTS
        level = 0
        for key in operation.inputs:
            if key not in maker:
                continue
            before = found[maker[key]]
            apart = single or before.name in (*PRODUCTS, *REDUCTIONS)
            level = max(level, depth[maker[key]] + apart)
        depth[number] = level
        maker |= dict.fromkeys(operation.outputs, number)
        groups[(level, number if single else None)].append(number)
    readers = defaultdict(set)
    for number, operation in enumerate(found):
        for key in operation.inputs:
            readers[key].add(number)
    return [kernel(found, set(numbers), readers) for numbers in groups.values()]


def kernel(found, members, readers):
    """What a kernel of all these operations reads, writes and computes."""
    made, read = {}, {}
    for number in sorted(members):
        operation = found[number]
        read |= {key: size for key, size in operation.inputs.items() if key not in made and key not in read}
        made |= operation.outputs
    written = sum(size for key, size in made.items() if readers[key] - members or not readers[key])
    return Cost(sum(read.values()), written, sum(found[number].flops for number in members))
