"""Heads: from the maps of the neck to what a task asks for."""

import torch.nn.functional as F
from torch import Tensor, nn


class SegmentationHead(nn.Module):
    """P^1, the finest map, to scores of classes at the images' size: a 1x1 convolution, then bilinear resizing.

    That the head is one 1x1 convolution is a choice: the neck's last fusion has read every level already.

    Args:
        channels: of P^1.
        classes: number of classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(channels, classes, 1)
        nn.init.kaiming_normal_(self.classifier.weight, nonlinearity="linear")  # smaller, and the neck learns late
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, finest: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores (N, classes, H, W) of the images of ``size`` (H, W), from P^1 (N, channels, h, w)."""
        scores: Tensor = self.classifier(finest)
        return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
