"""Sets of drawn parts: how many of what, and each from its own seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linewatch.commands.drawn.kinds import DEFAULT_KIND, KINDS


@dataclass(frozen=True, slots=True)
class Part:
    """One drawn picture.

    Attributes:
        name: file name without ending.
        picture: 240 x 320 x 3 uint8 RGB.
        labels: 240 x 320 uint8, 0 background, i + 1 the i-th label of its kind.
        split: `train` or `test`.
    """

    name: str
    picture: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    split: str

    @property
    def is_anomaly(self) -> bool:
        """Whether any defect was drawn."""
        return bool(self.labels.any())


@dataclass(frozen=True, slots=True)
class PartSet:
    """A set of parts, drawn as they are iterated; the same numbers give the same pixels.

    Attributes:
        train_normal: how many good parts are drawn for training.
        train_anomaly: how many bad ones. The kinds of defects take turns, and every tenth part has two.
        test_normal: how many good parts are drawn for tests.
        test_anomaly: how many bad ones.
        seed: another one draws other parts.
        kind: one of KINDS.
    """

    train_normal: int = 60
    train_anomaly: int = 60
    test_normal: int = 40
    test_anomaly: int = 30
    seed: int = 0
    kind: str = DEFAULT_KIND

    @property
    def labels(self) -> dict[str, str]:
        """The defects' names and their colours in masks, #RRGGBB."""
        return KINDS[self.kind].labels

    def __len__(self) -> int:
        return self.train_normal + self.train_anomaly + self.test_normal + self.test_anomaly

    def __iter__(self) -> Iterator[Part]:
        plan = [("train", False, self.train_normal), ("train", True, self.train_anomaly),
                ("test", False, self.test_normal), ("test", True, self.test_anomaly)]  # fmt: skip
        defects, draw = list(self.labels), KINDS[self.kind].draw
        for group, (split, defective, count) in enumerate(plan):
            for i in range(count):
                chosen: list[str] = []
                if defective:
                    chosen = [defects[i % len(defects)]]
                    if i % 10 == 9:
                        chosen.append(defects[(i + 1) % len(defects)])
                picture, labels = draw(np.random.default_rng([self.seed, group, i]), chosen)
                yield Part(f"{'anomaly' if defective else 'normal'}-{i:03d}", picture, labels, split)
