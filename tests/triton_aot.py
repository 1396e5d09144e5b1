"""Compiles Triton kernels for GPUs that are not there, in the very specialisations that the operations launch.

Operations are called on meta tensors with every launch caught; what was caught is compiled ahead of time. Run as a
program (a process with Triton's interpreter cannot compile), it prints a table of registers, spills and shared memory.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from zigzag.kernels import launch

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx950": GPUTarget("hip", "gfx950", 64),
}
SHARED = {"sm_80": 163, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx942": 64, "gfx950": 160}
"""KiB of shared memory that a block can have (CUDA programming guide, compute capabilities; AMD's CDNA 3 and 4 ISA)."""
MEASURED = "sm_90"
DTYPES = torch.bfloat16, torch.float16, torch.float32
NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
NAMES |= {torch.int64: "i64", torch.int32: "i32"}
ACCESSES = "LDG(?:STS)?", "STG"
"""Instructions that load from global memory, to registers or (copied ahead) to shared memory, and that store to it."""
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Compiled:
    """What became of one kernel on one target; a spill is anything that a register did not hold.

    Hopper's products may run on behind what follows, at most so many of them as are pending at any wait.
    """

    registers: int
    spills: int
    shared: int
    pending: int = 0


@dataclass(frozen=True)
class Accesses:
    """Instructions of one kernel on one target that load from and store to global memory, and those of 16 bytes."""

    wide_loads: int
    wide_stores: int
    loads: int
    stores: int


def specialise(path, value, constants, attributes):
    """The type of an argument as Triton's own launcher sees it: what is 1 or None is a constant."""
    if isinstance(value, (tuple, list)):
        return tuple(specialise((*path, i), item, constants, attributes) for i, item in enumerate(value))
    if isinstance(value, torch.Tensor):
        if value.is_meta or value.data_ptr() % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return f"*{NAMES[value.dtype]}"
    if value is None or (type(value) is int and value == 1):
        constants[path] = value
        return "constexpr"
    if type(value) is float:
        return "fp32"
    if value % 16 == 0:
        attributes[path] = [["tt.divisibility", 16]]
    return integer(value)


def integer(value):
    """Triton's type of an integer argument."""
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def specialisation(kernel, arguments, options):
    """What Triton compiles a kernel for, given these arguments: types, constants and what it knows of the rest."""
    given = dict(zip(kernel.arg_names, arguments, strict=False))
    given |= {name: value for name, value in options.items() if name in kernel.arg_names}
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = given.get(parameter.name, parameter.default)
        if parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
        elif parameter.do_not_specialize:
            signature[parameter.name] = integer(value)
        else:
            signature[parameter.name] = specialise((index,), value, constants, attributes)
    return signature, constants, attributes


def source_of(target, kernel, arguments, options):
    """The kernel's source for these arguments, and the compiler's options for the target."""
    signature, constants, attributes = specialisation(kernel, arguments, options)
    compiler = {name: value for name, value in options.items() if name not in kernel.arg_names}
    if TARGETS[target].backend == "hip":
        compiler.pop("maxnreg", None)  # as zigzag.kernels.launch does
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes), compiler


def compiled_for(target, kernel, arguments, options):
    """One specialisation on one target, as Triton has it."""
    source, compiler = source_of(target, kernel, arguments, options)
    return triton.compile(source, target=TARGETS[target], options=compiler)


def made_of(target, binary):
    """What `compiled_for` has made, as its compiler says."""
    if TARGETS[target].backend == "hip":
        text = binary.asm["amdgcn"]
        field = lambda name: int(re.search(rf"\.{name}:\s*(\d+)", text)[1])  # noqa: E731
        spills = field("vgpr_spill_count") + field("private_segment_fixed_size")  # scalars spill to vector registers
        return Compiled(field("vgpr_count"), spills, binary.metadata.shared)
    usage = dump("--dump-resource-usage", binary)
    return Compiled(
        int(re.search(r"REG:(\d+)", usage)[1]),
        int(re.search(r"STACK:(\d+)", usage)[1]),
        binary.metadata.shared,
        max(map(int, re.findall(r"warp_group_dot_wait .*pendings = (\d+)", binary.asm["ttgir"])), default=0),
    )


def accesses_of(binary):
    """Read off the machine code, NVIDIA's, which takes seconds."""
    sass = dump("-sass", binary)
    wide = [len(re.findall(rf"{name}\.E[.\w]*\.128", sass)) for name in ACCESSES]
    return Accesses(*wide, *(len(re.findall(rf"{name}\.E", sass)) for name in ACCESSES))


def dump(flag, binary):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        return subprocess.run([CUOBJDUMP, flag, file.name], check=True, capture_output=True, text=True).stdout


# --- what operations launch -------------------------------------------------------------------------------------------

STREAMING = {"evaluate": 0, "gather": 7, "spread": 9, "spread_sums": 0, "sum_strips": None}
"""Kernels that read and write maps 16 bytes at a time, in bfloat16, and how many (N, C) tables they write at most.

None: it writes sums, no maps.
"""


def empty(*shape, dtype=torch.float32):
    return torch.empty(*shape, device="meta", dtype=dtype)


def tables_of(dtype):
    """Makes what is accumulated beside maps of a dtype: sums, codes, scales and shifts."""
    return functools.partial(empty, dtype=launch.accumulation(dtype)[0])


CHANNELS = 256


def maps_of(dtype, *sizes, number=16, channels=CHANNELS, layout=torch.channels_last):
    sizes = [size if isinstance(size, tuple) else (size, size) for size in sizes]
    return [empty(number, channels, *size, dtype=dtype).to(memory_format=layout) for size in sizes]


def call_stats(dtype, size, grids, halo, **options):
    from zigzag.kernels.region_stats import region_stats, region_stats_backward

    (x,) = maps_of(dtype, size, **options)
    sums, power = region_stats(x, grids, halo, None)
    region_stats_backward(x, sums, power, grids, halo, None, x)


def call_codes(dtype, layout, number=16, size=(119, 119)):
    from zigzag.kernels.region_codes import region_codes, region_codes_backward

    parameters = []
    for grid in GRIDS:
        for side in (3, grid, grid):
            parameters += [empty(256, 256, side, side, dtype=dtype).to(memory_format=layout), empty(256, dtype=dtype)]
    sums = tables_of(dtype)(number, 83 * 9, 256)
    options = GRIDS, *size, True, None
    _, regions, hidden = region_codes(sums, parameters, *options)
    region_codes_backward(regions, sums, parameters, regions, hidden, *options)


def call_norm(dtype, codes, number=16, size=(119, 119)):
    from zigzag.kernels.region_norm import region_norm, region_norm_backward

    grids, table = GRIDS if codes else [1], tables_of(dtype)
    sums = table(number, 83 * 9, 256)[:, 4::9] if codes else table(number, 1, 256)
    coded, weight = table(number, 83, 256) if codes else None, table(256)
    scale, shift, moments = region_norm(sums, table(number, 256), coded, weight, weight, grids, 32, *size, 1e-5, None)
    region_norm_backward(scale, shift, sums, coded, weight, moments, grids, *size, 1e-5, None)


def call_pathway(dtype, target, sources, *, number=16, padded=False, **options):
    from zigzag.kernels.dense_pathway import dense_pathway, dense_pathway_backward

    base, *maps = maps_of(dtype, target, *sources, number=number, **options)
    made, valid = tables_of(dtype), empty(number, 2, dtype=torch.int64) if padded else None
    count, table = len(maps), made(number, 256)
    small = [made(number, 83, 256)] * count, table, table, [table] * count, [table] * count, made(256)
    end = valid, [valid] * count, GRIDS, True, True, False
    dense_pathway(base, maps, *small, base, *end)
    dense_pathway_backward(base, base, base, maps, *small, *end)


def call_pool(dtype, groups, outputs, layout=torch.channels_last, *, number=2, size=(60, 60), count=512):
    from zigzag.kernels.position_sensitive_pool import position_sensitive_pool, position_sensitive_pool_backward

    (x,) = maps_of(dtype, size, number=number, channels=outputs * groups**2, layout=layout)
    rois = empty(count, 5)
    pooled = position_sensitive_pool(x, rois, 21, groups, 8, None)
    last = layout == torch.channels_last
    position_sensitive_pool_backward(pooled, rois, number, *size, last, groups, 8, None)


GRIDS = [3, 5, 7]


def launches(dtype, *, every=True):
    """(kernel, arguments, options) of what the neck launches on maps of a dtype, a level being 119 wide.

    Without `every`, for the channels_last maps and contiguous weights of a batch that is not padded.
    """
    found = {}

    def catch(kernel, _grid, arguments, options):
        found.setdefault(repr((kernel.__name__, shown(arguments), shown(options))), (kernel, arguments, options))

    with launch.launches_to(catch):
        call_stats(dtype, 119, GRIDS, 1)
        call_stats(dtype, 119, [1], 0)
        call_codes(dtype, torch.contiguous_format)
        call_norm(dtype, codes=True)
        call_norm(dtype, codes=False)
        for target, sources in ((119, (60, 30, 15)), (15, (119, 60, 30))):
            call_pathway(dtype, target, sources)
        call_pool(dtype, 1, 256)
        if every:
            call_pool(dtype, 7, 166, torch.contiguous_format)
            call_stats(dtype, 15, GRIDS, 1)
            call_stats(dtype, 119, GRIDS, 0, layout=torch.contiguous_format)
            call_codes(dtype, torch.channels_last)
            for target, sources in ((60, (30, 15)), (119, ())):
                call_pathway(dtype, target, sources)
            call_pathway(dtype, 119, (60, 30, 15), padded=True)
            call_pathway(dtype, 119, (60, 30, 15), layout=torch.contiguous_format)
    return list(found.values())


def specialisations(number, first, second, count):
    """What Triton compiles for a batch of channels_last maps of two levels, and for so many RoIs.

    Channels are a multiple of 16, so that all strides are, too, whatever the sizes.
    """
    found = set()

    def catch(kernel, _grid, arguments, options):
        found.add(repr((kernel.__name__, *specialisation(kernel, arguments, options))))

    with launch.launches_to(catch):
        for size in (first, second):
            call_stats(torch.bfloat16, size, GRIDS, 1, number=number)
        call_codes(torch.bfloat16, torch.contiguous_format, number, first)
        call_norm(torch.bfloat16, True, number, first)
        call_pathway(torch.bfloat16, first, (second,) * 3, number=number)
        call_pathway(torch.bfloat16, second, (first,) * 3, number=number)
        call_pool(torch.bfloat16, 1, CHANNELS, number=number, size=first, count=count)
    return found


def streaming(dtype):
    """The launches of `launches` whose maps are channels_last, of kernels that read or write whole maps."""
    return [found for found in launches(dtype) if found[0].__name__ in STREAMING and channels_last(found[1])]


def channels_last(value):
    """Whether all maps among the arguments have their channels side by side: (N, C, H, W) so, or (N, H, W, C)."""
    if isinstance(value, torch.Tensor):
        return value.ndim != 4 or value.stride(1) == 1 or value.shape[3] == CHANNELS
    return all(map(channels_last, value)) if isinstance(value, (tuple, list)) else True


def shown(value):
    """A value by what specialises a kernel."""
    if isinstance(value, torch.Tensor):
        return value.dtype
    if isinstance(value, dict):
        return {name: shown(item) for name, item in value.items()}
    return tuple(map(shown, value)) if isinstance(value, (tuple, list)) else value


def table(dtype, target):
    """Rows (kernel, dtype, target, binary): everything on the target that is measured on, the neck's elsewhere.

    float16 is as wide as bfloat16, and float64 is for checks of gradients: the neck's there, too.
    """
    every = target == MEASURED and dtype in (torch.bfloat16, torch.float32)
    for kernel, arguments, options in launches(dtype, every=every):
        yield kernel.__name__, NAMES[dtype], target, compiled_for(target, kernel, arguments, options)


def main():
    rows = [row for dtype in DTYPES for target in TARGETS for row in table(dtype, target)]
    print(f"{'kernel':18} {'dtype':5} {'target':7} registers spills shared wide/all loads wide/all stores")
    for name, dtype, target, binary in rows:
        row, accesses = made_of(target, binary), ""
        if TARGETS[target].backend == "cuda":
            found = accesses_of(binary)
            accesses = f"{found.wide_loads:6}/{found.loads:<5} {found.wide_stores:6}/{found.stores}"
        print(f"{name:18} {dtype:5} {target:7} {row.registers:9} {row.spills:6} {row.shared:6} {accesses}")


if __name__ == "__main__":
    main()
