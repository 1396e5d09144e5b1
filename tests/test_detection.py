"""Mask R-CNN and what detectors share: torchvision's semantics, and images that do not see their batch-mates."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")

from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign, roi_align

from zigzag.models import BackboneConfig, DetectorConfig, NeckOptions, Pyramid, build_backbone, build_detector
from zigzag.models.detection import Resizing, RoIAlign
from zigzag.models.pyramid import maps_of_images

NECK = NeckOptions(channels=8, norm_groups=2, stages=2, grids=(2, 3), kernel_size=1, lateral_kernel_size=1)
SIZES = [(90, 70), (40, 100), (64, 64), (7, 128)]


def config(name="resnet18", **fields):
    fields = {
        "neck": NECK,
        "shorter": 64,
        "longer": 128,
        "anchor_sizes": (8, 16, 32, 64, 128),
        "proposals": (40, 40),
        "regions": 8,
        "score_threshold": 0.0,
        "detections": 3,
        **fields,
    }
    return DetectorConfig(backbone=BackboneConfig(name), **fields)


def uneven(module):
    """Norms that give something from nothing, as trained ones do, so that padding shows."""
    generator = torch.Generator().manual_seed(1)
    for name, buffer in module.named_buffers():
        if name.endswith("bias"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return module


def detector(name="resnet18", classes=3, **fields):
    torch.manual_seed(0)
    return uneven(build_detector(config(name, **fields), classes)).double()


def pictures(sizes=SIZES):
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(3, *size, generator=generator, dtype=torch.float64) for size in sizes]


def padded(images, height, width):
    return torch.stack([nn.functional.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in images])


def targets(images, empty=()):
    found = []
    for n, image in enumerate(images):
        boxes = torch.tensor([[2.0, 1, 30, 6], [1, 2, 9, 5]], dtype=torch.float64)[: 0 if n in empty else 2]
        masks = torch.zeros(len(boxes), *image.shape[1:], dtype=torch.uint8)
        masks[:, 2:5, 2:9] = 1
        found.append({"boxes": boxes, "labels": torch.arange(1, len(boxes) + 1), "masks": masks})
    return found


class TestPyramid:
    @pytest.mark.parametrize(("name", "stride_in_1x1"), [("resnet18", False), ("resnet50", False), ("resnet50", True)])
    def test_maps_are_those_of_the_image_alone_without_any_padding(self, name, stride_in_1x1):
        torch.manual_seed(0)
        backbone = build_backbone(BackboneConfig(name, stride_in_1x1=stride_in_1x1))
        pyramid = uneven(Pyramid(backbone, NECK)).double().eval()
        images = pictures()
        with torch.no_grad():
            batch = pyramid(padded(images, 128, 128), SIZES)
            for image, own in zip(images, maps_of_images(batch, SIZES), strict=True):
                alone = pyramid.neck(pyramid.backbone(image[None]))
                for level, x in enumerate(alone):
                    assert_close(own[str(level)], x)
                assert_close(own["pool"], alone[3][:, :, ::2, ::2])

    @pytest.mark.parametrize("part", ["backbone", "neck"])
    def test_either_part_without_the_sizes_fails_it(self, part):
        torch.manual_seed(0)
        pyramid = uneven(Pyramid(build_backbone(BackboneConfig("resnet18")), NECK)).double().eval()
        images = pictures()
        with torch.no_grad():
            alone = pyramid.neck(pyramid.backbone(images[0][None]))
            if part == "backbone":
                batch = pyramid.neck(pyramid.backbone(padded(images, 128, 128)), SIZES)
            else:
                own, pyramid.neck.forward = pyramid.neck.forward, lambda maps, _: own(maps)
                batch = list(pyramid(padded(images, 128, 128), SIZES).values())
        height, width = alone[0].shape[2:]
        assert (batch[0][:1, :, :height, :width] - alone[0]).abs().max() > 1e-3

    def test_gradients_do_not_see_the_padding_either(self):
        torch.manual_seed(0)
        pyramid = uneven(Pyramid(build_backbone(BackboneConfig("resnet18")), NECK)).double()
        image = pictures()[0].requires_grad_()
        batch = pyramid(padded([image, pictures()[3]], 128, 128), [SIZES[0], SIZES[3]])
        maps_of_images(batch, [SIZES[0], SIZES[3]])[0]["0"].square().sum().backward()
        inside, image.grad = image.grad, None
        pyramid.neck(pyramid.backbone(image[None]))[0].square().sum().backward()
        assert_close(inside, image.grad)

    def test_a_copy_has_its_own_sizes(self):
        pyramid = Pyramid(build_backbone(BackboneConfig("resnet18")), NECK)
        twin = copy.deepcopy(pyramid)
        hook = next(iter(twin.backbone.bn1._forward_hooks.values()))
        assert hook.__self__ is twin

    def test_a_plain_fpn_takes_no_sizes(self):
        pyramid = Pyramid(build_backbone(BackboneConfig("resnet18")), NeckOptions(kind="fpn", channels=8))
        assert [tuple(x.shape[2:]) for x in pyramid(torch.zeros(2, 3, 64, 128), [(64, 128), (50, 60)]).values()] == [
            (16, 32), (8, 16), (4, 8), (2, 4), (1, 2)
        ]  # fmt: skip


class TestBatchMates:
    @pytest.mark.parametrize("levels", ["box size", "sum"])
    def test_detections_do_not_depend_on_them(self, levels):
        model, images = detector(roi_levels=levels).eval(), pictures()
        with torch.no_grad():
            together = model(images)
            for image, found in zip(images, together, strict=True):
                for name, value in model([image])[0].items():
                    assert_close(found[name], value)
        assert [len(found["boxes"]) for found in together] == [3] * len(images)

    def test_nor_do_proposals(self):
        """With room for few of a level, anchors in the padding would take the place of others."""
        model, images = detector(proposals=(6, 6)).eval(), pictures()

        def proposals(images):
            batch, _ = model.transform(images)
            return model.rpn(batch, model.backbone(batch.tensors, batch.image_sizes))[0]

        model.rpn.head.cls_logits.weight.data.abs_().neg_()  # the padding, where maps are 0, scores best
        with torch.no_grad():
            for image, found in zip(images, proposals(images), strict=True):
                assert_close(found, proposals([image])[0])

    def test_the_plain_neck_fails_it(self):
        model, images = detector().eval(), pictures()
        own, model.backbone.neck.forward = model.backbone.neck.forward, lambda maps, _: own(maps)
        with torch.no_grad():
            together, alone = model.detect(images)[2], model.detect(images[2:3])[0]
        assert (together["scores"] - alone["scores"]).abs().max() > 1e-6

    def test_anchors_outside_an_image_neither_propose_nor_train(self):
        model, images = detector(), pictures()
        seen = []
        model.rpn.compute_loss = lambda *given: seen.append(given[2]) or (0, 0)
        batch, own = model.transform(images, targets(images))
        model.rpn(batch, model.backbone(batch.tensors, batch.image_sizes), own)
        height, width = batch.image_sizes[3]
        first = seen[0][3][: 3 * (batch.tensors.shape[2] // 4) * (batch.tensors.shape[3] // 4)]
        first = first.view(batch.tensors.shape[2] // 4, batch.tensors.shape[3] // 4, 3)
        assert (first[-(-height // 4) :] == -1).all()
        assert (first[: -(-height // 4), : -(-width // 4)] >= 0).any()


@pytest.mark.parametrize("shorter", [45, 64, 101, 150])
def test_masks_lie_on_the_pixels_of_their_images(shorter):
    """Of a ramp and masks of what is beyond each column: their sum is the ramp, so that a difference is a shift."""
    columns = torch.arange(80.0)
    masks = (columns >= columns[1:, None]).byte()[:, None].expand(-1, 80, -1)
    target = {"masks": masks, "boxes": torch.tensor([[0.0, 0.0, 80.0, 80.0]])}
    image, resized = Resizing(shorter, 200).resize(columns.expand(3, 80, 80), target)
    apart = (image[0] - resized["masks"].sum(0))[:, 4:-4].mean().item() * shorter / 80
    assert abs(apart) < 0.1


class TestRoIAlign:
    boxes = torch.tensor([[1.0, 2, 30, 40], [0, 0, 64, 64], [10, 5, 250, 90]], dtype=torch.float64)

    def maps(self):
        generator = torch.Generator().manual_seed(0)
        shapes = [(64 >> level, 80 >> level) for level in range(4)]
        levels = {str(i): torch.randn(1, 4, *s, generator=generator, dtype=torch.float64) for i, s in enumerate(shapes)}
        return {**levels, "pool": levels["3"][:, :, ::2, ::2]}

    def test_by_box_size_it_is_torchvisions(self):
        stock = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
        size = [(256, 320)]
        assert_close(RoIAlign(7, "box size")(self.maps(), [self.boxes], size), stock(self.maps(), [self.boxes], size))

    def test_the_sum_over_all_levels(self):
        maps = self.maps()
        expected = sum(roi_align(maps[str(i)], [self.boxes], 7, 1 / (4 << i), 2) for i in range(4))
        assert_close(RoIAlign(7, "sum")(maps, [self.boxes], [(256, 320)]), expected)

    def test_its_scales_do_not_depend_on_the_image_seen_first(self):
        """Torchvision's guesses them from the first image: wrongly where it is a few pixels high."""
        pool, maps = RoIAlign(7, "box size"), self.maps()
        pool({name: x[:, :, :1] for name, x in maps.items()}, [self.boxes[:0]], [(3, 320)])
        fresh = RoIAlign(7, "box size")
        assert_close(pool(maps, [self.boxes], [(256, 320)]), fresh(maps, [self.boxes], [(256, 320)]))


class TestSemantics:
    def test_losses_in_training_and_their_gradients(self):
        model, images = detector("resnet50"), pictures(SIZES[:2])
        losses = model(images, targets(images, empty=[1]))
        assert set(losses) == {
            "loss_objectness",
            "loss_rpn_box_reg",
            "loss_classifier",
            "loss_box_reg",
            "loss_mask",
        }
        sum(losses.values()).backward()
        without = [name for name, own in model.named_parameters() if own.requires_grad and own.grad is None]
        assert without == []
        new = {id(parameter) for parameter in model.new_parameters()}
        old = {id(parameter) for parameter in model.backbone.backbone.parameters()}
        assert len(new) + len(old) == len(list(model.parameters()))

    def test_a_batch_without_any_instance(self):
        model, images = detector(), pictures(SIZES[:2])
        losses = model(images, targets(images, empty=[0, 1]))
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert losses["loss_mask"] == losses["loss_box_reg"] == 0
        sum(losses.values()).backward()

    def test_one_class_and_images_tiny_and_very_wide(self):
        model = detector(classes=2).eval()
        images = pictures([(1, 1), (2, 300), (300, 2)])
        with torch.no_grad():
            found = model(images)
        for image, own in zip(images, found, strict=True):
            height, width = image.shape[1:]
            assert own["masks"].shape == (len(own["boxes"]), 1, height, width)
            assert own["boxes"].dtype == torch.float64
            assert bool((own["labels"] == 1).all())
            limit = torch.tensor([width, height, width, height], dtype=torch.float64)
            assert bool(((own["boxes"] >= 0) & (own["boxes"] <= limit)).all())

    def test_nothing_found(self):
        model = detector(score_threshold=1.0).eval()
        with torch.no_grad():
            (found,) = model(pictures(SIZES[:1]))
        assert {name: tuple(x.shape) for name, x in found.items()} == {
            "boxes": (0, 4), "labels": (0,), "scores": (0,), "masks": (0, 1, 90, 70)
        }  # fmt: skip

    def test_detect_leaves_the_masks_unpasted(self):
        model, images = detector().eval(), pictures(SIZES[:1])
        with torch.no_grad():
            (small,), (whole,) = model.detect(images), model(images)
        assert small["masks"].shape[1:] == (1, 28, 28)
        assert_close(paste_masks_in_image(small["masks"], small["boxes"], (90, 70)), whole["masks"])

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"longer": 63}, "network.longer must be at least shorter = 64"),
            ({"anchor_sizes": (1, 2)}, "network.anchor_sizes must be 5 sizes"),
            ({"proposals": (0, 1)}, "network.proposals"),
            ({"nms_threshold": 2}, "network.nms_threshold"),
            ({"detections": 0}, "network.detections"),
        ],
    )
    def test_fields_that_are_refused(self, fields, message):
        with pytest.raises(ValueError, match=message):
            config(**fields)

    def test_detectors_that_are_not_there(self):
        with pytest.raises(ValueError, match=r"network.kind must be one of mask_rcnn"):
            build_detector(config(kind="yolo"), 2)
        with pytest.raises(ValueError, match="classes must be 2 or more"):
            build_detector(config(), 1)
