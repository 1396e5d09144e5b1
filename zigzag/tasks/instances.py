"""Instance segmentation as a Lightning module: losses, optimiser, COCO's scores, pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
import torch.distributed
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.optim import SGD

from zigzag.models import Detector, DetectorConfig, build_detector
from zigzag.tasks.coco_scores import KINDS, NAMES, CocoScores, Kind, Result, evaluate, pasted, results_of, write
from zigzag.tasks.guard import finite
from zigzag.tasks.instance_pictures import Shown, drawn
from zigzag.tasks.pictures import Pixels, save
from zigzag.tasks.recipe import Recipe

Item = dict[str, Any]

PAPER_RECIPE = Recipe(learning_rate=0.01, milestones=(200_000, 260_000))


class InstanceSegmentation(pl.LightningModule):
    """Trains, evaluates and runs a detector with masks.

    Args:
        classes: names, by label, the background first; the command line takes them from the data set.
        network: the detector.
        recipe: the optimiser.
        pictures: images that every validation logs with their instances.
        shown: least score of what pictures show.
    """

    def __init__(
        self,
        classes: Sequence[str],
        network: DetectorConfig = DetectorConfig(),  # noqa: B008 - these are frozen
        recipe: Recipe = PAPER_RECIPE,
        pictures: int = 4,
        shown: float = 0.5,
    ) -> None:
        super().__init__()
        self.classes = list(classes)
        self.recipe, self.pictures, self.shown = recipe, pictures, shown
        if pictures < 0:
            raise ValueError(f"model.pictures must be 0 or more, got {pictures}")
        self.network: Detector = build_detector(network, len(self.classes)).to(memory_format=torch.channels_last)
        self.results: dict[Kind, list[Result]] = {kind: [] for kind in KINDS}

    def forward(self, images: list[Tensor], targets: list[Item] | None = None) -> Any:
        """As `zigzag.models.Detector.forward`."""
        return self.network(images, targets)

    # --- training ---------------------------------------------------------------------------------------------------

    def optimizer_of_recipe(self) -> SGD:
        """SGD as the recipe has it."""
        return self.recipe.optimizer(self.network.backbone.backbone.parameters(), self.network.new_parameters())

    def configure_optimizers(self) -> Any:
        """SGD with the recipe's learning rate, which changes every step."""
        return self.recipe.scheduled(self.optimizer_of_recipe(), self.trainer.max_steps)

    def on_fit_start(self) -> None:
        """Say what became of the weights, key by key."""
        report = self.network.backbone.backbone.report
        if report is not None and self.trainer.is_global_zero:
            print(report)

    def training_step(self, batch: list[Item], batch_idx: int) -> Tensor:  # noqa: ARG002
        """The sum of the losses of classes (softmax), boxes (smooth L1) and masks (pixel-wise), and of the proposals.

        The anchors and regions that are trained on are drawn at random, those of an image by its own seed: a run that
        was cut off goes on exactly, and how images are spread over processes changes no draw. Whatever else a backbone
        draws it draws by the seed of the batch's first image.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(batch[0]["seed"])
            losses: dict[str, Tensor] = self(*self.network_inputs(batch))
        loss = torch.stack([value.float() if value.dtype.itemsize < 4 else value for value in losses.values()]).sum()
        self.log("step", float(self.global_step))  # Lightning's own count is one behind where a run goes on
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True, batch_size=len(batch))
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), sync_dist=True, batch_size=len(batch))
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=len(batch))
        return loss

    def network_inputs(self, batch: list[Item]) -> tuple[list[Tensor], list[Item]]:
        """What the network is called with for a training batch: images and targets."""
        targets = [{key: item[key] for key in ("boxes", "labels", "masks", "seed")} for item in batch]
        return [item["image"] for item in batch], targets

    # --- evaluation -------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Item, batch_idx: int) -> None:
        """Keep an image's results, and log the first ones' pictures."""
        found = self._add(batch, "val")
        if batch_idx < self.pictures and self.trainer.is_global_zero:
            picture = np.asarray(self._drawn(batch["image"], found))
            for logger in self.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(f"val/{batch['name']}", picture, self.global_step, dataformats="HWC")

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self.log("step", float(self.global_step))
        self._log_scores("val")

    def test_step(self, batch: Item, batch_idx: int) -> None:  # noqa: ARG002
        """Keep an image's results."""
        self._add(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Write scores and results to the run's folder, test/."""
        scores, results = self._log_scores("test")
        if self.trainer.is_global_zero:
            write(self.folder / "test", scores, results)
            print("\n\n".join(one.table() for one in scores))
            print(f"written to {self.folder / 'test'}: scores.json, scores.txt, results_bbox.json, results_segm.json")

    def predict_step(self, batch: Item, batch_idx: int) -> str:  # noqa: ARG002
        """Draw a photograph's instances; return the picture's path."""
        path = self.folder / "predictions" / f"{Path(batch['path']).stem}.png"
        save(self._drawn(batch["image"], self._detect(batch["image"], str(batch["path"]))), path)
        print(f"written to {path}")
        return str(path)

    @property
    def monitored(self) -> list[str]:
        """What the best checkpoint can be kept by."""
        kinds = [f"val/{kind}" for kind in ("box", "mask")]
        measures = [f"{kind}_{name}" for kind in kinds for name in NAMES]
        return [*measures, *(f"{kind}_ap/{name}" for kind in kinds for name in self.classes[1:]), "train/loss"]

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return Path(self.trainer.default_root_dir)

    def _detect(self, image: Tensor, name: str) -> dict[str, Tensor]:
        """The detections of an image (3, H, W) uint8, masks not yet pasted."""
        scaled = image.to(next(self.network.parameters()).dtype) / 255
        return finite(self.network, lambda: self.network.detect([scaled])[0], name)

    def _add(self, batch: Item, part: str) -> dict[str, Tensor]:
        found = self._detect(batch["image"], batch["name"])
        if batch["counts"]:
            category_ids = self._data.source(part).category_ids
            for own in results_of(batch["image_id"], found, _size(batch["image"]), category_ids):
                for kind in KINDS:
                    self.results[kind].append(own[kind])
        return found

    def _drawn(self, image: Tensor, found: dict[str, Tensor]) -> Any:
        def instances() -> Iterator[Shown]:
            rows = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"], found["masks"], strict=True)
            for label, score, box, mask in rows:
                if score >= self.shown:
                    yield Shown(label, score, box.tolist(), pasted(mask, box, _size(image)))

        pixels: Pixels = image.permute(1, 2, 0).cpu().numpy()
        return drawn(pixels, instances(), self.classes)

    def _log_scores(self, part: str) -> tuple[list[CocoScores], dict[Kind, list[Result]]]:
        """The scores of all processes' results, measured by the first; the results."""
        results = _gathered(self.results)
        self.results = {kind: [] for kind in KINDS}
        scores: list[Any] = [None] * len(KINDS)
        if self.trainer.is_global_zero:
            truth = self._data.source(part).truth()
            scores = [evaluate(truth, results[kind], kind) for kind in KINDS]
        if _processes() > 1:
            torch.distributed.broadcast_object_list(scores)
        for one, name in zip(cast(list[CocoScores], scores), ("box", "mask"), strict=True):
            for measure, value in one.summary.items():
                self.log(f"{part}/{name}_{measure}", value, prog_bar=measure == "ap")
            for category, value in one.by_class.items():
                self.log(f"{part}/{name}_ap/{category}", value)
        return scores, results

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]


def _gathered(results: dict[Kind, list[Result]]) -> dict[Kind, list[Result]]:
    """The results of all processes, in the order of the images."""
    if _processes() == 1:
        return results
    shares: list[Any] = [None] * _processes()
    torch.distributed.all_gather_object(shares, results)
    return {kind: sorted((own for share in shares for own in share[kind]), key=_image_id) for kind in KINDS}


def _image_id(result: Result) -> int:
    return int(result["image_id"])


def _processes() -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[1], image.shape[2]
