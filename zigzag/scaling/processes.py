"""Data-parallel scaling of a training step over processes with gloo, one thread and one share of the batch each.

What a step loses with more processes has two causes, told apart in the same rounds: the processes share the machine's
memory and caches ("apart": all of them at work, nothing exchanged), and they exchange gradients ("together").
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import FileStore
from torch.multiprocessing.spawn import start_processes

from zigzag.bench.settings import SEED
from zigzag.bench.timing import timed
from zigzag.training_cost import all_reduce_bytes


@dataclass(frozen=True)
class Step:
    """A training step on some processes, medians over the rounds.

    Attributes:
        processes: how many.
        alone: seconds of the step with one process at work.
        apart: with all of them at work, gradients not exchanged.
        together: with gradients exchanged, as DistributedDataParallel overlaps it with the backward pass.
        exchange: seconds to exchange as many bytes with nothing else to do.
        gradients: bytes of all gradients.
        sent: bytes that every process sends in a step, by `zigzag.training_cost.all_reduce_bytes`.
    """

    processes: int
    alone: float
    apart: float
    together: float
    exchange: float
    gradients: int
    sent: int

    @property
    def efficiency(self) -> float:
        """The share of perfect scaling: the batch grows with the processes, so that a step should take no longer."""
        return self.alone / self.together


@dataclass(frozen=True)
class Model:
    """The network of the step: a ResNet-18, the neck, a head for 21 classes; one square image a process."""

    channels: int = 128
    stages: int = 3
    pixels: int = 128

    def build(self) -> nn.Module:
        """The network, seeded."""
        from zigzag.models import BackboneConfig, NeckOptions, NetworkConfig, SemanticSegmenter

        torch.manual_seed(SEED)
        neck = NeckOptions(channels=self.channels, stages=self.stages, norm_groups=min(32, self.channels))
        network = SemanticSegmenter(NetworkConfig(BackboneConfig("resnet18"), neck), classes=21)
        return network.to(memory_format=torch.channels_last)


def measure(processes: int, model: Model, rounds: int) -> Step:
    """Time steps on so many processes of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (processes, model, rounds, folder)
        start_processes(_work, arguments, processes, start_method="spawn")  # type: ignore[no-untyped-call]
        found: dict[str, Any] = json.loads((Path(folder) / "step.json").read_text())
    return Step(processes=processes, sent=all_reduce_bytes(found["gradients"], processes), **found)


def _work(rank: int, processes: int, model: Model, rounds: int, folder: str) -> None:
    """What every process does; the first writes down what it saw."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = FileStore(f"{folder}/store", processes)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    alone = model.build()
    joint = nn.parallel.DistributedDataParallel(alone)
    optimizer = torch.optim.SGD(alone.parameters(), lr=1e-3, momentum=0.9)
    images = torch.randn(1, 3, model.pixels, model.pixels).to(memory_format=torch.channels_last)
    labels = torch.randint(21, (1, model.pixels, model.pixels))
    gradients = torch.zeros(sum(p.numel() for p in alone.parameters()))

    def step(network: nn.Module) -> None:
        optimizer.zero_grad()
        loss: Tensor = nn.functional.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    kinds: dict[str, Callable[[], object]] = {
        "alone": partial(step, alone) if rank == 0 else _nothing,
        "apart": partial(step, alone),
        "together": partial(step, joint),
        "exchange": lambda: distributed.all_reduce(gradients),
    }
    seconds = _rounds(kinds, rounds)
    if rank == 0:
        found = {name: statistics.median(own) for name, own in seconds.items()} | {"gradients": _bytes(gradients)}
        (Path(folder) / "step.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


def _rounds(kinds: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every kind by round, after one round that warms up; all processes begin each together."""
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds + 1):
        for name, run in kinds.items():
            distributed.barrier()
            spent = timed(run)[0]
            if number > 0:
                seconds[name].append(spent)
    return seconds


def _nothing() -> None:
    """Another process is at work."""


def _bytes(values: Tensor) -> int:
    return values.numel() * values.element_size()
