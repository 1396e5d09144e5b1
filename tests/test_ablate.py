"""`zigzag ablate`: sets of variants, their runs, and the table of what came of them."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")
pytest.importorskip("lightning", reason="lightning is not installed: zigzag[train]")
pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: zigzag[train]")
pytest.importorskip("tensorboard", reason="tensorboard is not installed: zigzag[train]")

from runs import call
from segmentation_files import TINY

from zigzag import cli
from zigzag.models import WeightsError
from zigzag.tasks import ablate, curves
from zigzag.tasks.guard import NonFiniteError

pytestmark = pytest.mark.usefixtures("few_images")


def test_a_set_is_run_once_and_tabled(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: zigzag[train]")
    monkeypatch.setitem(ablate.SETS, "schemes", ("Schemes", {"FPN": ablate.PLAIN, "zigzag": {"scheme": "zigzag"}}))
    paper = tmp_path / "paper.yaml"
    paper.write_text("FPN: 12.5\n")
    words = ["ablate", "--set=schemes", "--out", str(tmp_path / "out"), "--paper", str(paper), *TINY]
    words += ["--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "| FPN |" in shown
    assert "| 12.5 |" in shown
    folder = tmp_path / "out" / "schemes"
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "table.md").read_text().count("|\n") == 4
    monkeypatch.setattr("zigzag.tasks.cli.run", lambda _: pytest.fail("a finished run was repeated"))
    assert cli.main(words) == 0
    assert cli.main([*words, "--model.recipe.learning_rate=1"]) == 2
    assert "is of another command line" in capsys.readouterr().err


def test_what_is_printed_is_written_with_the_seeds_that_failed(tmp_path, capsys, monkeypatch):
    def miou(folder, _words):
        if folder.name == "seed1":
            raise NonFiniteError("step 3: the loss is nan")
        return 0.5

    monkeypatch.setattr(ablate, "_miou", miou)
    monkeypatch.setattr(curves, "draw", lambda *_: None)
    (tmp_path / "paper.yaml").write_text("fused: 12.5\n")
    words = ["--set=kernels", "--config=shapes_tiny", f"--out={tmp_path}", f"--paper={tmp_path / 'paper.yaml'}"]
    assert cli.main(["ablate", *words, "--seeds", "0", "1"]) == 1
    written = (tmp_path / "kernels" / "table.md").read_text()
    assert "| fused | 50.00 | 1 | 12.5 |" in written
    assert "- fused, seed 1: step 3: the loss is nan" in written
    assert written == capsys.readouterr().out


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), WeightsError("no such context")])
def test_the_other_variants_are_run_where_one_fails(tmp_path, capsys, monkeypatch, error):
    def miou(folder, _words):
        if folder.parent.name == "eager":
            raise error
        return 0.5

    variants = {"first": {}, "eager": {}, "last": {}}
    monkeypatch.setitem(ablate.SETS, "kernels", ("Kernels", variants))
    monkeypatch.setattr(ablate, "_miou", miou)
    monkeypatch.setattr(curves, "draw", lambda *_: None)
    assert cli.main(["ablate", "--set=kernels", "--config=shapes_tiny", f"--out={tmp_path}"]) == 1
    shown = capsys.readouterr().out
    assert "| eager | failed | 0 | - |\n| last | 50.00 | 1 | - |" in shown
    assert f"- eager, seed 0: {error}" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config=shapes_mask_rcnn"], "shapes_mask_rcnn is of task 'instances'; ablations are of 'semantic'"),
        (["--config=shapes_tiny", "--task=instances"], "is of task 'instances'"),
        (["--config=shapes_tiny", "--data.batch_size=0"], "data.batch_size must be 1 or more, got 0"),
        (["--config=shapes_tiny", "--model.network.backbone.weights=no/such.pth"], "no file 'no/such.pth'"),
    ],
)
def test_what_is_refused_before_anything_runs(tmp_path, capsys, words, message):
    assert cli.main(["ablate", "--set=kernels", f"--out={tmp_path / 'out'}", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("zigzag ablate: error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_cut_off_after_its_last_validation(tmp_path, monkeypatch):
    """Its figure is the checkpoint's, as a validation has it: no step is left in which training would validate."""
    monkeypatch.setitem(ablate.SETS, "schemes", ("Schemes", {"zigzag": {"scheme": "zigzag"}}))
    monkeypatch.setattr(curves, "draw", lambda *_: None)
    words = ["ablate", "--set=schemes", f"--out={tmp_path}", *TINY, "--ema=0.5"]
    words += ["--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    assert cli.main(words) == 0
    run = tmp_path / "schemes" / "zigzag" / "seed0"
    whole, validated = (run / "result.json").read_text(), curves.read(run, "val/miou")
    (run / "result.json").unlink()
    assert cli.main(words) == 0
    assert (run / "result.json").read_text() == whole
    assert curves.read(run, "val/miou") == validated


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nothing: 1\n", "names 'nothing', which is no variant"),
        ("FPN: abc\n", "must give a number for 'FPN', got 'abc'"),
        ("FPN:\n", "must give a number for 'FPN', got None"),
        ("FPN: [1\n", "cannot be read as YAML: "),
    ],
)
def test_a_paper_file_that_cannot_be_used(tmp_path, capsys, content, message):
    (tmp_path / "paper.yaml").write_text(content)
    words = ["ablate", "--set=schemes", "--config=shapes_tiny", f"--paper={tmp_path / 'paper.yaml'}"]
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err


def test_every_variant_of_an_ablation_starts_its_own_processes(tmp_path):
    words = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.devices=2", "--trainer.strategy=ddp"]
    words += ["--model.network.backbone.norm=frozen", "--set=kernels", f"--out={tmp_path}"]
    call(["-m", "zigzag", "ablate", *TINY, *words], tmp_path)
    table = (tmp_path / "kernels" / "table.md").read_text()
    assert "not run" not in table
    assert "failed" not in table
