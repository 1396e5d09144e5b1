"""A guard that stops a run at the first loss that is not finite, and says in which map it began."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import lightning.pytorch as pl
import torch
import torch.distributed
from torch import Tensor, nn

Predicted = TypeVar("Predicted")


class NonFiniteError(RuntimeError):
    """A loss or a map is infinite or not a number; the message names the step or image, the stage and the level."""


class FiniteGuard(pl.Callback):
    """Looks at every loss and, every so often, at every map, before the optimiser takes its step.

    Args:
        every_n_steps: steps between two looks at the maps; a loss that is not finite makes it look at once.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        if every_n_steps < 1:
            raise ValueError(f"guard.every_n_steps must be 1 or more, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._batch: Any = None

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Keep the batch, to run it again where its loss is not finite."""
        self._batch = batch
        if trainer.global_step % self.every_n_steps == 0:
            place = self._look(trainer, pl_module)
            if not trainer.strategy.reduce_boolean_decision(place is None):
                place = place or "a map of another process"
                raise NonFiniteError(f"step {trainer.global_step}: {place} is not finite")

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Raise if the loss is not finite: every process at once, since norms may wait for each other in a look.

        Raises:
            NonFiniteError: it is not, here or in another process.
        """
        own = bool(torch.isfinite(loss))
        if not trainer.strategy.reduce_boolean_decision(own):
            place = self._look(trainer, pl_module)
            what = "the loss of another process is not finite" if own else f"the loss is {loss.item()}"
            where = f"it began in {place}" if place else "every map that is watched is finite"
            raise NonFiniteError(f"step {trainer.global_step}: {what}; {where}")

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> str | None:
        with trainer.precision_plugin.forward_context():  # in the precision that the step runs in
            network: Any = pl_module.network
            return first_bad_map(network, *cast(Any, pl_module).network_inputs(self._batch))


@torch.no_grad()
def first_bad_map(network: nn.Module, images: Tensor | Sequence[Tensor], *others: Any) -> str | None:
    """The first map, in the order of computation, that is not finite; None where all are.

    Alone it stops there; among several processes it goes on, for others may wait for this one in a norm.

    Args:
        network: called with the images and the others.
        images: a batch, or a list of images.
        others: likewise.
    """
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    found = [] if all(torch.isfinite(image).all() for image in images) else ["the image"]
    if found and not together:
        return found[0]
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}  # batch norms count what they see
    try:
        with _watched(network, found=found if together else None):
            network(images, *others)
    except _Found as place:
        found.append(str(place))
    except Exception:  # what follows might not run on what is not finite
        if not found:
            raise
    for name, buffer in network.named_buffers():
        buffer.copy_(kept[name])
    return found[0] if found else None


def finite(network: nn.Module, predict: Callable[[], Predicted], image: str) -> Predicted:
    """What ``predict`` gives, of scores that are finite.

    Args:
        network: what is watched.
        predict: runs the network; where a score is not finite it is called again, and all maps are watched.
        image: its name, for the message.

    Raises:
        NonFiniteError: a score is not finite; the map where it began is named.
    """
    try:
        with _watched(network, _SCORES.__contains__):
            return predict()
    except _Found as found:
        place = str(found)
    try:
        with _watched(network):
            predict()
    except _Found as found:
        place = str(found)
    raise NonFiniteError(f"image {image}: {place} is not finite")


class _Found(Exception):  # noqa: N818 - no error
    """A map that is not finite; its argument is the place in words."""


@contextmanager
def _watched(
    network: nn.Module, chosen: Callable[[str], bool] = bool, found: list[str] | None = None
) -> Iterator[None]:
    """Raise `_Found` at the first map that is not finite, or with ``found`` add its place and those after it."""

    def look(place: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            maps = [x for x in (output if isinstance(output, list | tuple) else [output]) if isinstance(x, Tensor)]
            if all(torch.isfinite(x).all() for x in maps):
                return
            if found is None:
                raise _Found(place)
            found.append(place)

        return hook

    hooks = [
        module.register_forward_hook(look(place))
        for name, module in network.named_modules()
        if (place := place_of(name)) is not None and chosen(place)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


_SCORES = (
    "the head",
    "the region proposals",
    "the position-sensitive scores of regions",
    "the box predictor",
    "the mask predictor",
)
"""The last maps, of which predictions are made: what is not finite before them is not finite in them."""
_WAYS = {"down": "top-down", "up": "bottom-up"}
_PLACES: tuple[tuple[re.Pattern[str], Callable[..., str]], ...] = (
    (re.compile(r"backbone\.layer(\d)"), lambda stage: f"the backbone's res{int(stage) + 1}"),
    (re.compile(r"backbone\.(?:conv1|bn1)"), lambda: "the backbone's stem"),
    (re.compile(r"backbone"), lambda: "the backbone"),
    (re.compile(r"neck\.lateral\.(\d+)"), lambda level: f"the neck's lateral map, level {int(level) + 1}"),
    (
        re.compile(r"neck\.stages\.(\d+)\.(down|up)\.(\d+)"),
        lambda stage, way, level: f"the neck, stage {int(stage) + 1}, {_WAYS[way]}, level {int(level) + 1}",
    ),
    (
        re.compile(r"neck\.stages\.(\d+)\.(down|up)\.(\d+)\.fusion"),
        lambda stage, way, level: f"the fusion of stage {int(stage) + 1}, {_WAYS[way]}, level {int(level) + 1}",
    ),
    (re.compile(r"neck\.output\.(\d+)"), lambda level: f"the neck's last fusion, level {int(level) + 1}"),
    (re.compile(r"neck\.body\.inner_blocks\.(\d+)"), lambda level: f"the neck's lateral map, level {int(level) + 1}"),
    (re.compile(r"neck\.body\.layer_blocks\.(\d+)"), lambda level: f"the neck's output, level {int(level) + 1}"),
    (re.compile(r"neck"), lambda: "the neck"),
    (re.compile(r"head"), lambda: _SCORES[0]),
    (re.compile(r"rpn\.head\.(?:conv|cls_logits|bbox_pred)"), lambda: _SCORES[1]),
    (re.compile(r"roi_heads\.(box|mask)_roi_pool\.offset"), lambda kind: f"the offsets of the {kind} head's regions"),
    (re.compile(r"roi_heads\.(box|mask)_(head|predictor)"), lambda kind, part: f"the {kind} {part}"),
    (re.compile(r"roi_heads\.scores"), lambda: _SCORES[2]),
)
_PYRAMID = re.compile(r"^backbone\.(?=backbone|neck)")
"""What a detector's names have in front of those of its backbone and neck."""


def place_of(name: str) -> str | None:
    """What a module of a network computes, in words; None for those that are not watched. Levels and stages from 1."""
    for pattern, say in _PLACES:
        found = pattern.fullmatch(_PYRAMID.sub("", name))
        if found is not None:
            return say(*found.groups())
    return None
