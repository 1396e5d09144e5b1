"""`zigzag scale`: exponents of known curves, points that are what they say, and the words of the command."""

import importlib
import json

import pytest
import torch

import zigzag
from zigzag.bench.ceilings import Ceilings
from zigzag.bench.timing import Samples
from zigzag.bench.workload import FLOOR, OURS
from zigzag.cli import main
from zigzag.scaling import axes, curves, fit, processes

CEILINGS = Ceilings({1 << 20: 1e10, 1 << 28: 1e9}, {1 << 20: 1e10, 1 << 28: 2e9}, 1e11)
TINY = axes.Shape(side=20, channels=8, stages=2, levels=3, grids=(3,))


class TestFit:
    def test_the_exponent_of_a_power_is_found(self):
        assert fit.slope([(x, 7 * x**1.5) for x in (1, 2, 5, 9)]) == pytest.approx(1.5)
        assert fit.slope([(x, 3.0) for x in (1, 2)]) == pytest.approx(0)

    def test_drift_that_hits_all_points_leaves_the_exponent(self):
        drift = {0: 1.0, 1: 5.0, 2: 0.2}
        samples = {x: Samples({r: x**2 * factor for r, factor in drift.items()}) for x in (1, 2, 4)}
        found = fit.exponent(samples)
        assert (found.median, found.p20, found.p80) == pytest.approx((2, 2, 2))

    def test_noise_shows_in_the_spread(self):
        found = fit.exponent({1: Samples({0: 1.0, 1: 1.0}), 2: Samples({0: 2.0, 1: 4.0})})
        assert (found.p20, found.median, found.p80) == pytest.approx((1.0, 1.5, 2.0))

    def test_points_that_never_met_have_no_exponent(self):
        with pytest.raises(ValueError, match="share no round"):
            fit.exponent({1: Samples({0: 1.0}), 2: Samples({1: 1.0})})


class TestAxes:
    @pytest.mark.parametrize("name", axes.UNITS)
    def test_one_property_varies_and_ascends(self, name):
        middle = axes.Shape(threads=6)
        axis = axes.axis(name, middle)
        values = [value for value, _ in axis.points]
        assert values == sorted(set(values))
        fields = {
            field for _, shape in axis.points for field, value in vars(shape).items() if value != getattr(middle, field)
        }
        assert fields == {{"pixels": "side", "K": "grids"}.get(name, name)}

    def test_threads_go_up_to_those_that_there_are(self):
        assert [value for value, _ in axes.axis("threads", axes.Shape(threads=6)).points] == [1, 2, 4, 6]

    def test_pixels_are_those_of_all_levels(self):
        assert axes.Shape(side=9, levels=3).sizes == [(9, 9), (5, 5), (3, 3)]
        assert axes.axis("pixels", axes.Shape(side=8, levels=1)).points[0][0] == 16


class TestCurves:
    def test_time_and_memory_along_an_axis(self):
        axis = axes.Axis("batch", "images", [(n, axes.replace(TINY, batch=n)) for n in (1, 2)])
        growth = curves.grow(axis, {1: CEILINGS}, seconds=0.01)
        assert {(curve.side, curve.direction) for curve in growth.curves} == {
            (side, direction) for side in (OURS, FLOOR) for direction in ("forward", "forward+backward")
        }
        for curve in growth.curves:
            assert [timing.value for timing in curve.timings] == [1, 2]
            assert all(timing.p20 <= timing.median <= timing.p80 for timing in curve.timings)
            assert 0 < curve.predicted <= 1
        if zigzag.backends()["cpu"].available:
            assert [point.saved for point in growth.memory] == [point.predicted for point in growth.memory]
            assert growth.exponent == pytest.approx(growth.predicted) == 1

    def test_the_floor_has_the_convolutions_of_the_neck(self):
        point = curves.Point(TINY)
        assert len(point.run(FLOOR, "forward")) == (2 * (TINY.stages - 1) + 1) * TINY.levels
        assert point.least_seconds(FLOOR, "forward", CEILINGS) < point.least_seconds(OURS, "forward", CEILINGS)
        assert torch.get_num_threads() == TINY.threads


needs_models = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None or not torch.distributed.is_gloo_available(),
    reason="torchvision is not installed, or torch was built without gloo",
)


@needs_models
def test_a_step_on_two_processes():
    step = processes.measure(2, processes.Model(channels=8, stages=1, pixels=32), rounds=1)
    network = processes.Model(channels=8, stages=1, pixels=32).build()
    assert step.gradients == 4 * sum(p.numel() for p in network.parameters())
    assert step.sent == step.gradients
    assert min(step.alone, step.apart, step.together, step.exchange) > 0
    assert step.efficiency == step.alone / step.together


class TestCommand:
    def test_curves_a_table_and_a_page(self, tmp_path, capsys, monkeypatch):
        pytest.importorskip("rich")
        pytest.importorskip("matplotlib")
        from zigzag.scaling import run

        monkeypatch.setattr("zigzag.scaling.command.hold_allocator", lambda _: None)
        monkeypatch.setattr(run.ceilings, "measure", lambda *_: CEILINGS)
        words = ["--side", "16", "--channels", "8", "--threads", "1", "--seconds", "0.01", "--out", str(tmp_path)]
        assert main(["scale", "levels", "threads", "processes", *words]) == 0
        shown = capsys.readouterr().out
        assert "bytes saved by autograd" in shown
        assert "threads: there is one value only, 1, and so no curve" in shown
        assert "one core, so that there is nothing to share work with" in shown
        found = json.loads((tmp_path / "scaling.json").read_text())
        assert [growth["axis"] for growth in found["growth"]] == ["levels"]
        assert found["command"] == f"zigzag scale levels threads processes {' '.join(words[:8])}"
        page = (tmp_path / "report.html").read_text()
        for text in ("How time grows", "Exponents", "Time against levels", "More GPUs, on paper"):
            assert text in page

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (
                ["pixel"],
                "axes must be among pixels, channels, stages, batch, K, levels, threads, processes, got 'pixel'",
            ),
            (["--side", "3"], "--side must be 16 or more, got 3"),
            (["--channels", "48"], "--channels must be a power of two, got 48"),
            (["--threads", "0"], "--threads must be 1 or more, got 0"),
            (["--seconds", "0"], "--seconds must be more than 0, got 0.0"),
        ],
    )
    def test_bad_words(self, words, message, capsys):
        pytest.importorskip("rich")
        pytest.importorskip("matplotlib")
        assert main(["scale", *words]) == 2
        assert message in capsys.readouterr().err
