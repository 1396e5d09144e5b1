"""The command line on instances: a run and its files, exact resumption, two processes, and how runs fail."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")
pytest.importorskip("lightning", reason="lightning is not installed: zigzag[train]")
pytest.importorskip("pycocotools", reason="pycocotools is not installed: zigzag[train]")
pytest.importorskip("tensorboard", reason="tensorboard is not installed: zigzag[train]")

from instance_files import TINY, instance_set
from PIL import Image
from runs import fit as run_fit
from runs import process, weights
from segmentation_files import write_image

from zigzag import cli
from zigzag.data import DataError, shapes
from zigzag.tasks import curves, instances
from zigzag.tasks.cli import TASKS, prepared, task_of

COUNTS = {"train": 5, "val": 2, "test": 2}


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(shapes, "COUNTS", COUNTS)


fit = partial(run_fit, TINY, steps=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "COUNTS", COUNTS)
        assert fit(folder) == 0
    return folder


class TestRun:
    def test_what_a_run_leaves(self, trained):
        assert {path.name for path in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
        assert "task: instances" in (trained / "config.yaml").read_text()
        assert [step for step, _ in curves.read(trained, "train/loss")] == [0, 1]
        for name in ("val/mask_ap", "val/box_ap50", "train/loss_mask", "train/loss_objectness"):
            assert curves.read(trained, name), name

    def test_test_takes_the_runs_own_configuration_and_writes_cocos_results(self, trained, capsys):
        words = ["--ckpt_path", str(trained / "checkpoints" / "last.ckpt"), "--model.network.score_threshold=0"]
        assert cli.main(["test", *words]) == 0
        shown = capsys.readouterr().out
        assert "ap50" in shown
        found = {path.name for path in (trained / "test").iterdir()}
        assert found == {"results_bbox.json", "results_segm.json", "scores.json", "scores.txt"}
        results = json.loads((trained / "test" / "results_segm.json").read_text())
        assert {own["image_id"] for own in results} == {1, 2}
        assert len(results) == 6
        assert results[0]["segmentation"]["size"] == [96, 96]

    def test_predict_draws_instances(self, trained, tmp_path):
        write_image(tmp_path / "one.png", 0, (70, 50))
        words = ["--ckpt_path", str(trained / "checkpoints/last.ckpt"), f"--trainer.default_root_dir={tmp_path}"]
        words += ["--model.shown=0", "--model.network.score_threshold=0"]
        assert cli.main(["predict", str(tmp_path / "one.png"), *words]) == 0
        with Image.open(tmp_path / "predictions" / "one.png") as picture, Image.open(tmp_path / "one.png") as before:
            assert picture.size == before.size
            assert picture.tobytes() != before.tobytes()

    def test_coco_files(self, tmp_path):
        """Images of several sizes and one without instances, in padded batches; bfloat16 by autocast."""
        root = instance_set(tmp_path / "data")
        words = ["--data.dataset=coco", f"--data.root={root}", "--data.class_names=[cat,dog]"]
        words += ["--data.train_on_empty=true", "--trainer.precision=bf16-mixed", "--data.batch_size=3"]
        assert fit(tmp_path / "run", *words, steps=1, every=1) == 0
        names = {name for name, _ in [("val/mask_ap/cat", 0), ("val/mask_ap/dog", 0)]}
        assert all(curves.read(tmp_path / "run", name) for name in names)


class TestTasks:
    def test_the_configuration_says_which(self, tmp_path):
        assert task_of(prepared(["fit", "--config=shapes_tiny"])) == "semantic"
        assert task_of(prepared(["fit", "--config=shapes_mask_rcnn"])) == "instances"
        assert task_of(prepared(["fit", "--config=shapes_tiny", "--task=instances"])) == "instances"
        (tmp_path / "config.yaml").write_text("task: depth\n")
        with pytest.raises(DataError, match="task must be one of semantic, instances, got 'depth'"):
            task_of(prepared(["fit", "--config", str(tmp_path / "config.yaml")]))

    def test_their_scores_keep_the_best(self):
        assert {name: task.score for name, task in TASKS.items()} == {
            "semantic": "val/miou",
            "instances": "val/mask_ap",
        }


def test_a_run_goes_on_exactly(tmp_path):
    """The anchors and regions that are drawn at random are functions of the seed and the draw, too."""
    words = ["--model.recipe.schedule=step", "--checkpoint.save_top_k=-1", "--checkpoint.filename={step}"]
    assert fit(tmp_path / "whole", *words, steps=4, every=2) == 0
    cut = tmp_path / "whole" / "checkpoints" / "2.ckpt"
    assert fit(tmp_path / "cut", *words, f"--ckpt_path={cut}", steps=4, every=2) == 0
    whole, rest = (dict(curves.read(tmp_path / name, "train/loss")) for name in ("whole", "cut"))
    assert list(whole) == [0, 1, 2, 3]
    assert {step: loss for step, loss in whole.items() if step >= 2} == rest
    one, other = (weights(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_give_the_mean_of_their_images_gradients(tmp_path):
    """As one process does that accumulates them."""
    words = [*TINY, "--trainer.max_steps=1", "--trainer.precision=64-true", "--model.recipe.warmup_steps=0"]
    one = [*words, "--data.batch_size=1", "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=2"]
    process(one, tmp_path / "one")
    two = [*words, "--data.batch_size=2", "--trainer.strategy=ddp", "--trainer.devices=2"]
    process([*two, "--trainer.val_check_interval=1"], tmp_path / "two", processes=2)
    first, second = (weights(tmp_path / name / "checkpoints/last.ckpt") for name in ("one", "two"))
    for name in first:
        assert_close(second[name], first[name], msg=lambda text, name=name: f"{name}: {text}")
    for name in ("val/mask_ap", "val/box_ap"):
        assert curves.read(tmp_path / "one", name) == curves.read(tmp_path / "two", name)


def test_the_results_of_all_processes_are_scored_once_and_in_order(monkeypatch):
    def gather(shares, own):
        shares[:] = [own, {kind: [{"image_id": 2}, {"image_id": 5}] for kind in own}]

    monkeypatch.setattr(instances, "_processes", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    own = {kind: [{"image_id": 1}, {"image_id": 3}] for kind in ("bbox", "segm")}
    for results in instances._gathered(own).values():
        assert [result["image_id"] for result in results] == [1, 2, 3, 5]


class TestFailures:
    def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(self, tmp_path, capsys):
        words = ["--model.recipe.learning_rate=1e30", "--model.recipe.warmup_steps=0", "--trainer.gradient_clip_val=0"]
        assert fit(tmp_path, *words, steps=3) == 1
        error = capsys.readouterr().err
        assert "zigzag fit: stopped: step 1" in error
        assert "it began in the" in error

    def test_a_broken_annotation_stops_it_before_the_first_step(self, tmp_path, capsys):
        root = instance_set(tmp_path, lambda content: content["annotations"][1].update(bbox=None))
        words = ["--data.dataset=coco", f"--data.root={root}", "--data.class_names=[cat,dog]"]
        assert fit(tmp_path / "run", *words) == 2
        assert "annotation 2: image 1: bbox must be" in capsys.readouterr().err
        assert not (tmp_path / "run" / "checkpoints").exists()

    @pytest.mark.parametrize(
        ("word", "message"),
        [
            ("--model.network.kind=yolo", "network.kind"),
            ("--model.network.anchor_sizes=[1,2]", "network.anchor_sizes"),
            ("--data.dataset=voc", "data.dataset"),
            ("--data.flip=2", "data.flip"),
        ],
    )
    def test_fields_that_are_refused(self, tmp_path, capsys, word, message):
        try:
            status = fit(tmp_path, word)
        except SystemExit as refused:  # by the parser
            status = refused.code
        assert status == 2
        assert message.rpartition(".")[2] in capsys.readouterr().err
