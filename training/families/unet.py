"""A small U-Net for one project, and how it is written into a graph.

Input: opponent colours. Four levels at 1/2 to 1/16 of the size; on the way back each level adds what it saw on the way
down (after Ronneberger et al. 2015, with sums for concatenations, which cost half). Logits have half the input's
resolution and are interpolated: measured on thin scratches, a level at full resolution costs twice the time and gains
nothing.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from linewatch.training.families.layers import Layer, folded, plain
from linewatch.training.families.one_class import peak
from linewatch.training.graph.outputs import FamilyOutputs, Score, Segmentation, Supervision
from linewatch.training.graph.writer import GraphWriter

WIDTHS = (16, 32, 64, 96)
STRIDE = 2
"""Pixels of the input on a side of a cell of the logits."""
FIRST_KERNEL = 5


def _block(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class UNet(nn.Module):
    """The net in training.

    Args:
        classes: outputs: labels and the background.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(_block(i, o, 2, FIRST_KERNEL if n == 0 else 3), _block(o, o))
            for n, (i, o) in enumerate(zip(inputs, WIDTHS, strict=True))
        )
        self.lateral = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(WIDTHS))
        self.up = nn.ModuleList(_block(w, w) for w in WIDTHS[:-1])
        self.out = nn.Conv2d(WIDTHS[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W opponent colours to N x classes x H/2 x W/2 logits."""
        seen = []
        for level in self.down:
            x = level(x)
            seen.append(x)
        for n in reversed(range(len(self.lateral))):
            upsampled = functional.interpolate(self.lateral[n](x), scale_factor=2, mode="bilinear", align_corners=False)
            x = self.up[n](seen[n] + upsampled)
        out: torch.Tensor = self.out(x)
        return out


@dataclass(frozen=True, slots=True)
class FittedUNet:
    """Folded weights of every convolution, in the order of `UNet`."""

    down: tuple[tuple[Layer, ...], ...]
    lateral: tuple[Layer, ...]
    up: tuple[Layer, ...]
    out: Layer

    def write(self, g: GraphWriter, color: str) -> FamilyOutputs:
        """See `FittedFamily`."""
        x, seen = color, []
        for level in self.down:
            for n, (weight, bias) in enumerate(level):
                x = g.node("Relu", g.conv(x, weight, bias, stride=2 if n == 0 else 1))
            seen.append(x)
        for n in reversed(range(len(self.lateral))):
            upsampled = g.upsample(g.conv(x, *self.lateral[n]), 2)
            x = g.node("Relu", g.conv(g.node("Add", seen[n], upsampled), *self.up[n]))
        weight, bias = self.out
        # Relative to the background, which softmax and argmax do not notice.
        relative = g.conv(x, weight[1:] - weight[:1], bias[1:] - bias[:1])
        max_logit = g.node("ReduceMax", relative, axes=[1], keepdims=1)
        count = len(weight) - 1
        background = np.concatenate([np.zeros((1, count)), np.eye(count)]).astype(np.float32)
        area = g.node("GlobalAveragePool", g.node("Sigmoid", max_logit))
        scores = {
            "U-Net peak": peak(g, max_logit, Supervision.SUPERVISED),
            "U-Net area": Score(g.node("Sqrt", area), Supervision.SUPERVISED),
        }
        segmentation = Segmentation(g.conv(relative, background[:, :, None, None]), max_logit, STRIDE)
        return FamilyOutputs(scores, segmentation=segmentation)


def export(net: UNet) -> FittedUNet:
    """Fold the normalisation of a trained net into its convolutions."""
    net.eval()
    return FittedUNet(
        tuple(tuple(folded(block) for block in level) for level in net.down),
        tuple(plain(c) for c in net.lateral),
        tuple(folded(b) for b in net.up),
        plain(net.out),
    )


def placeholder(classes: int) -> FittedUNet:
    """What a fitted net of that many outputs looks like, all zeros: a graph's cost depends on shapes only."""

    def layer(outputs: int, inputs: int, kernel: int) -> Layer:
        return np.zeros((outputs, inputs, kernel, kernel), np.float32), np.zeros(outputs, np.float32)

    inputs = (3, *WIDTHS[:-1])
    return FittedUNet(
        tuple((layer(o, i, FIRST_KERNEL if n == 0 else 3), layer(o, o, 3)) for n, (i, o) in enumerate(zip(inputs, WIDTHS, strict=True))),
        tuple(layer(a, b, 1) for a, b in pairwise(WIDTHS)),
        tuple(layer(w, w, 3) for w in WIDTHS[:-1]),
        layer(classes, WIDTHS[0], 1),
    )
