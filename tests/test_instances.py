"""Instances: COCO's annotations and what their check finds, training images, COCO's scores, pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")
pytest.importorskip("lightning", reason="lightning is not installed: zigzag[train]")
pytest.importorskip("pycocotools", reason="pycocotools is not installed: zigzag[train]")

from instance_files import SIZE, instance_set, square
from pycocotools import mask as masks
from torchvision.models.detection.roi_heads import paste_masks_in_image

from zigzag import cli
from zigzag.data import DataError, InstanceData
from zigzag.data.annotations import problems, run_lengths
from zigzag.data.instance_data import TrainingInstances, WholeInstances
from zigzag.data.instances import instance_classes, open_instances
from zigzag.data.source import check
from zigzag.tasks import coco_scores
from zigzag.tasks.coco_scores import evaluate, evaluate_files, pasted, results_of
from zigzag.tasks.instance_pictures import Shown, drawn, outline

NAMES = ("cat", "dog")


def opened(root, split="val", *, empty=True):
    return open_instances("coco", str(root), split, NAMES, empty=empty)


class TestCoco:
    def test_what_counts(self, tmp_path):
        """Two instances of image 1: no crowd, nothing without extent; boxes end with the image."""
        source = opened(instance_set(tmp_path))
        check(source, "coco")
        found = source.instances(0)
        assert found.labels.tolist() == [1, 2]
        assert found.boxes.tolist() == [[5, 6, 25, 16], [30, 20, 60, 35]]
        assert found.masks.sum((1, 2)).tolist() == [200, 450]
        assert (found.masks.shape, found.masks.dtype) == ((2, 40, 60), np.uint8)
        assert source.category_ids == {1: 3, 2: 7}

    def test_an_instance_in_parts_is_one(self, tmp_path):
        found = opened(instance_set(tmp_path)).instances(1)
        assert (len(found.labels), int(found.masks.sum())) == (1, 110)

    def test_images_without_annotations(self, tmp_path):
        root = instance_set(tmp_path)
        assert [len(opened(root, empty=empty)) for empty in (True, False)] == [3, 2]
        found = opened(root).instances(2)
        assert (found.boxes.shape, found.labels.shape, found.masks.shape) == ((0, 4), (0,), (0, 40, 60))
        data = InstanceData("coco", str(root), class_names=NAMES)
        data.setup("fit")
        assert [len(data.source(part)) for part in ("train", "val")] == [2, 3]

    def test_cocos_classes(self):
        names = instance_classes("coco")
        assert (len(names), names[0], names[1], names[80]) == (81, "background", "person", "toothbrush")
        with pytest.raises(ValueError, match=r"data.dataset must be one of shapes, coco"):
            instance_classes("voc")

    def test_names_that_cannot_be_the_classes(self):
        with pytest.raises(DataError, match=r"data.class_names is for COCO's format, got \['a'\] .* 'shapes'"):
            instance_classes("shapes", ["a"])
        for names in (["a", "a"], ["background"]):
            with pytest.raises(DataError, match=r"data.class_names must differ .*, got '.*' twice"):
                instance_classes("coco", names)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"image_id": 8}, "annotation 9: there is no image 8"),
            ({"category_id": 4}, "annotation 9: image 1: there is no category 4"),
            ({"iscrowd": 2}, "annotation 9: image 1: iscrowd must be 0 or 1, got 2"),
            (
                {"bbox": [1, 2, 3]},
                r"annotation 9: image 1: bbox must be x, y, width >= 0, height >= 0, got \[1, 2, 3\]",
            ),
            ({"bbox": [1, 2, -3, 4]}, "annotation 9: image 1: bbox must be"),
            ({"bbox": [1, 2, float("nan"), 4]}, "annotation 9: image 1: bbox must be"),
            ({"area": None}, "annotation 9: image 1: area must be a number >= 0, got None"),
            ({"segmentation": []}, "annotation 9: image 1: segmentation must be polygons or a run-length encoding"),
            ({"segmentation": [[1, 2, 3, 4]]}, "annotation 9: image 1: a polygon must be three or more pairs"),
            ({"segmentation": [[1, 2, 3, 4, 5, "6"]]}, "annotation 9: image 1: a polygon must be"),
            (
                {"segmentation": {"size": [60, 40], "counts": [2400]}},
                r"image 1: the run-length encoding is of size \[60, 40\], its image \[40, 60\]",
            ),
            ({"segmentation": {"size": [40, 60], "counts": [2399]}}, "covers 2399 of 2400 pixels"),
            ({"segmentation": {"size": [40, 60], "counts": [-1, 2401]}}, "counts of a run-length encoding"),
            ({"segmentation": {"size": [40, 60], "counts": "o"}}, "the run-length encoding ends within a number"),
            ({"id": 1}, "annotation 1: another has the same id"),
            ({"id": "x"}, "annotation at place 5: it has no integer id"),
        ],
    )
    def test_a_broken_annotation_is_named_before_training(self, tmp_path, fields, message):
        root = instance_set(tmp_path, lambda content: content["annotations"].append({**square(9), **fields}))
        with pytest.raises(DataError, match=rf"instances_val.json: no annotations(.|\n)*{message}"):
            opened(root)

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda content: content.pop("images"), "images must be a list"),
            (lambda content: content["images"].append({"id": 1}), "image 1: another has the same id"),
            (lambda content: content["images"].append({"id": 4}), "image 4: file_name must be a text, got None"),
            (lambda content: content["images"][0].update(height=0), "image 1: height must be an integer >= 1, got 0"),
            (lambda content: content["categories"].append({"id": 8}), "category 8: name must be a text"),
            (lambda content: content["annotations"].append(7), "annotation at place 5: it has no integer id"),
        ],
    )
    def test_other_broken_entries(self, tmp_path, spoil, message):
        with pytest.raises(DataError, match=message):
            opened(instance_set(tmp_path, spoil))

    def test_many_are_counted(self):
        content = {"images": [], "categories": [], "annotations": [square(n) for n in range(7)]}
        assert len(list(problems(content))) == 7

    def test_other_categories(self, tmp_path):
        root = instance_set(tmp_path)
        for names, message in ((("cat",), "'dog' is none of the 1 classes"), ((*NAMES, "cow"), "'cow' is no category")):
            with pytest.raises(DataError, match=message):
                open_instances("coco", str(root), "val", names, empty=True)

    def test_only_some_images(self, tmp_path):
        """Their annotations are all that is scored."""
        root = instance_set(tmp_path)
        data = InstanceData("coco", str(root), class_names=NAMES, only=(2,))
        data.setup("fit")
        for part in ("train", "val"):
            source = data.source(part)
            assert [source.name(index) for index in range(len(source))] == ["2"]
            assert [own["id"] for own in source.truth().dataset["annotations"]] == [5]
        with pytest.raises(DataError, match=r"instances_val.json: data.only: there is no image 9"):
            open_instances("coco", str(root), "val", NAMES, (2, 9), empty=True)
        with pytest.raises(DataError, match=r"data.only is for COCO's format, got \[2\]"):
            open_instances("shapes", None, "val", only=(2,), empty=True)

    def test_images_that_are_not_there_or_of_another_size(self, tmp_path):
        root = instance_set(tmp_path, lambda content: content["images"][1].update(width=61))
        (root / "val" / "1.png").unlink()
        with pytest.raises(DataError, match=r"1.png: there is no such file(.|\n)*60 x 40, annotated as 61 x 40"):
            check(opened(root), "coco")

    def test_run_lengths_are_pycocotools(self):
        random = np.random.default_rng(0)
        for threshold in (0.05, 0.5, 0.97):
            mask = np.asfortranarray(random.random((37, 53)) < threshold, np.uint8)
            runs = run_lengths(masks.encode(mask)["counts"].decode())
            values = np.repeat(np.arange(len(runs)) % 2, runs)
            assert np.array_equal(values.reshape(53, 37).T, mask)


class TestShapes:
    def test_instances_are_what_is_seen(self):
        source = open_instances("shapes", None, "val", empty=True)
        for index in range(8):
            found, labels = source.instances(index), source.labels(index)
            assert np.array_equal(found.masks.sum(0) > 0, labels > 0)
            assert found.masks.sum(0).max() == 1
            for box, label, mask in zip(found.boxes, found.labels, found.masks, strict=True):
                assert set(labels[mask == 1].tolist()) == {label}
                left, top, right, bottom = box.astype(int)
                assert mask[top:bottom, left:right].sum() == mask.sum()
                assert mask[top].any()
                assert mask[:, right - 1].any()

    def test_their_truth_is_cocos(self):
        truth = open_instances("shapes", None, "val", empty=True).truth()
        assert list(problems({**truth.dataset, "annotations": []})) == []
        assert len(truth.anns) > len(truth.imgs) == 48


class TestTrainingImages:
    def test_a_mirror_image_mirrors_boxes_and_masks(self, tmp_path):
        source = opened(instance_set(tmp_path))
        plain, mirrored = (TrainingInstances(source, flip, 0)[0, 3] for flip in (0.0, 1.0))
        assert_close(mirrored["image"], plain["image"].flip(2))
        assert torch.equal(mirrored["masks"], plain["masks"].flip(2))
        assert mirrored["boxes"].tolist() == [[35, 6, 55, 16], [0, 20, 30, 35]]
        assert (plain["image"].dtype, plain["image"].shape) == (torch.float32, (3, SIZE[1], SIZE[0]))
        assert 0.9 < float(plain["image"].max()) <= 1

    def test_a_draw_is_a_function_of_its_number(self, tmp_path):
        images = TrainingInstances(opened(instance_set(tmp_path)), 0.5, 0)
        assert len({images[0, draw]["seed"] for draw in range(9)}) == 9
        flipped = [bool(images[0, draw]["boxes"][0, 0] == 35) for draw in range(20)]
        assert 0 < sum(flipped) < 20
        assert flipped == [bool(images[0, draw]["boxes"][0, 0] == 35) for draw in range(20)]

    def test_whole_images(self, tmp_path):
        item = WholeInstances(opened(instance_set(tmp_path)))[1, True]
        assert (item["image"].dtype, item["name"], item["image_id"], item["counts"]) == (torch.uint8, "2", 2, True)


def perfect(source):
    """Results that are the truth itself, and their order by score."""
    found = {"bbox": [], "segm": []}
    for index in range(len(source)):
        own = source.instances(index)
        for box, label, mask in zip(own.boxes.tolist(), own.labels.tolist(), own.masks, strict=True):
            common = {"image_id": source.image_id(index), "category_id": source.category_ids[label], "score": 0.9}
            encoded = masks.encode(np.asfortranarray(mask))
            encoded["counts"] = encoded["counts"].decode()
            found["bbox"].append({**common, "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]})
            found["segm"].append({**common, "segmentation": encoded})
    return found


def rectangle(x, y, w, h):
    """A mask of 200 x 200 pixels."""
    mask = np.zeros((200, 200), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    encoded = masks.encode(mask)
    return {"size": [200, 200], "counts": encoded["counts"].decode()}


def by_hand(folder):
    """A truth's file with a small, a medium and a large instance, and results of both kinds."""
    truth = [(0, 0, 20, 20), (40, 0, 50, 50), (0, 60, 100, 100)]
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 200, "height": 200}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [square(place + 1, box=box) for place, box in enumerate(truth)],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    found = [((0, 60, 100, 100), 0.9), ((120, 60, 40, 40), 0.8), ((40, 0, 36, 50), 0.7)]
    common = {"image_id": 1, "category_id": 3}
    results = {
        "bbox": [{**common, "score": score, "bbox": list(box)} for box, score in found],
        "segm": [{**common, "score": score, "segmentation": rectangle(*box)} for box, score in found],
    }
    return folder / "truth.json", results


def as_list(_place, own):
    """The run lengths that pycocotools has a text for."""
    if "segmentation" not in own:
        return {}
    return {"segmentation": {"size": [200, 200], "counts": run_lengths(own["segmentation"]["counts"])}}


OTHERS = {
    "none": lambda _place, _own: {},
    "counts as a list": as_list,
    "a small box": lambda _place, own: {"bbox": own.get("bbox", [0, 0, 9, 9])},
    "some have a box": lambda place, own: {"bbox": own.get("bbox", [0, 0, 9, 9])} if place == 0 else {},
    "a caption": lambda _place, _own: {"caption": "a cat"},
}
"""What entries of a file of results may hold besides their own kind's."""


class TestScores:
    @pytest.mark.parametrize("kind", coco_scores.KINDS)
    def test_the_truth_itself_is_perfect_and_nothing_is_nothing(self, kind):
        source = open_instances("shapes", None, "val", empty=True)
        truth = source.truth()
        scores = evaluate(truth, perfect(source)[kind], kind)
        assert scores.summary["ap"] == pytest.approx(1)
        assert set(scores.by_class) == {"circle", "square", "triangle", "ring", "cross"}
        assert min(scores.by_class.values()) == pytest.approx(1)
        none = evaluate(truth, [], kind)
        assert (none.summary["ap"], none.by_class["ring"]) == (0, 0)
        assert " 100.00" in scores.table()
        assert "-" in none.table()  # no shape is large

    @pytest.mark.parametrize("others", OTHERS)
    @pytest.mark.parametrize("kind", coco_scores.KINDS)
    def test_a_case_worked_out_by_hand(self, tmp_path, kind, others):
        """Keys of other kinds change nothing.

        By score: the large one exactly; nothing; the medium one at IoU 0.72. The small one is not found. At thresholds
        up to 0.70 the precision is 1 at recalls to 1/3 and 2/3 at those to 2/3: of the recalls 0, 0.01 .. 1 these are
        34 and 33, (34 + 33 * 2/3) / 101 = 56/101. Above 0.70 it is 34/101. Of the medium size alone it is
        1/2, then 0.
        """
        annotations, results = by_hand(tmp_path)
        found = [{**own, **OTHERS[others](place, own)} for place, own in enumerate(results[kind])]
        (tmp_path / "results.json").write_text(json.dumps(found))
        scores = evaluate_files(annotations, tmp_path / "results.json", kind)
        expected = {"ap": 45 / 101, "ap50": 56 / 101, "ap75": 34 / 101}
        assert scores.summary == pytest.approx({**expected, "ap_small": 0, "ap_medium": 1 / 4, "ap_large": 1})
        assert scores.by_class == pytest.approx({"cat": 45 / 101})

    def test_the_mean_over_classes(self):
        """From results of which half are wrong."""
        source = open_instances("shapes", None, "val", empty=True)
        results = perfect(source)["bbox"]
        for place, own in enumerate(results):
            own["score"] = place / len(results)
            if place % 2:
                own["bbox"][0] += 20
        scores = evaluate(source.truth(), results, "bbox")
        assert 0.1 < scores.summary["ap"] < 0.9
        assert scores.summary["ap"] == pytest.approx(np.mean(list(scores.by_class.values())))

    def test_results_of_a_detection(self):
        """A box of 10 x 6 pixels whose mask is its left half."""
        probabilities = torch.zeros(1, 1, 28, 28)
        probabilities[..., :14] = 1
        found = {"boxes": torch.tensor([[10.0, 4, 20, 10]]), "labels": torch.tensor([2]), "scores": torch.tensor([0.5])}
        (own,) = results_of(17, {**found, "masks": probabilities}, (40, 60), {2: 90})
        assert own["bbox"] == {"image_id": 17, "category_id": 90, "score": 0.5, "bbox": [10, 4, 10, 6]}
        mask = masks.decode(own["segm"]["segmentation"])
        by_torchvision = paste_masks_in_image(probabilities, found["boxes"], (40, 60))[0, 0] > 0.5
        assert np.array_equal(mask, by_torchvision.numpy())
        assert mask[6, 10:20].tolist() == [1] * 5 + [0] * 5
        assert json.dumps(own)

    def test_masks_are_pasted_one_at_a_time(self, monkeypatch):
        held = []
        monkeypatch.setattr(coco_scores, "pasted", lambda *given: held.append(1) or pasted(*given))
        found = {
            "boxes": torch.tensor([[0.0, 0, 9, 9]]).repeat(5, 1),
            "labels": torch.ones(5, dtype=torch.int64),
            "scores": torch.rand(5),
            "masks": torch.rand(5, 1, 28, 28),
        }
        results = results_of(1, found, (3000, 4000), {1: 1})
        next(results)
        assert len(held) == 1

    def test_files_and_the_command(self, tmp_path, capsys):
        root = instance_set(tmp_path)
        results = perfect(opened(root))
        scores = [evaluate(opened(root).truth(), results[kind], kind) for kind in coco_scores.KINDS]
        coco_scores.write(tmp_path / "out", scores, results)
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            "results_bbox.json", "results_segm.json", "scores.json", "scores.txt"
        }  # fmt: skip
        content = json.loads((tmp_path / "out" / "scores.json").read_text())
        assert content["segm"]["ap50"] == scores[1].summary["ap50"]
        assert content["segm"]["ap_large"] is None
        annotations = root / "annotations" / "instances_val.json"
        for kind in coco_scores.KINDS:
            words = ["--annotations", str(annotations), "--results", str(tmp_path / "out" / f"results_{kind}.json")]
            assert cli.main(["evaluate", *words, "--kind", kind]) == 0
            assert capsys.readouterr().out.startswith(kind)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "no results in COCO's format"),
            ("{}", "expected a list, got dict"),
            ("[7]", "entry 0: it must be an object, got int"),
            ('[{"image_id": 4}]', "entry 0: image_id 4 is not in the annotations"),
            ('[{"image_id": 1, "category_id": 3}]', "entry 0: score must be a number, got None"),
            ('[{"image_id": 1, "category_id": 3, "score": 1}]', "entry 0: segmentation must be a run-length encoding"),
            (
                '[{"image_id": 1, "category_id": 3, "score": 1, "segmentation": {"size": [40, 60], "counts": "1"}}]',
                "entry 0: the run-length encoding covers 1 of 2400 pixels",
            ),
        ],
    )
    def test_results_that_are_refused(self, tmp_path, content, message, capsys):
        annotations = instance_set(tmp_path) / "annotations" / "instances_val.json"
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(DataError, match=message):
            evaluate_files(annotations, tmp_path / "results.json", "segm")
        words = ["--annotations", str(annotations), "--results", str(tmp_path / "results.json"), "--kind=segm"]
        assert cli.main(["evaluate", *words]) == 2
        assert message in capsys.readouterr().err

    def test_boxes_that_are_none_are_refused(self, tmp_path):
        annotations, results = by_hand(tmp_path)
        results["bbox"][1]["bbox"][2] = -40
        (tmp_path / "results.json").write_text(json.dumps(results["bbox"]))
        with pytest.raises(DataError, match=r"entry 1: bbox must be .*, got \[120, 60, -40, 40\]"):
            evaluate_files(annotations, tmp_path / "results.json", "bbox")


class TestPictures:
    def test_an_instance_is_painted_outlined_and_named(self):
        image = np.zeros((50, 80, 3), np.uint8)
        mask = np.zeros((50, 80), bool)
        mask[25:45, 10:40] = True
        picture = np.asarray(drawn(image, [Shown(1, 0.87, [10, 25, 40, 45], mask)], ["background", "cat"]))
        assert picture[25, 20].tolist() == picture[44, 39].tolist()  # the outline
        assert 0 < picture[35, 20].max() < picture[25, 20].max()
        assert not picture[46:].any()
        assert (picture[10:24, 10:40] == picture[25, 20]).any()  # the caption's ground
        assert drawn(image, [], ["background"]).size == (80, 50)

    def test_outlines(self):
        mask = np.ones((4, 5), bool)
        assert outline(mask).sum() == 14
        mask[0, 0] = False
        assert outline(mask)[1, 0]
        assert not outline(mask)[1, 1]
