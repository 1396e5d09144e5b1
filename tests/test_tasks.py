"""What a run is made of: scores, the loss, the recipe, pictures."""

from __future__ import annotations

import json
import pickle
import re
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")
pytest.importorskip("lightning", reason="lightning is not installed: zigzag[train]")
pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: zigzag[train]")

from PIL import Image

from zigzag.data.order import Shard
from zigzag.models import BackboneConfig, NeckOptions, NetworkConfig, WeightsError
from zigzag.tasks import curves
from zigzag.tasks.ablate import SETS, slug, table
from zigzag.tasks.gallery import Gallery, confusion
from zigzag.tasks.metrics import Scores
from zigzag.tasks.pictures import Case, contact_sheet, overlay, save, with_legend
from zigzag.tasks.recipe import Recipe
from zigzag.tasks.semantic import SemanticSegmentation, joint_loss

CLASSES = ["background", "a", "b", "c"]
COLOURS = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]


def labelled(seed, shape=(20, 30), void=True):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, shape).astype(np.uint8)
    if void:
        labels[random.random(shape) < 0.1] = 255
    return labels


def test_scores_of_no_pixel_are_json(tmp_path):
    Scores(CLASSES, torch.zeros(4, 4, dtype=torch.long)).write(tmp_path)

    def refuse(name):
        raise ValueError(name)

    content = json.loads((tmp_path / "scores.json").read_text(), parse_constant=refuse)
    assert content["miou"] is content["pixel_accuracy"] is None


class TestScores:
    def scores(self):
        truth, predicted = labelled(0), labelled(1, void=False)
        return truth, predicted, Scores(CLASSES, confusion(truth, predicted, 4))

    def test_sets_of_pixels_give_the_same(self):
        truth, predicted, scores = self.scores()
        places = [(y, x) for y in range(20) for x in range(30) if truth[y, x] != 255]
        by_class = []
        for label in range(4):
            true = {p for p in places if truth[p] == label}
            found = {p for p in places if predicted[p] == label}
            by_class.append(len(true & found) / len(true | found) if true | found else float("nan"))
        assert_close(scores.iou, torch.tensor(by_class, dtype=torch.float64), equal_nan=True)
        assert scores.miou == pytest.approx(np.nanmean(by_class))
        assert scores.pixel_accuracy == pytest.approx(sum(truth[p] == predicted[p] for p in places) / len(places))
        assert np.isnan(by_class[3])

    def test_torchmetrics_counts_alike(self):
        from torchmetrics.classification import MulticlassConfusionMatrix

        truth, predicted, scores = self.scores()
        metric = MulticlassConfusionMatrix(4, ignore_index=255, validate_args=False)
        metric.update(torch.from_numpy(predicted).long()[None], torch.from_numpy(truth).long()[None])
        assert torch.equal(metric.compute(), scores.confusion)

    def test_files_and_table(self, tmp_path):
        scores = self.scores()[2]
        scores.write(tmp_path)
        content = json.loads((tmp_path / "scores.json").read_text())
        assert content["miou"] == scores.miou
        assert content["iou"]["c"] is None
        rows = (tmp_path / "confusion.csv").read_text().splitlines()
        assert [int(value) for value in rows[1].split(",")[1:]] == scores.confusion[0].tolist()
        assert f"{100 * scores.miou:.2f}" in scores.table()


class TestLoss:
    def test_the_mean_over_what_is_labelled(self):
        scores = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
        labels = torch.from_numpy(labelled(0, (2, 5, 6))).long()
        assert_close(joint_loss(scores, labels), nn.functional.cross_entropy(scores, labels, ignore_index=255))

    def test_nothing_but_void_gives_nothing(self):
        scores = torch.randn(1, 4, 3, 3, requires_grad=True)
        loss = joint_loss(scores, torch.full((1, 3, 3), 255))
        loss.backward()
        assert loss == 0
        assert not scores.grad.any()


class TestStart:
    def test_it_takes_the_place_of_the_backbones_weights(self, tmp_path):
        """Which are neither fetched nor read, and need not be there."""
        neck = NeckOptions(channels=4, norm_groups=1, stages=1, grids=(2,), lateral_kernel_size=1)
        path = tmp_path / "run.pth"
        began = SemanticSegmentation(CLASSES, COLOURS, NetworkConfig(BackboneConfig("resnet18"), neck))
        torch.save({"state_dict": began.state_dict()}, path)
        network = NetworkConfig(BackboneConfig("resnet18", weights=str(tmp_path / "nothing.pth")), neck)
        with pytest.raises(WeightsError, match=r"there is no file '.*nothing\.pth'"):
            SemanticSegmentation(CLASSES, COLOURS, network)
        task = SemanticSegmentation(CLASSES, COLOURS, network, start=str(path))
        assert task.report.source == str(path)
        given = began.network.state_dict()
        assert all(torch.equal(value, given[name]) for name, value in task.network.state_dict().items())


class TestRecipe:
    def test_steps_and_warm_up(self):
        recipe = Recipe(milestones=(60, 90), gamma=0.1, warmup_steps=10, warmup_factor=0.5)
        factors = [recipe.factor(step, 120) for step in (0, 5, 10, 59, 60, 90)]
        assert factors == pytest.approx([0.5, 0.75, 1, 1, 0.1, 0.01])

    def test_poly(self):
        recipe = Recipe(schedule="poly", power=0.9, warmup_steps=0)
        assert [recipe.factor(step, 10) for step in (0, 5, 10)] == pytest.approx([1, 0.5**0.9, 0])

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("learning_rate", 0.0),
            ("learning_rate", float("nan")),
            ("momentum", -1.0),
            ("momentum", 1.0),
            ("weight_decay", -0.1),
            ("schedule", "cosine"),
            ("milestones", (10, -1)),
            ("gamma", 0.0),
            ("power", -1.0),
            ("warmup_steps", -1),
            ("warmup_factor", 1.5),
            ("new_multiplier", float("inf")),
        ],
    )
    def test_what_is_refused(self, field, value):
        with pytest.raises(ValueError, match=rf"recipe\.{field} must be .*, got {re.escape(repr(value))}"):
            Recipe(**{field: value})

    def test_groups(self):
        old, new = nn.Conv2d(2, 2, 1), nn.Sequential(nn.Conv2d(2, 2, 1), nn.GroupNorm(1, 2))
        old.weight.requires_grad_(False)
        optimizer = Recipe(learning_rate=0.1, new_multiplier=10).optimizer(old.parameters(), new.parameters())
        found = [(len(g["params"]), g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
        assert found == [(1, 0.1, 0.0), (1, 1.0, 1e-4), (3, 1.0, 0.0)]


class TestPictures:
    def case(self, seed):
        image = np.full((20, 30, 3), 100, np.uint8)
        return Case(f"case {seed}", image, labelled(seed), labelled(seed + 50, void=False))

    def test_overlay_leaves_void_and_background_alone(self):
        image = np.full((4, 6, 3), 100, np.uint8)
        labels = np.array([[0, 0, 1, 1, 255, 255]] * 4, np.uint8)
        shown = overlay(image, labels, COLOURS)
        assert (shown[:, 0] == 100).all()
        assert (shown[:, 5] == 100).all()
        assert (shown[1, 3] == [193, 40, 40]).all()

    def test_overlay_mixes_every_pixel(self):
        """Two fifths of the image and three of its class's colour, to the nearest integer; a line between regions."""
        image = np.random.default_rng(0).integers(0, 256, (150, 70, 3)).astype(np.uint8)
        labels = labelled(1, (15, 7)).repeat(10, 0).repeat(10, 1)
        labels[-3:] = 7  # no class
        colours = np.vstack([COLOURS, np.full((252, 3), 255)])[labels]
        expected = ((2 * image.astype(int) + 3 * colours + 2) // 5).astype(np.uint8)
        expected[(labels == 0) | (labels == 255)] = image[(labels == 0) | (labels == 255)]
        for y, x in np.ndindex(labels.shape):
            if labels[y, x] != labels[max(y - 1, 0), x] or labels[y, x] != labels[y, max(x - 1, 0)]:
                expected[y, x] = 255
        assert np.array_equal(overlay(image, labels, COLOURS), expected)

    def test_overlay_holds_little_beside_the_picture(self):
        image, labels = np.zeros((4000, 250, 3), np.uint8), labelled(0, (4000, 250))
        tracemalloc.start()
        overlay(image, labels, COLOURS)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10 * labels.size  # bytes; 3 of them are the picture

    def test_legend_names_what_occurs(self, monkeypatch):
        written = []
        from PIL import ImageDraw

        original = ImageDraw.ImageDraw.text
        monkeypatch.setattr(
            ImageDraw.ImageDraw,
            "text",
            lambda self, at, text, **k: (written.append(text), original(self, at, text, **k)),
        )
        labels = np.zeros((40, 60), np.uint8)
        labels[:10] = 2
        sheet = with_legend(np.zeros((40, 60, 3), np.uint8), labels, CLASSES, COLOURS)
        assert written == ["background  75.0%", "b  25.0%"]
        assert sheet.height > 40

    def test_contact_sheet_shows_the_worst(self):
        gallery = Gallery(CLASSES, size=2)
        for index in range(40):
            case = self.case(index)
            prediction = case.truth.copy() if index % 7 else case.prediction
            prediction[prediction == 255] = 0
            gallery.add(case.title, index, case.image, case.truth, prediction)
        shown = []

        def keep(sections, _):
            shown.extend([case.title.split("   ")[0] for case in own] for _, own in sections)
            return contact_sheet(sections, COLOURS)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("zigzag.tasks.gallery.contact_sheet", keep)
            sheet = gallery.sheet(COLOURS)
        assert isinstance(sheet, Image.Image)
        spread, worst = shown
        assert spread[:2] == ["case 0", "case 16"]
        assert len(spread) <= 4
        assert all(int(title.split()[1]) % 7 == 0 for title in worst)

    def test_a_contact_sheet_without_a_picture(self):
        assert Gallery(CLASSES).sheet(COLOURS).width > 0

    @pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (1, 1)])
    def test_a_picture_of_one_row(self, shape):
        gallery = Gallery(CLASSES)
        gallery.add("line", 0, np.zeros((*shape, 3), np.uint8), labelled(0, shape), labelled(1, shape, void=False))
        assert gallery.sheet(COLOURS).height > shape[0]

    @pytest.mark.parametrize("count", [1, 23, 41])
    def test_several_processes_keep_what_one_would(self, count, monkeypatch):
        """Three of them, each with its share of the images, the surplus ones too."""
        galleries = [Gallery(CLASSES, size=3) for _ in range(4)]
        for rank, indices in enumerate([range(count), *([i for i, _ in Shard(count, r, 3)] for r in range(3))]):
            for index in indices:
                case = self.case(index)
                galleries[rank].add(case.title, index, case.image, case.truth, case.prediction)
        alone, *shares = galleries
        sent = pickle.dumps([(each._stride, each._spread, each._worst) for each in shares])

        def everyones(found, _own):
            found[:] = pickle.loads(sent)  # noqa: S301

        monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
        monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
        monkeypatch.setattr("torch.distributed.all_gather_object", everyones)
        for each in shares:
            each.gather()
            assert np.array_equal(each.sheet(COLOURS), alone.sheet(COLOURS))


def cut_off(_picture, path, **_options):
    """Writing a picture, on a disk that is full."""
    path.write_bytes(b"half")
    raise OSError("no space left on device")


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: zigzag[train]")
    monkeypatch.setattr("PIL.Image.Image.save", cut_off)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", cut_off)
    monkeypatch.setattr(curves, "read", lambda *_: [])
    for write in (
        lambda path: save(Image.new("RGB", (2, 2)), path),
        lambda path: curves.draw({"a": [tmp_path]}, path, "title"),
    ):
        with pytest.raises(OSError, match="no space left"):
            write(tmp_path / "picture.png")
        assert list(tmp_path.iterdir()) == []


class TestAblations:
    def test_every_variant_is_a_neck(self):
        from zigzag.models import build_neck

        for _, variants in SETS.values():
            for options in variants.values():
                shared = {"channels": 8, "norm_groups": 2, "preset": "gated"}
                build_neck(NeckOptions(**{**shared, **options}), (4, 5, 6))
            assert len({slug(name) for name in variants}) == len(variants)

    def test_table(self):
        text = table(
            "schemes",
            {"FPN": [0.5, 0.6], "(d) zigzag": [], "(c) successive": []},
            {"FPN": ["seed 2: step 9: the loss is inf"], "(d) zigzag": ["seed 0: step 3: the loss is nan"]},
            {"FPN": 7},
        )
        assert "| FPN | 55.00 ± 7.07 | 2 | 7 |" in text
        assert "| (d) zigzag | failed | 0 | - |" in text
        assert "| (c) successive | not run | 0 | - |" in text
        failed = ["- FPN, seed 2: step 9: the loss is inf", "- (d) zigzag, seed 0: step 3: the loss is nan"]
        assert text.splitlines()[-2:] == failed
