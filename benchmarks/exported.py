"""The graphs that training exports, one for each architecture, with parameters drawn at random instead of fitted.

What a graph costs depends on its shapes only; fitting them would take minutes and change nothing that is timed.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from linewatch.training.arrays import F32
from linewatch.training.families.backbone import Backbone
from linewatch.training.families.discriminator import Discriminator
from linewatch.training.families.extractor import BANK, Extractor
from linewatch.training.families.features import FittedFeatures
from linewatch.training.families.one_class import NearestNeighbours, PositionGaussian
from linewatch.training.families.supervised import CellClassifier, PooledStatistics
from linewatch.training.families.unet import UNet, export
from linewatch.training.graph.color import write_color
from linewatch.training.graph.writer import GraphWriter

SIDE, LABELS, DIMENSIONS, NEIGHBOURS = 224, 3, 24, 512
RNG = np.random.default_rng(0)


def drawn(*shape: int) -> F32:
    fan_in = int(np.prod(shape[1:])) or 1
    return RNG.normal(0, (1 / fan_in) ** 0.5, shape).astype(np.float32)


def fitted(extractor: Extractor, *, supervised: bool, size: tuple[int, int] = (SIDE, SIDE)) -> FittedFeatures:
    """All branches over an extractor, for inputs of a height and width; `supervised` adds those that need anomalies and masks."""
    width = extractor.channels
    cells = [side // extractor.stride // extractor.coarse for side in size]
    return FittedFeatures(
        extractor,
        NearestNeighbours(drawn(DIMENSIONS, width), drawn(DIMENSIONS), drawn(NEIGHBOURS, DIMENSIONS)),
        PositionGaussian(drawn(DIMENSIONS, width), drawn(DIMENSIONS), drawn(DIMENSIONS, *cells), drawn(DIMENSIONS, *cells)),
        Discriminator((drawn(64, width), drawn(1, 64)), (drawn(64), drawn(1))) if supervised else None,
        PooledStatistics(drawn(2 * width), 0.0) if supervised else None,
        CellClassifier((drawn(64, 2 * width), drawn(32, 64), drawn(LABELS, 32)), (drawn(64), drawn(32), drawn(LABELS))) if supervised else None,
    )  # fmt: skip


def features(extractor: Extractor, *, supervised: bool) -> bytes:
    g = GraphWriter(SIDE, SIDE)
    written = fitted(extractor, supervised=supervised).write(g, write_color(g))
    outputs = [g.concat(*written.score_values)]
    if written.distance_map:
        outputs.append(g.node("Sigmoid", g.upsample(written.distance_map.value, 2)))
    if written.segmentation:
        outputs.append(g.upsample(written.segmentation.logits, 2))
    return g.build(outputs)


def unet() -> bytes:
    torch.manual_seed(0)
    g = GraphWriter(SIDE, SIDE)
    written = export(UNet(LABELS + 1).eval()).write(g, write_color(g))
    assert written.segmentation
    return g.build([g.concat(*written.score_values), g.upsample(written.segmentation.logits, 2)])


def resnet(depth: int) -> Extractor:
    """A residual net of torchvision's and timm's shapes, up to its third stage."""
    bottleneck = depth > 34
    blocks = {18: (2, 2, 2), 34: (3, 4, 6), 50: (3, 4, 6)}[depth]
    weights: dict[str, F32] = {"conv1.weight": drawn(64, 3, 7, 7), **_norm("bn1", 64)}
    inner = 64
    for stage, (width, count) in enumerate(zip((64, 128, 256), blocks, strict=True), 1):
        out = width * 4 if bottleneck else width
        for b in range(count):
            base, stride = f"layer{stage}.{b}", 2 if stage > 1 and b == 0 else 1
            shapes = [(width, inner, 1, 1), (width, width, 3, 3), (out, width, 1, 1)] if bottleneck else [
                (width, inner, 3, 3), (width, width, 3, 3)]  # fmt: skip
            for n, shape in enumerate(shapes, 1):
                weights |= {f"{base}.conv{n}.weight": drawn(*shape), **_norm(f"{base}.bn{n}", shape[0])}
            if stride > 1 or inner != out:
                weights |= {f"{base}.downsample.0.weight": drawn(out, inner, 1, 1), **_norm(f"{base}.downsample.1", out)}
            inner = out
    return Backbone(f"timm:resnet{depth}", "", "", weights).extractor()


def _norm(name: str, width: int) -> Mapping[str, F32]:
    ones = np.ones(width, np.float32)
    return {f"{name}.weight": ones, f"{name}.bias": 0 * ones, f"{name}.running_mean": 0 * ones, f"{name}.running_var": ones}


EXPORTED: dict[str, Callable[[], bytes]] = {
    "bank, normals only": lambda: features(BANK, supervised=False),
    "bank, supervised": lambda: features(BANK, supervised=True),
    "U-Net": unet,
    "resnet18 features": lambda: features(resnet(18), supervised=True),
    "resnet50 features": lambda: features(resnet(50), supervised=True),
}
