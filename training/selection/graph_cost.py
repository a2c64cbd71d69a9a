"""What graphs of fitted families cost, before the slow ones are fitted."""

import numpy as np

from linewatch.training.data.pictures import PictureStore
from linewatch.training.graph.color import write_color
from linewatch.training.graph.cost import cost_model
from linewatch.training.graph.export import write_model
from linewatch.training.graph.outputs import FittedFamily
from linewatch.training.graph.spec import GraphSpec, Stack
from linewatch.training.graph.writer import GraphWriter


class GraphCosts:
    """What graphs cost, each counted once.

    Args:
        store: the training pictures.
        samples: family name to what may be written into a graph in its place.
        fine: whether label logits are brought to full resolution.

    Attributes:
        scores: all scores that the families give, by name.
    """

    def __init__(self, store: PictureStore, samples: dict[str, FittedFamily], *, fine: bool) -> None:
        self._store, self._samples, self._fine = store, samples, fine
        g = GraphWriter(store.spec.height, store.spec.width)
        color = write_color(g)
        written = {name: fitted.write(g, color) for name, fitted in samples.items()}
        self.scores = {column: score for w in written.values() for column, score in w.scores.items()}
        self._owner = {column: name for name, w in written.items() for column in w.scores}
        able = [name for name, w in written.items() if w.segmentation is not None and store.labels]
        self._segmenters: list[str | None] = [*able] or [None]
        self._known: dict[tuple[tuple[str, ...], str | None], float] = {}

    def families(self, columns: tuple[str, ...], segmenter: str | None) -> list[str]:
        """Families that a graph needs."""
        return list(dict.fromkeys([*(self._owner[c] for c in columns), *([segmenter] if segmenter else [])]))

    def __call__(self, columns: tuple[str, ...], segmenter: str | None) -> float:
        """Milliseconds of the whole graph with these scores and the segmenter's labels."""
        if (columns, segmenter) not in self._known:
            parts = {name: self._samples[name] for name in self.families(columns, segmenter)}
            even = Stack(np.ones(len(columns)), 0.0)
            graph = write_model(GraphSpec(parts, columns, even, segmenter, self._fine), self._store)
            self._known[columns, segmenter] = cost_model().milliseconds(graph)
        return self._known[columns, segmenter]

    def least(self) -> float:
        """Milliseconds of the cheapest graph of one score."""
        return min(self((column,), segmenter) for column in self._owner for segmenter in self._segmenters)


