"""What fields of a command line cannot be, though each has its type: found before anything runs, and named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy
from torch import nn


def check_norm(model: pl.LightningModule, trainer: pl.Trainer) -> None:
    """Raise where processes on CPUs would have to share a norm's statistics, which torch has for GPUs alone."""
    shared = isinstance(trainer.strategy, DDPStrategy) or trainer.world_size > 1
    on_cpus = shared and trainer.strategy.root_device.type == "cpu"
    if on_cpus and any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        expected = "'batch' or 'frozen' where several processes train on CPUs"
        raise MisconfigurationException(f"model.network.backbone.norm must be {expected}, got 'sync', which needs GPUs")


def check_steps(trainer: pl.Trainer) -> None:
    """Raise unless steps can be counted, and validations, from whose checkpoints training can go on, lie between them.

    Batches are functions of the seed and the step, so that no loader of Lightning's can repeat some of them.
    """
    given: Any = trainer  # which has more attributes than it declares
    interval, batches = given.val_check_interval, given.accumulate_grad_batches
    for name, fits, expected in (
        ("max_steps", given.max_steps >= 0, "0 or more: how many steps to train"),
        ("accumulate_grad_batches", batches >= 1, "1 or more"),
        ("val_check_interval", not isinstance(interval, int | float) or interval > 0, "above 0"),
        ("overfit_batches", given.overfit_batches == 0, "0: batches are drawn by seed and step"),
    ):
        if not fits:
            raise MisconfigurationException(f"trainer.{name} must be {expected}, got {getattr(given, name)}")
    if isinstance(interval, int) and interval % batches != 0:
        expected = f"a multiple of trainer.accumulate_grad_batches ({batches}), as it counts batches"
        raise MisconfigurationException(f"trainer.val_check_interval must be {expected}, got {interval}")


def check_numbers(trainer: pl.Trainer) -> None:
    """Raise for numbers that images are not given in, or that turn gradients round."""
    precisions = ("32-true", "64-true", "bf16-mixed", "16-mixed")
    if trainer.precision not in precisions:
        expected = f"one of {', '.join(precisions)}, for which images are float32 or float64"
        raise MisconfigurationException(f"trainer.precision must be {expected}, got {trainer.precision!r}")
    clip = trainer.gradient_clip_val
    if clip is not None and not clip >= 0:
        raise MisconfigurationException(f"trainer.gradient_clip_val must be 0 or more, or null, got {clip}")


def check_seed(seed: Any) -> None:
    """Raise unless Lightning can seed every generator with it."""
    if not 0 <= seed < 2**32:
        raise MisconfigurationException(f"seed_everything must be from 0 to {2**32 - 1}, got {seed}")


def check_average(decay: float | None) -> None:
    """Raise unless it weighs two values."""
    if decay is not None and not 0 <= decay <= 1:
        raise MisconfigurationException(f"ema must be a decay from 0 to 1, or null, got {decay}")


def check_folder(folder: str | None) -> None:
    """Raise where a file stands in the place of the folder to write to, or of one that it is in."""
    path = Path(folder or ".")
    files = [str(place) for place in (path, *path.parents) if place.is_file()]
    if files:
        wrong = f"got {folder!r}: {files[0]} is a file"
        raise MisconfigurationException(f"trainer.default_root_dir must be a folder, {wrong}")


def check_values(fields: Namespace, of: Any, name: str) -> None:
    """Raise where null is given for a field of a class that must have a value; the parser takes it for any."""
    for field in _nulls(fields, of, name):
        raise MisconfigurationException(f"{field} must have a value, got null")


def _nulls(fields: Namespace, of: Any, name: str) -> Iterator[str]:
    hints = get_type_hints(of.__init__)
    for key, value in vars(fields).items():
        hint = hints.get(key)
        if value is None and hint is not None and type(None) not in get_args(hint):
            yield f"{name}.{key}"
        elif is_dataclass(hint) and value is not None:
            yield from _nulls(value, hint, f"{name}.{key}")
