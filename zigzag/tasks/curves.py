"""Curves of runs, read from their TensorBoard logs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from zigzag.files import whole

Curve = list[tuple[int, float]]

_COLOURS = ("#1f4e79", "#c0504d", "#5b8c3a", "#7f5aa2", "#d08b2c", "#3a9a9a", "#8c6d5b", "#666666")


def read(folder: Path, name: str) -> Curve:
    """Steps and values of a scalar, such as "train/loss" or "val/miou"; empty where it was never logged."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    if name not in events.Tags()["scalars"]:
        return []
    by_step = {event.step: event.value for event in events.Scalars(name)}  # a resumed run's later values count
    return sorted(by_step.items())


def draw(runs: Mapping[str, Sequence[Path]], path: Path, title: str) -> None:
    """The loss and the mIoU over the steps, one colour a variant, one line a run."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for colour, (name, folders) in zip(_COLOURS * len(runs), runs.items(), strict=False):
        for place, folder in enumerate(folders):
            for axis, scalar in zip(axes, ("train/loss", "val/miou"), strict=True):
                curve = read(folder, scalar)
                values = _smooth([value for _, value in curve]) if scalar == "train/loss" else [v for _, v in curve]
                style = {"color": colour, "label": name if place == 0 else None, "linewidth": 1.3}
                # A validation stands apart from the next: marked, so that one alone is seen.
                axis.plot([step for step, _ in curve], values, marker="o" if scalar == "val/miou" else None, **style)
    for axis, label in zip(axes, ("training loss, smoothed", "validation mIoU"), strict=True):
        axis.set(xlabel="step", ylabel=label)
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=8, loc="lower right")
    figure.suptitle(title)
    with whole(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


def _smooth(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """A running average that begins at the first value."""
    smoothed: list[float] = []
    for value in values:
        smoothed.append(value if not smoothed else weight * smoothed[-1] + (1 - weight) * value)
    return smoothed
