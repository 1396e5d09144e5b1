"""What ptxas made of the CUDA kernels, read off the library: registers, shared and local memory, 128-bit accesses.

python tests/cuda_binary.py zigzag/_C_cuda.so sm_90a
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass
class Kernel:
    name: str
    registers: int
    stack: int
    shared: int
    local: int
    loads: int = 0
    wide_loads: int = 0  # of 128 bits
    stores: int = 0
    wide_stores: int = 0
    copies: int = 0
    products: int = 0

    def __str__(self):
        memory = f"{self.registers:4} {self.stack:6} {self.shared:7} {self.local:6}"
        loads, stores = f"{self.wide_loads}/{self.loads}", f"{self.wide_stores}/{self.stores}"
        counts = f"{loads:>8} {stores:>8} {self.copies:7} {self.products:5}"
        return f"{self.name:60} {memory} {counts}"


# Accesses to global memory: those of 128 bits, of all.
HEADER = f"{'kernel':60} regs  stack  shared  local LDG.128  STG.128 UTMALDG  HMMA"


def cuobjdump():
    """The program, of a CUDA toolkit or of Triton; None where there is neither."""
    found = shutil.which("cuobjdump") or shutil.which("cuobjdump", path="/usr/local/cuda/bin")
    triton = find_spec("triton")
    if found is None and triton is not None:
        bundled = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        found = str(bundled) if bundled.exists() else None
    return found


def dump(library, architecture, *options):
    command = [cuobjdump(), f"--gpu-architecture={architecture}", *options, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def readable(names):
    """Demangled, without namespaces, arguments and what else repeats."""
    lines = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return [
        re.sub(r"\(.*", "", re.sub(r"^void |zigzag::cuda::|\(anonymous namespace\)::|\(\w+\)", "", line))
        for line in lines.splitlines()
    ]


def kernels_of(library, architecture="sm_90a"):
    """Every kernel of the library by its readable name."""
    usage = dump(library, architecture, "--dump-resource-usage")
    pattern = r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)"
    rows = re.findall(pattern, usage)
    found = {}
    for mangled, name, row in zip([r[0] for r in rows], readable([r[0] for r in rows]), rows, strict=True):
        found[mangled] = Kernel(name, *map(int, row[1:]))
    current = None
    for line in dump(library, architecture, "--dump-sass").splitlines():
        if "G." not in line and "HMMA" not in line and "Function" not in line:
            continue  # as nearly all of a million lines
        start = re.search(r"Function : (\S+)", line)
        if start:
            current = found.get(start.group(1))
        elif current is not None:
            access = re.search(r"\b(LDG|STG)\.(\S*)", line)
            width = access and re.search(r"128|64", access.group(2))
            if access and access.group(1) == "LDG":
                current.loads += 1
                current.wide_loads += bool(width and width.group() == "128")
            elif access:
                current.stores += 1
                current.wide_stores += bool(width and width.group() == "128")
            current.copies += "UTMALDG" in line
            current.products += bool(re.search(r"\bHMMA\.\S*TF32", line))
    return {kernel.name: kernel for kernel in found.values()}


if __name__ == "__main__":
    print(HEADER)
    for kernel in sorted(kernels_of(*sys.argv[1:]).values(), key=lambda kernel: kernel.name):
        print(kernel)
