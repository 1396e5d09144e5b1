"""Checkpoints of runs: how they are written; read, and held against the model, before Lightning takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from zipfile import ZipFile, is_zipfile

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.optim import Optimizer

from zigzag.data.source import summary
from zigzag.errors import first_line
from zigzag.files import whole
from zigzag.models import WeightsError
from zigzag.models.weights import compare

Network = TypeVar("Network")

_KEYS = ("state_dict", "pytorch-lightning_version")
_KEYS_TO_GO_ON = (*_KEYS, "optimizer_states", "lr_schedulers", "loops")


class Checkpoints(ModelCheckpoint):
    """Lightning's, which writes the last checkpoint only beside a better one: here after all, and at the end."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what is best, and the last."""
        super().on_validation_end(trainer, pl_module)
        self._keep_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the last: steps that no validation followed. Later an average has taken the place of the weights."""
        super().on_train_epoch_end(trainer, pl_module)
        self._keep_last(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keep the last where SIGTERM ends the run between two steps."""
        super().on_exception(trainer, pl_module, exception)
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if isinstance(exception, SIGTERMException) and batches % trainer.accumulate_grad_batches == 0:
            self._keep_last(trainer)

    def _monitor_candidates(self, trainer: pl.Trainer) -> dict[str, Tensor]:
        """What names and scores of checkpoints are made of; ``step`` is the steps taken, as in the checkpoint."""
        return super()._monitor_candidates(trainer) | {"step": torch.tensor(trainer.global_step)}

    def _keep_last(self, trainer: pl.Trainer) -> None:
        if self.save_last and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all; Lightning copies one over the last where folders lie apart."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write one; an address of another protocol is left to Lightning.

        Raises:
            OSError: it cannot be written.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


class Checkpoint(NamedTuple):
    """A checkpoint of a run.

    Attributes:
        path: its file.
        state: the model's tensors by name, read when they are used.
        groups: how many parameters every group of its optimiser has; None where training does not go on from it.
    """

    path: Path
    state: Mapping[str, Tensor]
    groups: list[int] | None

    def check(self, model: pl.LightningModule) -> None:
        """Hold names and shapes against a model's.

        Raises:
            WeightsError: they differ; the first ones are named.
        """
        report = compare(model.state_dict(), self.state, str(self.path))
        found = [
            *report.mismatched,
            *(f"{key} is missing in the checkpoint" for key in report.missing),
            *(f"{key} is not in the network" for key in report.unexpected),
        ]
        if found:
            count = f"{len(found)} tensors of {str(self.path)!r} are not those of the network that the fields describe"
            raise WeightsError(summary(f"--ckpt_path: {count}", found))

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Hold the parameters that learn against those that an optimiser is of.

        Raises:
            WeightsError: there are more or fewer.
        """
        own = [len(group["params"]) for group in optimizer.param_groups]
        if self.groups is not None and self.groups != own:
            there = (
                f"{self.groups} parameters learn in {str(self.path)!r}, {own} in the network that the fields describe"
            )
            fields = "model.network.backbone.norm and freeze_at, and optimizer, must be those of its run"
            raise WeightsError(f"--ckpt_path: {there}: {fields}")


def read_checkpoint(path: Path, *, resumes: bool) -> Checkpoint:
    """The checkpoint of a file.

    Args:
        path: the file.
        resumes: training goes on from it, for which it must hold the optimiser's state, too.

    Raises:
        WeightsError: there is no such file, or it is no checkpoint; the message says what it is.
    """
    expected = "expected a checkpoint that `zigzag fit` wrote"
    if not path.is_file():
        raise WeightsError(f"--ckpt_path: there is no file {str(path)!r}")
    if not is_zipfile(path):  # torch.save's files are; their directory is at the end
        what = f"{str(path)!r}, of {path.stat().st_size} bytes, is cut off or of another kind"
        raise WeightsError(f"--ckpt_path: {what}; {expected}")
    try:
        with ZipFile(path) as file:
            damaged = file.testzip()  # mapped tensors are read without their checksums
        content = None if damaged else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file can raise anything
        why = first_line(error)
        raise WeightsError(f"--ckpt_path: {str(path)!r} cannot be read: {why}; {expected}") from error
    if damaged:
        raise WeightsError(f"--ckpt_path: {str(path)!r} is damaged: {damaged} has another checksum; {expected}")
    if not isinstance(content, Mapping):
        raise WeightsError(f"--ckpt_path: {str(path)!r} holds one {type(content).__name__}; {expected}")
    missing = [key for key in (_KEYS_TO_GO_ON if resumes else _KEYS) if not content.get(key)]
    if missing:
        raise WeightsError(f"--ckpt_path: {str(path)!r} holds no {' and no '.join(missing)}; {expected}")
    state = content["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"--ckpt_path: state_dict of {str(path)!r} holds more than tensors by name; {expected}")
    groups = [len(group["params"]) for group in content["optimizer_states"][0]["param_groups"]] if resumes else None
    return Checkpoint(path, state, groups)


def without_weights(model: type[pl.LightningModule], *positional: Any, network: Any, **fields: Any) -> Any:
    """The model of these fields; weights to start training from are not read, as a checkpoint takes their place."""
    if "start" in fields:
        fields["start"] = None
    return model(*positional, network=with_random_backbone(network), **fields)


def with_random_backbone(network: Network) -> Network:
    """The configuration of a network, whose backbone's weights are not read: others take their place."""
    config: Any = network
    return cast(Network, replace(config, backbone=replace(config.backbone, weights=None)))
