"""Bytes and flops against counts made by hand, and against torch's own counter where stock PyTorch does the work."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from zigzag import cost, geometry
from zigzag.config import NeckConfig

SIZES = [(12, 9), (6, 5), (3, 3)]


def small(**fields: object) -> NeckConfig:
    return NeckConfig(in_channels=(8, 16, 32), out_channels=4, norm_groups=2, stages=2, grids=(2,), **fields)


def test_costs_add_and_know_their_roofline() -> None:
    both = cost.Cost(10, 20, 600) + cost.Cost(1, 2, 3)
    assert both == cost.Cost(11, 22, 603)
    assert both.bytes == 33
    assert both.seconds(bandwidth=33.0, arithmetic=1e9) == 1.0
    assert both.seconds(bandwidth=1e9, arithmetic=603.0) == 1.0
    assert cost.total([]) == cost.Cost()


def test_region_stats_by_hand() -> None:
    # 2 images of 3 channels, 4 x 5 pixels, one 2 x 2 grid without halo: 120 values in, 2*3*(4 cells + power) out.
    found = cost.region_stats((2, 3, 4, 5), (2,), 0)
    assert found == cost.Cost(read=120 * 4, written=30 * 4, flops=3 * 120)
    back = cost.region_stats((2, 3, 4, 5), (2,), 0, backward=True)
    added = cost.region_stats((2, 3, 4, 5), (2,), 0, backward=True, others=True)
    assert (added.read - back.read, added.flops - back.flops, added.written) == (4 * 120, 120, back.written)
    assert back == cost.Cost(read=150 * 4, written=120 * 4, flops=3 * 120 + 24)


def test_region_stats_taps_are_small_beside_the_pixels() -> None:
    shape = (1, 256, 119, 119)
    plain, shifted = cost.region_stats(shape, (1,), 0), cost.region_stats(shape, (3, 5, 7), 1)
    assert shifted.read == plain.read
    assert shifted.flops < 2.5 * plain.flops
    assert shifted.written == 256 * (83 * 9 + 1) * 4


def test_region_stats_low_precision_maps_have_float32_sums() -> None:
    found = cost.region_stats((1, 1, 4, 4), (1,), 0, itemsize=2)
    assert (found.read, found.written) == (32, 8)
    assert cost.region_stats((1, 1, 4, 4), (1,), 0, itemsize=8).written == 16


def test_region_codes_by_hand() -> None:
    # K = 2, a 3x3 kernel, 5 channels: weights (9 + 4 + 4) * 25, products 4 cells * 9 taps + 4 + 4, all times 25.
    found = cost.region_codes(1, 5, (2,), 3)
    assert found.flops == 2 * (36 + 4 + 4) * 25
    assert found.read == ((9 + 4 + 4) * 25 + 3 * 5 + 4 * 9 * 5) * 4
    assert found.written == 4 * 5 * 4
    assert cost.region_codes(1, 5, (2,), 3, backward=True).flops == 2 * found.flops


@pytest.mark.parametrize(("kernel", "grid"), [(3, 3), (1, 5)])
def test_region_codes_counts_the_flops_of_the_stock_modules(kernel: int, grid: int) -> None:
    channels = 4
    windows = torch.randn(grid * grid, channels, kernel, kernel)
    conv = torch.randn(channels, channels, kernel, kernel)
    weight = torch.randn(channels, channels, grid, grid)
    with FlopCounterMode(display=False) as counter:
        region = torch.nn.functional.conv2d(windows, conv).view(1, grid, grid, channels).permute(0, 3, 1, 2)
        torch.nn.functional.conv_transpose2d(torch.nn.functional.conv2d(region, weight), weight)
    assert cost.region_codes(1, channels, (grid,), kernel).flops == counter.get_total_flops()


def test_position_sensitive_pool_by_hand() -> None:
    # 2 images of 2 * 9 channels, 4 x 5 pixels, 7 RoIs of 6 x 6 bins: an addition and a division for each bin.
    found = cost.position_sensitive_pool((2, 18, 4, 5), 7, 6, 3, itemsize=2)
    assert found == cost.Cost(read=720 * 2 + 7 * 20, written=7 * 36 * 2 * 2, flops=2 * 7 * 36 * 2)
    back = cost.position_sensitive_pool((2, 18, 4, 5), 7, 6, 3, backward=True)
    assert back == cost.Cost(read=504 * 4 + 7 * 20, written=720 * 4, flops=2 * 504)


def test_region_norm_by_hand() -> None:
    # 2 images of 6 channels, one cell and no codes: its sum, two sums over a group, the scale, the shift in two.
    found = cost.region_norm(2, 6, (1,), codes=False)
    assert found == cost.Cost(read=(12 + 12 + 2 * 6) * 4, written=2 * 12 * 4, flops=12 * (1 + 5))
    # Grids of 1 and 2: three lines overlap three of the other grid's on an axis, five pairs of lines with their own.
    both = cost.region_norm(2, 6, (1, 2))
    pairs = 2 * 1 + 4 * 2 + 2 * 3 * 2
    assert both.flops == 12 * (2 * pairs + 3 * 5 + 1 + 5)
    assert both.read == (12 * 5 * 2 + 12 + 2 * 6) * 4
    back = cost.region_norm(2, 6, (1, 2), backward=True)
    assert (back.read, back.written) == ((12 * 5 * 2 + 2 * 12 + 6) * 4, (12 * 5 * 2 + 12 + 2 * 6) * 4)


def test_region_norm_counts_the_lines_that_overlap() -> None:
    grids, size = (3, 5, 7), 119
    starts = torch.cat([geometry.cell_starts(size, k)[:-1] for k in grids])
    ends = torch.cat([geometry.cell_starts(size, k)[1:] for k in grids])
    shared = torch.minimum(ends[:, None], ends) > torch.maximum(starts[:, None], starts)
    lengths = torch.tensor([k for k in grids for _ in range(k)])
    passes = (shared * (lengths[:, None] + lengths)).sum().item()
    codes, plain = (cost.region_norm(1, 1, grids, codes=given).flops for given in (True, False))
    assert codes - plain == 2 * passes + 3 * 83


@pytest.mark.parametrize(("kernel", "batch"), [(3, 1), (1, 2)])
def test_convolution_counts_the_flops_of_torch(kernel: int, batch: int) -> None:
    x = torch.randn(batch, 6, 7, 5, requires_grad=True)
    conv = torch.nn.Conv2d(6, 4, kernel, padding=kernel // 2)
    forward = cost.convolution((batch, 6, 7, 5), 4, kernel, bias=True)
    backward = cost.convolution((batch, 6, 7, 5), 4, kernel, bias=True, backward=True)
    with FlopCounterMode(display=False) as counter:
        y = conv(x)
    assert forward.flops == counter.get_total_flops()
    assert forward.read == (x.numel() + conv.weight.numel() + 4) * 4
    assert forward.written == y.numel() * 4
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert backward.flops == counter.get_total_flops()


def test_dense_pathway_by_hand() -> None:
    # One source of 2 x 2 brought up to 4 x 4, plain: 16 + 4 values read, 16 written; one addition a pixel, and the
    # resize takes three flops a value, 4 x 2 after the rows and 4 x 4 after the columns.
    found = cost.dense_pathway((1, 1, 4, 4), [(2, 2)], grids=None)
    assert found == cost.Cost(read=20 * 4, written=16 * 4, flops=16 + 3 * 8 + 3 * 16)


def test_dense_pathway_area_mean_and_nearest() -> None:
    # From 4 x 4 down to 2 x 2: rows add 16 values and scale 8, columns add 8 and scale 4.
    linear = cost.dense_pathway((1, 1, 2, 2), [(4, 4)], grids=None)
    assert linear.flops == 4 + (16 + 8) + (8 + 4)
    assert cost.dense_pathway((1, 1, 2, 2), [(4, 4)], grids=None, resize="nearest").flops == 4


def test_dense_pathway_every_option_adds() -> None:
    shape, sources = (1, 1, 4, 4), [(4, 4), (4, 4)]
    plain = cost.dense_pathway(shape, sources, grids=None)
    assert plain.flops == 16 * 2
    options = {
        "grids": ((2,), 32, 2 * 4 * 4),
        "base_affine": (True, 32, 8),
        "base_relu": (True, 16, 0),
        "source_affine": (True, 64, 16),
        "gain": (True, 16, 4),
        "residual": (True, 16, 64),
    }
    for name, (value, flops, read) in options.items():
        found = cost.dense_pathway(shape, sources, **{"grids": None, name: value})
        assert (found.flops - plain.flops, found.read - plain.read) == (flops, read), name


def test_dense_pathway_without_sources_moves_the_base_alone() -> None:
    assert cost.dense_pathway((1, 1, 4, 4), [], base_relu=True) == cost.Cost(64, 64, 16)
    assert cost.dense_pathway((0, 1, 4, 4), [(2, 2)]) == cost.Cost()


def test_dense_pathway_backward_reads_the_maps_and_writes_their_gradients() -> None:
    # A base of 16 and a source of 4 values, codes of one 2 x 2 grid: the maps, the codes and the output's gradient in.
    back = cost.dense_pathway((1, 1, 4, 4), [(2, 2)], grids=(2,), backward=True)
    assert (back.read, back.written) == ((16 + 4 + 4 + 16) * 4, (16 + 4 + 4) * 4)


def test_the_neck_runs_its_parts_in_order() -> None:
    steps = cost.neck(small(), SIZES)
    parts = [(step.stage, step.direction, step.level, step.part) for step in steps]
    assert parts[:4] == [
        (0, "down", 2, "region_stats"),
        (0, "down", 2, "region_codes"),
        (0, "down", 2, "region_norm"),
        (0, "down", 1, "dense_pathway"),
    ]
    counted = ("fusion", "region_codes", "region_norm", "dense_pathway")
    count = {part: sum(step.part == part for step in steps) for part in counted}
    # Two directions of the second stage and the output, three levels each; contexts for two levels of each direction.
    assert count == {"fusion": 9, "region_codes": 8, "region_norm": 17, "dense_pathway": 14}
    assert parts[-1] == (2, "output", 2, "dense_pathway")


def test_the_paper_preset_has_no_statistics_of_a_norm() -> None:
    paper = dataclasses.replace(small(), fusion_norm=False, context_norm=False, gain=None)
    stats = [step for step in cost.neck(paper, SIZES) if step.part == "region_stats"]
    assert len(stats) == 8
    assert len([step for step in cost.neck(small(), SIZES) if step.part == "region_stats"]) == 8 + 9
    assert not [step for step in cost.neck(paper, SIZES) if step.part == "region_norm"]


def test_sums_taken_where_a_map_is_written_read_nothing() -> None:
    apart, gathered = cost.neck(small(), SIZES), cost.neck(small(), SIZES, gathers=lambda _: True)
    # Nothing writes the coarsest map of the first sweep down, which is its base, nor the finest of the first one up.
    places = [(0, "down", 1), (0, "up", 1), (1, "down", 2), (1, "down", 1), (1, "up", 0), (1, "up", 1)]
    assert len(gathered) == len(apart) - len(places)
    saved, whole = (cost.total(step.cost for step in steps) for steps in (gathered, apart))
    assert whole.read - saved.read == sum(4 * 4 * h * w for h, w in (SIZES[level] for _, _, level in places))
    assert (whole.written, whole.flops) == (saved.written, saved.flops)
    for place in places:
        here = [step.part for step in gathered if (step.stage, step.direction, step.level) == place]
        assert here[-3:] == ["dense_pathway", "region_codes", "region_norm"]
    backward = cost.neck(small(), SIZES, backward=True)
    assert cost.neck(small(), SIZES, gathers=lambda _: True, backward=True) == backward


def test_the_floor_is_the_convolutions_of_the_neck() -> None:
    config = small()
    pixels = sum(h * w for h, w in SIZES)
    fusion = cost.fusion_convolutions(config, SIZES)
    assert fusion.flops == 3 * 2 * 9 * 4 * 4 * pixels
    with_laterals = cost.fusion_convolutions(config, SIZES, laterals=True)
    lateral = sum(2 * 9 * c * 4 * h * w for c, (h, w) in zip(config.in_channels, SIZES, strict=True))
    assert with_laterals.flops == fusion.flops + lateral
    assert cost.fusion_convolutions(config, SIZES, backward=True).flops == 2 * fusion.flops


def test_context_is_nearly_free_at_the_sizes_of_a_photograph() -> None:
    sizes = [(119, 119), (60, 60), (30, 30), (15, 15)]
    config = NeckConfig(in_channels=(256, 512, 1024, 2048))
    whole = cost.total(step.cost for step in cost.neck(config, sizes))
    assert whole.flops < 1.05 * cost.fusion_convolutions(config, sizes).flops


def test_backward_steps_come_in_reverse() -> None:
    forward, backward = cost.neck(small(), SIZES), cost.neck(small(), SIZES, backward=True)
    assert [step.part for step in backward] == [step.part for step in forward][::-1]
