"""Runs that go on: with other fields, after SIGTERM, and in the folder of one that came to nothing."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")
pytest.importorskip("lightning", reason="lightning is not installed: zigzag[train]")
pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: zigzag[train]")
pytest.importorskip("tensorboard", reason="tensorboard is not installed: zigzag[train]")

from runs import fit
from segmentation_files import FEW, TINY

from zigzag.data import shapes
from zigzag.tasks import curves
from zigzag.tasks.guard import FiniteGuard
from zigzag.tasks.recipe import Recipe, Schedule

pytestmark = pytest.mark.usefixtures("few_images")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "COUNTS", FEW)
        assert fit(TINY, folder, steps=2) == 0
    return folder / "checkpoints" / "last.ckpt"


def trained(recipe, steps, until, state=None):
    """The rates of a weight that goes down its slope, and it, its optimiser and its schedule after so many steps."""
    weight = nn.Parameter(torch.ones(1, 1))
    optimizer = recipe.optimizer([weight], [])
    schedule = Schedule(optimizer, recipe, steps)
    if state is not None:
        weight.data.copy_(state[0])
        optimizer.load_state_dict(state[1])
        schedule.load_state_dict(state[2])
    rates = []
    while schedule.last_epoch < until:
        rates.append(optimizer.param_groups[0]["lr"])
        weight.grad = weight.detach().clone()
        optimizer.step()
        schedule.step()
    return rates, (weight.detach().clone(), optimizer.state_dict(), schedule.state_dict())


@pytest.mark.parametrize("schedule", ["step", "poly"])
def test_the_same_recipe_goes_on_bit_for_bit(schedule):
    recipe = Recipe(0.1, schedule=schedule, milestones=(3,), warmup_steps=2)
    rates, (whole, *_) = trained(recipe, 6, 6)
    before, state = trained(recipe, 6, 4)
    after, (cut, *_) = trained(recipe, 6, 6, state)
    assert before + after == rates
    assert cut.equal(whole)


def test_another_recipe_counts_from_where_the_run_stands():
    _, state = trained(Recipe(0.1, milestones=(), warmup_steps=0), 2, 2)
    other = Recipe(0.01, momentum=0.5, weight_decay=0.25, milestones=(3,), warmup_steps=0)
    rates, (_, optimizer, schedule) = trained(other, 4, 4, state)
    assert rates == pytest.approx([0.01, 0.001])
    (group,) = optimizer["param_groups"]
    assert (group["momentum"], group["weight_decay"], group["initial_lr"]) == (0.5, 0.25, 0.01)
    assert schedule["base_lrs"] == [0.01]


def test_more_steps_of_a_run_that_had_ended_begin_at_their_own_rate():
    recipe = Recipe(0.1, schedule="poly", warmup_steps=0)
    _, state = trained(recipe, 2, 2)
    rates, _ = trained(recipe, 4, 4, state)
    assert rates == [0.1 * recipe.factor(step, 4) for step in (2, 3)]


def test_fields_count_on_the_command_line(begun, tmp_path):
    words = ["--model.recipe.learning_rate=0.001", "--model.recipe.weight_decay=0", f"--ckpt_path={begun}"]
    assert fit(TINY, tmp_path, *words, steps=3, every=1) == 0
    ((step, rate),) = curves.read(tmp_path, "train/learning_rate")
    assert step == 2
    assert rate == pytest.approx(0.001 * Recipe(schedule="poly", warmup_steps=2).factor(2, 3))
    (optimizer,) = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"]
    assert {group["weight_decay"] for group in optimizer["param_groups"]} == {0.0}


@pytest.mark.parametrize("word", ["norm=frozen", "freeze_at=2"])
def test_what_learns_is_what_learned(begun, tmp_path, capsys, word):
    words = [f"--model.network.backbone.{word}", f"--ckpt_path={begun}"]
    assert fit(TINY, tmp_path / "run", *words, steps=3) == 2
    error = capsys.readouterr().err
    assert "parameters learn in " in error
    assert "model.network.backbone.norm and freeze_at, and optimizer, must be those of its run" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("batches", "asked_in", "kept"), [(1, 2, 3), (2, 6, 2)])
def test_a_run_that_is_asked_to_end_goes_on_exactly(tmp_path, capsys, monkeypatch, batches, asked_in, kept):
    """From the step at which SIGTERM came; amid a step, whose first gradients are lost, from the last validation."""
    words = [f"--trainer.accumulate_grad_batches={batches}"]
    assert fit(TINY, tmp_path / "whole", *words, steps=4, every=2 * batches) == 0
    start = FiniteGuard.on_train_batch_start

    def asked(self, trainer, pl_module, batch, batch_idx):
        start(self, trainer, pl_module, batch, batch_idx)
        if batch_idx == asked_in:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(FiniteGuard, "on_train_batch_start", asked)
        assert fit(TINY, tmp_path / "cut", *words, steps=4, every=2 * batches) == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == kept
    assert fit(TINY, tmp_path / "cut", *words, f"--ckpt_path={last}", steps=4, every=2 * batches) == 0
    whole, cut = (dict(curves.read(tmp_path / name, "train/loss")) for name in ("whole", "cut"))
    assert whole == cut
    assert curves.read(tmp_path / "whole", "val/miou") == curves.read(tmp_path / "cut", "val/miou")


def test_a_run_that_came_to_nothing_leaves_its_folder_to_the_next(tmp_path):
    words = ["--model.recipe.learning_rate=1e30", "--model.recipe.warmup_steps=0"]
    assert fit(TINY, tmp_path, *words, steps=4, every=4) == 1
    assert not list(tmp_path.glob("checkpoints/*"))
    assert fit(TINY, tmp_path, steps=1, every=1) == 0
    assert "learning_rate: 0.05" in (tmp_path / "config.yaml").read_text()


def test_a_checkpoint_can_be_named_by_its_step(tmp_path):
    words = ["--checkpoint.filename={step}", "--checkpoint.monitor=null", "--checkpoint.every_n_train_steps=1"]
    assert fit(TINY, tmp_path, *words, "--checkpoint.save_top_k=-1", steps=2, every=2) == 0
    for step in (1, 2):
        assert torch.load(tmp_path / "checkpoints" / f"{step}.ckpt", weights_only=True)["global_step"] == step
