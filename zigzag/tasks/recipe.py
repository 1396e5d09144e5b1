"""The optimiser and the learning rate over the steps."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent. Steps and learning rates are the paper's; what it leaves open has its source here.

    Attributes:
        learning_rate: of the first steps after the warm-up.
        momentum: 0.9, as He et al. (CVPR 2016) train ResNets.
        weight_decay: 1e-4, likewise; not on norms, gains and biases (He et al., Bag of Tricks, CVPR 2019).
        schedule: "step" (times ``gamma`` at every milestone) or "poly" ((1 - step / steps)^``power``; Chen et al.,
            DeepLab v2, TPAMI 2017).
        milestones: steps.
        gamma: factor at a milestone.
        power: of the "poly" schedule.
        warmup_steps: the rate rises linearly from ``warmup_factor`` of itself (Goyal et al., 2017); 0 for none.
        warmup_factor: where the warm-up begins.
        new_multiplier: on the learning rate of the neck and the head, which start from random weights.
    """

    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["step", "poly"] = "step"
    milestones: tuple[int, ...] = (60_000,)
    gamma: float = 0.1
    power: float = 0.9
    warmup_steps: int = 1000
    warmup_factor: float = 0.001
    new_multiplier: float = 1.0

    def __post_init__(self) -> None:
        for name, fits, expected in (
            ("learning_rate", 0 < self.learning_rate < inf, "> 0"),
            ("momentum", 0 <= self.momentum < 1, "from 0 to below 1"),
            ("weight_decay", 0 <= self.weight_decay < inf, "0 or more"),
            ("schedule", self.schedule in ("step", "poly"), "'step' or 'poly'"),
            ("milestones", all(step >= 0 for step in self.milestones), "steps, 0 or more each"),
            ("gamma", 0 < self.gamma < inf, "> 0"),
            ("power", 0 < self.power < inf, "> 0"),
            ("warmup_steps", self.warmup_steps >= 0, "0 or more"),
            ("warmup_factor", 0 <= self.warmup_factor <= 1, "from 0 to 1"),
            ("new_multiplier", 0 < self.new_multiplier < inf, "> 0"),
        ):
            if not fits:
                raise ValueError(f"recipe.{name} must be {expected}, got {getattr(self, name)!r}")

    def factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied with at ``step`` of ``steps``."""
        if self.schedule == "poly":
            factor = max(0.0, 1 - step / max(steps, 1)) ** self.power
        else:
            factor = self.gamma ** sum(step >= milestone for milestone in self.milestones)
        if step < self.warmup_steps:
            factor *= self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps
        return float(factor)

    def optimizer(self, old: Iterable[nn.Parameter], new: Iterable[nn.Parameter]) -> SGD:
        """SGD over parameters with trained weights and those without."""
        groups: list[dict[str, Any]] = []
        for parameters, rate in ((old, self.learning_rate), (new, self.learning_rate * self.new_multiplier)):
            learning = [parameter for parameter in parameters if parameter.requires_grad]
            weights = [parameter for parameter in learning if parameter.ndim > 1]
            others = [parameter for parameter in learning if parameter.ndim <= 1]
            groups.append({"params": weights, "lr": rate, "weight_decay": self.weight_decay})
            groups.append({"params": others, "lr": rate, "weight_decay": 0.0})
        return SGD([group for group in groups if group["params"]], lr=self.learning_rate, momentum=self.momentum)

    def scheduled(self, optimizer: SGD, steps: int) -> dict[str, Any]:
        """Its optimiser with a learning rate that changes every step of ``steps``, as Lightning takes them."""
        schedule = Schedule(optimizer, self, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Schedule(LambdaLR):
    """A recipe's learning rate, step by step. A run that goes on takes what its fields say now, from where it stands.

    Args:
        optimizer: from `Recipe.optimizer`.
        recipe: whose it is.
        steps: of the whole run.
    """

    def __init__(self, optimizer: Optimizer, recipe: Recipe, steps: int) -> None:
        fields = "momentum", "weight_decay", "initial_lr"
        super().__init__(optimizer, lambda step: recipe.factor(step, steps))
        self.fields = [{name: group[name] for name in fields} for group in optimizer.param_groups]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the step of a checkpoint, and give the optimiser, whose state was loaded before, the fields of now."""
        super().load_state_dict({**state_dict, "base_lrs": self.base_lrs, "fields": self.fields})
        rates = [base * factor(self.last_epoch) for base, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)]
        for group, fields, rate in zip(self.optimizer.param_groups, self.fields, rates, strict=True):
            group.update(fields, lr=rate)
        self._last_lr = rates
