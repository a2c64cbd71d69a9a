"""Families of branches: what is fitted together and written into a graph together.

A family is fitted on some pictures and gives a `Fitted`, which writes itself into a graph. Cross-validation, the choice
and the final export treat all families alike.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from linewatch.training.discriminator import Discriminator
from linewatch.training.features import Bools, Cells, Extractor, hard_negatives
from linewatch.training.graph import GraphWriter
from linewatch.training.one_class import NearestNeighbours, PositionGaussian
from linewatch.training.pictures import PictureStore
from linewatch.training.supervised import CellClassifier, PooledStatistics


@dataclass(frozen=True, slots=True)
class Written:
    """Names of a fitted family's values in a graph.

    Attributes:
        scores: score name to value, each 1 x 1 x 1 x 1.
        unusual: a distance map from what is normal, 1 x 1 x h x w; None when the family has none.
        labels: label logits with the background first, 1 x (labels + 1) x h x w; None without segmentation.
        strongest: the largest label logit relative to the background, 1 x 1 x h x w; None without segmentation.
    """

    scores: dict[str, str]
    unusual: str | None = None
    labels: str | None = None
    strongest: str | None = None


class Fitted(Protocol):
    """A fitted family."""

    def write(self, g: GraphWriter, color: str) -> Written:
        """Write everything over `write_color`'s planes; what is not used is left out when the graph is built."""


class Family(Protocol):
    """Something that can be fitted.

    Attributes:
        name: as reports call it.
        folds: how many parts the pictures are divided into for its out-of-fold scores; few where fitting is slow.
    """

    @property
    def name(self) -> str:
        """See above."""

    @property
    def folds(self) -> int:
        """See above."""

    def fit(self, chosen: Bools, key: str) -> Fitted:
        """Fit on the chosen pictures. `key` names this fit among all fits of a run, for checkpoints."""


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
