"""Repeats recorded calls of the CUDA bindings in a process without torch: see tests/test_races.py.

python tests/native/replay.py FOLDER_OF_MODULE CALLS
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path


def same_bits(found, expected):
    if isinstance(expected, (tuple, list)):
        return len(found) == len(expected) and all(map(same_bits, found, expected))
    return found.shape == expected.shape and found.tobytes() == expected.tobytes()


def main(folder, calls):
    sys.path.insert(0, folder)
    import emulated

    for library, name, arguments, expected in pickle.loads(Path(calls).read_bytes()):  # noqa: S301 - the test's own file
        if not same_bits(getattr(getattr(emulated, library), name)(*arguments), expected):
            raise SystemExit(f"{name}: another result than the ordinary build's")


if __name__ == "__main__":
    main(*sys.argv[1:])
