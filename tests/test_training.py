"""The command line of training: a run and its files, exact resumption, two processes, and how runs fail."""

from __future__ import annotations

import errno
import subprocess
import sys
from functools import partial, wraps
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import yaml
from torch.testing import assert_close

pytest.importorskip("torchvision", reason="torchvision is not installed: zigzag[train]")
pytest.importorskip("lightning", reason="lightning is not installed: zigzag[train]")
pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: zigzag[train]")
pytest.importorskip("tensorboard", reason="tensorboard is not installed: zigzag[train]")

from lightning.pytorch import Trainer
from PIL import Image
from runs import call, process, weights
from runs import fit as run_fit
from segmentation_files import FEW, TINY, folder_set, voc_set, write_image

from zigzag import cli
from zigzag.data import shapes
from zigzag.tasks import curves, semantic
from zigzag.tasks.cli import CONFIGS

pytestmark = pytest.mark.usefixtures("few_images")


fit = partial(run_fit, TINY, steps=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "COUNTS", FEW)
        assert fit(folder) == 0
    return folder


class TestRun:
    def test_what_a_run_leaves(self, trained):
        assert {path.name for path in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
        assert "max_steps: 4" in (trained / "config.yaml").read_text()
        assert [step for step, _ in curves.read(trained, "train/loss")] == [0, 1, 2, 3]
        assert len(curves.read(trained, "val/miou")) == 2

    def test_validation_logs_overlays(self, trained):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(trained), size_guidance={"images": 0})
        events.Reload()
        shown = [(name, image.step) for name in events.Tags()["images"] for image in events.Images(name)]
        assert sorted(shown) == [(f"val/val_000{i}", step) for i in range(3) for step in (2, 4)]

    def test_it_does_not_overwrite_a_run(self, trained, capsys):
        assert fit(trained) == 2
        assert "holds a run" in capsys.readouterr().err

    def test_test_and_validate_take_the_runs_own_configuration(self, trained, capsys):
        checkpoint = str(trained / "checkpoints" / "last.ckpt")
        words = ["--ckpt_path", checkpoint, "--model.submission=true", "--model.inference.scales=[0.8,1.0]"]
        assert cli.main(["test", *words]) == 0
        assert "mean IoU" in capsys.readouterr().out
        assert {path.name for path in (trained / "test").iterdir()} == {
            "scores.json",
            "classes.txt",
            "confusion.csv",
            "contact_sheet.png",
        }
        results = sorted((trained / "results/VOC2012/Segmentation/comp6_val_cls").iterdir())
        assert [path.name for path in results] == ["val_0000.png", "val_0001.png", "val_0002.png"]
        with Image.open(results[0]) as image:
            assert (image.mode, image.size) == ("P", (96, 96))
        logged = curves.read(trained, "val/miou")
        assert cli.main(["validate", "--ckpt_path", checkpoint]) == 0
        assert curves.read(trained, "val/miou") == logged
        assert "val/miou" in capsys.readouterr().out

    def test_predict(self, trained, tmp_path):
        for seed, name in enumerate(("one.png", "two.png")):
            write_image(tmp_path / name, seed, (70, 50))
        photographs = [str(tmp_path / "one.png"), str(tmp_path / "two.png")]
        words = ["--ckpt_path", str(trained / "checkpoints/last.ckpt"), f"--trainer.default_root_dir={tmp_path}"]
        assert cli.main(["predict", *photographs, *words]) == 0
        for name in ("one", "two"):
            with Image.open(tmp_path / "predictions" / f"{name}.png") as overlay:
                assert overlay.height > 50
            with Image.open(tmp_path / "predictions" / f"{name}_labels.png") as labels:
                assert (labels.mode, labels.size) == ("P", (70, 50))

    def test_a_submission_needs_no_masks(self, tmp_path, capsys):
        root = voc_set(tmp_path / "data", names=("a",))
        write_image(root / "JPEGImages" / "x.jpg")
        (root / "ImageSets" / "Segmentation" / "test.txt").write_text("x\n")
        data = ["--data.dataset=voc", f"--data.root={root}", "--data.val=train"]
        assert fit(tmp_path / "run", *data, "--data.batch_size=1", steps=1, every=1) == 0
        words = ["test", f"--ckpt_path={tmp_path / 'run/checkpoints/last.ckpt'}", "--data.test=test"]
        assert cli.main(words) == 2
        assert "data.test: 'test' has no masks" in capsys.readouterr().err
        assert cli.main([*words, "--model.submission=true"]) == 0
        assert "comp6_test_cls: a PNG for every image" in capsys.readouterr().out
        with Image.open(tmp_path / "run/results/VOC2012/Segmentation/comp6_test_cls/x.png") as image:
            assert (image.mode, image.size) == ("P", (40, 30))
        assert not (tmp_path / "run" / "test").exists()

    def test_another_runs_weights_to_start_from(self, trained, tmp_path, capsys):
        start = f"--model.start={trained / 'checkpoints/last.ckpt'}"
        root = folder_set(tmp_path / "data", values=(0, 1))
        data = ["--data.dataset=folder", f"--data.root={root}", "--data.class_names=[a,b]"]
        assert fit(tmp_path / "run", start, *data, steps=1, every=1) == 0
        assert "mismatched (head.classifier.weight is (6, 8, 1, 1), expected (2, 8, 1, 1)" in capsys.readouterr().out
        assert fit(tmp_path / "other", start, "--model.network.neck.stages=1") == 2
        assert "does not fit the network" in capsys.readouterr().err


def test_bfloat16_errs_no_more_than_twice_as_much_as_stock_pytorch(tmp_path):
    """The weights after a step, held against a step in float64; the eager neck is stock PyTorch."""
    words = ["--model.network.backbone.norm=frozen", "--model.recipe.warmup_steps=0", "--model.recipe.learning_rate=1"]

    def step(name, *more):
        assert fit(tmp_path / name, *words, *more, steps=1, every=1) == 0
        return weights(tmp_path / name / "checkpoints/last.ckpt")

    eager = "--model.network.neck.kind=eager"
    exact = step("exact", "--trainer.precision=64-true", eager)
    half = step("half", "--trainer.precision=bf16-mixed")
    stock = step("stock", "--trainer.precision=bf16-mixed", eager)
    error, expected = (
        torch.cat([(state[name] - exact[name]).flatten() for name in exact if exact[name].is_floating_point()]).norm()
        for state in (half, stock)
    )
    assert {half[name].dtype for name in exact if exact[name].is_floating_point()} == {torch.float32}
    assert 0 < error <= 2 * expected


class TestResume:
    @pytest.mark.parametrize(
        ("words", "batches"),
        [([], 1), (["--ema=0.9"], 1), (["--trainer.accumulate_grad_batches=2"], 2)],
        ids=["plain", "average", "accumulated"],
    )
    def test_a_run_goes_on_exactly(self, tmp_path, words, batches):
        """Where it was cut off between two validations' checkpoints, and where it had ended."""
        words = [*words, "--model.recipe.schedule=step"]
        all_kept = ["--checkpoint.save_top_k=-1", "--checkpoint.filename={step}"]
        assert fit(tmp_path / "whole", *words, *all_kept, steps=5, every=2 * batches) == 0
        cut = tmp_path / "whole" / "checkpoints" / "2.ckpt"
        assert fit(tmp_path / "cut", *words, f"--ckpt_path={cut}", steps=5, every=2 * batches) == 0
        assert fit(tmp_path / "ended", *words, steps=3, every=2 * batches) == 0
        ended = tmp_path / "ended" / "checkpoints" / "last.ckpt"
        assert fit(tmp_path / "ended", *words, f"--ckpt_path={ended}", steps=5, every=5 * batches) == 0
        whole, cut, ended = (dict(curves.read(tmp_path / name, "train/loss")) for name in ("whole", "cut", "ended"))
        assert list(whole) == [0, 1, 2, 3, 4]
        assert whole == ended
        assert {step: loss for step, loss in whole.items() if step >= 2} == cut
        validated = [curves.read(tmp_path / name, "val/miou")[-1] for name in ("whole", "cut")]
        assert validated[0] == validated[1]


def test_two_processes_give_the_gradients_of_one_with_the_joint_batch(tmp_path):
    """After one step of plain gradient descent in float64, the weights differ as the gradients do."""
    words = [
        *TINY,
        "--trainer.max_steps=1",
        "--trainer.val_check_interval=1",
        "--trainer.precision=64-true",
        "--data.batch_size=4",
    ]
    words += ["--model.network.backbone.norm=frozen", "--model.recipe.warmup_steps=0", "--trainer.strategy=ddp"]
    process([*words, "--trainer.devices=1"], tmp_path / "one")
    process([*words, "--trainer.devices=2"], tmp_path / "two", processes=2)
    one, two = (weights(tmp_path / name / "checkpoints/last.ckpt") for name in ("one", "two"))
    for name in one:
        assert_close(two[name], one[name], msg=lambda text, name=name: f"{name}: {text}")
    first, second = (curves.read(tmp_path / name, "val/miou") for name in ("one", "two"))
    assert first == second


def test_several_processes_without_torchrun(tmp_path):
    """Lightning starts the others by the program's own name, wherever it lies."""
    program = tmp_path / "zigzag"
    program.write_text("import sys\nfrom zigzag.cli import main\nsys.exit(main())\n")
    words = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.devices=2", "--trainer.strategy=ddp"]
    folder = tmp_path / "run"
    words += ["--model.network.backbone.norm=frozen", f"--trainer.default_root_dir={folder}"]
    call([str(program), "fit", *TINY, *words], tmp_path)
    assert (folder / "checkpoints" / "last.ckpt").is_file()


def test_predictions_are_shared_among_processes(tmp_path):
    from zigzag.data import SegmentationData

    data = SegmentationData(images=[f"{name}.png" for name in "abc"])
    shares = []
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        shares.append(list(data.predict_dataloader().sampler))
    assert shares == [[0, 2], [1]]


@pytest.mark.parametrize("name", ["caf\u00e9 \U0001f600.png", "a'b\"c: {d}, [e] \\ #.png", "\x7f\x85.png"])
def test_photographs_of_any_name(name):
    from zigzag.tasks.cli import prepared

    word = prepared(["predict", "one.png", name, "--config=shapes_tiny"])[-1]
    assert yaml.safe_load(word.removeprefix("--data.images=")) == ["one.png", name]


def test_photographs_whose_name_is_no_text(capsys):
    assert cli.main(["predict", "x\udcff.png", "--config=shapes_tiny"]) == 2
    assert "photograph 'x\\udcff.png': its name must be UTF-8" in capsys.readouterr().err


def no_network(*_given, **_options):
    raise URLError("no network")


class TestFailures:
    def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(self, tmp_path, capsys):
        assert fit(tmp_path, "--model.recipe.learning_rate=1e30", "--model.recipe.warmup_steps=0") == 1
        error = capsys.readouterr().err
        assert "zigzag fit: stopped: step" in error
        assert "it began in" in error

    def test_what_the_last_step_broke_is_no_best_checkpoint(self, tmp_path, capsys):
        words = ["--model.recipe.learning_rate=1e30", "--model.recipe.warmup_steps=0"]
        assert fit(tmp_path, *words, steps=1, every=1) == 1
        assert "zigzag fit: stopped: image val_0000: the " in capsys.readouterr().err
        assert not list(tmp_path.glob("checkpoints/*"))

    def test_a_map_that_is_not_finite_stops_the_first_step_whatever_the_loss(self, tmp_path, capsys, monkeypatch):
        def plant(module):
            module.network.neck.stages[0].down[1].gain.data.fill_(float("nan"))

        monkeypatch.setattr(semantic.SemanticSegmentation, "on_fit_start", plant)
        monkeypatch.setattr(semantic, "joint_loss", lambda scores, _: scores.nan_to_num().mean())
        assert fit(tmp_path) == 1
        place = "the neck, stage 1, top-down, level 2"
        assert f"zigzag fit: stopped: step 0: {place} is not finite" in capsys.readouterr().err

    def test_a_file_in_the_place_of_the_runs_folder(self, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        for folder in (tmp_path / "file", tmp_path / "file" / "run"):
            assert fit(folder) == 2
            assert f"trainer.default_root_dir must be a folder, got '{folder}'" in capsys.readouterr().err

    def test_photographs_whose_pictures_would_have_one_name(self, trained, tmp_path, capsys):
        for seed, name in enumerate(("p.png", "p_labels.png")):
            write_image(tmp_path / name, seed)
        photographs = [str(tmp_path / name) for name in ("p.png", "p_labels.png")]
        words = [f"--ckpt_path={trained / 'checkpoints/last.ckpt'}", f"--trainer.default_root_dir={tmp_path}"]
        assert cli.main(["predict", *photographs, *words]) == 2
        assert "would be p_labels.png" in capsys.readouterr().err
        assert not (tmp_path / "predictions").exists()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--config=nothing"], "there is no file 'nothing', and the package's are camvid_resnet50"),
            (["--ckpt_path=no/such.ckpt"], "there is no file 'no/such.ckpt'"),
        ],
    )
    def test_files_that_are_not_there(self, capsys, words, message):
        assert cli.main(["validate", *words]) == 2
        assert message in capsys.readouterr().err

    def test_data_and_weights_that_cannot_be_used(self, tmp_path, capsys):
        assert fit(tmp_path, "--data.dataset=voc", "--data.root=no/such") == 2
        assert "there is no folder 'no/such'" in capsys.readouterr().err
        assert fit(tmp_path, "--model.network.backbone.weights=no/such.pth") == 2
        assert "there is no file 'no/such.pth'" in capsys.readouterr().err
        assert not (tmp_path / "checkpoints").exists()

    @pytest.mark.parametrize(
        ("word", "message"),
        [
            ("--model.network.neck.nothing=1", "nothing"),
            ("--model.network.backbone.name=vgg16", "backbone.name"),
            ("--model.inference.scales=[]", "inference.scales"),
            (
                "--model.inference.scales=[.nan]",
                "factors above 0 and at most 16, got (nan,)",
            ),
            (
                "--model.inference.scales=[.inf]",
                "factors above 0 and at most 16, got (inf,)",
            ),
            ("--model.validation.scales=[1,1000]", "scales must be one or more factors above 0 and at most 16"),
            ("--model.pictures=-1", "model.pictures must be 0 or more, got -1"),
            ("--checkpoint.monitor=val/foo", "checkpoint.monitor must be null or one of val/miou, "),
            ("--seed_everything=-1", "seed_everything must be from 0 to 4294967295, got -1"),
            ("--model.network.neck={kind: fpn, channels: 0}", "neck.channels must be 1 or more, got 0"),
            ("--model.network.neck.kind=fpn", "neck.kind 'fpn' takes channels alone, expected stages=None"),
            ("--data.dataset=imagenet", "data.dataset"),
            ("--data.train=foo", "must be one of train, val, test, got 'foo'"),
            ("--data.batch_size=0", "data.batch_size must be 1 or more, got 0"),
            ("--trainer.accumulate_grad_batches=4", "must be a multiple of trainer.accumulate_grad_batches (4), as it"),
            ("--trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches must be 1 or more, got 0"),
            ("--trainer.val_check_interval=0", "trainer.val_check_interval must be above 0, got 0"),
            (
                "--trainer.overfit_batches=1",
                "trainer.overfit_batches must be 0: batches are drawn by seed and step",
            ),
            ("--data={batch_size: null}", "data.batch_size must have a value, got null"),
            ("--model={network: {neck: null}}", "model.network.neck must have a value, got null"),
            ("--model.recipe={momentum: null}", "model.recipe.momentum must have a value, got null"),
            ("--trainer.gradient_clip_val=-1", "trainer.gradient_clip_val must be 0 or more, or null, got -1"),
            ("--trainer.precision=bf16-true", "trainer.precision must be one of 32-true, 64-true, bf16-mixed, "),
            ("--ema=2", "ema must be a decay from 0 to 1, or null, got 2"),
            ("--ema=.nan", "ema must be a decay from 0 to 1, or null, got nan"),
            ("--trainer.max_steps=-1", "trainer.max_steps must be 0 or more: how many steps to train, got -1"),
            ("--model.recipe.momentum=-1", "recipe.momentum must be from 0 to below 1, got -1"),
            ("--model.network.backbone.weights=IMAGENET1K_V1", "IMAGENET1K_V1 of resnet18 cannot be fetched"),
            ("--model.network.backbone.name=transformers:no/such", "transformers"),
        ],
    )
    def test_fields_that_are_refused(self, tmp_path, capsys, monkeypatch, word, message):
        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
        monkeypatch.setitem(sys.modules, "transformers", None)
        try:
            status = fit(tmp_path, word)
        except SystemExit as refused:  # by the parser
            status = refused.code
        assert status == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "config.yaml").exists()

    @pytest.mark.parametrize("devices", [1, 2])
    def test_synchronised_norm_on_cpus(self, tmp_path, capsys, monkeypatch, devices):
        monkeypatch.setattr(Trainer, "fit", wraps(Trainer.fit)(lambda *_, **__: None))  # no processes are to start
        words = "accelerator=cpu", f"devices={devices}", "strategy=ddp"
        assert fit(tmp_path, "--model.network.backbone.norm=sync", *(f"--trainer.{word}" for word in words)) == 2
        assert "backbone.norm must be 'batch' or 'frozen' where several processes" in capsys.readouterr().err

    def test_configurations_that_cannot_be_read(self, tmp_path, capsys):
        (tmp_path / "latin.yaml").write_bytes(b"# caf\xe9\n")
        (tmp_path / "list.yaml").write_text("task: [semantic]\n")
        assert fit(tmp_path / "run", f"--config={tmp_path / 'latin.yaml'}") == 2
        assert f"--config: '{tmp_path / 'latin.yaml'}' must be text in UTF-8" in capsys.readouterr().err
        assert fit(tmp_path / "run", f"--config={tmp_path / 'list.yaml'}") == 2
        assert "task must be one of semantic, instances, got ['semantic']" in capsys.readouterr().err

    def test_a_folder_that_cannot_be_written_to(self, tmp_path, capsys, monkeypatch):
        def full(path, *_, **__):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr("zigzag.tasks.cli.write_text", full)
        assert fit(tmp_path) == 2
        error = f"zigzag fit: error: [Errno {errno.ENOSPC}] No space left on device: '{tmp_path / 'config.yaml'}'"
        assert error in capsys.readouterr().err

    @pytest.mark.parametrize("missing", ["lightning", "torchmetrics", "jsonargparse"])
    def test_a_missing_requirement_says_what_to_install(self, missing):
        code = f"import sys; sys.modules[{missing!r}] = None; from zigzag import cli; sys.exit(cli.main(['fit']))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 2
        assert "zigzag[train]" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_other_commands_import_nothing_of_training():
    code = "import sys; from zigzag import cli; cli._parser(); print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_of_the_package_is_understood(path, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["fit", "--config", path.stem, "--print_config"])
    assert caught.value.code == 0
    assert "default_root_dir: runs/" in capsys.readouterr().out
