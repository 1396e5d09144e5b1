"""The model's figures for a GPU: counted as said, and those in the README as they are computed."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from zigzag import cost
from zigzag.config import NeckConfig

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs the source tree")


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("predict"), importlib.import_module("stock")
    sys.path.pop(0)
    for name in ("predict", "stock"):
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def large(scripts):
    return scripts[0].against(3, 473, 16)


def test_levels_of_a_crop(scripts):
    predict, _ = scripts
    assert predict.levels_of(473) == ((119, 119), (60, 60), (30, 30), (15, 15))
    assert [height for height, _ in predict.levels_of(224)] == [56, 28, 14, 7]


def test_bytes_by_hand(scripts):
    """Three maps of 24 bytes: eager reads and writes at every step, a compiler what comes in and what is read later."""
    _, stock = scripts
    x, column, weight = (torch.ones(*shape, dtype=torch.bfloat16) for shape in ((3, 4), (3, 1), (4, 5)))
    with stock.Recorder() as recorder:
        y = (x + column.expand(3, 4)).relu()  # an expanded operand is read once
        z = y.t().t() * 2  # views cost nothing
        z @ weight
    found = [(o.name, o.cost.read, o.cost.written, o.flops) for o in recorder.operations]
    assert found == [
        ("add", 24 + 6, 24, 0),
        ("relu", 24, 24, 0),
        ("mul", 24, 24, 0),
        ("mm", 24 + 40, 30, 2 * 3 * 4 * 5),
    ]
    assert stock.fused(recorder.operations) == [cost.Cost(30, 24), cost.Cost(64, 30, 120)]


def test_a_reduction_ends_a_kernel(scripts):
    _, stock = scripts
    x = torch.ones(6, dtype=torch.float64)
    with stock.Recorder() as recorder:
        (x * 2) / (x * 2).sum()
    # Both products and the sum read x once; the quotient reads a product and the sum again.
    assert stock.fused(recorder.operations) == [cost.Cost(48, 48 + 8), cost.Cost(48 + 8, 48)]


def test_every_convolution_is_counted(scripts):
    """By formulas: the fusions as `zigzag.cost` has them, and the branches of every context at full resolution."""
    _, stock = scripts
    config, sizes = NeckConfig((8, 8), out_channels=8, norm_groups=2, stages=2), ((9, 8), (5, 4))
    forward, both = stock.operations(config, sizes, batch=2)
    expected = cost.fusion_convolutions(config, sizes, batch=2).flops
    for height, width in sizes * config.stages:  # each level is a source in one direction of every stage
        for k in config.grids:
            expected += 2 * 2 * 8 * 8 * (9 * height * width + 2 * k * k)
    assert sum(o.flops for o in forward if o.name == "convolution") == expected
    assert sum(o.flops for o in both if o.name == "convolution_backward") == 2 * expected
    assert both[: len(forward)] == forward


def test_bounds_are_in_order(large):
    for row in large.values():
        assert row["ours"] < row["compiled"] < row["eager"]


def test_the_readme_gives_what_is_computed(scripts, large):
    predict, _ = scripts
    text = (ROOT / "README.md").read_text()
    small = predict.against(3, 224, 1, laterals=True)["forward"]
    both, forward = large["forward + backward"], large["forward"]
    for what, wanted in {
        "eager / ours, neck forward + backward": [both["eager"] / both["ours"], forward["eager"] / forward["ours"]],
        "torch.compile (max-autotune) / ours": [both["compiled"] / both["ours"], forward["compiled"] / forward["ours"]],
        "neck forward, N = 1, a 224 crop": [small["eager"] / small["ours"]],
    }.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| {what}"))
        predicted = line.split("|")[4]
        for value in wanted:
            assert re.search(rf"\b{value:.2f}\b", predicted), f"{what}: {value:.2f} is not in {predicted!r}"
