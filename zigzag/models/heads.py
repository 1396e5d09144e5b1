"""Heads: from the maps of the neck to what a task asks for."""

import torch.nn.functional as F
from torch import Tensor, nn


class SegmentationHead(nn.Module):
    """P^1, the finest map, to scores of classes at the images' size: a 1x1 convolution, then bilinear resizing.

    That the head is one 1x1 convolution is a choice: the neck's last fusion has read every level already.

    Args:
        channels: of P^1.
        classes: number of classes.
        normalised: P^1 comes from a norm. Weights then begin by fan-in, for scores of about 1: smaller ones give the
            neck gradients so small that it learns late. Maps without a norm are several times as large: 0.01.
    """

    def __init__(self, channels: int, classes: int, *, normalised: bool = False) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(channels, classes, 1)
        nn.init.normal_(self.classifier.weight, std=channels**-0.5 if normalised else 0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, finest: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores (N, classes, H, W) of the images of ``size`` (H, W), from P^1 (N, channels, h, w)."""
        scores: Tensor = self.classifier(finest)
        return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
