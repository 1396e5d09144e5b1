"""``zigzag fit``, ``validate``, ``test``, ``predict``: Lightning's command line over YAML, every field overridable."""

from __future__ import annotations

import logging
import re
import signal
import string
import sys
import warnings
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning.pytorch as pl
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from zigzag.data import DataError, InstanceData, SegmentationData
from zigzag.files import write_text
from zigzag.models import WeightsError
from zigzag.tasks import checks
from zigzag.tasks.checkpoints import Checkpoint, Checkpoints, WholeFiles, read_checkpoint, without_weights
from zigzag.tasks.guard import FiniteGuard, NonFiniteError
from zigzag.tasks.instances import InstanceSegmentation
from zigzag.tasks.semantic import SemanticSegmentation

BAD_INPUT = (DataError, WeightsError, MisconfigurationException)
COMMANDS = ("fit", "validate", "test", "predict")
CONFIGS = Path(__file__).parents[1] / "configs"


class Task(NamedTuple):
    """What a command line trains and runs.

    Attributes:
        model: the Lightning module.
        data: the data module; its classes_of gives the ``fields`` of the model.
        score: by which the best checkpoint is kept.
        fields: of the model, which it takes from the data.
    """

    model: type[pl.LightningModule]
    data: Any
    score: str
    fields: tuple[str, ...]


TASKS = {
    "semantic": Task(SemanticSegmentation, SegmentationData, "val/miou", ("classes", "colours")),
    "instances": Task(InstanceSegmentation, InstanceData, "val/mask_ap", ("classes",)),
}


class SaveConfig(SaveConfigCallback):
    """Keeps config.yaml of a training run beside its results; evaluation writes none."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Save it before training.

        Raises:
            DataError: another run's is there.
        """
        if stage != "fit":
            return
        path = Path(trainer.log_dir or ".") / self.config_filename
        folders = path.parent / "checkpoints", Path(self.config.checkpoint.dirpath or path.parent)
        kept = any(any(folder.glob("*.ckpt")) for folder in folders)  # without one there is nothing to go on from
        if trainer.strategy.broadcast(path.exists() and kept and not self.overwrite):
            there = f"{path.parent} holds a run, config.yaml and all"
            raise DataError(f"{there}: name another --trainer.default_root_dir, or go on with its own --ckpt_path")
        if trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, self.parser.dump(self.config, skip_none=False))


class ZigZagCLI(LightningCLI):
    """Lightning's command line with the defaults of these runs.

    Args:
        task: one of `TASKS`.
        options: LightningCLI's own.
    """

    def __init__(self, task: str, **options: Any) -> None:
        self.name, self.task = task, TASKS[task]
        self.checkpoint: Checkpoint | None = None
        super().__init__(self.task.model, self.task.data, **options)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Checkpoints, guard and average, and the classes that the model takes from the data."""
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(FiniteGuard, "guard")
        parser.add_argument("--task", type=Literal["semantic", "instances"], help="what is trained and run")
        parser.add_argument("--ema", type=float | None, help="decay of an average of the weights; null for none")
        parser.set_defaults(
            {
                "task": self.name,
                "checkpoint.monitor": self.task.score,
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.save_last": True,
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.enable_version_counter": False,
                "trainer.check_val_every_n_epoch": None,
                "trainer.use_distributed_sampler": False,
                "trainer.log_every_n_steps": 10,
                "trainer.num_sanity_val_steps": 0,
            }
        )
        for place, field in enumerate(self.task.fields):
            parser.link_arguments(
                ("data.dataset", "data.class_names"),
                f"model.{field}",
                compute_fn=lambda dataset, names, place=place: self.task.data.classes_of(dataset, names)[place],
            )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the words, and read the checkpoint that they name.

        Raises:
            DataError: the command needs one.
            WeightsError: it is none.
            MisconfigurationException: the seed, or the folder to write to, cannot be used.
        """
        super().parse_arguments(parser, args)
        command = self.config.subcommand
        config = self.config[command]
        for name, of in (("model", self.task.model), ("data", self.task.data)):
            checks.check_values(config[name], of, name)
        checks.check_seed(config.seed_everything)
        checks.check_average(config.ema)
        checks.check_folder(config.trainer.default_root_dir)
        path = config.ckpt_path
        own = path is not None and _below(path, config.trainer.default_root_dir or ".", config.checkpoint.dirpath)
        self.save_config_kwargs = {"overwrite": own}  # the run goes on
        if path is not None:
            self.checkpoint = read_checkpoint(Path(path), resumes=command == "fit")
            parser.add_instantiator(without_weights, self.task.model)
        elif command != "fit":
            other = "model.start and backbone.weights are where training begins"
            raise DataError(f"--ckpt_path must name the checkpoint to {command}, got none; {other}")

    def instantiate_classes(self) -> None:
        """Make model, data and trainer.

        Raises:
            MisconfigurationException: a field has a value that is not allowed; the message names it.
            WeightsError: the checkpoint does not fit the model.
        """
        try:
            super().instantiate_classes()
        except (TypeError, ValueError, ModuleNotFoundError) as error:
            if isinstance(error, BAD_INPUT):
                raise
            raise MisconfigurationException(str(error)) from error
        monitor = self._get(self.config, "checkpoint").monitor
        if monitor is not None and monitor not in self.model.monitored:
            known = ", ".join(self.model.monitored)
            raise MisconfigurationException(f"checkpoint.monitor must be null or one of {known}, got {monitor!r}")
        checks.check_norm(self.model, self.trainer)
        checks.check_numbers(self.trainer)
        if self.subcommand == "fit":
            checks.check_steps(self.trainer)
        if self.checkpoint is not None:
            self.checkpoint.check(self.model)
            if self._get(self.config, "optimizer") is None:
                self.checkpoint.check_optimizer(self.model.optimizer_of_recipe())
            self.checkpoint = None  # training may write its file anew

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer: logs go to its folder, weights are averaged where ``--ema`` says so, files are written whole."""
        config = self._get(self.config_init, "trainer")
        if not config.get("plugins"):
            kwargs["plugins"] = [WholeFiles()]
        fits = self.subcommand == "fit"
        if config.get("logger") is None:  # others would add to the log of the run that they look at
            folder = config.get("default_root_dir") or "."
            kwargs["logger"] = TensorBoardLogger(folder, name="", version="") if fits else False
        decay = self._get(self.config_init, "ema")
        if decay is not None and fits:
            given = config.get("callbacks") or []
            others = given if isinstance(given, list) else [given]
            kwargs["callbacks"] = [*others, EMAWeightAveraging(decay=decay)]
        return super().instantiate_trainer(**kwargs)


def main(words: Sequence[str]) -> int:
    """Run a command line that begins with one of `COMMANDS`; return its exit status.

    0, 1 for a run that failed, 2 for bad input, 143 for one that SIGTERM ended, as shells count.
    """
    command = words[0]
    _quiet()
    try:
        run(words)
    except NonFiniteError as error:
        print(f"zigzag {command}: stopped: {error}", file=sys.stderr)
        return 1
    except SIGTERMException:
        print(f"zigzag {command}: stopped by SIGTERM", file=sys.stderr)
        return 128 + signal.SIGTERM
    except (*BAD_INPUT, OSError) as error:
        print(f"zigzag {command}: error: {error}", file=sys.stderr)
        return 2
    return 0


def run(words: Sequence[str]) -> ZigZagCLI:
    """Run a command line and return what it made.

    Raises:
        DataError, WeightsError, NonFiniteError: as said.
        SystemExit: the parser refuses a word.
    """
    arguments = prepared(words)
    argv, sys.argv = sys.argv, [sys.argv[0], *arguments]  # which Lightning starts further processes with
    try:
        return ZigZagCLI(
            task_of(arguments),
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            load_from_checkpoint_support=False,
            parser_kwargs={"prog": "zigzag"},
        )
    finally:
        sys.argv = argv


def prepared(words: Sequence[str]) -> list[str]:
    """The command line as the parser takes it.

    Configurations come first, so that every field given as a word counts, wherever it stands; those that ship with the
    package are found by name; without one, a checkpoint's own is taken. Photographs to predict stand before or after
    the options.

    Raises:
        DataError: there is no configuration of a name, or none beside the checkpoint.
    """
    command = words[0]
    options, others = _options(words[1:])
    pairs = [(option[0], option[1]) for option in options if len(option) == 2]
    configs = [["--config", str(_config(value))] for name, value in pairs if name in _CONFIG]
    checkpoint = dict(pairs).get("--ckpt_path")
    if not configs and checkpoint is not None:
        configs = [["--config", str(_config_of(Path(checkpoint)))]]
    own = [["--verbose=false"]] if command == "test" else []  # it prints a table of its own
    rest = [option for option in options if option[0] not in _CONFIG or len(option) == 1]
    if command == "predict" and others:
        rest, others = [*rest, [f"--data.images=[{', '.join(map(_quoted, others))}]"]], []
    return [command, *chain(*own, *configs, *rest), *others]


def _quoted(name: str) -> str:
    """A file's name as YAML reads it back.

    Raises:
        DataError: it is no text.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"photograph {name!r}: its name must be UTF-8: {error.reason}") from error
    plain = set(string.ascii_letters + string.digits + " ._-/")
    return '"' + "".join(letter if letter in plain else f"\\U{ord(letter):08x}" for letter in name) + '"'


_CONFIG = ("--config", "-c")
_NUMBER = re.compile(r"-\.?\d.*")
_ALONE = ("--help", "-h", "--print_config")
"""Options that take no word after them."""


def _options(words: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Options, each with its value where it has one, and the words that belong to none."""
    options: list[list[str]] = []
    others: list[str] = []
    takes_value = False
    for word in words:
        if word.startswith("-") and not _NUMBER.fullmatch(word):
            options.append(word.split("=", 1) if word.startswith("--") else [word])
            takes_value = len(options[-1]) == 1 and word not in _ALONE
        elif takes_value:
            options[-1].append(word)
            takes_value = False
        else:
            others.append(word)
    return options, others


def task_of(arguments: Sequence[str]) -> str:
    """The task of a command line from `prepared`: the last word or configuration that names one, else "semantic".

    Raises:
        DataError: there is no such task, or a configuration is no text in UTF-8.
    """
    task = "semantic"
    for word, value in pairwise(arguments):
        if word == "--task":
            task = value
        elif word in ("--config", "-c"):
            try:
                content = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"--config: {value!r} must be text in UTF-8: {error}") from error
            except (OSError, ValueError, yaml.YAMLError):
                continue  # the parser says what is wrong with it
            task = content.get("task", task) if isinstance(content, dict) else task
    if not isinstance(task, str) or task not in TASKS:
        raise DataError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    return task


def _config(name: str) -> Path:
    """The file of a configuration: a path, or the name of one that ships with the package."""
    if Path(name).is_file():
        return Path(name)
    shipped = {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}
    found = shipped.get(name.removesuffix(".yaml"))
    if found is None:
        raise DataError(f"--config: there is no file {name!r}, and the package's are {', '.join(shipped)}")
    return found


def _config_of(checkpoint: Path) -> Path:
    """config.yaml of the run that a checkpoint is from."""
    if not checkpoint.is_file():
        raise DataError(f"--ckpt_path: there is no file {str(checkpoint)!r}")
    candidates = [folder / "config.yaml" for folder in (checkpoint.parent, checkpoint.parent.parent)]
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(f"--config: none was given, and there is none beside {str(checkpoint)!r}")


def _below(path: str, *folders: str | None) -> bool:
    """Whether a file lies in one of these folders, however deep."""
    return any(folder is not None and Path(folder).resolve() in Path(path).resolve().parents for folder in folders)


def _quiet() -> None:
    """Leave out what says nothing of the run."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda line: "litlogger" not in line.getMessage()
    )
    for text in (
        *(".*does not have many workers.*", ".*exists and is not empty.*", ".*treespec.*", ".*not resumable.*"),
        ".*dirpath has changed.*",  # what is predicted goes where it is told
        ".*in eval mode at the start of training.*",  # stages that do not train
    ):
        warnings.filterwarnings("ignore", message=text)
