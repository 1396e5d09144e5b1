"""The CUDA kernels as compiled ahead of time: nothing in local memory, 16-byte accesses where maps stream."""

from __future__ import annotations

import re
from pathlib import Path

import cuda_binary
import pytest

import zigzag

LIBRARY = Path(zigzag.__file__).with_name("_C_cuda.so")
ROOT = Path(__file__).parents[1]
ARCHITECTURES = ("sm_80", "sm_90a", "sm_100")
# What reads or writes maps: with 16-byte vectors of each type.
STREAMING = {
    "stats_rows": "load",
    "stats_backward": "both",
    "pathway_forward": "both",
    "pathway_stats": "both",
    "pathway_walk": "both",
    "pathway_targets": "both",
    "pathway_sources": "both",
}
VECTORS = {"double": 2, "float": 4, "__nv_bfloat16": 8, "__half": 8}
# What else is loaded are sizes of images: so many loads at most (pathway_targets). A vector in pieces would be more.
SCALARS = 14

pytestmark = [
    pytest.mark.skipif(not LIBRARY.exists(), reason="zigzag/_C_cuda.so was not built: no CUDA compiler here"),
    pytest.mark.skipif(cuda_binary.cuobjdump() is None, reason="cuobjdump is not installed"),
]


def asked_for(root):
    """What the build in `root` was told to compile for, as `make gpu` tells it; None where it was told nothing."""
    named = []
    for name in ("build/native/CMakeCache.txt", "CMakeLists.txt"):
        text = (root / name).read_text() if (root / name).exists() else ""
        named += re.findall(r'ZIGZAG_CUDA_ARCHITECTURES(?::STRING=| ")([^"\n]+)', text)
    asked, ordinary = named if len(named) == 2 else (None, None)
    return None if asked == ordinary else asked


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request):
    """What an ordinary build has lost is missed; what another was not asked for is not."""
    asked = asked_for(ROOT)
    if asked is not None and f"{request.param.removeprefix('sm_')}-real" not in asked.split(";"):
        pytest.skip(f"{LIBRARY.name} was built for {asked} alone")
    return request.param


@pytest.fixture(scope="module")
def kernels(architecture):
    found = cuda_binary.kernels_of(LIBRARY, architecture)
    assert found
    return found


@pytest.mark.parametrize(
    ("cache", "told"), [(None, None), ("80-real;90a-real", None), ("90a-real", "90a-real")], ids=["none", "all", "one"]
)
def test_a_build_is_held_to_what_it_was_asked_for(tmp_path, cache, told):
    (tmp_path / "CMakeLists.txt").write_text('set(ZIGZAG_CUDA_ARCHITECTURES "80-real;90a-real" CACHE STRING "GPUs")')
    if cache is not None:
        (tmp_path / "build" / "native").mkdir(parents=True)
        (tmp_path / "build" / "native" / "CMakeCache.txt").write_text(f"ZIGZAG_CUDA_ARCHITECTURES:STRING={cache}\n")
    assert asked_for(tmp_path) == told


def named(kernels, prefix):
    found = [kernel for kernel in kernels.values() if kernel.name.startswith(prefix)]
    assert found
    return found


def test_no_kernel_spills(kernels):
    """ptxas refuses spills when the library is built; what else goes to local memory is small and on no hot path."""
    for kernel in kernels.values():
        assert kernel.local == 0, kernel
        if kernel.name.split("<")[0] in STREAMING:
            assert kernel.stack == 0, kernel


@pytest.mark.parametrize("name", STREAMING)
@pytest.mark.parametrize("dtype", VECTORS)
def test_maps_stream_in_vectors_of_16_bytes(kernels, name, dtype):
    for kernel in named(kernels, f"{name}<{dtype}, {VECTORS[dtype]}"):
        assert kernel.wide_loads > 0, kernel
        if STREAMING[name] == "both":
            assert kernel.wide_stores > 0, kernel
        assert kernel.wide_stores == kernel.stores, kernel
        if VECTORS[dtype] == 8:
            assert kernel.loads - kernel.wide_loads <= SCALARS, kernel


def test_widths_are_read_off_the_code(monkeypatch):
    """One narrow access among wide ones is seen."""
    usage = "Function f:\n  REG:40 STACK:0 SHARED:0 LOCAL:0"
    code = ["LDG.E.128 R4, [R2]", "@P0 LDG.E.128.CONSTANT R4, [R2]", "LDG.E.64 R4, [R2]", "LDG.E.U16 R4, [R2]"]
    code += ["LDG.E R4, [R2]", "STG.E.128 [R2], R4", "STG.E [R2], R4", "LDGSTS.E.128 [R2], [R4]", "LDS.128 R4, [R2]"]
    sass = "\n".join(["Function : f", *code])
    monkeypatch.setattr(cuda_binary, "dump", lambda *words: usage if "--dump-resource-usage" in words else sass)
    kernel = cuda_binary.kernels_of("none")["f"]
    assert (kernel.loads, kernel.wide_loads) == (5, 2)
    assert (kernel.stores, kernel.wide_stores) == (2, 1)


def test_rows_come_by_bulk_copies_where_there_are_any(kernels, architecture):
    for kernel in named(kernels, "stats_rows_bulk<"):
        assert (kernel.copies > 0) == (architecture != "sm_80"), kernel
        assert kernel.wide_loads == 0, kernel


def test_products_of_two_byte_types_run_on_tensor_cores(kernels):
    for kernel in named(kernels, "multiply_fragments<"):
        assert kernel.products > 0, kernel
        assert kernel.wide_loads > 0, kernel
