"""The family of branches over one extractor's cells: one-class, and supervised where there are labels."""

from dataclasses import dataclass

import numpy as np

from linewatch.training.arrays import Bools
from linewatch.training.data.pictures import PictureStore
from linewatch.training.families.cells import Cells, hard_negatives
from linewatch.training.families.discriminator import Discriminator
from linewatch.training.families.extractor import Extractor
from linewatch.training.families.one_class import NearestNeighbours, PositionGaussian
from linewatch.training.families.supervised import CellClassifier, PooledStatistics
from linewatch.training.graph.outputs import Written
from linewatch.training.graph.writer import GraphWriter


@dataclass(frozen=True, slots=True)
class FittedFeatures:
    """Branches over one extractor."""

    extractor: Extractor
    prefix: str
    neighbours: NearestNeighbours
    position: PositionGaussian
    discriminator: Discriminator | None
    pooled: PooledStatistics | None
    classifier: CellClassifier | None

    def write(self, g: GraphWriter, color: str) -> Written:
        """See `Fitted`."""
        features = self.extractor.write(g, color)
        coarse = self.extractor.write_coarse(g, features)
        unusual, scores = self.neighbours.write(g, coarse)
        scores |= self.position.write(g, coarse)[1]
        labels = strongest = None
        if self.discriminator is not None:
            scores |= self.discriminator.write(g, features)
        if self.pooled is not None:
            scores |= self.pooled.write(g, features)
        if self.classifier is not None:
            labels, strongest, extra = self.classifier.write(g, features)
            scores |= extra
        return Written({f"{self.prefix}{name}": value for name, value in scores.items()}, unusual, labels, strongest)


@dataclass(frozen=True, slots=True)
class FeatureFamily:
    """One-class and supervised branches over an extractor's cells."""

    extractor: Extractor
    store: PictureStore
    cells: Cells
    seed: int
    folds: int
    with_discriminator: bool

    @property
    def name(self) -> str:
        """See `Family`."""
        return self.extractor.name

    def fit(self, chosen: Bools, key: str) -> FittedFeatures:  # noqa: ARG002
        """See `Family`. Fast enough to need no checkpoint of its own."""
        store, cells = self.store, self.cells
        rng = np.random.default_rng([self.seed, 1])
        neighbours = NearestNeighbours.fit(cells.coarse[chosen[cells.coarse_owner]], rng)
        position = PositionGaussian.fit(cells.maps[chosen[cells.maps_owner]], rng)
        both = bool((chosen & store.is_anomaly).any())
        pooled = PooledStatistics.fit(cells.pooled[chosen], store.is_anomaly[chosen]) if both else None
        fine = chosen[cells.fine_owner]
        features, classes = cells.fine[fine], cells.fine_class[fine]
        classifier = None
        if (classes > 0).any():
            count = len(store.labels)
            first = CellClassifier.fit(features, classes, count, self.seed, epochs=8)
            negatives = hard_negatives(store, self.extractor, first, chosen, self.seed)
            hard = np.concatenate([features, negatives])
            with_hard = np.concatenate([classes, np.zeros(len(negatives), np.int64)])
            classifier = CellClassifier.fit(hard, with_hard, count, self.seed, epochs=24)
        discriminator = None
        if self.with_discriminator:
            normal = cells.coarse[chosen[cells.coarse_owner]]
            defects = features[classes > 0][:, : self.extractor.channels]
            discriminator = Discriminator.fit(normal, defects, self.seed)
        prefix = "" if self.extractor.name == "bank" else f"{self.extractor.name} "
        return FittedFeatures(self.extractor, prefix, neighbours, position, discriminator, pooled, classifier)
