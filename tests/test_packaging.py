"""What the package as such promises: a light import, one that survives a missing compiled part, honest metadata."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import zigzag
from zigzag import _library

ROOT = Path(__file__).resolve().parents[1]
# Importing torch takes about 1.5 s of processor time: this share of it is a tenth of a second.
IMPORT_SHARE = 0.06


def run(code: str, **environment: str):
    """Run `code` in a fresh interpreter that finds the same zigzag, and return what it prints, read as JSON."""
    path = os.pathsep.join([str(Path(zigzag.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_takes_a_small_share_of_importing_torch():
    code = """
import json, time
start = time.process_time()
import torch
middle = time.process_time()
import zigzag
print(json.dumps([middle - start, time.process_time() - middle]))
"""
    torch_time, own_time = min((run(code) for _ in range(3)), key=lambda times: times[1])
    assert own_time <= IMPORT_SHARE * torch_time


def test_import_loads_nothing_heavy_that_torch_did_not():
    code = """
import json, sys
import torch
before = set(sys.modules)
import zigzag
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before})))
"""
    loaded = set(run(code)) - set(sys.stdlib_module_names)
    assert loaded <= {"zigzag", "numpy", "torch"}, loaded


IMPORT_WITHOUT_LIBRARY = """
import json, torch, zigzag
from zigzag import _library
x = torch.arange(12.0).reshape(1, 1, 3, 4)
sums, power = zigzag.ops.region_stats(x, grids=(1,), halo=0)
print(json.dumps({
    "reason": _library.load().reason,
    "info": _library.build_info(),
    "backends": str(zigzag.backends()),
    "sums": sums.flatten().tolist(),
    "power": power.flatten().tolist(),
}))
"""


def assert_reference_works(result):
    assert result["sums"] == [66.0]
    assert result["power"] == [506.0]
    assert result["info"] == {}
    assert result["reason"] in result["backends"]


def test_without_a_compiled_part_the_reference_runs_and_backends_says_why(tmp_path):
    missing = str(tmp_path / "none.so")
    result = run(IMPORT_WITHOUT_LIBRARY, ZIGZAG_LIBRARY=missing)
    assert_reference_works(result)
    assert missing in result["reason"]
    assert "ZIGZAG_LIBRARY" in result["reason"]


def test_a_library_that_does_not_load_is_reported_and_not_raised(tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_text("not a library")
    result = run(IMPORT_WITHOUT_LIBRARY, ZIGZAG_LIBRARY=str(broken))
    assert_reference_works(result)
    assert f"broken.so does not load into torch {torch.__version__}" in result["reason"]


@pytest.fixture
def library():
    found = _library.load()
    if not found.path.is_file():
        pytest.skip(found.reason)
    assert found.loaded, found.reason
    return found


def test_library_is_loaded_once(library):
    assert _library.load() is library


def test_build_facts_match_the_package(library):
    facts = _library.build_info()
    assert facts["version"] == zigzag.__version__
    assert facts["isas"].split()[0] == "baseline"
    assert "-ffast-math" not in facts["flags"]
    assert set(facts) == {"version", "commit", "compiler", "flags", "isas", "gpus", "sanitize"}


def test_library_names_no_folder_of_the_machine_that_built_it(library):
    content = library.path.read_bytes()
    for folder in (ROOT, Path(torch.__file__).parent):
        assert f"{folder}/".encode() not in content


def test_every_package_that_is_asked_for_is_pinned_exactly():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    metadata = project["project"]
    wanted = project["build-system"]["requires"] + metadata["dependencies"]
    for extra in metadata["optional-dependencies"].values():
        wanted += extra
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pins = dict(line.split("==") for line in lines if line)
    names = {re.match(r"[A-Za-z0-9._-]+", requirement)[0] for requirement in wanted}
    assert names <= set(pins)


SETS = ("ZIGZAG_OPERATIONS", "ZIGZAG_CUDA_OPERATIONS", "ZIGZAG_SHARED_SOURCES")


def test_sources_of_the_build_are_all_there_and_all_used():
    text = (ROOT / "CMakeLists.txt").read_text()
    named = {name: re.search(rf"set\({name}([^)]*)\)", text)[1].split() for name in SETS}
    on_cpu, on_gpu, shared = named.values()
    listed = {f"csrc/cpu/{name}{end}" for name in on_cpu for end in (".cpp", "_kernel.cpp")} | set(shared)
    listed |= {f"csrc/cuda/{name}{end}" for name in on_gpu for end in (".cpp", ".cu")}
    listed |= set(re.findall(r"/(csrc/cuda/\w+\.cu)\"", text))
    found = {str(path.relative_to(ROOT)) for end in ("cpp", "cu") for path in (ROOT / "csrc").rglob(f"*.{end}")}
    assert listed == found


@pytest.mark.parametrize(("name", "tool"), [("_C", "a C++ compiler"), ("_C_cuda", "nvcc on PATH")])
def test_a_library_that_was_not_built_says_what_that_takes(name, tool, monkeypatch, tmp_path):
    monkeypatch.setattr(_library, "__file__", str(tmp_path / "_library.py"))
    monkeypatch.delenv(_library.OVERRIDE, raising=False)
    assert tool in _library.load.__wrapped__(name).reason
