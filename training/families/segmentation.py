"""The segmentation net: the pretrained encoder, and a light decoder that brings what it sees back to half the input's size.

Four answers from one net. With masks: whether a place is defective, and, apart from that, which label it would bear: rare labels
share what all of them teach of outlines. With or without: how anomalous a place makes its picture, and how anomalous the picture is
as a whole. What makes one picture rank above another is not what draws the finest outline, and learnt by one channel each spoils
the other (measured; see docs/accuracy.md).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from linewatch.training.families.encoder import STRIDES, Block, Convolution, Encoder
from linewatch.training.families.layers import Layer, folded, plain
from linewatch.training.families.one_class import peak
from linewatch.training.families.torch_setup import seeded
from linewatch.training.graph.outputs import FamilyOutputs, Score, Segmentation, Supervision
from linewatch.training.graph.writer import GraphWriter

WIDTHS = (16, 32, 48, 64)
"""Channels of the decoder on each of the encoder's grids."""
STRIDE = STRIDES[0]
"""Pixels of the input on a side of a cell of the logits."""
HEADS = (2, 3)
"""Grids, by their place in `STRIDES`, whose mean and maximum tell of the picture as a whole."""


def _pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A convolution of 1 x 1 as one product of matrices: with channels last nothing is moved, and one thread takes half the time."""
    return functional.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)


class EncoderModule(nn.Module):
    """An encoder in training: batch norms are folded, so that their statistics stay as they are.

    Only what follows the grid of stride 8 is ever fitted: it sees shapes, which differ from plant to plant, and costs little.
    What comes before sees edges and textures, which are the same everywhere, on grids that make up most of the cost.

    Attributes:
        frozen: whether nothing is fitted.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.frozen = True
        self._fixed = encoder.taps[STRIDES.index(8)]
        convolutions = [(n <= self._fixed, c) for n, block in enumerate(encoder.blocks) for c in block.convolutions]
        self.weights = nn.ParameterList(nn.Parameter(torch.from_numpy(c.weight.copy()), requires_grad=not fixed) for fixed, c in convolutions)
        self.biases = nn.ParameterList(nn.Parameter(torch.from_numpy(c.bias.copy()), requires_grad=not fixed) for fixed, c in convolutions)

    def fitted(self) -> list[nn.Parameter]:
        """The parameters that are fitted."""
        return [p for p in self.parameters() if p.requires_grad]

    def forward(self, planes: torch.Tensor) -> list[torch.Tensor]:
        """N x 3 x H x W opponent colours to the grids of `STRIDES`."""
        x, n, seen = planes, 0, []
        wanted = torch.is_grad_enabled() and not self.frozen
        for i, block in enumerate(self.encoder.blocks):
            y = x
            with torch.set_grad_enabled(wanted and i > self._fixed):
                for convolution in block.convolutions:
                    y = self._convolve(y, n, convolution)
                    n += 1
                x = x + y if block.residual else y
            seen.append(x)
        return [seen[tap] for tap in self.encoder.taps]

    def _convolve(self, x: torch.Tensor, n: int, convolution: Convolution) -> torch.Tensor:
        before, behind = convolution.pads
        if before != behind:
            x = functional.pad(x, (before, behind, before, behind))
            before = 0
        if self.weights[n].shape[2] == 1:
            y = _pointwise(x, self.weights[n], self.biases[n])
        else:
            y = functional.conv2d(x, self.weights[n], self.biases[n], convolution.stride, before, groups=convolution.groups)
        return functional.relu6(y) if convolution.clipped else y

    def export(self) -> Encoder:
        """With the weights as they are now."""
        arrays = iter([(w.detach().cpu().numpy(), b.detach().cpu().numpy()) for w, b in zip(self.weights, self.biases, strict=True)])
        blocks = []
        for block in self.encoder.blocks:
            fitted = [Convolution(*next(arrays), c.stride, c.groups, c.clipped) for c in block.convolutions]
            blocks.append(Block(tuple(fitted), block.residual))
        return Encoder(self.encoder.name, tuple(blocks), self.encoder.taps)


def _block(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class SegmentationNet(nn.Module):
    """The net in training.

    Args:
        encoder: pretrained.
        labels: how many there are; 0 without masks.
    """

    def __init__(self, encoder: Encoder, labels: int) -> None:
        super().__init__()
        self.encoder = EncoderModule(encoder)
        self.enter = nn.ModuleList(_block(c, w, 1) for c, w in zip(encoder.channels, WIDTHS, strict=True))
        self.lateral = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(WIDTHS))
        self.up = nn.ModuleList(_block(w, w, 3) for w in WIDTHS[:-1])
        self.outlines = nn.Conv2d(WIDTHS[0], 1 + labels, 1) if labels else None
        self.anomaly = nn.Conv2d(WIDTHS[0], 1, 1)
        self.picture = nn.Conv2d(2 * sum(WIDTHS[head] for head in HEADS), 1, 1)

    def forward(self, planes: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """N x 3 x H x W opponent colours to logits.

        Returns:
            defect against background, then one label against another (N x 1 + labels x H/2 x W/2, None without masks); anomaly of each
            place (N x 1 x H/2 x W/2) and of the picture (N).
        """
        entered = [enter(x) for enter, x in zip(self.enter, self.encoder(planes), strict=True)]
        x = entered[-1]
        grids = [x]
        for n in reversed(range(len(self.lateral))):
            upsampled = functional.interpolate(self.lateral[n](x), scale_factor=2, mode="bilinear", align_corners=False)
            x = self.up[n](entered[n] + upsampled)
            grids.insert(0, x)
        pooled = [p(grids[head], dim=(2, 3), keepdim=True) for head in HEADS for p in (torch.mean, torch.amax)]
        picture = self.picture(torch.cat(pooled, dim=1)).flatten()
        return None if self.outlines is None else self.outlines(x), self.anomaly(x), picture


@dataclass(frozen=True, slots=True)
class FittedSegmentation:
    """Folded weights of every convolution, in the order of `SegmentationNet`."""

    encoder: Encoder
    enter: tuple[Layer, ...]
    lateral: tuple[Layer, ...]
    up: tuple[Layer, ...]
    outlines: Layer | None
    anomaly: Layer
    picture: Layer

    def write(self, g: GraphWriter, color: str) -> FamilyOutputs:
        """See `FittedFamily`."""
        entered = [g.node("Relu", g.conv(x, *layer)) for x, layer in zip(self.encoder.write(g, color), self.enter, strict=True)]
        x = entered[-1]
        grids = [x]
        for n in reversed(range(len(self.lateral))):
            upsampled = g.upsample(g.conv(x, *self.lateral[n]), 2)
            x = g.node("Relu", g.conv(g.node("Add", entered[n], upsampled), *self.up[n]))
            grids.insert(0, x)
        anomaly = g.conv(x, *self.anomaly)
        pooled = [g.node(pool, grids[head]) for head in HEADS for pool in ("GlobalAveragePool", "GlobalMaxPool")]
        scores = {
            "net peak": peak(g, anomaly, Supervision.SUPERVISED),
            "net area": Score(g.node("Sqrt", g.node("GlobalAveragePool", g.node("Sigmoid", anomaly))), Supervision.SUPERVISED),
            "net picture": Score(g.conv(g.concat(*pooled), *self.picture), Supervision.SUPERVISED),
        }
        if self.outlines is None:
            return FamilyOutputs(scores, segmentation=Segmentation(_with_background(g, anomaly, 1), anomaly, STRIDE))
        weight, bias = self.outlines
        defect, count = g.conv(x, weight[:1], bias[:1]), len(weight) - 1
        relative = defect
        if count > 1:  # the likeliest label has the defect's own logit, the others less
            classes = g.conv(x, weight[1:], bias[1:])
            below = g.node("Sub", classes, g.node("ReduceMax", classes, axes=[1], keepdims=1))
            relative = g.node("Add", below, defect)
        return FamilyOutputs(scores, segmentation=Segmentation(_with_background(g, relative, count), defect, STRIDE))


def _with_background(g: GraphWriter, relative: str, labels: int) -> str:
    """Logits relative to the background, with its own, which is 0, before them."""
    background = np.concatenate([np.zeros((1, labels)), np.eye(labels)]).astype(np.float32)
    return g.conv(relative, background[:, :, None, None])


def export(net: SegmentationNet) -> FittedSegmentation:
    """Fold the normalisation of a trained net into its convolutions."""
    net.eval()
    return FittedSegmentation(
        net.encoder.export(),
        tuple(folded(block) for block in net.enter),
        tuple(plain(conv) for conv in net.lateral),
        tuple(folded(block) for block in net.up),
        None if net.outlines is None else plain(net.outlines),
        plain(net.anomaly),
        plain(net.picture),
    )


def placeholder(encoder: Encoder, labels: int) -> FittedSegmentation:
    """What a fitted net of that many labels looks like: a graph's cost depends on shapes only."""
    with seeded(0):
        return export(SegmentationNet(encoder, labels))
