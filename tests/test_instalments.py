"""Samples tell of what differs from run to run: operands move between rounds, and rounds come in instalments."""

import dataclasses
import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from zigzag.bench import placement, runner
from zigzag.bench.baselines import Convolutions, Floor, moving
from zigzag.bench.settings import Settings
from zigzag.bench.timing import Plan
from zigzag.bench.workload import COMPILED, EAGER, FLOOR, OURS, Case, Formulation, Variant
from zigzag.cost import Cost

ROUNDS = 6


def make_case(name="planted", log=None, spoiled=1.0):
    """A case of two sides and a floor that take no time; every run leaves its name and where its operands lie."""
    log = [] if log is None else log
    x, weight, gradient, buffer = (torch.ones(4, 4), torch.ones(4), torch.ones(4, 4), torch.ones(4, 4))

    def run(side, factor=1.0):
        def call(maps, parameters):
            log.append((name, side, maps[0].data_ptr(), parameters[0].data_ptr()))
            return [maps[0] * parameters[0] * factor]

        return call

    def floor():
        log.append((name, FLOOR, buffer.data_ptr(), None))

    formulations = {
        side: Formulation(run(side, factor), [x], [weight], [gradient])
        for side, factor in ((OURS, spoiled), (EAGER, 1.0))
    }
    return Case(
        name=name,
        operation=name,
        variant=Variant(3, "float32", "channels_last", (3,)),
        shape="4x4",
        formulations=formulations,
        stock={"output": EAGER},
        exact=lambda direction: formulations[EAGER].double().run(direction),
        costs={"forward": [Cost(flops=1)]},
        floors={"forward": Floor(floor, [buffer])},
        seconds={"forward": 1.0},
    )


@pytest.fixture
def brief(monkeypatch):
    """Six rounds of every side, whatever they take, without warm-up and with the caches left alone."""
    monkeypatch.setattr(runner, "_WARM_UP", 0.0)
    monkeypatch.setattr(runner, "evict", lambda _: None)
    monkeypatch.setattr(runner, "plan", lambda sides, *_, **__: Unhurried(ROUNDS, dict.fromkeys(sides, 1)))


class Unhurried(Plan):
    """Sides that take no time would be over their limit at once."""

    def seconds(self, *_):
        return math.inf


def begun(case, log):
    measurement = runner.Measurement(case, ["forward"], Settings(), lambda _: None)
    log.clear()
    return measurement


class TestMover:
    def test_every_tensor_moves_with_its_values_and_layout(self):
        x = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
        before, held = x.data_ptr(), [x]
        expected = x.detach().clone()
        old = x.detach()  # keeps the old place taken
        placement.Mover([x])()
        assert held[0].data_ptr() != before == old.data_ptr()
        assert torch.equal(x, expected)
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert x.is_leaf

    def test_some_move_at_a_time_and_all_in_turn(self, monkeypatch):
        tensors = [torch.zeros(256) for _ in range(5)]
        monkeypatch.setattr(placement, "LEAST_MOVED", 2048)
        move, moves = placement.Mover(tensors), []
        for _ in range(5):
            kept = [tensor.detach() for tensor in tensors]
            move()
            moves.append([i for i, old in enumerate(kept) if old.data_ptr() != tensors[i].data_ptr()])
        assert [sorted(each) for each in moves] == [[0, 1], [2, 3], [0, 4], [1, 2], [3, 4]]

    def test_few_and_small_ones_move_once_a_call(self):
        tensors = [torch.zeros(4), torch.zeros(4)]
        move = placement.Mover(tensors)
        kept = [tensor.detach() for tensor in tensors]
        move()
        assert all(old.data_ptr() != new.data_ptr() for old, new in zip(kept, tensors, strict=True))
        placement.Mover([])()


class TestOperands:
    def test_a_case_names_each_once_maps_and_the_floors_first(self):
        case = make_case()
        ours = case.formulations[OURS]
        (buffer,) = case.floors["forward"].operands
        expected = [ours.maps[0], buffer, ours.gradients[0], ours.parameters[0]]
        assert list(map(id, case.operands("forward"))) == list(map(id, expected))

    @pytest.mark.parametrize("cost", [Cost(read=600, written=400), Cost(read=1000, written=8)])
    def test_the_floor_of_an_operation_follows_its_operands(self, cost):
        floor = moving(cost, torch.float32)
        for tensor in floor.operands:
            tensor.data = torch.full_like(tensor.data, 3.0)
        assert floor().flatten()[0] in (3.0, 3.0 * 252)

    def test_the_floor_of_the_neck_follows_its_operands(self):
        x, weight = torch.randn(1, 2, 5, 5), torch.randn(2, 2, 3, 3, requires_grad=True)
        floor = Convolutions([(x, weight, None), (x, weight, None)])
        moved = [x.detach().clone() * 2, weight.detach().clone() * 3]
        x.data, weight.data = moved
        torch.testing.assert_close(floor.forward()[0], torch.conv2d(moved[0], moved[1], padding=1))
        gradients = floor.training_step()
        assert [gradient.shape for gradient in gradients] == [x.shape, weight.shape] * 2
        alone, _ = Convolutions([(x, weight, None)]).training_step()
        torch.testing.assert_close(gradients[0], alone)  # a leaf each: no sum of the two
        assert {id(x), id(weight)} < set(map(id, floor.operands))

    def test_the_sum_over_a_map_follows_the_map(self):
        from zigzag.bench.operations import norm_stats
        from zigzag.bench.workload import Workload, build_neck

        features = [torch.randn(1, 4, size, size) for size in (16, 8, 4, 2)]
        case = norm_stats(Workload(features, build_neck(features, 3)), level=0)
        (x,) = case.formulations[OURS].maps
        x.data = torch.ones_like(x)
        assert case.floors["forward"]().item() == x.numel()
        assert any(each is x for each in case.floors["forward"].operands)


@pytest.mark.usefixtures("brief")
class TestMeasurement:
    def test_an_instalment_is_a_third_of_the_rounds_and_all_make_the_row(self):
        log = []
        measurement = begun(make_case(log=log), log)
        taken = []
        for _ in range(runner.INSTALMENTS + 1):
            measurement.take()
            taken.append(len(log))
        assert taken == [3 * ROUNDS // 3, 6 * ROUNDS // 3, 9 * ROUNDS // 3, 9 * ROUNDS // 3]
        rows = {row.backend: row for row in measurement.rows(Ceilings(), 64)}
        assert {side: row.runs for side, row in rows.items()} == {OURS: ROUNDS, EAGER: ROUNDS, FLOOR: ROUNDS}

    def test_rows_hold_a_drift_between_instalments(self, monkeypatch):
        speed = [1.0]

        def stopwatch(run):
            run()
            return speed[0], None

        monkeypatch.setattr(runner, "stopwatch", lambda _: stopwatch)
        log = []
        measurement = begun(make_case(log=log), log)
        for speed[0] in (1.0, 2.0, 1.5):
            measurement.take()
        row = measurement.rows(Ceilings(), 64)[0]
        assert (row.p20, row.median, row.p80) == (1.0, 1.5, 2.0)

    def test_operands_lie_elsewhere_in_every_round(self):
        log = []
        measurement = begun(make_case(log=log), log)
        measurement.take()
        measurement.take()
        for side in (OURS, EAGER, FLOOR):
            places = [place for _, name, place, _ in log if name == side]
            assert len(places) == 2 * ROUNDS // 3
            assert all(one != other for one, other in pairwise(places)), side
        # In one round the sides share their operands.
        assert [x for _, name, x, _ in log if name == OURS] == [x for _, name, x, _ in log if name == EAGER]

    def test_a_wrong_side_gets_no_time_in_any_instalment(self):
        log = []
        measurement = begun(make_case(log=log, spoiled=1.001), log)
        for _ in range(runner.INSTALMENTS):
            measurement.take()
        assert {side for _, side, *_ in log} == {EAGER, FLOOR}
        assert {row.backend: row.status for row in measurement.rows(Ceilings(), 64)}[OURS] == "WRONG"

    def test_what_is_compiled_is_timed_before_the_next_is_compiled(self):
        log = []
        case = make_case(log=log)
        case = dataclasses.replace(case, formulations={**case.formulations, COMPILED: case.formulations[EAGER]})
        measurement = begun(case, log)
        measurement.take()
        assert len(log) == 4 * ROUNDS
        measurement.take()
        assert len(log) == 4 * ROUNDS

    def test_it_tells_which_instalment(self):
        told = []
        measurement = runner.Measurement(make_case(), ["forward"], Settings(), told.append)
        for _ in range(runner.INSTALMENTS + 1):
            measurement.take()
        parts = [f"timing, {number} of 3" for number in (1, 2, 3)]
        assert [words.split(": ")[1] for words in told] == ["checking against float64", *parts]


class Ceilings:
    """Of a machine that takes a second for anything."""

    copy = 1.0

    def least_seconds(self, _):
        return 1.0


@pytest.mark.usefixtures("brief")
class TestTurns:
    """The run's own order, over planted cases."""

    @pytest.fixture
    def session(self, monkeypatch):
        for name in ("torchvision", "matplotlib", "rich"):
            pytest.importorskip(name, reason=f"{name} is not installed: zigzag[bench]")
        from rich.console import Console

        from zigzag.bench import rows, run
        from zigzag.bench.console import Screen

        session = run._Session(Settings(), Screen(Console(quiet=True)), rows.machine(1), [])
        session.ceilings = {"float32": Ceilings()}
        monkeypatch.setattr(session, "save", lambda *_: [])  # these ceilings are for no file
        return session

    def tasks(self, session, **builds):
        from zigzag.bench.run import _Task

        return [_Task(name, build, ["forward"], 64, session.rows.extend) for name, build in builds.items()]

    def test_cases_take_turns_and_their_rows_keep_their_order(self, session):
        log = []
        builds = {name: partial(make_case, name, log) for name in ("a", "b")}
        session._in_turns(self.tasks(session, **builds))
        turns = [name for i, (name, *_) in enumerate(log) if i == 0 or log[i - 1][0] != name]
        assert turns == ["a", "b"] * runner.INSTALMENTS
        assert [row.case for row in session.rows] == ["a"] * 3 + ["b"] * 3
        assert {row.runs for row in session.rows} == {ROUNDS}
        assert session.faults == []

    def test_what_fails_on_the_way_is_a_fault_and_the_others_go_on(self, session):
        log = []

        def unbuilt():
            raise RuntimeError("no room")

        def failing():
            case = make_case("late", log)

            def floor():
                log.append(("late", FLOOR, None, None))
                if len([each for each in log if each[:2] == ("late", FLOOR)]) > ROUNDS // 3:
                    raise RuntimeError("gone")

            return dataclasses.replace(case, floors={"forward": Floor(floor, [])})

        session._in_turns(self.tasks(session, a=unbuilt, late=failing, b=partial(make_case, "b", log)))
        assert session.faults == ["failed: a: no room", "failed: late: gone"]
        assert {row.case for row in session.rows} == {"b"}
