"""The command line of the benchmark: a whole run in small, its files, its refusals, and its error messages."""

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
import torch

import zigzag
from zigzag import cli
from zigzag.bench import command
from zigzag.bench import settings as settings_module
from zigzag.bench.settings import ALLOCATOR, BenchError, Settings

needs_extras = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("matplotlib", "rich", "torchvision")),
    reason="the benchmark's requirements are not installed: zigzag[bench]",
)


@pytest.fixture(autouse=True)
def no_restart(monkeypatch):
    """The allocator's variables are already set, so that the process is not replaced under pytest."""
    for name, value in ALLOCATOR.items():
        monkeypatch.setenv(name, value)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small(monkeypatch):
    """Necks of 8 channels, ceilings of small buffers and short sweeps: everything runs, in seconds."""
    from zigzag.bench import ceilings, runner, sweep, timing

    monkeypatch.setattr(runner, "_WARM_UP", 0.0)
    monkeypatch.setattr(
        runner, "plan", lambda estimates, seconds, **_: timing.plan(estimates, seconds, least=1, most=2)
    )
    importlib.import_module("zigzag.models")  # its necks are not to be the small ones
    original = zigzag.nn.ZigZagNeck
    monkeypatch.setattr(
        zigzag.nn, "ZigZagNeck", lambda channels, **fields: original(channels, 8, norm_groups=4, **fields)
    )
    monkeypatch.setattr(ceilings, "FOOTPRINTS", (1 << 16, 1 << 18))
    monkeypatch.setattr(ceilings, "_SECONDS", 0.01)
    monkeypatch.setattr(sweep, "SHARES", (0.9,))


def bench(*words):
    return cli.main(["bench", "--threads", "1", "--size", "64", "--backbone", "resnet18", *map(str, words)])


class TestErrors:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--size", "10"], "--size must be 64 to 2048 pixels, got 10"),
            (["--size", "5000"], "--size must be 64 to 2048 pixels, got 5000"),
            (["--threads", "0"], "--threads must be 1 or more, got 0"),
            (["--batch", "0"], "--batch must be 1 or more, got 0"),
            (["--image", "no/such.jpg"], "--image: there is no file 'no/such.jpg'"),
            (["--weights", "no/such.pth"], "--weights: there is no file 'no/such.pth'"),
        ],
    )
    def test_bad_values_are_named(self, capsys, words, message):
        assert cli.main(["bench", *words]) == 2
        assert capsys.readouterr().err == f"zigzag bench: error: {message}\n"

    @pytest.mark.parametrize(
        "words",
        [["--dtype", "float8"], ["--suite", "some"], ["--compile", "fast"], ["--size", "large"], ["--nonsense"]],
    )
    def test_what_the_parser_refuses(self, capsys, words):
        with pytest.raises(SystemExit) as caught:
            cli.main(["bench", *words])
        assert caught.value.code == 2
        assert words[0] in capsys.readouterr().err

    def test_a_file_where_the_folder_should_be(self, capsys, tmp_path):
        (tmp_path / "out").write_text("")
        assert bench("--out", tmp_path / "out") == 2
        assert "--out must name a folder" in capsys.readouterr().err

    @needs_extras
    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_gpu_that_is_not_there(self, capsys):
        assert cli.main(["bench", "--device", "cuda"]) == 2
        assert "torch sees no GPU here" in capsys.readouterr().err

    @needs_extras
    def test_a_broken_image(self, capsys, tmp_path):
        (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff not a photograph")
        assert bench("--image", tmp_path / "photo.jpg", "--out", tmp_path) == 2
        assert "cannot be read as an image" in capsys.readouterr().err

    @needs_extras
    def test_an_unknown_backbone_or_case(self, capsys, tmp_path):
        assert cli.main(["bench", "--backbone", "vgg16"]) == 2
        assert "--backbone must be one of" in capsys.readouterr().err
        assert bench("--filter", "nothing", "--out", tmp_path) == 2
        assert "--filter 'nothing' matches none of dense_pathway.level1" in capsys.readouterr().err

    @needs_extras
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "cannot be loaded as a state dict"),
            ([1, 2], "holds no state dict"),
            ({"conv1.weight": torch.zeros(1)}, "does not fit the backbone"),
            ({"stem.weight": torch.zeros(1)}, "does not fit the backbone: it lacks"),
        ],
    )
    def test_weights_that_cannot_be_used(self, capsys, tmp_path, content, message):
        path = tmp_path / "weights.pth"
        if content is None:
            path.write_bytes(b"no pickle")
        else:
            torch.save(content, path)
        assert bench("--weights", path, "--filter", "region_codes", "--out", tmp_path) == 2
        assert message in capsys.readouterr().err

    def test_a_weights_file_runs_no_code(self, capsys, tmp_path):
        pytest.importorskip("torchvision")
        torch.save({"conv1.weight": Planted(tmp_path / "ran")}, tmp_path / "weights.pth")
        assert bench("--weights", tmp_path / "weights.pth", "--out", tmp_path) == 2
        assert "cannot be loaded as a state dict" in capsys.readouterr().err
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("missing", ["torchvision", "matplotlib", "rich"])
    def test_a_missing_requirement_says_what_to_install(self, missing):
        code = f"import sys; sys.modules[{missing!r}] = None; from zigzag import cli; sys.exit(cli.main(['bench']))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 2
        assert "is not installed" in done.stderr
        assert "zigzag[bench]" in done.stderr
        assert "Traceback" not in done.stderr


class Planted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestRestart:
    def test_only_what_is_missing_is_added(self):
        assert settings_module.missing_allocator_settings({}) == ALLOCATOR
        assert settings_module.missing_allocator_settings({**ALLOCATOR, "MALLOC_TOP_PAD_": "0"}) == {}

    def test_the_process_starts_itself_again_once(self, monkeypatch):
        started = []
        monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
        for name in ALLOCATOR:
            monkeypatch.delenv(name)
        settings_module.hold_allocator(["bench", "--quick"])
        ((program, words, environment),) = started
        assert program == sys.executable
        assert words == [sys.executable, "-m", "zigzag", "bench", "--quick"]
        assert ALLOCATOR.items() <= environment.items()
        monkeypatch.setattr(os, "environ", environment)
        settings_module.hold_allocator(["bench", "--quick"])
        assert len(started) == 1


class TestSettings:
    def test_the_command_measures_the_same_again(self):
        settings = Settings(size=128, threads=2, dtype="bfloat16", quick=True, only="neck")
        words = settings.command().split()[1:]
        assert command.settings_of(command.parser().parse_args(words[1:])) == settings
        assert settings.command("region_codes").endswith("--filter region_codes")

    def test_values_are_checked_where_they_come_in(self):
        with pytest.raises(BenchError, match="--dtype must be one of"):
            Settings(dtype="float8")


def test_help_is_there_for_both_ways_in():
    done = subprocess.run(
        [sys.executable, "-m", "zigzag", "bench", "--help"], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.startswith("usage: zigzag bench")
    assert "--compile [MODE]" in done.stdout


@needs_extras
@pytest.mark.usefixtures("small")
class TestRun:
    def test_rows_report_and_picture(self, tmp_path, capsys):
        assert bench("--out", tmp_path) == 0, capsys.readouterr().out
        shown = capsys.readouterr().out
        for line in ("its fusion convolutions alone", "x.sum()", "copying its bytes", "saved by autograd", "float64"):
            assert line in shown
        rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
        assert {row["backend"] for row in rows} == {"zigzag", "eager", "commuted", "floor"}
        assert {row.get("kernel") for row in rows if row["case"] == "neck.fuse"} == {3, 1}
        assert all(row["reproduce"].startswith("zigzag bench --size 64 --threads 1") for row in rows)
        assert (tmp_path / "neck.png").read_bytes().startswith(b"\x89PNG")
        page = (tmp_path / "report.html").read_text()
        assert page.count("<svg") == 2 * 6  # for wide screens and for phones
        assert not re.search(r"""(src|href)=["']?https?:""", page)
        assert not re.search(r"#0[1-9]0[1-9]0[1-9]", page)

    def test_another_image_and_real_weights(self, tmp_path):
        from PIL import Image
        from torchvision.models import resnet18

        Image.new("L", (90, 70), 128).save(tmp_path / "photo.png")
        state = {name: value for name, value in resnet18().state_dict().items() if not name.startswith("fc.")}
        torch.save(state, tmp_path / "weights.pth")
        words = ["--image", tmp_path / "photo.png", "--weights", tmp_path / "weights.pth", "--stride-in-1x1"]
        assert bench(*words, "--dtype", "bfloat16", "--filter", "region_stats.norm", "--out", tmp_path) == 0
        rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
        assert {row["dtype"] for row in rows} == {"bfloat16"}

    def test_a_wrong_result_is_refused_and_fails_the_run(self, tmp_path, capsys, monkeypatch):
        original = zigzag.ops.region_stats
        monkeypatch.setattr(zigzag.ops, "region_stats", lambda *args: (original(*args)[0] * 1.001, original(*args)[1]))
        assert bench("--quick", "--filter", "region_stats.level1", "--out", tmp_path) == 1
        shown = capsys.readouterr().out
        assert re.search(r"zigzag +WRONG", shown)
        assert "WRONG: zigzag, region_stats.level1 3x3 forward" in shown
        ours = [row for row in json.loads((tmp_path / "rows.json").read_text())["rows"] if row["backend"] == "zigzag"]
        assert {(row["status"], row.get("median"), row.get("speedup")) for row in ours} == {("WRONG", None, None)}
        assert "WRONG: sums" in (tmp_path / "report.html").read_text()
