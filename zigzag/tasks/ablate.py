"""``zigzag ablate``: the paper's tables as sets of variants, each trained and evaluated alike, into one table."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml

from zigzag.data import DataError
from zigzag.errors import first_line
from zigzag.files import write_text
from zigzag.models import NeckOptions
from zigzag.tasks import cli, curves

Options = Mapping[str, Any]
Results = dict[str, list[float]]
Failures = dict[str, list[str]]

PLAIN: Options = {f.name: f.default for f in fields(NeckOptions) if f.name != "channels"} | {"kind": "fpn"}
"""A plain FPN whatever the shared configuration says of the neck but its channels."""

SETS: dict[str, tuple[str, dict[str, Options]]] = {
    "parts": (
        "Table 1: context exchange, feature fusion, dense pathways",
        {
            f"{'exchange' if e else '-'} / {'fusion' if f else '-'} / {'dense' if d else '-'}": {
                "exchange": e,
                "fusion": f,
                "dense": d,
            }
            for e in (False, True)
            for f in (False, True)
            for d in (False, True)
        },
    ),
    "schemes": (
        "Figure 1: ways to pass context, and a plain FPN",
        {
            "FPN": PLAIN,
            "(a) top-down": {"scheme": "top_down"},
            "(b) dense top-down": {"scheme": "dense_top_down"},
            "(c) successive": {"scheme": "successive"},
            "(d) zigzag": {"scheme": "zigzag"},
        },
    ),
    "contexts": (
        "Table 2: ways to use region context",
        {
            "global, fully connected (Mostajabi)": {"context": "zoom_out"},
            "global, fully connected (Liu)": {"context": "parse_net"},
            "large kernels (Peng)": {"context": "large_kernel"},
            "spatial pyramid pooling (Zhao)": {"context": "pyramid_pooling"},
            "atrous pyramid (Chen)": {"context": "atrous_pyramid"},
            "RCE, summed": {"combine": "sum"},
            "RCE, multiplied": {},
        },
    ),
    "presets": (
        "Presets and ways to resize",
        {
            "gated, linear": {"preset": "gated"},
            "gated, nearest": {"preset": "gated", "resize": "nearest"},
            "stable, linear": {"preset": "stable"},
            "stable, nearest": {"preset": "stable", "resize": "nearest"},
            "paper, linear": {"preset": "paper"},
            "paper, nearest": {"preset": "paper", "resize": "nearest"},
        },
    ),
    "kernels": (
        "The same network and seed: fused operations, and the literal equations in stock PyTorch",
        {"fused": {"kind": "zigzag"}, "eager": {"kind": "eager"}},
    ),
}


def main(words: Sequence[str]) -> int:
    """Run ``zigzag ablate`` and return its exit status: 0, 1 where a variant failed, 2 for bad input."""
    options, overrides = _parser().parse_known_args(list(words[1:]))
    try:
        paper = reference_values(options.paper)
        results, failures = run(options.set, options.config, options.seeds, options.out, overrides, paper)
    except (*cli.BAD_INPUT, OSError) as error:
        print(f"zigzag ablate: error: {error}", file=sys.stderr)
        return 2
    print(table(options.set, results, failures, paper))
    return 1 if failures else 0


def run(
    chosen: str,
    config: str,
    seeds: Sequence[int],
    out: Path,
    overrides: Sequence[str],
    paper: Mapping[str, float],
) -> tuple[Results, Failures]:
    """Train and validate every variant with every seed; those that are done already are not run again.

    Args:
        chosen: one of `SETS`.
        config: configuration that all variants share.
        seeds: one run each.
        out: folder; each run has its own in it, beside table.md and curves.png.
        overrides: further words of the command line, for all runs alike.
        paper: figures for the table, by variant.

    Returns:
        The mIoU of every seed, and of every seed that failed what went wrong, by variant.

    Raises:
        DataError: there is no such configuration, it is of another task, or its data cannot be used.
        WeightsError, MisconfigurationException: as `cli.run`.
    """
    task = cli.task_of(cli.prepared(["fit", "--config", config, *overrides]))
    if task != "semantic":
        raise DataError(f"--config: {config} is of task {task!r}; ablations are of 'semantic', by its mIoU")
    variants = SETS[chosen][1]
    results: Results = {name: [] for name in variants}
    failures: Failures = {}
    runs: dict[str, list[Path]] = {name: [] for name in variants}
    for seed in dict.fromkeys(seeds):
        for name, options in variants.items():
            folder = out / chosen / slug(name) / f"seed{seed}"
            words = ["--config", config, *overrides, *_words(variants, options, seed, folder)]
            try:
                results[name].append(_miou(folder, words))
                runs[name].append(folder)
            except (RuntimeError, *cli.BAD_INPUT) as error:
                if isinstance(error, cli.BAD_INPUT) and not any(results.values()):
                    raise DataError(f"{name}: {error}") from error  # what the first run cannot use none can
                failures.setdefault(name, []).append(f"seed {seed}: {first_line(error)}")
            _write(out / chosen, table(chosen, results, failures, paper), runs, SETS[chosen][0])
    return results, failures


def _words(variants: Mapping[str, Options], options: Options, seed: int, folder: Path) -> list[str]:
    own = [f"--model.network.neck.{name}={_word(value)}" for name, value in options.items()]
    if any("scheme" in other for other in variants.values()):
        own.append("--model.network.reads=all")  # with one stage, P^1 knows nothing of the sweep up
    return [*own, f"--seed_everything={seed}", f"--data.seed={seed}", f"--trainer.default_root_dir={folder}"]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _miou(folder: Path, words: Sequence[str]) -> float:
    """The last validation's mIoU of a run, which is made unless it is finished or continued where it stopped."""
    done = folder / "result.json"
    if not done.is_file():
        last = folder / "checkpoints" / "last.ckpt"
        resume = ["--ckpt_path", str(last)] if last.is_file() else []
        command = cli.run(["fit", *words, *resume])
        _part_from_processes(command.trainer)
        miou = command.trainer.callback_metrics.get("val/miou")
        if miou is None and last.is_file():  # it had come to its last validation before it was cut off
            command = cli.run(["validate", *words, "--ckpt_path", str(last)])
            miou = command.trainer.callback_metrics.get("val/miou")
        if miou is None:
            raise DataError("trainer.val_check_interval must be at most trainer.max_steps: nothing was validated")
        write_text(done, json.dumps({"miou": float(miou), "words": list(words)}) + "\n")
    content = json.loads(done.read_text())
    if content["words"] != list(words):
        raise DataError(f"{done} is of another command line; name another --out or remove it")
    return float(content["miou"])


def _part_from_processes(trainer: Any) -> None:
    """Forget the processes that Lightning started for a run, which ended with it: the next one starts its own."""
    if not getattr(trainer.strategy.launcher, "procs", None):
        return
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def table(chosen: str, results: Results, failures: Failures, paper: Mapping[str, float]) -> str:
    """Rows of variants: mean and spread of the mIoU over the seeds, in percent, beside the paper's figure.

    The seeds that failed are listed below.
    """
    lines = [f"{SETS[chosen][0]}", "", "| variant | mIoU | seeds | paper |", "|---|---|---|---|"]
    for name, values in results.items():
        ours = "failed" if name in failures else "not run"
        if values:
            spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
            ours = f"{100 * statistics.mean(values):.2f}{spread}"
        lines.append(f"| {name} | {ours} | {len(values)} | {paper.get(name, '-')} |")
    failed = [f"- {name}, {text}" for name, own in failures.items() for text in own]
    return "\n".join([*lines, *(["", "Failed:", "", *failed] if failed else [])])


def reference_values(path: Path | None) -> dict[str, float]:
    """The paper's figures by variant, from a YAML file; none without one.

    Raises:
        DataError: the file is missing or no YAML, names no variant, or gives one no number.
    """
    if path is None:
        return {}
    if not path.is_file():
        raise DataError(f"--paper: there is no file {str(path)!r}")
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"--paper: {path} cannot be read as YAML: {first_line(error)}") from error
    known = {name for _, variants in SETS.values() for name in variants}
    unknown = set(values) - known if isinstance(values, dict) else {str(values)}
    if unknown:
        raise DataError(f"--paper: {path} names {sorted(unknown)[0]!r}, which is no variant")
    for name, value in values.items():
        if not isinstance(value, float | int) or isinstance(value, bool):
            raise DataError(f"--paper: {path} must give a number for {name!r}, got {value!r}")
    return {name: float(value) for name, value in values.items()}


def slug(name: str) -> str:
    """A variant's name as a folder's."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-") or "none"


def _write(folder: Path, rows: str, runs: Mapping[str, Sequence[Path]], title: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", rows + "\n")
    curves.draw({name: own for name, own in runs.items() if own}, folder / "curves.png", title)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "zigzag ablate",
        description="Train every variant of a set alike and write a table. Further options are those of `zigzag fit`.",
        epilog="A run that is finished is not repeated, and one that was cut off goes on from its last checkpoint.",
    )
    sets = "; ".join(f"{name}: {title}" for name, (title, _) in SETS.items())
    parser.add_argument("--set", choices=SETS, required=True, help=sets)
    parser.add_argument("--config", required=True, help="what all variants share: a file, or a name the package ships")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run of every variant for each")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"), help="folder for runs, table and curves")
    parser.add_argument("--paper", type=Path, help="YAML file, variant: figure, for the table's last column")
    return parser
