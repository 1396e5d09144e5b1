"""What the model of a training step says, against what autograd keeps and what a neck holds."""

import pytest
import torch

import zigzag
from zigzag import training_cost
from zigzag.bench.memory import saved_bytes
from zigzag.config import PRESETS, NeckConfig

SIZES = [(23, 20), (12, 11), (5, 5)]  # the last one of few pixels


def neck(preset, **fields):
    torch.manual_seed(0)
    return zigzag.nn.ZigZagNeck([8, 16, 32], 8, preset=preset, norm_groups=4, **fields)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("kernel", "stages", "batch"), [(3, 2, 1), (1, 3, 2)])
def test_saved_bytes_are_those_that_autograd_keeps(preset, kernel, stages, batch):
    if not zigzag.backends()["cpu"].available:
        pytest.skip(zigzag.backends()["cpu"].reason)
    module = neck(preset, kernel_size=kernel, stages=stages, grids=(3, 5))
    bases = [torch.randn(batch, 8, *size, requires_grad=True) for size in SIZES]
    with saved_bytes(module.parameters()) as saved:
        outputs = module.fuse(bases)
    assert len(outputs) == len(SIZES)
    assert saved.total == training_cost.saved_bytes(module.config, SIZES, batch=batch)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("fields", [{}, {"kernel_size": 1, "grids": (5,), "lateral_kernel_size": 1, "stages": 1}])
def test_parameters_are_those_of_the_neck(preset, fields):
    module = neck(preset, **fields)
    assert sum(training_cost.parameters(module.config).values()) == sum(p.numel() for p in module.parameters())


def test_a_ring_sends_everything_but_a_share_twice():
    assert [training_cost.all_reduce_bytes(1200, p) for p in (1, 2, 4)] == [0, 1200, 1800]


def test_a_neck_that_the_cost_model_does_not_know_is_refused():
    config = NeckConfig((8, 16), 8, norm_groups=4, dense=False)
    with pytest.raises(ValueError, match="no other cost is known"):
        training_cost.saved_bytes(config, SIZES[:2])
