"""A detector's training step, with the neck's fused operations and with its literal equations in stock PyTorch.

    python benchmarks/detectors.py [--kind mask_rcnn] [--backbone resnet50] [--shorter 800] [--batch 2] [--rounds 5]

Both sides have the same weights and draw the same anchors and regions. Their losses are compared before anything is
timed; then they run in turns. Memory is what autograd keeps between forward and backward, parameters left out.
"""

from __future__ import annotations

import argparse
import sys

import torch

from zigzag.bench.memory import saved_bytes
from zigzag.bench.timing import Plan, few, interleave, ratio
from zigzag.models import BackboneConfig, DetectorConfig, NeckOptions, build_detector

LARGEST_DIFFERENCE = 1e-3  # relative, of the sum of the losses in float32


def detector(options, kind):
    torch.manual_seed(0)
    config = DetectorConfig(
        kind=options.kind,
        backbone=BackboneConfig(options.backbone),
        neck=NeckOptions(kind=kind, channels=options.channels),
        shorter=options.shorter,
        longer=options.shorter * 5 // 3,
    )
    return build_detector(config, 81).to(options.device, memory_format=torch.channels_last)


def batch(options):
    """Images of two shapes with four instances each, so that the batch is padded."""
    random = torch.Generator().manual_seed(0)
    images, targets = [], []
    for n in range(options.batch):
        height, width = (480, 640) if n % 2 == 0 else (640, 427)
        corners = torch.rand(4, 2, generator=random) * torch.tensor([width, height]) * 0.5
        boxes = torch.cat([corners, corners + 40 + 100 * torch.rand(4, 2, generator=random)], 1)
        masks = torch.zeros(4, height, width, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        images.append(torch.rand(3, height, width, generator=random).to(options.device))
        target = {"boxes": boxes, "labels": torch.randint(1, 81, (4,), generator=random), "masks": masks}
        targets.append({name: value.to(options.device) for name, value in target.items()})
    return images, targets


def losses(model, inputs):
    torch.manual_seed(1)
    return torch.stack(list(model(*inputs).values())).sum()


def step(model, inputs):
    model.zero_grad()
    losses(model, inputs).backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", default="mask_rcnn")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--shorter", type=int, default=800)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(words)
    models = {name: detector(options, kind) for name, kind in (("fused", "zigzag"), ("eager", "eager"))}
    models["eager"].load_state_dict(models["fused"].state_dict())
    inputs = batch(options)
    values, kept = {}, {}
    for name, model in models.items():
        with saved_bytes(model.parameters()) as saved:
            values[name] = losses(model, inputs).item()
        kept[name] = saved.total
    difference = abs(values["fused"] - values["eager"]) / abs(values["eager"])
    if not difference <= LARGEST_DIFFERENCE:
        print(f"WRONG: the losses are {values}, apart by {difference:.2g}; nothing was timed")
        return 1
    for model in models.values():
        step(model, inputs)
    sides = {name: lambda model=model: step(model, inputs) for name, model in models.items()}
    samples = interleave(sides, Plan(options.rounds, dict.fromkeys(sides, 1)))
    print(f"{options.kind}, {options.backbone}, {options.batch} images of {options.shorter}, {options.device}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; losses {difference:.1e} apart")
    for name, own in samples.items():
        spread = few(own.runs) or f"{1e3 * own.p20:.1f} - {1e3 * own.p80:.1f}"
        print(f"{name:6} {1e3 * own.median:9.1f} ms ({spread})  {kept[name] / 2**20:8.1f} MiB")
    faster = ratio(samples["eager"], samples["fused"])
    print(f"eager / fused: time {faster.median:.2f}, memory {kept['eager'] / kept['fused']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
