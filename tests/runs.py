"""`zigzag fit`, in this process and in others, and what its checkpoints hold."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

import zigzag
from zigzag import cli


def fit(network, folder, *words, steps, every=2):
    """The exit status of `zigzag fit` with the words of a tiny network and others."""
    run = [
        f"--trainer.max_steps={steps}",
        f"--trainer.val_check_interval={every}",
        f"--trainer.default_root_dir={folder}",
    ]
    return cli.main(["fit", *network, *run, *words])


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def process(arguments, folder, processes=1):
    """As torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={processes}",
        "--master-addr=127.0.0.1",
        f"--master-port={port}",
    ]
    words = [*(start if processes > 1 else []), "-m", "zigzag", "fit", *arguments]
    call([*words, f"--trainer.default_root_dir={folder}"])


def call(words, where=None):
    """Python with these words, in a folder."""
    path = os.pathsep.join([str(Path(zigzag.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *words],
        cwd=where,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
