"""The benchmark's own machinery: its verdicts, its memory counts, its cases, and that a wrong result gets no time."""

import dataclasses
import importlib.util
import math

import pytest
import torch

import zigzag
from zigzag.bench import accuracy, baselines, memory, operations, runner, timing
from zigzag.bench.ceilings import Ceilings
from zigzag.bench.settings import Settings
from zigzag.bench.workload import COMMUTED, COMPILED, EAGER, FLOOR, OURS, Workload, build_neck
from zigzag.cost import Cost

CEILINGS = Ceilings({1 << 20: 1e10, 1 << 28: 1e9}, {1 << 20: 1e10, 1 << 28: 2e9}, 1e11)
SIZES = ((17, 20), (9, 10), (5, 5), (3, 3))


@pytest.fixture
def small_neck(monkeypatch):
    """Necks of the benchmark with 8 channels in the place of 256, and no more than two runs of anything."""
    monkeypatch.setattr(runner, "_WARM_UP", 0.0)
    monkeypatch.setattr(
        runner, "plan", lambda estimates, seconds, **_: timing.plan(estimates, seconds, least=2, most=2)
    )
    if importlib.util.find_spec("torchvision"):
        importlib.import_module("zigzag.models")  # its necks are not to be the small ones
    original = zigzag.nn.ZigZagNeck

    def make(in_channels, **fields):
        return original(in_channels, 8, norm_groups=4, **fields)

    monkeypatch.setattr(zigzag.nn, "ZigZagNeck", make)


@pytest.fixture
def work(small_neck):
    generator = torch.Generator().manual_seed(1)
    features = [  # of mean 1: the four sums of a map of noise cancel, so that one rounding more is many times stock's
        (1 + torch.randn(1, 4 << i, *size, generator=generator)).to(memory_format=torch.channels_last)
        for i, size in enumerate(SIZES)
    ]
    return Workload(features, build_neck(features, 3))


def build(name, work):
    from zigzag.bench.registry import REGISTRY

    return next(entry for entry in REGISTRY if entry.name == name).build(work)


def measured(case, directions=("forward", "forward+backward")):
    measurement = runner.Measurement(case, directions, Settings(quick=True), lambda _: None)
    for _ in range(runner.INSTALMENTS):
        measurement.take()
    return {(row.backend, row.direction): row for row in measurement.rows(CEILINGS, 64)}


class TestAccuracy:
    def errors(self, value, dtype=torch.float32):
        exact = {"output": [torch.ones(4, dtype=torch.float64)]}
        return accuracy.group_errors({"output": [torch.full((4,), value, dtype=dtype)]}, exact)

    def test_twice_stock_is_right_and_more_is_wrong(self):
        stock = self.errors(1 + 1e-5)
        assert accuracy.judge(self.errors(1 + 1.9e-5), stock).right
        assert not accuracy.judge(self.errors(1 + 2.2e-5), stock).right

    def test_nothing_is_asked_to_beat_rounding(self):
        verdict = accuracy.judge(self.errors(1 + 1.2e-7), self.errors(1.0))
        assert verdict.right
        assert verdict.ratio == pytest.approx(2, rel=0.1)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_what_is_not_finite_is_wrong(self, value):
        assert not accuracy.judge(self.errors(value), self.errors(1.0)).right
        assert not accuracy.judge(self.errors(value), self.errors(value)).right

    def test_a_stock_result_far_off_excuses_nothing(self):
        assert not accuracy.judge(self.errors(1.0), self.errors(1.5)).right

    def test_a_wrong_shape_is_wrong(self):
        errors = accuracy.group_errors({"output": [torch.ones(3)]}, {"output": [torch.ones(4, dtype=torch.float64)]})
        assert errors["output"].relative == math.inf


class TestMemory:
    def test_storages_count_once_and_parameters_not(self):
        weight = torch.randn(8, 8, requires_grad=True)
        x = torch.randn(4, 8, requires_grad=True)
        with memory.saved_bytes([weight]) as saved:
            y = x @ weight
            y = y * x[:2].repeat(2, 1) + y * y
        y.sum().backward()
        # x for the product, y once though it is saved three times, and the repeated rows: 3 maps of 4 x 8.
        assert saved.total == 3 * 4 * 8 * 4

    def test_peak_growth_sees_what_was_touched(self):
        size = 64 << 20
        result, grown = memory.peak_growth(lambda: torch.ones(size // 4).sum().item())
        assert result == size // 4
        assert grown is None or 0.9 * size < grown < 2 * size


class TestCeilings:
    def test_bandwidth_between_the_measured_points(self):
        assert CEILINGS.bandwidth(1) == 1e10
        assert CEILINGS.bandwidth(1 << 24) == pytest.approx((1e10 + 2e9) / 2)
        assert CEILINGS.bandwidth(1 << 30) == 2e9

    def test_least_seconds_of_steps_add(self):
        compute, move = Cost(flops=10**11), Cost(read=1 << 20)
        assert CEILINGS.least_seconds([compute, move]) == pytest.approx(1 + (1 << 20) / 1e10)


class TestBaselines:
    def test_convolved_sums_are_the_sums_of_the_convolution(self):
        x, weight = torch.randn(1, 3, 8, 8), torch.randn(3, 3, 3, 3)
        (sums,) = baselines.convolved_region_sums(x, [weight], (2,))
        mapped = torch.conv2d(x, weight, padding=1)
        torch.testing.assert_close(sums, torch.nn.functional.avg_pool2d(mapped, 4) * 16)

    def test_the_floor_moves_the_bytes(self):
        copied = baselines.moving(Cost(read=600, written=400), torch.float32)()
        assert 2 * copied.numel() * 4 == 1000
        assert baselines.moving(Cost(read=1000, written=8), torch.float32)().item() == 252

    def test_the_floor_has_every_fusion_convolution(self, work):
        from zigzag.bench.neck import layers

        assert len(layers(work, laterals=False)) == (2 * (3 - 1) + 1) * 4
        assert len(layers(work, laterals=True)) == 24
        for x, weight, _ in layers(work, laterals=True):
            assert x.shape[1] == weight.shape[1]


class TestCases:
    @pytest.mark.parametrize(
        "name",
        [
            "region_stats.level1",
            "region_stats.norm.level1",
            "region_codes",
            "region_norm",
            "dense_pathway.level1",
            "dense_pathway.level4",
        ],
    )
    def test_operations_are_right_and_timed(self, work, name):
        rows = measured(build(name, work))
        assert {side for side, _ in rows} >= {OURS, FLOOR}
        for (side, _), row in rows.items():
            assert row.status == "ok", row.note
            assert row.runs in (1, 2)
            assert row.median > 0
            assert (row.p20, row.over_floor_p80, row.speedup_p20, row.noise) == (None,) * 4
            assert side == FLOOR or row.error_ratio <= 2
        assert rows[FLOOR, "forward"].over_floor == 1.0

    def test_the_pool_is_right_and_timed(self, work, monkeypatch):
        monkeypatch.setattr(operations, "_REGIONS", 12)
        rows = measured(build("position_sensitive_pool.level3", work))
        assert {side for side, _ in rows} == {OURS, EAGER, FLOOR}
        assert all(row.status == "ok" for row in rows.values()), [row.note for row in rows.values()]
        assert rows[OURS, "forward"].shape == "1x2254x5x5, 12 regions, 21x21 bins of 7x7 cells"
        maps, pooled, boxes = 2254 * 5 * 5 * 4, 12 * 21 * 21 * 46 * 4, 12 * 5 * 4
        assert rows[OURS, "forward"].bytes == maps + pooled + boxes
        assert rows[OURS, "forward+backward"].bytes == 2 * (maps + pooled + boxes)

    def test_the_pools_regions_lie_in_their_images(self):
        rois = operations._regions(2, 100, 200)
        assert rois[:, 0].long().bincount().tolist() == [300, 300]
        assert rois[:, 1:3].ge(0).all()
        assert (rois[:, 3:] - rois[:, 1:3]).ge(99 / 16 - 1e-3).all()
        assert rois[:, 3:].le(torch.tensor([199.0, 99.0]) + 1e-3).all()

    @pytest.mark.parametrize("name", ["region_stats.level1", "region_codes", "region_norm", "dense_pathway.level1"])
    @pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
    def test_operations_are_right_in_another_dtype_and_layout(self, work, name, layout):
        form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        features = [feature.bfloat16().contiguous(memory_format=form) for feature in work.features]
        case = build(name, Workload(features, build_neck(features, 3)))
        assert (case.variant.dtype, case.variant.layout) == ("bfloat16", layout)
        for checks in runner.check_directions(case, ["forward", "forward+backward"]).values():
            assert all(check.right for check in checks.values()), checks

    def test_the_neck_is_right_and_timed(self, work):
        rows = measured(build("neck.fuse", work))
        assert {side for side, _ in rows} == {OURS, EAGER, COMMUTED, FLOOR}
        assert all(row.status == "ok" for row in rows.values()), [row.note for row in rows.values()]
        assert rows[EAGER, "forward+backward"].saved_bytes > 0

    def test_checking_the_neck_leaves_its_parameters(self, work):
        case = build("neck.fuse", work)
        before = {name: value.clone() for name, value in work.parameters.items()}
        with case.checking("forward+backward"):
            assert (work.parameters["output.0.norm.weight"] == 0.25).all()
        assert all(torch.equal(value, before[name]) for name, value in work.parameters.items())

    def test_the_whole_neck_has_its_laterals_in_the_floor(self, work):
        rows = measured(build("neck.whole", work), ["forward"])
        fused = measured(build("neck.fuse", work), ["forward"])
        assert {side for side, _ in rows} == {OURS, EAGER, COMMUTED, FLOOR}
        assert all(row.status == "ok" for row in rows.values())
        assert rows[FLOOR, "forward"].flops > fused[FLOOR, "forward"].flops

    @pytest.mark.parametrize(("name", "direction"), [("model.predict", "forward"), ("model.step", "forward+backward")])
    def test_a_whole_network_is_right_and_timed(self, work, monkeypatch, name, direction):
        pytest.importorskip("torchvision")
        from zigzag.bench import model

        monkeypatch.setattr(model, "BACKBONE", "resnet18")
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
        rows = measured(build(name, Workload(work.features, work.neck, images=images)), [direction])
        assert {side for side, _ in rows} == {OURS, EAGER, COMMUTED, FLOOR}
        assert all(row.status == "ok" for row in rows.values()), [row.note for row in rows.values()]
        assert rows[OURS, direction].size == 64

    def test_a_networks_average_over_scales_is_right_and_timed(self, work, monkeypatch):
        pytest.importorskip("torchvision")
        pytest.importorskip("lightning", reason="lightning is not installed: zigzag[train]")
        from zigzag.bench import model

        monkeypatch.setattr(model, "BACKBONE", "resnet18")
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
        case = build("model.segment", Workload(work.features, work.neck, images=images))
        (found,) = case.formulations[OURS].run("forward")["output"]
        assert found.shape == (model.CLASSES, 64, 64)
        torch.testing.assert_close(found.sum(0), torch.ones(64, 64))
        rows = measured(case, ["forward"])
        assert {side for side, _ in rows} == {OURS, EAGER, COMMUTED, FLOOR}
        assert all(row.status == "ok" for row in rows.values()), [row.note for row in rows.values()]

    def test_rows_go_through_json(self, work, tmp_path):
        from zigzag.bench import rows

        found = list(measured(build("dense_pathway.level4", work)).values())
        about = rows.machine(2)
        rows.write(tmp_path / "rows.json", found, about)
        read = rows.read(tmp_path / "rows.json")
        assert read.machine == about
        assert [(row.key, row.backend) for row in read.rows] == [(row.key, row.backend) for row in found]
        assert read.rows[0].grids == (3, 5, 7)
        assert read.rows[0].median == pytest.approx(found[0].median, rel=1e-4)
        assert read.rows[0].saved_bytes is None


class TestRefusal:
    """A planted wrong result gets no time and no speedup, and stock PyTorch keeps its own."""

    def wrong(self, monkeypatch, operation, spoil):
        original = getattr(zigzag.ops, operation)
        monkeypatch.setattr(zigzag.ops, operation, lambda *args, **kwargs: spoil(original(*args, **kwargs)))

    @pytest.mark.parametrize(
        "spoil",
        [
            pytest.param(lambda result: (result[0] * 1.00001, result[1]), id="one part in 100,000"),
            pytest.param(lambda result: (result[0], result[1] + math.nan), id="NaN"),
            pytest.param(lambda result: (result[0].roll(1, 1), result[1]), id="wrong cell"),
        ],
    )
    def test_a_wrong_operation(self, work, monkeypatch, spoil):
        self.wrong(monkeypatch, "region_stats", spoil)
        rows = measured(build("region_stats.level1", work))
        for direction in ("forward", "forward+backward"):
            row = rows[OURS, direction]
            assert (row.status, row.runs, row.median, row.speedup, row.roofline) == ("WRONG", 0, None, None, None)
            assert "times stock PyTorch's" in row.note
            assert rows[EAGER, direction].status == "ok"
            assert rows[EAGER, direction].speedup is None

    def test_a_wrong_gradient(self, work, monkeypatch):
        class Spoiled(torch.autograd.Function):
            @staticmethod
            def forward(_, x):
                return x.clone()

            @staticmethod
            def backward(_, grad):
                return grad * 1.0001

        self.wrong(monkeypatch, "dense_pathway", Spoiled.apply)
        rows = measured(build("dense_pathway.level1", work))
        assert rows[OURS, "forward"].status == "ok"
        assert rows[OURS, "forward+backward"].status == "WRONG"
        assert "gradients" in rows[OURS, "forward+backward"].note

    def test_a_wrong_neck(self, work, monkeypatch):
        backends = importlib.import_module("zigzag.backends")
        original = zigzag.nn.neck.dense_pathway

        def spoiled(*args, **kwargs):
            result = original(*args, **kwargs)
            by_default = backends._chosen is None
            return result * 1.0001 if by_default and isinstance(result, torch.Tensor) else result

        monkeypatch.setattr(zigzag.nn.neck, "dense_pathway", spoiled)
        rows = measured(build("neck.fuse", work), ["forward"])
        status = {side: row.status for (side, _), row in rows.items()}
        assert status == {OURS: "WRONG", COMMUTED: "ok", EAGER: "ok", FLOOR: "ok"}

    def test_references_that_disagree_stop_everything(self, work, monkeypatch):
        from zigzag.bench.settings import BenchError

        case = build("neck.fuse", work)
        original = zigzag.reference.neck.fuse
        monkeypatch.setattr(
            zigzag.reference.neck, "fuse", lambda *args: [values * (1 + 1e-8) for values in original(*args)]
        )
        with pytest.raises(BenchError, match="literal and the commuted"):
            case.exact("forward")

    @pytest.mark.parametrize("kind", [RuntimeError, ValueError])
    def test_a_side_that_raises_is_reported(self, work, kind):
        def broken(maps, parameters):
            raise kind("no such kernel\nand more")

        case = build("dense_pathway.level1", work)
        failing = dataclasses.replace(case.formulations[OURS], call=broken)
        rows = measured(dataclasses.replace(case, formulations={**case.formulations, OURS: failing}))
        row = rows[OURS, "forward"]
        assert (row.status, row.note, row.median) == ("failed", "no such kernel", None)
        assert rows[EAGER, "forward"].status == "ok"


class TestCompiled:
    def test_eager_compiled_is_one_more_side(self, work, monkeypatch):
        from zigzag.bench.registry import select

        modes = []
        monkeypatch.setattr(torch, "compile", lambda function, mode: modes.append(mode) or function)
        settings = Settings(only="dense_pathway.level4 forward", quick=True, compiled="max-autotune")
        (subject,) = select(settings)
        rows = measured(subject.build(work), subject.directions)
        assert modes == ["max-autotune"]
        assert {side for side, _ in rows} == {OURS, EAGER, COMPILED, FLOOR}
        assert rows[COMPILED, "forward"].status == "ok"

    def test_a_first_run_that_compiles_is_not_taken_for_a_time(self, work, monkeypatch):
        monkeypatch.setattr(torch, "compile", lambda function, **_: function)
        case = build("dense_pathway.level4", work)
        case = dataclasses.replace(
            case, formulations={**case.formulations, COMPILED: case.formulations[EAGER].compiled("default")}
        )
        checks = {side: dataclasses.replace(check, seconds=60.0) for side, check in runner.check(
            case, "forward", case.exact("forward")).items()}  # fmt: skip
        seen = {}
        monkeypatch.setattr(
            runner, "plan", lambda estimates, *_, **__: seen.update(estimates) or timing.plan(estimates, 0.0, most=2)
        )
        next(runner.instalments(case, "forward", checks, Settings(quick=True), 1))
        assert seen[EAGER] >= 60.0 > seen[COMPILED]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_run_warns_of_backends_of_its_own_device_alone(monkeypatch, device):
    pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[bench]")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: zigzag[bench]")
    from zigzag.backends import Backend, Backends
    from zigzag.bench import rows, run

    broken = [Backend(f"{where}'s", where, lambda: "it is broken") for where in ("cpu", "cuda")]
    monkeypatch.setattr(zigzag, "backends", lambda: Backends({backend.name: backend for backend in broken}))
    (warning,) = run._warnings(dataclasses.replace(rows.machine(1), load=0.0), device)
    assert [backend.name in warning for backend in broken] == [device == "cpu", device == "cuda"]
