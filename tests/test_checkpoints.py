"""What the command line makes of --ckpt_path: none, files that are no checkpoint, and what a checkpoint replaces."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")
pytest.importorskip("lightning", reason="lightning is not installed: zigzag[train]")
pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: zigzag[train]")
pytest.importorskip("pycocotools", reason="pycocotools is not installed: zigzag[train]")
pytest.importorskip("tensorboard", reason="tensorboard is not installed: zigzag[train]")

import instance_files
import segmentation_files
from runs import fit
from segmentation_files import write_image
from torchvision import models

from zigzag import cli
from zigzag.data import shapes
from zigzag.models import WeightsError
from zigzag.tasks import curves
from zigzag.tasks.checkpoints import WholeFiles, read_checkpoint

COUNTS = {"train": 3, "val": 1, "test": 1}
TASKS = {"semantic": segmentation_files.TINY, "instances": instance_files.TINY}


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(shapes, "COUNTS", COUNTS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of both tasks whose weights to start from are gone."""
    folder = tmp_path_factory.mktemp("runs")
    backbone = ["--model.network.backbone.name=resnet18", f"--model.network.backbone.weights={folder / 'resnet18.pth'}"]
    torch.save(models.resnet18(weights=None).state_dict(), folder / "resnet18.pth")
    runs = {"semantic": backbone, "instances": backbone}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "COUNTS", COUNTS)
        assert fit(TASKS["semantic"], folder / "start", *backbone, steps=1, every=1) == 0
        runs["semantic"] = [*backbone, f"--model.start={folder / 'start' / 'checkpoints' / 'last.ckpt'}"]
        for task, words in runs.items():
            assert fit(TASKS[task], folder / task, *words, steps=1, every=1) == 0
    (folder / "resnet18.pth").unlink()
    shutil.rmtree(folder / "start")
    return {task: folder / task / "checkpoints" / "last.ckpt" for task in TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_a_checkpoint_is_all_that_it_takes(trained, task, tmp_path):
    """Test, predict and going on need neither the weights that training began with nor the run that it started from."""
    words = ["--ckpt_path", str(trained[task]), f"--trainer.default_root_dir={tmp_path}"]
    write_image(tmp_path / "one.png", 0, (70, 50))
    assert cli.main(["test", *words]) == 0
    assert (tmp_path / "test" / "scores.json").is_file()
    assert cli.main(["predict", str(tmp_path / "one.png"), *words]) == 0
    assert (tmp_path / "predictions" / "one.png").is_file()
    assert cli.main(["fit", *words, "--trainer.max_steps=2"]) == 0
    before, after = (path.read_text() for path in (trained[task].parents[1] / "config.yaml", tmp_path / "config.yaml"))
    lines = [line for line in before.splitlines() if "weights: /" in line or "start: /" in line]
    assert lines == [line for line in after.splitlines() if "weights: /" in line or "start: /" in line] != []


@pytest.mark.parametrize("first", ["--ckpt_path", "--config"])
def test_a_run_goes_on_in_either_order(trained, tmp_path, first):
    """The run's own configuration says ckpt_path: null, which takes nothing from the word before it."""
    run = shutil.copytree(trained["semantic"].parents[1], tmp_path / "run")
    (log,) = run.glob("events*")
    log.unlink()
    pair = {"--ckpt_path": str(run / "checkpoints" / "last.ckpt"), "--config": str(run / "config.yaml")}
    order = [first, *(name for name in pair if name != first)]
    words = [f"{name}={pair[name]}" for name in order]
    assert cli.main(["fit", *words, "--trainer.max_steps=2", f"--trainer.default_root_dir={run}"]) == 0
    assert [step for step, _ in curves.read(run, "train/loss")] == [1]
    write_image(tmp_path / "one.png", 0, (70, 50))
    folder = f"--trainer.default_root_dir={tmp_path / 'predicted'}"
    assert cli.main(["predict", *words, folder, str(tmp_path / "one.png")]) == 0  # photographs may stand last
    assert (tmp_path / "predicted" / "predictions" / "one.png").is_file()
    assert cli.main(["test", *words, folder]) == 0


def test_a_run_is_overwritten_by_none_that_begins(trained, capsys):
    run = trained["semantic"].parents[1]
    assert fit(TASKS["semantic"], run, "--ckpt_path=null", steps=1, every=1) == 2
    assert "holds a run" in capsys.readouterr().err


def test_nor_by_one_that_goes_on_from_another(trained, tmp_path, capsys):
    run = shutil.copytree(trained["semantic"].parents[1], tmp_path / "run")
    before = (run / "config.yaml").read_text()
    assert fit(TASKS["semantic"], run, f"--ckpt_path={trained['semantic']}", steps=2, every=1) == 2
    assert f"{run} holds a run" in capsys.readouterr().err
    assert (run / "config.yaml").read_text() == before


def test_the_last_checkpoint_is_the_last(tmp_path):
    """Where no later validation is better, and where no validation follows the last step."""
    words = ["--model.recipe.learning_rate=1e-12", "--model.network.backbone.norm=frozen"]
    assert fit(TASKS["semantic"], tmp_path, *words, steps=4, every=2) == 0

    def step(name):
        return torch.load(tmp_path / "checkpoints" / name, weights_only=True)["global_step"]

    assert (step("best.ckpt"), step("last.ckpt")) == (2, 4)
    last = f"--ckpt_path={tmp_path / 'checkpoints' / 'last.ckpt'}"
    assert fit(TASKS["semantic"], tmp_path, *words, last, steps=5, every=2) == 0
    assert (step("best.ckpt"), step("last.ckpt")) == (2, 5)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    def cut(_, path):
        path.write_bytes(b"half of")
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "folder" / "last.ckpt"
    WholeFiles().save_checkpoint({"one": 1}, path)
    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(OSError, match="No space"):
        WholeFiles().save_checkpoint({"two": 2}, path)
    assert torch.load(path, weights_only=True) == {"one": 1}
    assert list(path.parent.iterdir()) == [path]


def test_runs_write_their_checkpoints_whole(tmp_path, monkeypatch):
    written = []
    save = WholeFiles.save_checkpoint

    def noted(self, checkpoint, path, storage_options=None):
        written.append(Path(path).name)
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(WholeFiles, "save_checkpoint", noted)
    assert fit(TASKS["semantic"], tmp_path, steps=1, every=1) == 0
    assert written == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize("command", ["test", "predict"])
@pytest.mark.parametrize(
    ("task", "name", "place"),
    [
        ("semantic", "head.classifier.bias", "the head"),
        ("semantic", "neck.stages.0.down.1.gain", "the neck, stage 1, top-down, level 2"),
        ("instances", "roi_heads.box_predictor.cls_score.bias", "the box predictor"),
        ("instances", "backbone.backbone.layer2.0.conv1.weight", "the backbone's res3"),
    ],
)
def test_scores_that_are_not_finite_are_no_result(trained, tmp_path, capsys, command, task, name, place):
    content = torch.load(trained[task], weights_only=True)
    content["state_dict"][f"network.{name}"].fill_(float("nan"))
    torch.save(content, tmp_path / "given.ckpt")
    write_image(tmp_path / "one.png", 0, (70, 50))
    words = [f"--config={trained[task].parents[1] / 'config.yaml'}", f"--ckpt_path={tmp_path / 'given.ckpt'}"]
    photographs = [str(tmp_path / "one.png")] if command == "predict" else []
    assert cli.main([command, *photographs, *words, f"--trainer.default_root_dir={tmp_path / 'run'}"]) == 1
    shown = capsys.readouterr()
    error = shown.err.splitlines()[-1]
    assert error.startswith(f"zigzag {command}: stopped: image ")
    assert error.endswith(f": {place} is not finite")
    assert "Traceback" not in shown.err
    assert not list(tmp_path.glob("run/*/*"))  # no scores and no pictures, beside the log


@pytest.mark.parametrize("words", [["test"], ["validate"], ["predict", "one.png"]], ids=lambda words: words[0])
def test_without_a_checkpoint_nothing_is_evaluated(words, capsys):
    assert cli.main([*words, *TASKS["semantic"]]) == 2
    assert f"--ckpt_path must name the checkpoint to {words[0]}, got none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "predict: name one or more photographs"), (["."], "predict: . is a folder; name the photographs in it")],
)
def test_what_cannot_be_predicted(trained, tmp_path, capsys, names, message):
    words = ["--ckpt_path", str(trained["semantic"]), f"--trainer.default_root_dir={tmp_path}"]
    assert cli.main(["predict", *names, *words]) == 2
    assert message in capsys.readouterr().err


def test_one_callback_beside_the_average(tmp_path):
    words = ["--ema=0.5", "--trainer.callbacks=LearningRateMonitor"]
    assert fit(TASKS["semantic"], tmp_path, *words, steps=1, every=1) == 0
    assert curves.read(tmp_path, "lr-SGD/pg1")


REFUSED = {
    "cut off": "bytes, is cut off or of another kind",
    "empty": "of 0 bytes, is cut off or of another kind",
    "text": "of 5 bytes, is cut off or of another kind",
    "tensor": "holds one Tensor; expected a checkpoint",
    "weights": "holds no state_dict and no pytorch-lightning_version",
    "other tensors": "holds more than tensors",
    "code": "cannot be read: it holds other than tensors and plain values: shutil.rmtree; expected",
    "zeroed": "is damaged: .* has another checksum",
}


def write_refused(kind, path, given):
    """A file that is no checkpoint, from one that is."""
    content = given.read_bytes()
    middle = len(content) // 2
    zeroed = content[:middle] + bytes(4096) + content[middle + 4096 :]
    plain = {"cut off": content[:middle], "empty": b"", "text": b"words", "zeroed": zeroed}
    saved = {
        "tensor": lambda: torch.ones(2),
        "weights": lambda: models.resnet18(weights=None).state_dict(),
        "other tensors": lambda: {**torch.load(given, weights_only=True), "state_dict": {"a": 1}},
        "code": lambda: {"state_dict": shutil.rmtree},
    }
    path.write_bytes(plain[kind]) if kind in plain else torch.save(saved[kind](), path)


@pytest.mark.parametrize("kind", REFUSED)
def test_files_that_are_no_checkpoint(trained, tmp_path, kind):
    path = tmp_path / "given.ckpt"
    write_refused(kind, path, trained["semantic"])
    with pytest.raises(WeightsError, match=f"--ckpt_path: .*{REFUSED[kind]}") as caught:
        read_checkpoint(path, resumes=False)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("command", ["fit", "test", "predict"])
def test_each_command_refuses_them(tmp_path, capsys, command):
    (tmp_path / "given.ckpt").write_text("words")
    words = [*TASKS["semantic"], f"--ckpt_path={tmp_path / 'given.ckpt'}"]
    assert cli.main([command, *words, f"--trainer.default_root_dir={tmp_path / 'run'}"]) == 2
    assert capsys.readouterr().err.startswith(f"zigzag {command}: error: --ckpt_path: '{tmp_path}/given.ckpt', of 5 ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", TASKS)
def test_the_checkpoint_of_another_network(trained, tmp_path, capsys, task):
    words = ["--model.network.neck.channels=16", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    assert cli.main(["test", "--ckpt_path", str(trained[task]), *words]) == 2
    error = capsys.readouterr().err
    assert f"tensors of '{trained[task]}' are not those of the network that the fields describe" in error
    assert "neck.lateral.0.weight is (8, 64, 1, 1), expected (16, 64, 1, 1)" in error
    assert "more" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("key", ["optimizer_states", "lr_schedulers", "loops"])
def test_training_goes_on_from_nothing_less_than_a_whole_checkpoint(trained, tmp_path, key, empty):
    content = torch.load(trained["semantic"], weights_only=True)
    held = content.pop(key)
    torch.save({**content, key: type(held)()} if empty else content, tmp_path / "weights.ckpt")
    read_checkpoint(tmp_path / "weights.ckpt", resumes=False)
    with pytest.raises(WeightsError, match=f"holds no {key}"):
        read_checkpoint(tmp_path / "weights.ckpt", resumes=True)
