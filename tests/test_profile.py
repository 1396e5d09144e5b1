"""`zigzag profile` and `zigzag replay`: what a trace is read as, ranges that change nothing, captured calls."""

import dataclasses
import gzip
import json

import pytest
import torch

import zigzag
from zigzag import cost
from zigzag.bench.ceilings import Ceilings
from zigzag.bench.settings import BenchError
from zigzag.cli import main
from zigzag.profile import capture, rows, trace
from zigzag.profile.ranges import named, ranges
from zigzag.profile.trace import HOST, OTHER, Key, Moment

CEILINGS = Ceilings({1 << 20: 1e10, 1 << 28: 1e9}, {1 << 20: 1e10, 1 << 28: 2e9}, 1e11)
SIZES = [(12, 10), (9, 9), (5, 5)]

needs_kernels = pytest.mark.skipif(
    not zigzag.backends()["cpu"].available, reason=f"cpu: {zigzag.backends()['cpu'].reason}"
)


def event(name, start, duration, category="cpu_op", thread=1, **args):
    return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": duration, "tid": thread, "args": args}


def memory(time, size, kind=0):
    return {"ph": "i", "name": "[memory]", "ts": time, "tid": 1, "args": {"Bytes": size, "Device Type": kind}}


def user(name, start, duration, **options):
    return event(name, start, duration, "user_annotation", **options)


PLACE = "stage 2, down, level 1"
FORWARD = [
    user("whole pass", 0, 100),
    user("forward", 5, 90),
    user(f"forward: {PLACE}", 10, 80),
    user("fusion", 10, 30),
    event("aten::conv2d", 12, 20),
    event("aten::convolution", 14, 10),
    event("zigzag::region_stats", 35, 5),
    event("zigzag::dense_pathway", 50, 30),
    event("aten::empty", 52, 3),
    event("aten::add", 82, 4),
]


class TestTrace:
    def test_own_times_go_to_the_operation_around_them_and_add_up(self):
        (one,) = trace.passes(FORWARD)
        found = {key: (spent.time, spent.calls) for key, spent in one.spent.items()}
        assert found == {
            Key("", "", HOST): (10.0, 0),
            Key("forward", "", HOST): (10.0, 0),
            Key("forward", PLACE, HOST): (21.0, 0),
            Key("forward", PLACE, "fusion"): (20.0, 1),
            Key("forward", PLACE, "region_stats"): (5.0, 1),
            Key("forward", PLACE, "dense_pathway"): (30.0, 1),
            Key("forward", PLACE, OTHER): (4.0, 1),
        }
        assert sum(time for time, _ in found.values()) == one.wall == 100.0

    def test_a_convolution_is_named_by_its_place(self):
        events = [user("whole pass", 0, 50), user("forward: lateral, level 2", 0, 20), event("aten::conv2d", 5, 10)]
        (one,) = trace.passes([*events, event("aten::conv2d", 30, 10)])
        assert {key.operation for key, spent in one.spent.items() if spent.calls} == {"lateral", trace.CONVOLUTION}

    def test_the_kernels_of_a_gpu_count_where_they_were_launched(self):
        events = [
            *FORWARD,
            event("zigzag_cuda::region_stats", 86, 1, **{"External id": 7}),
            event("sums", 200, 40, "kernel", 9, **{"External id": 7}),
            event("sums", 250, 2, "kernel", 9, **{"External id": 7}),
        ]
        (one,) = trace.passes(events)
        spent = one.spent[Key("forward", PLACE, "region_stats")]
        assert (spent.time, spent.kernels, one.launches) == (42.0, {"sums": (42.0, 2)}, 2)
        assert one.spent[Key("forward", PLACE, "fusion")].time == 0.0

    def test_a_backward_pass_on_a_thread_of_its_own_belongs_to_the_pass(self):
        events = [
            *FORWARD,
            user(f"backward: {PLACE}", 60, 20, thread=2),
            event("zigzag_cuda::region_stats_backward", 65, 10, thread=2, **{"External id": 3}),
            event("zigzag_cuda::region_stats", 300, 10, thread=2),
            event("spread", 90, 5, "kernel", 9, **{"External id": 3}),
        ]
        (one,) = trace.passes(events)
        assert one.spent[Key("backward", PLACE, "region_stats")].time == 5.0

    def test_memory_is_what_is_left_of_all_allocations_since_the_pass_began(self):
        events = [*FORWARD, memory(-5, 999), memory(3, 100), memory(55, 50), memory(60, -100), memory(99, 7)]
        (one,) = trace.passes(events)
        assert one.memory == [
            Moment(3.0, 100, "", ""),
            Moment(55.0, 150, "forward", PLACE),
            Moment(60.0, 50, "forward", PLACE),
            Moment(99.0, 57, "", ""),
        ]
        assert rows.peaks(one.memory) == [rows.Peak("forward", "stage 2, down", 150, 50)]


class TestRows:
    def test_time_beside_bytes_and_flops(self):
        known = {Key("forward", PLACE, "dense_pathway"): [cost.Cost(1 << 19, 1 << 19, 1000)]}
        known[Key("forward", "stage 1, down, level 1", "dense_pathway")] = [cost.Cost(1 << 40)]  # never ran
        all_rows = rows.rows(trace.passes(FORWARD), known, CEILINGS, places=False)
        found = {row.operation: row for row in all_rows if row.direction == "forward"}
        row = found["dense_pathway"]
        assert (row.calls, row.bytes, row.flops, row.share) == (1, 1 << 20, 1000, 0.3)
        assert row.roofline == pytest.approx((1 << 20) / 1e10 / 30e-6)
        assert found[HOST].roofline is None
        assert found[HOST].seconds == pytest.approx(31e-6)
        assert row.cells()[0] == "1"

    def test_the_longest_first_and_forward_before_backward(self):
        events = [*FORWARD, user(f"backward: {PLACE}", 96, 3), event("zigzag::dense_pathway_backward", 96, 3)]
        found = rows.rows(trace.passes(events), {}, CEILINGS, places=True)
        forward = [row.seconds for row in found if row.direction == "forward"]
        assert forward == sorted(forward, reverse=True)
        assert [row.direction for row in found] == sorted(
            (row.direction for row in found), key=("forward", "backward", "").index
        )


@pytest.fixture
def neck():
    torch.manual_seed(0)
    return zigzag.nn.ZigZagNeck([4, 4, 4], 8, stages=2, grids=(2, 3), norm_groups=4)


def maps():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 4, *size, generator=generator).requires_grad_() for size in SIZES]


def step(neck, features):
    outputs = neck(features)
    return torch.autograd.grad(outputs, [*features, *neck.parameters()], [torch.ones_like(out) for out in outputs])


def traced(neck, path):
    features = maps()
    with torch.profiler.profile(profile_memory=True) as profiler, named(trace.WHOLE), ranges(neck):
        with named("forward"):
            outputs = neck(features)
        with named("backward"):
            torch.autograd.grad(outputs, [*features, *neck.parameters()], [torch.ones_like(out) for out in outputs])
    profiler.export_chrome_trace(str(path))
    (one,) = trace.read(path)
    return one


class TestRanges:
    def test_they_change_no_bit_and_leave_nothing(self, neck):
        plain = step(neck, maps())
        before = [dict(module.__dict__) for module in neck.modules()]
        with ranges(neck):
            inside = step(neck, maps())
        assert all(map(torch.equal, plain, inside))
        assert [dict(module.__dict__) for module in neck.modules()] == before

    def test_a_backward_pass_outside_has_none(self, neck, tmp_path):
        with ranges(neck):
            outputs = neck(maps())
        with torch.profiler.profile() as profiler:
            sum(output.sum() for output in outputs).backward()
        profiler.export_chrome_trace(str(tmp_path / "trace.json"))
        events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        names = {event["name"] for event in events}
        assert "ConvolutionBackward0" in names
        assert not [name for name in names if name.startswith("backward:")]

    def test_they_are_left_when_the_neck_raises(self, neck):
        with pytest.raises(ValueError, match="features"), ranges(neck):
            neck(maps()[:1])
        assert "forward" not in neck.stages[0].down[0].__dict__

    @needs_kernels
    def test_every_step_of_the_cost_model_is_seen_where_it_is(self, neck, tmp_path):
        one = traced(neck, tmp_path / "trace.json.gz")
        for direction in ("forward", "backward"):
            steps = cost.neck(neck.config, SIZES, laterals=True, backward=direction == "backward")
            # P + F of the first sweep up is no call of dense_pathway, but the addition that it comes down to.
            wanted = [Key(direction, s.place, s.part) for s in steps if s.place != "stage 1, up, level 1"]
            seen = {key: spent.calls for key, spent in one.spent.items() if key.direction == direction}
            for key in set(wanted):
                assert seen.get(key) == wanted.count(key), key
        assert sum(spent.time for spent in one.spent.values()) == pytest.approx(one.wall)
        assert {part for part in map(rows.part_of, (m.place for m in one.memory)) if part} >= {"output", "stage 2, up"}


class TestCapture:
    @needs_kernels
    @pytest.mark.parametrize(
        "wanted", ["region_stats:3", "dense_pathway:1", "region_codes:2", "region_norm_backward:4"]
    )
    def test_a_captured_call_gives_the_same_bits_again(self, neck, tmp_path, wanted, capsys):
        call = capture.capture(lambda: step(neck, maps()), *capture.parse(wanted))
        capture.save(tmp_path / "call", call)
        assert [path.name for path in tmp_path.iterdir()] == ["call"]
        assert main(["replay", str(tmp_path / "call"), "--runs", "3"]) == 0
        shown = capsys.readouterr().out
        assert f"{wanted.split(':')[0]}, call {wanted[-1]}, cpu, torch.float32" in shown
        assert "bit for bit" in shown
        assert "2 more, warm: median" in shown

    @needs_kernels
    def test_another_result_is_told(self, neck, tmp_path, capsys):
        call = capture.capture(lambda: step(neck, maps()), "region_stats", 1)
        last = call.results[0].view(torch.int32).view(-1)
        last[-1] += 1  # the last bit of the last value
        assert self.replayed(tmp_path, call) == 1
        assert "results: WRONG: differ by" in capsys.readouterr().out
        call.results[0].mul_(1.5)
        assert self.replayed(tmp_path, call) == 1
        assert "WRONG: differ by 0.33 (norms), and every bit must be" in capsys.readouterr().out

    @needs_kernels
    def test_elsewhere_the_difference_is_stated_and_must_be_finite(self, neck, tmp_path, capsys):
        call = capture.capture(lambda: step(neck, maps()), "region_stats", 1)
        here, call = call.origin, dataclasses.replace(call, origin="another, torch 1")
        assert self.replayed(tmp_path, call) == 0
        assert "bit for bit" in capsys.readouterr().out
        call.results[0].mul_(1.5)
        assert self.replayed(tmp_path, call) == 0
        told = f"differ by 0.33 (norms); captured on cpu, another, torch 1; this is cpu, {here}"
        assert told in capsys.readouterr().out
        call.arguments[0].fill_(float("nan"))
        assert self.replayed(tmp_path, call) == 1

    @needs_kernels
    def test_what_was_not_finite_may_stay_so(self, neck, tmp_path, capsys):
        call = capture.capture(lambda: step(neck, maps()), "region_stats", 1)
        call.arguments[0].view(-1)[0] = float("nan")
        call = dataclasses.replace(call, results=call.run())
        assert self.replayed(tmp_path, call) == 0
        assert "bit for bit" in capsys.readouterr().out
        call.results[0].mul_(1.5)
        assert self.replayed(tmp_path, dataclasses.replace(call, origin="another")) == 0
        assert "results: differ by 0.33" in capsys.readouterr().out

    def test_the_origin_is_the_instruction_set_and_torch(self, monkeypatch):
        monkeypatch.setenv("ZIGZAG_CPU_ISA", "avx2")
        assert capture.origin([torch.ones(1)]) == f"avx2, torch {torch.__version__}"

    def replayed(self, folder, call):
        capture.save(folder / "call", call)
        return main(["replay", str(folder / "call")])

    def test_strides_survive_and_memory_beyond_the_tensor_does_not(self):
        tensor = torch.arange(1000.0)[100:].as_strided((3, 5), (90, 9))
        copy = capture._compact(tensor)
        assert torch.equal(copy, tensor)
        assert copy.stride() == tensor.stride()
        assert copy.untyped_storage().nbytes() == (2 * 90 + 4 * 9 + 1) * 4

    @needs_kernels
    def test_a_call_that_does_not_run_is_refused_with_those_that_do(self, neck):
        with pytest.raises(BenchError, match=r"region_stats:99 does not run here; .*region_stats:1 to 17"):
            capture.capture(lambda: step(neck, maps()), "region_stats", 99)

    @pytest.mark.parametrize("text", ["region_stats", "region_stats:0", ":1", "region stats:1"])
    def test_what_names_no_call_is_refused(self, text):
        with pytest.raises(BenchError, match="must be NAME:NUMBER"):
            capture.parse(text)

    def refused(self, capsys, path, *words):
        assert main(["replay", str(path), *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    @needs_kernels
    def test_files_that_are_no_calls_are_refused(self, neck, tmp_path, capsys):
        path = tmp_path / "call"
        assert "there is no file" in self.refused(capsys, path)
        call = capture.capture(lambda: step(neck, maps()), "region_stats", 1)
        capture.save(path, call)
        assert "--runs must be 1 or more, got 0" in self.refused(capsys, path, "--runs", "0")
        refused = self.refused(capsys, path, "--backend", "gpu")
        assert "--backend must be one of cpu, cuda, hopper, triton, got 'gpu'" in refused
        whole = path.read_bytes()
        for length in (0, 10, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            assert "cannot be read as a captured call" in self.refused(capsys, path), length
        torch.save({"some": "thing"}, path)
        assert "is no call that this version of zigzag captured" in self.refused(capsys, path)
        torch.save({"zigzag": "1", "format": capture.FORMAT, **vars(call), "operation": "rm"}, path)
        assert "names no operation of zigzag" in self.refused(capsys, path)
        torch.save({"zigzag": "1", "format": capture.FORMAT, **vars(call), "arguments": [1, 2]}, path)
        assert "names no operation of zigzag" in self.refused(capsys, path)
        torch.save({"zigzag": "1", "format": capture.FORMAT, **vars(call), "arguments": call.arguments[:1]}, path)
        assert "the call cannot run" in self.refused(capsys, path)

    @needs_kernels
    def test_no_file_is_left_where_none_can_be_written(self, neck, tmp_path):
        call = capture.capture(lambda: step(neck, maps()), "region_stats", 1)
        with pytest.raises(BenchError, match="cannot be written"):
            capture.save(tmp_path / "missing" / "call", call)
        call.arguments.append(lambda: None)  # nothing that can be saved
        (tmp_path / "call").write_text("before")
        with pytest.raises((AttributeError, TypeError, RuntimeError)):
            capture.save(tmp_path / "call", call)
        assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """`zigzag profile` with necks of 8 channels and one pass."""
    pytest.importorskip("torchvision")
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    import zigzag.models  # its classes derive from the true neck
    from zigzag.profile import run

    original = zigzag.nn.ZigZagNeck

    def make(in_channels, **fields):
        return original(in_channels, 8, norm_groups=4, stages=2, grids=(3,), **fields)

    monkeypatch.setattr(zigzag.nn, "ZigZagNeck", make)
    monkeypatch.setattr("zigzag.profile.command.hold_allocator", lambda _: None)
    monkeypatch.setattr(run, "_PASSES", 1)
    monkeypatch.setattr(run.ceilings, "measure", lambda *_: CEILINGS)
    return ["profile", "--size", "64", "--backbone", "resnet18", "--threads", "1", "--out", str(tmp_path)]


class TestCommand:
    @needs_kernels
    def test_a_trace_a_table_and_a_page(self, small, tmp_path, capsys):
        assert main(small) == 0
        shown = capsys.readouterr().out
        for line in ("region_codes", "between operations", "with its steps named", "MiB above the start"):
            assert line in shown
        events = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))["traceEvents"]
        assert any(event["name"] == "backward: stage 1, down, level 4" for event in events)
        found = json.loads((tmp_path / "profile.json").read_text())
        assert found["command"].startswith("zigzag profile --size 64 --threads 1")
        assert {row["operation"] for row in found["operations"]} >= {"fusion", "lateral", "dense_pathway", HOST}

    @needs_kernels
    def test_capture(self, small, tmp_path, capsys):
        path = tmp_path / "call.pt"
        assert main([*small, "--forward", "--kernel", "1", "--capture", "region_stats:3", str(path)]) == 0
        assert f"zigzag replay {path}" in capsys.readouterr().out.replace("\n", "")
        assert {file.name for file in tmp_path.iterdir()} == {"call.pt"}
        assert main(["replay", str(path)]) == 0

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--backend", "reference"], "not one of cpu, triton, cuda"),
            (["--backend", "nonsense"], "not one of cpu, triton, cuda"),
            (["--size", "1"], "--size must be 64 to 2048 pixels, got 1"),
            (["--capture", "region_stats", "file"], "--capture must be NAME:NUMBER"),
        ],
    )
    def test_bad_words(self, small, capsys, words, message):
        assert main([*small, *words]) == 2
        assert message in capsys.readouterr().err
