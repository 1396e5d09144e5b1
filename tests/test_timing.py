"""How `zigzag bench` takes times: interleaved runs, medians and their spread, on clocks with known answers."""

from __future__ import annotations

import random
from functools import partial

import pytest

from zigzag.bench import timing


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
        assert timing.quantile([0, 10, 20, 30], 0.3) == 5
        assert timing.quantile([7], 0.8) == 7

    @pytest.mark.parametrize("runs", [3, 4, 6, 20])
    def test_two_runs_of_the_same_differ_by_less_than_the_spread(self, runs):
        source = random.Random(0)  # noqa: S311 - noise, no secret
        within = 0
        for _ in range(4000):
            one, other = (timing.Samples({i: source.gauss(1, 0.05) for i in range(runs)}) for _ in range(2))
            widest = max(each.p80 - each.p20 for each in (one, other))
            within += abs(one.median - other.median) <= widest
        assert within / 4000 > 0.93

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

    def test_what_runs_each_round_comes_first_once_and_is_not_timed(self):
        clock, log = Clock(), []
        sides = {name: clock.run(1.0, log=log, name=name) for name in "ab"}
        samples = timing.interleave(
            sides, timing.Plan(2, {"a": 1, "b": 1}), clock=clock,
            before=clock.run(5.0, log=log, name="-"), each_round=clock.run(9.0, log=log, name="|"),
        )  # fmt: skip
        assert "".join(log) == "|-a-b|-b-a"
        assert {name: one.median for name, one in samples.items()} == {"a": 1.0, "b": 1.0}

    @pytest.mark.parametrize("rounds", range(1, 9))
    def test_instalments_are_even_and_make_up_the_whole(self, rounds):
        schedule, estimates = timing.Plan(rounds, {"fast": 1, "slow": 4}), {"fast": 1.0, "slow": 10.0}
        parts = schedule.parts(3)
        assert [number for part in parts for number in part] == list(range(rounds))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert parts[0].start == 0 < len(parts[0])
        assert sum(schedule.seconds(estimates, part) for part in parts) == schedule.seconds(estimates)

    def test_instalments_together_are_the_rounds_of_one_go(self):
        def taken(count):
            clock, log = Clock(), []
            sides = {name: clock.run(seconds, log=log, name=name) for name, seconds in (("a", 1.0), ("b", 2.0))}
            schedule = timing.Plan(7, {"a": 1, "b": 4})
            parts = [timing.interleave(sides, schedule, clock=clock, rounds=part) for part in schedule.parts(count)]
            return timing.joined(parts), log

        assert taken(3) == taken(1)
        assert list(taken(3)[0]["b"].by_round) == [0, 4]

    def test_a_drift_between_instalments_is_in_the_spread(self):
        clock, schedule = Clock(), timing.Plan(30, {"a": 1})

        def spread(*speeds):
            parts = []
            for seconds, rounds in zip(speeds, schedule.parts(len(speeds)), strict=True):
                parts.append(timing.interleave({"a": clock.run(seconds)}, schedule, clock=clock, rounds=rounds))
            return timing.joined(parts)["a"].spread

        assert spread(1.0) == (1.0, 1.0)
        assert spread(1.0, 1.5, 1.2) == (1.0, 1.5)

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

    def test_an_instalment_that_is_slower_than_planned_ends_early_with_a_round(self):
        clock = Clock()
        samples = timing.interleave(
            {"a": clock.run(5.0)}, timing.Plan(50, {"a": 1}), limit=4.0, clock=clock, rounds=range(20, 40)
        )
        assert list(samples["a"].by_round) == [20]

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
