"""Data sets: their layouts, what their checks find, augmentation that makes no labels, and the order of images."""

from __future__ import annotations

import itertools
import statistics
import struct

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")
pytest.importorskip("lightning", reason="lightning is not installed: zigzag[train]")
pytest.importorskip("pycocotools", reason="pycocotools is not installed: zigzag[train]")

from PIL import Image, ImageOps
from segmentation_files import SIZE, coco_set, folder_set, voc_set, write_image, write_mask
from torchvision import tv_tensors
from torchvision.datasets import VOCSegmentation

from zigzag.data import DataError
from zigzag.data.classes import CAMVID, CONTEXT, VOC, voc_colour, voc_palette
from zigzag.data.module import SegmentationData, TrainingImages, WholeImages
from zigzag.data.order import Shard, StepBatches
from zigzag.data.sets import DATASETS, classes_of, open_source
from zigzag.data.source import check, image_size, read_image, read_mask
from zigzag.data.transforms import Augmentation, RandomScale


def found(source, index=0):
    return set(np.unique(source.labels(index)).tolist())


class TestLayouts:
    def test_voc_and_its_augmented_masks(self, tmp_path):
        root = voc_set(voc_set(tmp_path), "trainaug", "SegmentationClassAug", (3, 255))
        for split, labels in (("train", {0, 5, 20, 255}), ("trainaug", {3, 255})):
            source = open_source("voc", str(root), split)
            check(source, split)
            assert (len(source), found(source), source.name(1)) == (2, labels, "b")
            assert source.image(0).size == SIZE

    @pytest.mark.parametrize("part", ["train", "val"])
    def test_voc_is_that_of_torchvision(self, tmp_path, part):
        voc_set(tmp_path / "VOCdevkit" / "VOC2012", part)
        source, expected = open_source("voc", str(tmp_path), part), VOCSegmentation(tmp_path, image_set=part)
        assert len(source) == len(expected) == 2
        for index, (image, mask) in enumerate(expected):
            assert np.array_equal(np.asarray(source.image(index)), np.asarray(image))
            assert np.array_equal(source.labels(index), np.asarray(mask))

    def test_vocs_test_part_has_no_masks(self, tmp_path):
        root = voc_set(tmp_path, names=("a",))
        write_image(root / "JPEGImages" / "x.jpg")
        (root / "ImageSets" / "Segmentation" / "test.txt").write_text("x\n")
        source = open_source("voc", str(root), "test")
        check(source, "test")
        assert (source.has_truth, found(source), source.labels(0).shape) == (False, {255}, SIZE[::-1])
        data = SegmentationData("voc", str(root), val="test", test="test")
        data.setup("test")
        with pytest.raises(DataError, match=r"data.val: 'test' of 'voc' has no masks"):
            data.setup("validate")
        (root / "ImageSets" / "Segmentation" / "val.txt").write_text("x\n")
        (root / "ImageSets" / "Segmentation" / "test.txt").write_text("a\nx\n")
        for split in ("val", "test"):  # some of test's masks are there: the others are missing
            with pytest.raises(DataError, match=r"SegmentationClass/x.png: there is no such file"):
                check(open_source("voc", str(root), split), split)

    @pytest.mark.parametrize(("dataset", "labels"), [("context60", {0, 1, 59}), ("context59", {255, 0, 58})])
    @pytest.mark.parametrize("folder", [".", "VOCdevkit/VOC2010"])
    def test_context_with_and_without_background(self, tmp_path, dataset, labels, folder):
        root = tmp_path / folder
        write_image(root / "JPEGImages" / "a.jpg")
        write_mask(root / "SegmentationClassContext" / "a.png", (0, 1, 59))
        lists = root / "ImageSets" / "SegmentationContext"
        lists.mkdir(parents=True)
        (lists / "val.txt").write_text("a\n")
        source = open_source(dataset, str(tmp_path), "val")
        check(source, dataset)
        assert found(source) == labels
        assert len(source.classes) == len(source.colours) == int(dataset[-2:])

    def test_camvid(self, tmp_path):
        write_image(tmp_path / "train" / "a.png")
        write_mask(tmp_path / "trainannot" / "a.png", (0, 10, 11))
        (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png\n")
        source = open_source("camvid", str(tmp_path), "train")
        check(source, "camvid")
        assert found(source) == {0, 10, 255}

    def test_coco_as_voc(self, tmp_path):
        source = open_source("coco", str(coco_set(tmp_path)), "val2017")
        check(source, "coco")
        assert len(source) == 1
        labels = source.labels(0)
        person, bus = VOC.index("person"), VOC.index("bus")
        assert (labels[20, 15], labels[20, 70], labels[5, 5]) == (person, bus, 0)
        assert (labels[20, 40], labels[70, 10]) == (255, 255)  # two classes claim it; a crowd

    def test_folder(self, tmp_path):
        source = open_source("folder", str(folder_set(tmp_path)), "val", ["x", "y", "z"])
        check(source, "folder")
        assert (len(source), found(source)) == (3, {0, 1, 2, 255})

    def test_shapes_are_the_same_every_time(self):
        first, second = (open_source("shapes", None, "val") for _ in range(2))
        assert np.array_equal(np.asarray(first.image(3)), np.asarray(second.image(3)))
        assert np.array_equal(first.labels(3), second.labels(3))
        assert set().union(*(found(first, i) for i in range(len(first)))) == set(range(6))
        train = open_source("shapes", None, "train")
        assert not np.array_equal(np.asarray(first.image(0)), np.asarray(train.image(0)))

    def test_classes_of_every_set(self):
        found = [classes_of(name, ["a", "b"] if name == "folder" else []) for name in DATASETS]
        assert [len(names) for names, _ in found] == [6, 21, 59, 60, 11, 21, 2]
        for names, colours in found:
            assert len(names) == len(set(names)) == len(set(colours))
        assert (len(CONTEXT), len(CAMVID), len(VOC)) == (59, 11, 21)

    def test_vocs_palette(self):
        assert voc_colour(1) == (128, 0, 0)
        assert voc_colour(15) == (192, 128, 128)
        assert voc_colour(20) == (0, 64, 128)
        assert voc_palette()[3 * 255 :] == [224, 224, 192]


class TestChecks:
    @pytest.mark.parametrize(
        ("file", "spoil", "message"),
        [
            ("masks/train/1.png", lambda path: path.unlink(), "there is no such file"),
            (
                "masks/train/1.png",
                lambda path: write_mask(path, (0,), (20, 30)),
                "the mask is 20 x 30, its image .* 40 x 30",
            ),
            ("masks/train/1.png", lambda path: write_mask(path, (0, 7)), "value 7 is no label: there are 3 classes"),
            ("masks/train/1.png", lambda path: write_mask(path, (0,), mode="RGB"), "the mask has mode RGB"),
            ("images/train/2.png", lambda path: path.write_bytes(b"no"), "cannot be read as an image"),
            ("masks/train/0.png", lambda path: path.write_bytes(b"no"), "cannot be read as a mask"),
            ("masks/train/9.png", lambda path: write_mask(path, (0,)), "there is no image of that name"),
        ],
    )
    def test_a_bad_file_is_named_before_training(self, tmp_path, file, spoil, message):
        spoil(folder_set(tmp_path) / file)
        data = SegmentationData("folder", str(tmp_path), class_names=["x", "y", "z"])
        with pytest.raises(DataError, match=f"{file}: {message}"):
            data.setup("fit")

    @pytest.mark.parametrize("values", [(0, 77), (3, 255)])
    def test_a_label_out_of_range_is_no_void_where_nothing_was_checked(self, tmp_path, values):
        write_mask(folder_set(tmp_path) / "masks" / "train" / "1.png", values)
        data = SegmentationData("folder", str(tmp_path), class_names=["x", "y", "z"], check=False)
        data.setup("fit")
        message = f"masks/train/1.png: value {min({3, 77} & set(values))} is no label: there are 3 classes"
        with pytest.raises(DataError, match=message):
            data.source("train").labels(1)

    @pytest.mark.parametrize("read", [read_image, image_size, read_mask])
    def test_more_pixels_than_pil_takes(self, tmp_path, monkeypatch, read):
        write_mask(tmp_path / "a.png", (0,))
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
        with pytest.raises(DataError, match=r"a.png: cannot be read as .* exceeds limit of 200 pixels"):
            read(tmp_path / "a.png")

    @pytest.mark.parametrize(
        ("dataset", "write", "split", "file"),
        [
            ("voc", voc_set, "train", "JPEGImages/a.jpg"),
            ("coco", coco_set, "val2017", "val2017/000000000001.jpg"),
        ],
    )
    def test_an_image_that_is_cut_off(self, tmp_path, dataset, write, split, file):
        """Its header is whole, and says the right size."""
        source = open_source(dataset, str(write(tmp_path)), split)
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(content[: len(content) // 2])
        with pytest.raises(DataError, match=f"{file}: cannot be read as an image: .*truncated"):
            check(source, split)

    def test_many_bad_files_are_counted(self, tmp_path):
        root = folder_set(tmp_path, count=9, values=(77,))
        with pytest.raises(DataError, match="9 of the files cannot be used") as caught:
            check(open_source("folder", str(root), "train", ["x", "y"]), "folder, train")
        assert "and 4 more" in str(caught.value)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("voc", None, "train"), "data.root must name"),
            (("voc", "no/such", "train"), "there is no folder 'no/such'"),
            (("voc", ".", "nothing"), "there is no such list"),
            (("coco", ".", "nothing"), "there is no such file"),
            (("folder", ".", "train"), "class_names"),
            (("shapes", None, "foo"), "must be one of train, val, test, got 'foo'"),
        ],
    )
    def test_what_is_not_there(self, words, message):
        with pytest.raises(DataError, match=message):
            open_source(*words)

    @pytest.mark.parametrize(
        ("dataset", "names", "message"),
        [
            ("folder", ["a"], "from 2 to 255 of them, 255 being void; got 1$"),
            ("folder", [f"{i}" for i in range(256)], "from 2 to 255 of them, 255 being void; got 256$"),
            ("folder", [f"{i}" for i in range(300)], "got 300$"),
            ("folder", ["a", "b", "a"], "must differ from each other, got 'a' twice"),
            ("shapes", ["a", "b"], r"is for data.dataset 'folder', got \['a', 'b'\] with 'shapes'"),
            ("voc", ["a", "b"], "with 'voc'"),
        ],
    )
    def test_names_that_cannot_be_the_classes(self, dataset, names, message):
        with pytest.raises(DataError, match=f"data.class_names .*{message}"):
            classes_of(dataset, names)

    def test_as_many_classes_as_there_are_labels(self, tmp_path):
        root = folder_set(tmp_path, values=(0, 254, 255))
        source = open_source("folder", str(root), "train", [f"{i}" for i in range(255)])
        check(source, "train")
        assert found(source) == {0, 254, 255}

    def test_images_that_would_share_a_mask(self, tmp_path):
        write_image(folder_set(tmp_path) / "images" / "train" / "1.jpg")
        with pytest.raises(DataError, match=r"1.jpg and 1.png: both images would have the mask 1.png"):
            open_source("folder", str(tmp_path), "train", ["x", "y", "z"])

    def test_a_list_with_a_name_twice(self, tmp_path):
        voc_set(tmp_path, names=("a", "b", "a"))
        with pytest.raises(DataError, match=r"train.txt: names must differ from each other, got 'a' twice"):
            open_source("voc", str(tmp_path), "train")

    def test_a_list_with_a_byte_order_mark(self, tmp_path):
        path = voc_set(tmp_path) / "ImageSets/Segmentation/train.txt"
        path.write_text(path.read_text(), encoding="utf-8-sig")
        source = open_source("voc", str(tmp_path), "train")
        assert [source.name(i) for i in range(len(source))] == ["a", "b"]

    def test_a_list_that_is_no_text(self, tmp_path):
        (voc_set(tmp_path) / "ImageSets/Segmentation/train.txt").write_bytes("a\nb\xe9\n".encode("latin-1"))
        with pytest.raises(DataError, match=r"Segmentation/train.txt: the list must be text in UTF-8"):
            open_source("voc", str(tmp_path), "train")

    @pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
    @pytest.mark.parametrize("read", [read_image, image_size])
    def test_an_image_of_more_than_eight_bits(self, tmp_path, dtype, read):
        path = tmp_path / "a.tif"
        Image.fromarray(np.full((4, 5), 300, dtype)).save(path)
        with pytest.raises(DataError, match=r"a.tif: cannot be read as an image: its mode is .*, expected 8 bits"):
            read(path)

    def test_fewer_workers_than_none(self):
        with pytest.raises(ValueError, match=r"data.workers must be 0 or more, got -1"):
            SegmentationData(workers=-1)

    def test_annotations_of_another_kind(self, tmp_path):
        (tmp_path / "annotations").mkdir()
        for content in ("{", "[]", "{}"):
            (tmp_path / "annotations" / "instances_x.json").write_text(content)
            with pytest.raises(DataError, match=r"instances_x.json: no annotations of COCO"):
                open_source("coco", str(tmp_path), "x")

    def test_a_missing_image_of_coco(self, tmp_path):
        (coco_set(tmp_path) / "val2017" / "000000000001.jpg").unlink()
        with pytest.raises(DataError, match=r"000000000001.jpg: there is no such file"):
            check(open_source("coco", str(tmp_path), "val2017"), "coco")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright_whatever_else_their_tags_say(tmp_path, orientation):
    """As PIL turns them; of tags with a type that is not theirs it makes an error."""
    tags = Image.Exif()
    tags[0x0112], tags[0x011A] = orientation, 72.0
    path = tmp_path / "one.png"
    write_image(path)
    with Image.open(path) as image:
        image.save(tmp_path / "one.jpg", exif=tags)
    with Image.open(tmp_path / "one.jpg") as image:
        expected = ImageOps.exif_transpose(image)
    content = bytearray((tmp_path / "one.jpg").read_bytes())
    order = "<" if content[content.find(b"Exif\0\0") + 6 :][:2] == b"II" else ">"
    resolution = content.find(struct.pack(f"{order}HHI", 0x011A, 5, 1))
    struct.pack_into(f"{order}H", content, resolution + 2, 2)  # text
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    if orientation > 1:
        with Image.open(path) as image, pytest.raises(TypeError):
            ImageOps.exif_transpose(image)
    assert np.array_equal(np.asarray(read_image(path)), np.asarray(expected))
    assert image_size(path) == expected.size


class TestAugmentation:
    def crops(self, tmp_path, **fields):
        source = open_source("folder", str(folder_set(tmp_path, values=(0, 2))), "train", ["x", "y", "z"])
        return TrainingImages(source, Augmentation(crop=48, **fields), seed=0)

    def test_no_draw_makes_a_new_label(self, tmp_path):
        images = self.crops(tmp_path)
        seen = [images[0, draw] for draw in range(40)]
        assert {label for item in seen for label in item["labels"].unique().tolist()} == {0, 2, 255}
        assert {tuple(item["image"].shape) for item in seen} == {(3, 48, 48)}

    def test_image_and_labels_move_together(self, tmp_path):
        """An image that shows its own labels still does after every draw, but for pixels that blend at a border."""
        source = open_source("folder", str(folder_set(tmp_path, 1, values=(0, 1))), "train", ["x", "y"])
        labels = source.labels(0)
        Image.fromarray(np.repeat(labels[..., None] * 255, 3, 2)).save(tmp_path / "images" / "train" / "0.png")
        images = TrainingImages(source, Augmentation(crop=64), seed=0)
        for draw in range(20):
            item = images[0, draw]
            shown = item["image"][0] > 0
            inside = item["labels"] != 255
            wrong = (shown != (item["labels"] == 1)) & inside
            border = torch.nn.functional.max_pool2d(item["labels"][None].float(), 5, 1, 2)[0]
            border = border != -torch.nn.functional.max_pool2d(-item["labels"][None].float(), 5, 1, 2)[0]
            assert not (wrong & ~border).any(), draw

    def test_labels_lie_on_their_pixels_at_any_scale(self):
        """Of a ramp and the same ramp as labels, the difference is how far apart they lie."""
        columns = torch.arange(120).expand(3, 120, 120)
        image, labels = tv_tensors.Image(columns.float()), tv_tensors.Mask(columns[0].byte())
        torch.manual_seed(0)
        apart = []
        for _ in range(100):
            scaled, seen = RandomScale((0.5, 2.0))(image, labels)
            inside = slice(8, -8)
            apart.append((scaled[0] - seen.float())[inside, inside].mean().item() * scaled.shape[2] / 120)
        assert isinstance(seen, tv_tensors.Mask)
        assert abs(statistics.mean(apart)) < 0.1

    def test_a_draw_is_a_function_of_its_number(self, tmp_path):
        images = self.crops(tmp_path)
        torch.manual_seed(1)
        first = images[1, 7]
        torch.manual_seed(2)
        assert all(torch.equal(first[key], images[1, 7][key]) for key in first)
        assert not torch.equal(first["image"], images[1, 8]["image"])

    def test_it_leaves_the_callers_random_numbers_alone(self, tmp_path):
        images = self.crops(tmp_path)
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        images[0, 0]
        assert torch.equal(torch.rand(3), expected)

    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            ({"crop": 8}, "crop"),
            ({"scale": (2.0, 1.0)}, "scale"),
            ({"scale": (0.5, float("inf"))}, "scale"),
            ({"scale": (float("nan"), 1.0)}, "scale"),
            ({"rotation": 100}, "rotation"),
            ({"flip": 2}, "flip"),
        ],
    )
    def test_what_is_refused(self, fields, name):
        with pytest.raises(ValueError, match=f"augmentation.{name}"):
            Augmentation(**fields)


def steps(length, batch_size, first, last, **options):
    return StepBatches(length, batch_size, lambda: first, last, **options)


class TestOrder:
    def test_every_pass_shows_every_image_once(self):
        batches = list(steps(5, 2, 0, 10, seed=3))
        indices = [index for batch in batches for index, _ in batch]
        assert [draw for batch in batches for _, draw in batch] == list(range(20))
        passes = [indices[i : i + 5] for i in range(0, 20, 5)]
        assert all(sorted(own) == list(range(5)) for own in passes)
        assert len({tuple(own) for own in passes}) > 1

    def test_a_later_start_goes_on_where_the_run_was(self):
        assert list(steps(7, 3, 4, 9, seed=0)) == list(steps(7, 3, 0, 9, seed=0))[4:]

    @pytest.mark.parametrize("world", [2, 4])
    def test_processes_share_one_batch(self, world):
        alone = list(steps(7, 4, 0, 5, seed=0))
        shares = [list(steps(7, 4, 0, 5, seed=0, rank=rank, world=world)) for rank in range(world)]
        for step, batch in enumerate(alone):
            assert sorted(batch) == sorted(itertools.chain(*(share[step] for share in shares)))

    def test_a_batch_that_cannot_be_shared(self):
        with pytest.raises(DataError, match="multiple of the 2 processes, got 3"):
            steps(7, 3, 0, 5, seed=0, world=2)

    @pytest.mark.parametrize(("length", "world"), [(5, 2), (4, 2), (1, 3)])
    def test_evaluation_counts_every_image_once(self, length, world):
        shards = [list(Shard(length, rank, world)) for rank in range(world)]
        assert len({len(shard) for shard in shards}) == 1
        assert sorted(index for shard in shards for index, counts in shard if counts) == list(range(length))


@pytest.mark.parametrize("names", [("one.png", "a/one.png"), ("x.jpg", "x.png"), ("one.png", "one.png")])
def test_photographs_whose_pictures_would_have_one_name(tmp_path, names):
    paths = [str(tmp_path / name) for name in ("other.png", *names)]
    with pytest.raises(DataError, match=f"predict: the pictures of {paths[1]} and {paths[2]} would have one name"):
        SegmentationData(images=paths).setup("predict")


def test_whole_images(tmp_path):
    item = WholeImages(open_source("folder", str(folder_set(tmp_path)), "val", ["x", "y", "z"]))[1, True]
    assert (item["image"].shape, item["image"].dtype, item["labels"].shape) == ((3, 30, 40), torch.uint8, (30, 40))
    assert (item["name"], item["index"], item["counts"]) == ("1", 1, True)
