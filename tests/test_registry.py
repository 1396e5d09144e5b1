"""The registry of cases: what the suites pick, that a key is a filter, and the two timers of a device."""

import dataclasses
import shlex
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import zigzag
from zigzag import cli
from zigzag.backends import Backend, Backends
from zigzag.bench import command, devices, timing
from zigzag.bench.registry import CENTRE, REGISTRY, Entry, Subject, grouped, select, shared
from zigzag.bench.settings import DTYPES, Settings
from zigzag.bench.workload import OURS, Case, Formulation


def keys(**fields):
    return [key for subject in select(Settings(**fields)) for key in subject.keys]


class TestSuites:
    def test_keys_are_unique(self):
        found = keys(suite="all")
        assert len(set(found)) == len(found)

    def test_the_larger_hold_the_smaller(self):
        assert set(keys()) | set(keys(suite="ci")) <= set(keys(suite="full")) <= set(keys(suite="all"))

    def test_full_has_every_value_of_every_axis(self):
        found = select(Settings(suite="full"))
        entries = [entry for entry in REGISTRY if entry.name != "model.segment"]  # it takes minutes: on request alone
        assert {subject.entry.name for subject in found} == {entry.name for entry in entries}
        for entry in entries:
            mine = [subject.variant for subject in found if subject.entry is entry]
            network = entry.name.startswith(("neck", "model"))
            assert {variant.dtype for variant in mine} == set(DTYPES) - ({"float16"} if network else set())
            assert {v.layout for v in mine} == ({"channels_last"} if entry.name == "neck.fuse" else set(entry.layouts))
            assert {variant.layout for variant in mine if variant.dtype == "float16"} <= {"channels_last"}
        operations = [each.variant for each in found if each.entry.name in ("region_stats.level1", "region_codes")]
        assert {(v.kernel, v.grids) for v in operations} == {(k, g) for k in (3, 1) for g in REGISTRY[0].grids}

    def test_the_longest_is_measured_on_request_alone(self):
        for suite in ("default", "ci", "full"):
            assert not [key for key in keys(suite=suite) if "segment" in key]
        (key,) = keys(only="model.segment 3x3 float32 channels_last K=3,5,7")
        assert keys(only=key) == [key]

    def test_default_is_in_one_dtype_and_another_takes_its_place(self):
        assert all(" float32 " in key for key in keys())
        assert keys(dtype="bfloat16") == [key.replace("float32", "bfloat16") for key in keys()]

    def test_the_estimates_keep_to_what_is_promised(self):
        for suite, minutes in (("default", 4), ("ci", 4), ("full", 25)):
            assert sum(subject.seconds(473) for subject in select(Settings(suite=suite))) < 60 * minutes

    def test_full_compiles_every_case_at_the_centre_that_does_not_take_minutes(self):
        found = [subject for subject in select(Settings(suite="full")) if subject.compiled is not None]
        assert {subject.compiled for subject in found} == {"default"}
        names = [subject.entry.name for subject in found]
        assert len(set(names)) == len(names)
        left = {entry.name for entry in REGISTRY} - set(names)
        networks = {"neck.fuse", "neck.stage", "neck.whole", "model.predict", "model.step", "model.segment"}
        alike = {"region_stats.level2", "region_stats.level3", "region_stats.level4"}
        assert left == networks | alike | {"dense_pathway.level2", "dense_pathway.level3"}
        for subject in found:
            assert all(
                part in (None, (), *dataclasses.astuple(CENTRE)) for part in dataclasses.astuple(subject.variant)
            )
        assert all(subject.compiled is None for suite in ("default", "ci") for subject in select(Settings(suite=suite)))
        assert not any(subject.compiled for subject in select(Settings(only="dense_pathway.level2")))

    def test_compiling_is_part_of_the_estimate(self):
        (plain,), (compiled,) = (select(Settings(only="neck.fuse 3x3", compiled=mode)) for mode in (None, "default"))
        assert compiled.seconds(473) == plain.seconds(473) + plain.entry.compiling

    def test_a_backend_without_kernels_is_no_side(self, monkeypatch):
        stand_ins = [Backend(name, "cuda", lambda: None) for name in ("triton", "cuda", "hopper")]
        monkeypatch.setattr(zigzag, "backends", lambda: Backends({each.name: each for each in stand_ins}))
        formulation = Formulation(lambda *_: [], [], [], [])

        def build(_, operation):
            fields = dict.fromkeys((field.name for field in dataclasses.fields(Case)), None)
            return Case(**fields | {"operation": operation, "formulations": {OURS: formulation}})

        work = SimpleNamespace(device=torch.device("cuda"))
        for operation, sides in (
            ("position_sensitive_pool", {OURS, "triton"}),
            ("region_norm", {OURS, "triton", "cuda"}),
            ("region_stats", {OURS, "triton", "cuda", "hopper"}),
        ):
            subject = Subject(Entry(operation, partial(build, operation=operation)), CENTRE, ())
            assert subject.build(work).formulations.keys() == sides
        elsewhere = SimpleNamespace(device=torch.device("meta"))
        assert subject.build(elsewhere).formulations.keys() == {OURS}

    def test_those_that_share_a_workload_stand_together(self):
        for suite in ("default", "full"):
            groups = [(shared(g[0].variant), g[0].entry.stages) for g in grouped(select(Settings(suite=suite)))]
            assert len(set(groups)) == len(groups)


class TestFilter:
    def test_a_key_finds_itself_alone(self):
        for suite in ("default", "full"):
            for key in keys(suite=suite):
                assert keys(only=key) == [key]
        assert keys(only="region_stats.level3 1x1 forward float16 contiguous K=3,5,7,9") != []

    def test_words_are_parts_of_names_or_words_of_keys(self):
        assert {key.split()[0] for key in keys(only="pathway")} == {"dense_pathway.level1", "dense_pathway.level4"}
        assert {key.split()[2] for key in keys(only="neck.fuse forward")} == {"forward"}
        assert {key.split()[1] for key in keys(only="neck.fuse 1x1")} == {"1x1"}
        assert keys(only="forw") == []

    def test_one_of_several_words(self):
        both = {*keys(only="region_codes forward"), *keys(only="region_norm forward")}
        assert set(keys(only="region_codes|region_norm forward")) == both
        assert {key.split()[2] for key in keys(only="region_codes 1x1|3x3 forward")} == {"forward"}

    def test_a_row_names_the_command_that_reproduces_it(self):
        settings = Settings(size=128, threads=2, suite="full", batch=2, quick=True, compiled="max-autotune")
        for key in keys(only="region_codes", quick=True):
            words = shlex.split(settings.command(key))[2:]
            again = command.settings_of(command.parser().parse_args(words))
            assert [k for subject in select(again) for k in subject.keys] == [key]
            assert (again.size, again.threads, again.batch, again.quick) == (128, 2, 2, True)
            assert again.compiled == "max-autotune"
        assert command.settings_of(command.parser().parse_args(["--compile"])).compiled == "default"


class TestListing:
    @pytest.fixture(autouse=True)
    def needs(self):
        for name in ("matplotlib", "rich", "torchvision"):
            pytest.importorskip(name)

    def test_list_gives_the_keys(self, capsys):
        assert cli.main(["bench", "--suite", "ci", "--list"]) == 0
        assert capsys.readouterr().out.splitlines() == keys(suite="ci")

    def test_dry_run_gives_times_and_measures_nothing(self, capsys, monkeypatch):
        monkeypatch.setattr("zigzag.bench.run.run", lambda *_: pytest.fail("it measured"))
        assert cli.main(["bench", "--filter", "region_norm", "--dry-run"]) == 0
        shown = capsys.readouterr().out
        assert "region_norm forward+backward" in shown
        assert "2 keys, about" in shown

    def test_nothing_to_list(self, capsys):
        assert cli.main(["bench", "--filter", "nothing", "--list"]) == 2
        assert "--filter 'nothing' matches none of dense_pathway.level1" in capsys.readouterr().err


class TestDevices:
    def spin(self, seconds):
        def run():
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                pass

        return run

    def test_known_answers_of_the_clock(self):
        schedule = timing.Plan(9, {"long": 1, "short": 1})
        spins = timing.interleave({"long": self.spin(4e-3), "short": self.spin(1e-3)}, schedule)
        assert timing.ratio(spins["long"], spins["short"]).median > 2
        long, short = torch.ones(1 << 22), torch.ones(1 << 16)
        targets = torch.zeros_like(long), torch.zeros_like(short)
        copies = {"long": lambda: targets[0].copy_(long), "short": lambda: targets[1].copy_(short)}
        found = timing.interleave(copies, schedule, before=devices.evict)
        assert timing.ratio(found["long"], found["short"]).median > 4

    def test_the_evicted_buffer_is_larger_than_the_cache(self):
        buffer = devices._evictor("cpu")
        assert buffer.numel() * 4 >= max(4 * devices.last_cache(), 1 << 27)

    def test_launches_run_ahead_of_a_gpu(self, monkeypatch):
        passes = []
        monkeypatch.setattr(devices, "_evictor", lambda device: SimpleNamespace(sum=lambda: passes.append(device)))
        devices.evict("cpu")
        devices.evict("cuda")
        assert passes == ["cpu"] + ["cuda"] * 48

    def test_a_gpu_is_timed_by_events_in_the_stream(self, monkeypatch):
        now, log = [0.0], []

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = now[0]
                log.append("record")

            def synchronize(self):
                log.append("synchronize")

            def elapsed_time(self, end):
                return 1e3 * (end.at - self.at)

        def run():
            now[0] += 0.25
            log.append("run")
            return "result"

        monkeypatch.setattr(torch.cuda, "Event", Event)
        assert devices.stopwatch("cuda")(run) == (0.25, "result")
        assert log == ["record", "run", "record", "synchronize"]
        assert devices.stopwatch("cpu") is timing.timed

    def test_only_a_gpu_has_graphs(self, capsys):
        assert cli.main(["bench", "--graph"]) == 2
        assert "--graph is for a GPU" in capsys.readouterr().err
