"""Semantic segmentation as a Lightning module: loss, optimiser, scores, pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import Tensor
from torch.optim import SGD
from torchmetrics.classification import MulticlassConfusionMatrix

from zigzag.data.classes import VOID, Colour, voc_palette
from zigzag.data.sets import first_value
from zigzag.data.source import DataError
from zigzag.files import write_text
from zigzag.models import NetworkConfig, SemanticSegmenter, WeightReport, WeightsError
from zigzag.models.weights import fill, read_weights
from zigzag.tasks.checkpoints import with_random_backbone
from zigzag.tasks.gallery import Gallery
from zigzag.tasks.guard import finite
from zigzag.tasks.inference import PAPER_SCALES, Inference, segment
from zigzag.tasks.metrics import Scores
from zigzag.tasks.pictures import overlay, save, with_legend
from zigzag.tasks.recipe import Recipe


class SemanticSegmentation(pl.LightningModule):
    """Trains, evaluates and runs a `SemanticSegmenter`.

    Args:
        classes: names, by label; the command line takes them from the data set.
        colours: of every class; likewise.
        network: backbone and neck.
        recipe: the optimiser.
        validation: how images are predicted while training.
        inference: how images are predicted by `test` and `predict`; the paper averages five scales.
        start: checkpoint of another run whose weights to start from, such as the COCO stage's; a head for other classes
            starts anew. It takes the place of the backbone's weights, which are not read.
        submission: let `test` write results in VOC's format for submissions.
        pictures: overlays that every validation logs.
    """

    def __init__(
        self,
        classes: Sequence[str],
        colours: Sequence[Colour],
        network: NetworkConfig = NetworkConfig(),  # noqa: B008 - these are frozen
        recipe: Recipe = Recipe(),  # noqa: B008
        validation: Inference = Inference(),  # noqa: B008
        inference: Inference = Inference(scales=PAPER_SCALES),  # noqa: B008
        start: str | None = None,
        submission: bool = False,  # noqa: FBT001, FBT002 - a field of the configuration
        pictures: int = 4,
    ) -> None:
        super().__init__()
        self.classes, self.colours = list(classes), [cast(Colour, tuple(colour)) for colour in colours]
        self.recipe, self.validation, self.inference = recipe, validation, inference
        self.submission, self.pictures = submission, pictures
        if pictures < 0:
            raise ValueError(f"model.pictures must be 0 or more, got {pictures}")
        if start is not None:
            network = with_random_backbone(network)
        self.network = SemanticSegmenter(network, len(self.classes)).to(memory_format=torch.channels_last)
        self.report = self.network.backbone.report
        if start is not None:
            self.report = _start_from(self.network, start)
        self.confusion = MulticlassConfusionMatrix(len(self.classes), ignore_index=VOID, validate_args=False)
        self.gallery = Gallery(self.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (N, K, H, W) of normalised images (N, 3, H, W)."""
        return cast(Tensor, self.network(images))

    # --- training ---------------------------------------------------------------------------------------------------

    def optimizer_of_recipe(self) -> SGD:
        """SGD as the recipe has it."""
        return self.recipe.optimizer(self.network.backbone.parameters(), self.network.new_parameters())

    def configure_optimizers(self) -> Any:
        """SGD with the recipe's learning rate, which changes every step."""
        return self.recipe.scheduled(self.optimizer_of_recipe(), self.trainer.max_steps)

    def on_fit_start(self) -> None:
        """Say what became of the weights, key by key."""
        if self.report is not None and self.trainer.is_global_zero:
            print(self.report)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        """The mean cross-entropy over all pixels of the joint batch that are not void."""
        images = batch["image"].contiguous(memory_format=torch.channels_last)
        loss = joint_loss(self(images), batch["labels"].long())
        self.log("step", float(self.global_step))  # Lightning's own count is one behind where a run goes on
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True)
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def network_inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor]:
        """What the network is called with for a training batch."""
        return (batch["image"],)

    # --- evaluation -------------------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add an image to the scores, and log the first ones' overlays."""
        predicted = self._add(batch, self.validation)
        if batch_idx < self.pictures and self.trainer.is_global_zero:
            self._log_picture(f"val/{batch['name']}", overlay(_pixels(batch["image"]), _array(predicted), self.colours))

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self.log("step", float(self.global_step))
        self._log_scores("val")

    def on_test_start(self) -> None:
        """Look whether there is anything to do.

        Raises:
            DataError: the images have no masks, and no submission is asked for.
        """
        if not self._has_truth and not self.submission:
            part = f"data.test: {self._data.splits['test']!r} has no masks"
            raise DataError(f"{part}, so that there are no scores; --model.submission=true writes the predictions")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:  # noqa: ARG002
        """Add an image to the scores and to the contact sheet, or to the submission."""
        predicted, name = _array(self._add(batch, self.inference)), batch["name"]
        if self._has_truth:
            self.gallery.add(name, int(batch["index"]), _pixels(batch["image"]), _array(batch["labels"]), predicted)
        if self.submission:
            save(self._indexed(predicted, ()), self._submission / f"{name}.png")

    def on_test_epoch_end(self) -> None:
        """Write scores, tables and the contact sheet to the run's folder, test/; without masks there are none."""
        if not self._has_truth:
            return
        scores = self._log_scores("test")
        self.gallery.gather()
        if self.trainer.is_global_zero:
            folder = self.folder / "test"
            scores.write(folder)
            write_text(folder / "classes.txt", scores.table() + "\n")
            save(self.gallery.sheet(self.colours), folder / "contact_sheet.png")
            print(scores.table())
            print(f"written to {folder}: scores.json, classes.txt, confusion.csv, contact_sheet.png")

    def on_test_end(self) -> None:
        """Say where the submission is."""
        if self.submission and self.trainer.is_global_zero:
            print(f"written to {self._submission}: a PNG for every image")

    def on_predict_start(self) -> None:
        """Look whether every picture has a name of its own.

        Raises:
            DataError: one photograph's picture would have the name of another's labels.
        """
        by_name = {path.stem: path for path in self._data.images}
        for name, path in by_name.items():
            other = by_name.get(f"{name}_labels")
            if other is not None:
                raise DataError(f"predict: the labels of {path} and the picture of {other} would be {name}_labels.png")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> str:  # noqa: ARG002
        """Write an overlay with a legend, and the labels as a PNG with its colours; return the overlay's path."""
        labels = _array(self._segment(batch["image"], self.inference, str(batch["path"])))
        path = self.folder / "predictions" / f"{Path(batch['path']).stem}.png"
        save(with_legend(_pixels(batch["image"]), labels, self.classes, self.colours), path)
        save(self._indexed(labels, self.colours), path.with_stem(f"{path.stem}_labels"))
        print(f"written to {path}")
        return str(path)

    @property
    def monitored(self) -> list[str]:
        """What the best checkpoint can be kept by."""
        return ["val/miou", "val/pixel_accuracy", *(f"val/iou/{name}" for name in self.classes), "train/loss"]

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return Path(self.trainer.default_root_dir)

    @property
    def _submission(self) -> Path:
        """VOC's layout: results/VOC2012/Segmentation/comp6_PART_cls/NAME.png; comp6 is training on other data too."""
        return self.folder / "results" / "VOC2012" / "Segmentation" / f"comp6_{self._data.splits['test']}_cls"

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def _has_truth(self) -> bool:
        return bool(self._data.source("test").has_truth)

    def _indexed(self, labels: Any, colours: Sequence[Colour]) -> Image.Image:
        """Labels as a mask of the data set, whose values are its own, with the classes' colours; VOC's for the rest."""
        first = first_value(self._data.dataset)
        image = Image.fromarray(np.ascontiguousarray(labels + np.uint8(first)))
        palette = voc_palette()
        palette[3 * first : 3 * (first + len(colours))] = [part for colour in colours for part in colour]
        image.putpalette(palette)
        return image

    def _segment(self, image: Tensor, settings: Inference, name: str) -> Tensor:
        return finite(self.network, lambda: segment(self, image, len(self.classes), settings), name)

    def _add(self, batch: dict[str, Any], settings: Inference) -> Tensor:
        predicted = self._segment(batch["image"], settings, batch["name"])
        if batch["counts"]:
            self.confusion.update(predicted[None].long(), batch["labels"][None].long())
        return predicted

    def _log_scores(self, part: str) -> Scores:
        scores = Scores(self.classes, self.confusion.compute().long().cpu())
        self.confusion.reset()
        self.log(f"{part}/miou", scores.miou, prog_bar=True)
        self.log(f"{part}/pixel_accuracy", scores.pixel_accuracy)
        for name, value in zip(self.classes, scores.iou, strict=True):
            self.log(f"{part}/iou/{name}", float(value))
        return scores

    def _log_picture(self, name: str, pixels: Any) -> None:
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, pixels, self.global_step, dataformats="HWC")


def joint_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """The sum of cross-entropies over the mean number of labelled pixels of a process.

    DistributedDataParallel averages gradients over processes, so that they come out as one process's with the joint
    batch, however void is spread. Alone it is the mean over labelled pixels; 0 where there are none.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    counted = (labels != VOID).sum().to(scores.dtype)
    total = F.cross_entropy(scores, labels, ignore_index=VOID, reduction="sum")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counted)
        counted = counted / torch.distributed.get_world_size()
    return total / counted.clamp(min=1 / 1024)


def _start_from(network: SemanticSegmenter, path: str) -> WeightReport:
    """Fill a network from a run's checkpoint; only a head for other classes may differ."""
    state = {name.removeprefix("network."): value for name, value in read_weights(path).items()}
    state = {name: value for name, value in state.items() if not name.startswith("confusion.")}
    report = fill(network, state, path)
    wrong = [key for key in (*report.missing, *report.mismatched, *report.unexpected) if not key.startswith("head.")]
    if wrong:
        raise WeightsError(f"start: {path!r} does not fit the network: {report}")
    return report


def _pixels(image: Tensor) -> Any:
    return image.permute(1, 2, 0).cpu().numpy()


def _array(labels: Tensor) -> Any:
    return labels.to("cpu", torch.uint8).numpy()
