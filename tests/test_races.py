"""The CUDA kernels under the thread sanitizer: whatever two threads of a block share, a barrier stands between.

`make sanitize` builds what runs here, the emulated kernels and their bindings for numpy. Calls are recorded on the
ordinary build and repeated in a process without torch; the results must be the same bit for bit.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import CodesCase, NormCase, StatsCase
from pathway_cases import PathwayCase
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import zigzag
from zigzag.ops.registration import NAMESPACES

ROOT = Path(__file__).parents[1]
MODULE = Path(os.environ.get("ZIGZAG_RACES_MODULE", ROOT / "build" / "races"))
COMPILER = shutil.which(os.environ.get("CXX", "c++"))

pytestmark = [
    pytest.mark.skipif(
        not (MODULE / f"emulated{sysconfig.get_config_var('EXT_SUFFIX')}").exists(),
        reason="make sanitize builds the module for this test",
    ),
    pytest.mark.skipif(zigzag.backends()["cuda"].device != "cpu", reason="the emulated CUDA kernels are not loaded"),
]

VALUES = torch.float32, torch.float16
CASES = {
    "region_stats": [
        *(StatsCase((2, 24, 9, 7), dtype, layout) for dtype in VALUES for layout in ("channels_last", "contiguous")),
        StatsCase((2, 24, 20, 7), padded=True),
    ],
    "region_codes": [
        CodesCase((2, 16, 9, 7), pool="mean"),
        CodesCase((1, 5, 4, 3), weight_layout="channels_last", padded=True),
        CodesCase((2, 16, 9, 7), weight_dtype=torch.float16),
    ],
    "region_norm": [NormCase((2, 24, 9, 7), groups=4), NormCase((2, 24, 9, 7), codes_dtype=None, groups=4)],
    "dense_pathway": [
        PathwayCase((2, 24, 9, 6), ((4, 3), (16, 11)), dtype, layout=layout, codes=(True, True), affines=(True, True),
                    base_affine=True, base_relu=True, gain=True, residual=True, padded=dtype == torch.float16)
        for dtype in VALUES for layout in ("channels_last", "contiguous")
    ] + [PathwayCase((1, 8, 5, 7), ((9, 3),), combine="sum", resize="nearest")],
    "dense_pathway_stats": [
        PathwayCase((2, 24, 9, 6), ((4, 3), (16, 11)), dtype, codes=(True, True), affines=(True, True), residual=True,
                    padded=dtype == torch.float16, statistics=((3, 2), 1))
        for dtype in VALUES
    ],
}  # fmt: skip


BULK = [StatsCase((1, 64, 119, 3), dtype) for dtype in VALUES] + [StatsCase((2, 64, 9, 7), torch.float16, padded=True)]
"""What bulk copies take: more rows of an atom than are on their way at once, images of their own sizes."""


class Recorder(TorchDispatchMode):
    """Keeps the calls of the CUDA bindings, with numpy arrays in the place of tensors."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        results = function(*arguments, **(options or {}))
        if function.namespace in (NAMESPACES["cuda"], NAMESPACES["hopper"]):
            call = function._schema.name.split("::")
            self.calls.append((*call, *tree_map_only(torch.Tensor, as_array, (arguments, results))))
        return results


class InMemoryOrder:
    """An array that keeps its strides when it is pickled."""

    def __init__(self, array):
        self.order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
        self.dense = np.ascontiguousarray(array.transpose(self.order))

    def __reduce__(self):
        return np.transpose, (self.dense, np.argsort(self.order))


def as_array(tensor):
    return InMemoryOrder(tensor.detach().numpy())


def fixed_layout():
    """What starts a program without a randomized layout, where the system allows that."""
    words = ["setarch", "-R"]
    allowed = (
        shutil.which(words[0]) and subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
    )
    return words if allowed else []


@pytest.mark.parametrize(("operation", "backend"), [*((name, "cuda") for name in CASES), ("region_stats", "hopper")])
def test_kernels_are_free_of_races(operation, backend, tmp_path):
    with Recorder() as recorder:
        for case in [*CASES[operation], *(BULK if backend == "hopper" else ())]:
            problem = case.problem()
            leaves = {name: tensor.detach().requires_grad_() for name, tensor in problem.tensors.items()}
            results = problem.call(partial(getattr(zigzag.ops, case.operation), backend=backend), leaves)
            sum(result.sum() for result in results).backward()
    assert {name for _, name, *_ in recorder.calls} == {operation, f"{case.operation}_backward"}
    calls = tmp_path / "calls"
    calls.write_bytes(pickle.dumps(recorder.calls))
    runtime = subprocess.run(
        [COMPILER, "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    # The sanitizer's shadow memory may collide with a randomized layout; numpy's own threads are not under test.
    command = [*fixed_layout(), sys.executable]
    found = subprocess.run(
        [*command, ROOT / "tests" / "native" / "replay.py", MODULE, calls],
        env=os.environ | {"LD_PRELOAD": runtime, "OPENBLAS_NUM_THREADS": "1", "TSAN_OPTIONS": "halt_on_error=1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
