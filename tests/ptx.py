"""Makes C++ of a kernel's PTX, which tests/native/ptx.h runs on the CPU: what a GPU is given, but for ptxas."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

from ptx_instructions import UnknownPtxError, instruction, value

NATIVE = Path(__file__).parent / "native"
HEADERS = "ptx.h", "ptx_units.h", "emulation.h", "emulated_units.h"
FLAGS = [
    "-std=c++20",
    "-O1",
    "-fPIC",
    "-shared",
    "-fwrapv",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-Werror=stack-usage=200000",
]
REGISTERS = {"pred": "bool", "b16": "b16", "b32": "b32", "b64": "b64"}


def without_scopes(body):
    """Braces around statements taken away, and what is declared between them renamed: a C++ function has one scope."""
    count = 0

    def renamed(match):
        nonlocal count
        text = match[1]
        if ";" not in text:  # operands
            return match[0]
        count += 1
        for name in re.findall(r"\.reg \.\w+ (\w+);|^(\w+):", text, re.MULTILINE):
            text = re.sub(rf"(?<![%\w])({''.join(name)})\b", rf"\1_{count}", text)
        return text

    return re.sub(r"\{((?:[^{}]|\{[^{}]*\})*)\}", renamed, body)


def declarations(body):
    """Registers, and memory that each thread has for itself."""
    for kind, name, count in re.findall(r"\.reg \.(\w+)\s+(%?\w+)(?:<(\d+)>)?;", body):
        names = [f"{name}{i}" for i in range(1, int(count))] if count else [name]
        yield from (f"{REGISTERS[kind]} {value(each)};" for each in names)
    for alignment, name, size in re.findall(r"\.local \.align (\d+) \.b8 (\w+)\[(\d+)\];", body):
        yield f"alignas({alignment}) unsigned char memory_{name}[{size}]; const auto {name} = (b64)memory_{name};"


def shared_memory(ptx, body):
    """What a kernel has in shared memory, at which addresses; all that is of no size given comes last."""
    bytes_taken, found, last = 0, [], []
    for alignment, name, size in re.findall(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d*)\];", ptx):
        if not re.search(rf"\b{name}\b", body):
            continue
        if not size:
            last.append(name)
            continue
        bytes_taken += -bytes_taken % int(alignment)
        found.append(f"constexpr b32 {name} = {bytes_taken};")
        bytes_taken += int(size)
    bytes_taken += -bytes_taken % 16
    return [*found, *(f"constexpr b32 {name} = {bytes_taken};" for name in last)], bytes_taken


def entry(ptx, name):
    """The parameters of a kernel and what stands between its braces."""
    start = ptx.index(f".entry {name}")
    first = end = ptx.index("{", start)
    depth = 1
    while depth > 0:
        end = min(at for at in (ptx.find("{", end + 1), ptx.find("}", end + 1)) if at > 0)
        depth += 1 if ptx[end] == "{" else -1
    return ptx[start:first], ptx[first + 1 : end]


def translate(ptx, name=None):
    """A kernel in a text of PTX; without a name, the only one that there is."""
    ptx = re.sub(r"//[^\n]*|^\s*\.loc\s[^\n]*$", "", ptx, flags=re.MULTILINE)
    head, body = entry(ptx, name or "")
    jumps = {
        label: [target.strip().lstrip("$") for target in targets.split(",")]
        for label, targets in re.findall(r"(\$\w+):\s*\.branchtargets([^;]*);", body)
    }
    body = without_scopes(body)
    parameters = [
        f"const auto {parameter} = (b64)parameters[{parameter.rpartition('_')[2]}];"
        for parameter in re.findall(r"\w+_param_\d+\b", head)
    ]
    addresses, taken = shared_memory(ptx, body)
    lines = []
    for part in re.sub(r"\.(?:local|shared) [^;]*;", "", body).split(";"):
        text = part.strip()
        while match := re.match(r"\$?(\w+):\s*", text):
            lines.append(f"{match[1]}:;")
            text = text[match.end() :]
        if text and not text.startswith((".reg", ".branchtargets", ".pragma")):
            lines.append(instruction(text, jumps))
    declared = "\n  ".join([*addresses, *declarations(body), *parameters])
    return TEMPLATE.format(declared=declared, body="\n  ".join(lines), taken=taken)


TEMPLATE = """#include "ptx.h"
using namespace ptx;

static void kernel(const void* const* parameters) {{
  begin();
  {declared}
  {body}
}}

extern "C" int64_t run(unsigned blocks, unsigned x, unsigned y, unsigned bytes, const void* const* parameters,
                       const Range* ranges, unsigned count) {{
  tensors = ranges, tensor_count = count, shared_bytes = {taken} + bytes;
  emulation::launch(blocks, {{x, y, 1}}, shared_bytes, [parameters] {{ kernel(parameters); }}, kSharedAlignment);
  return std::exchange(emulation::machine.copied, 0);
}}
"""


class Range(ctypes.Structure):
    """Where a tensor's memory begins and ends."""

    _fields_ = (("begin", ctypes.c_uint64), ("end", ctypes.c_uint64))


def built(source):
    """`run` of a translated kernel: (blocks, threads along x and y, bytes of shared memory, pointers to parameters,
    ranges of tensors and their number; without any, global memory is not checked), which returns how many bulk copies
    it made. Compiled once and kept."""
    compiler = os.environ.get("CXX", "c++").split()
    headers = [(NATIVE / header).read_text() for header in HEADERS]
    key = hashlib.sha256(repr((source, headers, compiler, FLAGS)).encode()).hexdigest()[:32]
    folder = Path(tempfile.gettempdir()) / f"zigzag-ptx-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    library = folder / f"{key}.so"
    if not library.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as own:
            file, made = Path(own) / "kernel.cpp", Path(own) / "kernel.so"
            file.write_text(source)
            command = [*compiler, *FLAGS, "-I", str(NATIVE), str(file), "-o", str(made)]
            compiled = subprocess.run(command, capture_output=True, text=True, check=False)
            if compiled.returncode != 0:
                raise UnknownPtxError(next(iter(re.findall(r"error: .*", compiled.stderr)), compiled.stderr))
            made.replace(library)
    run = ctypes.CDLL(str(library)).run
    run.restype = ctypes.c_int64
    return run
