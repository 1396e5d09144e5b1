"""The guard: at the first value that is not finite a run stops, and the map where it began is named."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")
pytest.importorskip("lightning", reason="lightning is not installed: zigzag[train]")

from detector_cases import detector_of, pictures

from zigzag.models import BackboneConfig, NeckOptions, NetworkConfig, SemanticSegmenter
from zigzag.tasks.guard import FiniteGuard, NonFiniteError, first_bad_map, place_of


@pytest.fixture(scope="module")
def network():
    neck = NeckOptions(channels=8, norm_groups=2, stages=2, grids=(2,))
    return SemanticSegmenter(NetworkConfig(BackboneConfig("resnet18"), neck), 3)


@pytest.fixture(scope="module")
def detectors():
    kinds = ("mask_rcnn", "deformable_rcnn", "fcis")
    return {kind: detector_of(kind, proposals=(10, 5), regions=8).train() for kind in kinds}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("backbone.conv1.weight", "the backbone's stem"),
        ("backbone.layer3.0.conv1.weight", "the backbone's res4"),
        ("neck.lateral.2.bias", "the neck's lateral map, level 3"),
        ("neck.stages.0.down.1.gain", "the neck, stage 1, top-down, level 2"),
        ("neck.stages.0.up.3.gain", "the neck, stage 1, bottom-up, level 4"),
        ("neck.stages.1.down.2.fusion.conv.weight", "the fusion of stage 2, top-down, level 3"),
        ("head.classifier.bias", "the head"),
    ],
)
def test_the_map_where_it_began_is_named(network, name, words):
    images = torch.randn(1, 3, 64, 64)
    assert first_bad_map(network, images) is None
    parameter = dict(network.named_parameters())[name]
    kept = parameter.detach().clone()
    parameter.data.fill_(float("nan"))
    assert first_bad_map(network, images) == words
    parameter.data.copy_(kept)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("mask_rcnn", "backbone.backbone.layer2.0.conv1.weight", "the backbone's res3"),
        ("mask_rcnn", "backbone.neck.stages.0.down.1.gain", "the neck, stage 1, top-down, level 2"),
        ("mask_rcnn", "rpn.head.conv.0.0.bias", "the region proposals"),
        ("mask_rcnn", "rpn.head.bbox_pred.bias", "the region proposals"),
        ("mask_rcnn", "roi_heads.box_head.fc6.bias", "the box head"),
        ("mask_rcnn", "roi_heads.box_predictor.bbox_pred.bias", "the box predictor"),
        ("mask_rcnn", "roi_heads.mask_head.0.0.bias", "the mask head"),
        ("mask_rcnn", "roi_heads.mask_predictor.mask_fcn_logits.bias", "the mask predictor"),
        ("deformable_rcnn", "backbone.backbone.layer4.0.conv2.offset.bias", "the backbone's res5"),
        ("deformable_rcnn", "roi_heads.box_roi_pool.offset.bias", "the offsets of the box head's regions"),
        ("deformable_rcnn", "roi_heads.mask_roi_pool.offset.bias", "the offsets of the mask head's regions"),
        ("deformable_rcnn", "roi_heads.mask_predictor.conv5_mask.bias", "the mask predictor"),
        ("fcis", "rpn.head.cls_logits.bias", "the region proposals"),
        ("fcis", "roi_heads.scores.convolution.bias", "the position-sensitive scores of regions"),
    ],
)
def test_so_is_a_detectors(detectors, kind, name, words):
    network, (images, targets) = detectors[kind], pictures()
    parameter = dict(network.named_parameters())[name]
    kept = parameter.detach().clone()
    parameter.data.fill_(float("nan"))
    found = first_bad_map(network, images, targets)
    parameter.data.copy_(kept)
    assert found == words


@pytest.mark.parametrize("kind", ["mask_rcnn", "deformable_rcnn", "fcis", "semantic"])
def test_every_parameter_is_of_a_module_that_is_watched(network, detectors, kind):
    for name, _ in (network if kind == "semantic" else detectors[kind]).named_parameters():
        parts = name.split(".")
        whole = (".".join(parts[:end]) for end in range(1, len(parts)))
        maps = [module for module in whole if kind == "semantic" or module != "backbone"]  # a dict of maps is not
        assert any(map(place_of, maps)), name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("inner_blocks.2.0.bias", "the neck's lateral map, level 3"),
        ("layer_blocks.0.0.bias", "the neck's output, level 1"),
    ],
)
def test_so_is_a_plain_fpns(name, words):
    network = SemanticSegmenter(NetworkConfig(BackboneConfig("resnet18"), NeckOptions(kind="fpn", channels=8)), 3)
    dict(network.neck.body.named_parameters())[name].data.fill_(float("nan"))
    assert first_bad_map(network, torch.randn(1, 3, 64, 64)) == words


def test_of_the_eager_neck_it_is_the_whole():
    eager = NeckOptions(kind="eager", channels=16, stages=1, grids=(2,), norm_groups=4, lateral_kernel_size=1)
    network = detector_of("mask_rcnn", neck=eager).eval()
    network.backbone.neck.stages[0].up[2].gain.data.fill_(float("nan"))
    assert first_bad_map(network, pictures()[0]) == "the neck"


def test_a_loss_of_finite_maps(detectors, monkeypatch):
    network = detectors["fcis"]
    assert first_bad_map(network, *pictures()) is None
    guard = FiniteGuard()
    monkeypatch.setattr(guard, "_look", lambda *_: None)
    with pytest.raises(NonFiniteError, match=r"step 7: the loss is nan; every map that is watched is finite$"):
        guard.on_before_backward(trainer(bool), None, torch.tensor(float("nan")))


def trainer(everywhere):
    """Of a process whose others agree with it, or not."""
    return SimpleNamespace(global_step=7, strategy=SimpleNamespace(reduce_boolean_decision=everywhere))


def test_every_process_looks_where_one_has_a_bad_loss(monkeypatch):
    """Norms over all processes wait for each other."""
    guard, looks = FiniteGuard(), []
    monkeypatch.setattr(guard, "_look", lambda *_: looks.append(1))
    guard.on_before_backward(trainer(bool), None, torch.tensor(1.0))
    assert not looks
    with pytest.raises(NonFiniteError, match=r"step 7: the loss of another process is not finite; every map"):
        guard.on_before_backward(trainer(lambda _: False), None, torch.tensor(1.0))
    assert looks == [1]


def test_every_process_stops_where_one_has_a_bad_map(monkeypatch):
    guard = FiniteGuard(every_n_steps=7)
    monkeypatch.setattr(guard, "_look", lambda *_: None)
    guard.on_train_batch_start(trainer(bool), None, None, 0)
    with pytest.raises(NonFiniteError, match=r"step 7: a map of another process is not finite$"):
        guard.on_train_batch_start(trainer(lambda _: False), None, None, 0)


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "the image"), (1.0, "the backbone's res3")])
def test_among_several_processes_a_look_goes_to_the_end(network, monkeypatch, value, words):
    """Where one stopped at its bad map, the others would wait for it in the next norm."""
    reached = []
    hook = network.head.register_forward_hook(lambda *_: reached.append(1))
    parameter = network.backbone.layer2[0].conv1.weight
    kept = parameter.detach().clone()
    parameter.data.fill_(float("nan"))
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    assert first_bad_map(network, torch.full((1, 3, 64, 64), value)) == words
    parameter.data.copy_(kept)
    hook.remove()
    assert reached


def test_looking_changes_nothing():
    network = SemanticSegmenter(NetworkConfig(BackboneConfig("resnet18", norm="batch"), NeckOptions(kind="fpn")), 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first_bad_map(network, torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_image_is_a_map_too(network):
    assert first_bad_map(network, torch.full((1, 3, 64, 64), float("inf"))) == "the image"


def test_every_step_of_the_neck_is_watched(network):
    steps = [name for name, _ in network.named_modules() if name.count(".") == 4 and name.startswith("neck.stages")]
    assert steps == [name for name in steps if place_of(name) or name.endswith(("context", "context_norm"))]


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"guard\.every_n_steps"):
        FiniteGuard(0)
