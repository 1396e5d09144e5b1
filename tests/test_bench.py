"""The benchmark's own machinery: its clock, its verdicts, its memory counts, and that a wrong result gets no time."""

import dataclasses
import importlib.util
import math
from functools import partial

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
    features = [
        torch.randn(1, 4 << i, *size, generator=generator).to(memory_format=torch.channels_last)
        for i, size in enumerate(SIZES)
    ]
    return Workload(features, build_neck(features, 3))


def build(name, work):
    from zigzag.bench.registry import REGISTRY

    return next(entry for entry in REGISTRY if entry.name == name).build(work)


def measured(case, directions=("forward", "forward+backward")):
    rows = runner.measure(case, directions, Settings(quick=True), CEILINGS, 64, lambda _: None)
    return {(row.backend, row.direction): row for row in rows}


class Clock:
    """A clock that side effects move: each run takes what it says."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def run(self, *seconds, log=None, name=""):
        left = list(seconds)

        def one():
            self.now += left.pop(0) if len(left) > 1 else left[0]
            if log is not None:
                log.append(name)

        return one


class TestTiming:
    def test_quantiles_interpolate(self):
        assert timing.quantile([3, 1, 2], 0.5) == 2
        assert timing.quantile([0, 10], 0.2) == 2
        assert timing.quantile([7], 0.8) == 7

    def test_sides_run_interleaved_in_alternating_order(self):
        clock, log = Clock(), []
        sides = {name: clock.run(1.0, log=log, name=name) for name in "ab"}
        timing.interleave(sides, timing.Plan(3, {"a": 1, "b": 1}), clock=clock)
        assert "".join(log) == "abbaab"

    def test_what_runs_before_is_not_timed(self):
        clock, log = Clock(), []
        before, run = clock.run(5.0, log=log, name="-"), clock.run(1.0, log=log, name="a")
        samples = timing.interleave({"a": run}, timing.Plan(3, {"a": 1}), clock=clock, before=before)
        assert "".join(log) == "-a-a-a"
        assert samples["a"].median == 1.0

    def test_a_slow_side_skips_rounds_and_still_pairs(self):
        clock = Clock()
        sides = {"slow": clock.run(8.0), "fast": clock.run(1.0)}
        samples = timing.interleave(sides, timing.Plan(8, {"slow": 4, "fast": 1}), clock=clock)
        assert (samples["slow"].runs, samples["fast"].runs) == (2, 8)
        assert timing.ratio(samples["slow"], samples["fast"]) == timing.Ratio(8.0, None, 2)

    def test_a_machine_slower_than_planned_ends_early_with_every_side_timed(self):
        clock = Clock()
        sides = {"a": clock.run(5.0), "b": clock.run(5.0)}
        samples = timing.interleave(sides, timing.Plan(50, {"a": 1, "b": 4}), limit=12.0, clock=clock)
        assert (samples["a"].runs, samples["b"].runs) == (2, 1)

    def test_drift_that_hits_both_sides_leaves_the_ratio(self):
        clock = Clock()
        sides = {"a": clock.run(2.0, 4.0, 8.0), "b": clock.run(1.0, 2.0, 4.0)}
        samples = timing.interleave(sides, timing.Plan(3, {"a": 1, "b": 1}), clock=clock)
        assert timing.ratio(samples["a"], samples["b"]).median == 2.0

    def test_a_difference_within_the_spread_is_noise(self):
        a, b = timing.Samples({0: 1.0, 1: 1.2, 2: 0.9}), timing.Samples({0: 1.1, 1: 1.0, 2: 1.0})
        assert timing.ratio(a, b).noise
        assert not timing.ratio(timing.Samples({0: 3.0, 1: 3.1}), b).noise

    @pytest.mark.parametrize(("runs", "words"), [(1, "1 run"), (2, "2 runs"), (3, "")])
    def test_one_or_two_runs_state_no_spread(self, runs, words):
        slow, fast = (timing.Samples(dict.fromkeys(range(runs), seconds)) for seconds in (4.0, 1.0))
        found = timing.ratio(slow, fast)
        assert timing.few(runs) == words
        if words:
            assert (found.median, found.spread, found.noise, slow.spread) == (4.0, None, None, None)
        else:
            assert (found.median, found.spread, found.noise, slow.spread) == (4.0, (4.0, 4.0), False, (4.0, 4.0))

    def test_sides_that_never_met_have_no_ratio(self):
        with pytest.raises(ValueError, match="share no round"):
            timing.ratio(timing.Samples({0: 1.0}), timing.Samples({1: 1.0}))

    def test_the_plan_keeps_to_the_budget_and_the_bounds(self):
        estimates = {"fast": 0.01, "slow": 1.0, "slower": 4.0}
        plan = timing.plan(estimates, budget=9.0, closely=("fast", "slow"), least=4, most=60)
        counts = {name: -(-plan.rounds // stride) for name, stride in plan.strides.items()}
        assert counts == {"fast": 60, "slow": 4, "slower": 1}
        assert all(stride & (stride - 1) == 0 for stride in plan.strides.values())
        assert plan.seconds(estimates) <= 9.0

    def test_warm_up_stops_when_stable(self):
        clock = Clock()
        assert timing.warm_up(
            clock.run(5.0, 3.0, 1.0, 1.05, 99.0), 100.0, partial(timing.timed, clock=clock)
        ) == pytest.approx(1.05)
        assert timing.warm_up(clock.run(5.0, 99.0), 2.0, partial(timing.timed, clock=clock)) == 5.0


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
        runner.time_sides(case, "forward", checks, Settings(quick=True))
        assert seen[EAGER] == 60.0
        assert seen[COMPILED] < 60.0


def row_of(side, direction, seconds, **fields):
    """A row of dense_pathway, level 1, on a GPU."""
    from zigzag.bench.rows import Row

    known = dict.fromkeys((field.name for field in dataclasses.fields(Row)), None)
    known |= {"case": "dense_pathway.level1", "layout": "channels_last", "grids": (3, 5, 7), "dtype": "bfloat16"}
    known |= {"backend": side, "direction": direction, "median": seconds, "device": "cuda", "timing": "events"}
    return Row(**known | fields)


class TestFiguresOfAGPU:
    def found(self, rows):
        from zigzag.bench.figures import figures

        return {figure.what: figure for figure in figures(rows)}

    def test_shares_of_the_copy_bandwidth(self):
        rate = 1e12
        rows = [
            row_of(side, way, seconds, bytes=moved, copy_share=moved / seconds / rate)
            for side, way, seconds, moved in (
                (OURS, "forward", 1e-3, 9e8),
                (OURS, "forward+backward", 4e-3, 9e8 + 15e8),
                ("triton", "forward", 2e-3, 9e8),
            )
        ]
        found = self.found(rows)
        forward, backward = (
            found[f"dense_pathway, level 1, {way}: share of the copy bandwidth"] for way in ("forward", "backward")
        )
        assert forward.values == pytest.approx({OURS: 0.9, "triton": 0.45})
        assert (forward.asked, forward.reached) == ("≥ 0.85", True)
        assert backward.values == pytest.approx({OURS: 0.5})
        assert backward.reached is False

    def test_the_faster_of_two_backends(self):
        rows = [
            row_of(*own) for own in (("triton", "forward", 3e-3), ("cuda", "forward", 2e-3), (OURS, "forward", 3e-3))
        ]
        figure = self.found(rows)["dense_pathway, forward / the faster of triton and cuda"]
        assert figure.values == pytest.approx({"triton": 1.5, "cuda": 1.0, OURS: 1.5})
        assert (figure.asked, figure.reached) == ("", None)

    def test_other_sides_over_ours_come_from_the_same_floor(self):
        fuse = {"case": "neck.fuse", "kernel": 3}
        rows = [
            row_of(side, "forward+backward", 1.0, over_floor=over, **fuse)
            for side, over in ((OURS, 1.3), (EAGER, 6.5), (OURS, 99.0), (COMPILED, 2.6))
        ]
        found = self.found(rows)
        assert found["neck, forward + backward: eager / this"].values[OURS] == pytest.approx(5.0)
        assert found["neck, forward + backward: compiled / this"].values == pytest.approx({OURS: 2.0, EAGER: 0.4})

    def test_a_graph_is_held_against_eager_as_it_is_launched(self):
        whole = {"case": "neck.whole", "kernel": 3}
        rows = [
            row_of(EAGER, "forward", 8e-3, shape="1x8", **whole),
            row_of(OURS, "forward", 4e-3, shape="1x8", **whole),
            row_of(OURS, "forward", 1e-3, shape="1x8", timing="graph", **whole),
            row_of(EAGER, "forward", 2e-3, shape="1x8", timing="graph", **whole),
        ]
        what = "neck of a small image, forward: eager / a CUDA graph of this"
        assert self.found(rows)[what].values == pytest.approx({OURS: 8.0, EAGER: 4.0})
        assert what not in self.found([dataclasses.replace(row, timing="events") for row in rows])
        assert what not in self.found([dataclasses.replace(rows[0], shape="16x8"), *rows[1:]])

    def test_peak_memory_against_eagers(self):
        rows = [
            row_of(side, "forward+backward", 1.0, case="neck.fuse", kernel=3, peak_bytes=peak)
            for side, peak in ((OURS, 3 << 30), (EAGER, 10 << 30))
        ]
        figure = self.found(rows)["peak memory of the neck's forward + backward / eager's"]
        assert figure.values[OURS] == pytest.approx(0.3)
        assert figure.reached


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
