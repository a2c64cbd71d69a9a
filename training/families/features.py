"""The family of branches over one extractor's cells: one-class, and supervised where there are labels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from linewatch.training.arrays import Bools, Ints
from linewatch.training.data.pictures import PictureStore
from linewatch.training.families.cells import Cells, hard_negatives
from linewatch.training.families.extractor import Extractor
from linewatch.training.families.one_class import NearestNeighbours, PositionGaussian
from linewatch.training.families.supervised import CellClassifier, PooledStatistics
from linewatch.training.graph.outputs import DistanceMap, FamilyOutputs
from linewatch.training.graph.writer import GraphWriter

if TYPE_CHECKING:
    from linewatch.training.families.discriminator import Discriminator


@dataclass(frozen=True, slots=True)
class FittedFeatures:
    """Branches over one extractor."""

    extractor: Extractor
    neighbours: NearestNeighbours
    position: PositionGaussian
    discriminator: "Discriminator | None"
    pooled: PooledStatistics | None
    classifier: CellClassifier | None

    def write(self, g: GraphWriter, color: str) -> FamilyOutputs:
        """See `FittedFamily`."""
        features = self.extractor.write(g, color)
        coarse = self.extractor.write_coarse(g, features.cells)
        distance, scores = self.neighbours.write(g, coarse)
        scores |= self.position.write(g, coarse)[1]
        segmentation = None
        if self.discriminator is not None:
            scores |= self.discriminator.write(g, features.cells)
        if self.pooled is not None:
            scores |= self.pooled.write(g, features.statistics)
        if self.classifier is not None:
            segmentation, extra = self.classifier.write(g, features.cells, self.extractor.stride)
            scores |= extra
        named = {f"{self.extractor.score_prefix}{name}": score for name, score in scores.items()}
        return FamilyOutputs(named, DistanceMap(distance, self.extractor.coarse_stride), segmentation)


@dataclass(frozen=True, slots=True)
class FeatureFamily:
    """One-class and supervised branches over an extractor's cells.

    Attributes:
        extractor: what makes cells of pictures.
        store: the pictures.
        cells: of every picture.
        groups: N; pictures that must stay together share one.
        seed: of everything that is drawn.
        folds: see `Family`.
        segments: whether cells are classified, where there are masks.
    """

    extractor: Extractor
    store: PictureStore
    cells: Cells
    groups: Ints
    seed: int
    folds: int
    segments: bool = True

    @property
    def name(self) -> str:
        """See `Family`."""
        return self.extractor.name

    @property
    def divisions(self) -> int:
        """See `Family`. A pretrained net has more channels, and is slower to fit and to run."""
        return 1 if self.extractor.is_pretrained else 2

    def placeholder(self) -> None:
        """See `Family`. None: it is fitted in seconds."""

    def fit(self, chosen: Bools, key: str) -> FittedFeatures:  # noqa: ARG002
        """See `Family`. Fast enough to need no checkpoint of its own."""
        store, cells = self.store, self.cells
        rng = np.random.default_rng([self.seed, 1])
        neighbours = NearestNeighbours.fit(cells.coarse[chosen[cells.coarse_owner]], rng)
        position = PositionGaussian.fit(cells.maps[chosen[cells.maps_owner]], rng)
        both = bool((chosen & store.is_anomaly).any())
        pooled = PooledStatistics.fit(cells.pooled[chosen], store.is_anomaly[chosen], self.groups[chosen], self.seed) if both else None
        fine = chosen[cells.fine_owner]
        features, classes = cells.fine[fine], cells.fine_class[fine]
        classifier = None
        if self.segments and (classes > 0).any():
            count = len(store.labels)
            first = CellClassifier.fit(features, classes, count, self.seed, epochs=8)
            negatives = hard_negatives(store, self.extractor, first, chosen, self.seed)
            hard = np.concatenate([features, negatives])
            with_hard = np.concatenate([classes, np.zeros(len(negatives), np.int64)])
            classifier = CellClassifier.fit(hard, with_hard, count, self.seed, epochs=24)
        discriminator = None
        if self.extractor.is_pretrained:
            from linewatch.training.families.discriminator import Discriminator  # it brings torch

            normal = cells.coarse[chosen[cells.coarse_owner]]
            defects = features[classes > 0][:, : self.extractor.channels]
            discriminator = Discriminator.fit(normal, defects, self.seed)
        return FittedFeatures(self.extractor, neighbours, position, discriminator, pooled, classifier)
