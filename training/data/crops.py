"""Crops that the U-Net learns from: balanced over labels, augmented, with defects pasted onto normal parts.

Pure numpy, driven by the generator that is passed in: the same generator gives the same crops.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from linewatch.training.arrays import Bools, LabelMap
from linewatch.training.data.pictures import PictureStore

Pixels = npt.NDArray[np.float32]
"""H x W x 3, R, G, B, 0 to 255."""

POINTS_PER_MASK = 64
LARGEST_PASTE = 0.08
"""Share of the crop beyond which a defect is not pasted: its seam would teach more than the defect."""
DEFECT_SHARE = 0.65
"""Share of crops around a defect: more of them do as much for thin defects as half as many steps again."""
SEARCH_SHARE = 0.1
"""Share of crops from anywhere in pictures with defects; what is left comes from normal pictures."""
PASTE_SHARE = 0.3
"""Share of all but the first that get a defect pasted."""


def crop_size(store: PictureStore, size: int) -> tuple[int, int]:
    """Height and width of crops of that size; those of the model's input where it is smaller."""
    return min(size, store.spec.height), min(size, store.spec.width)


@dataclass(frozen=True, slots=True)
class CropSource:
    """Where crops come from.

    Attributes:
        store: the pictures.
        size: height and width of crops.
        normals: indices of normal pictures.
        masked: indices of anomalies with masks.
        points: for each label, n x 3 of picture, row, column: places where it is.
        defect_share: share of crops around a defect.
    """

    store: PictureStore
    size: tuple[int, int]
    normals: npt.NDArray[np.int64]
    masked: npt.NDArray[np.int64]
    points: tuple[npt.NDArray[np.int64], ...]
    defect_share: float = DEFECT_SHARE

    @classmethod
    def make(
        cls, store: PictureStore, chosen: Bools, size: int, seed: int, *, defect_share: float = DEFECT_SHARE
    ) -> "CropSource":
        """Look through the chosen pictures' masks.

        Args:
            store: the pictures.
            chosen: N bool, which of them crops come from.
            size: height and width of crops in pixels, at most the model's input.
            seed: of the choice among a mask's places.
            defect_share: share of crops around a defect.
        """
        rng = np.random.default_rng([seed, 6])
        masked = np.flatnonzero(chosen & store.is_anomaly & store.has_mask)
        points: list[list[npt.NDArray[np.int64]]] = [[] for _ in store.labels]
        for i in masked:
            mask = store.label_map(int(i))
            for k, found in enumerate(points):
                rows, columns = np.nonzero(mask == k + 1)
                if len(rows):
                    pick = rng.permutation(len(rows))[:POINTS_PER_MASK]
                    found.append(np.stack([np.full(len(pick), i), rows[pick], columns[pick]], axis=1))
        return cls(
            store, crop_size(store, size), np.flatnonzero(chosen & ~store.is_anomaly), masked,
            tuple(np.concatenate(p) for p in points if p), defect_share,
        )  # fmt: skip

    def draw(self, rng: np.random.Generator) -> tuple[Pixels, LabelMap]:
        """One augmented crop and its labels: most around a defect, the rest anywhere, mostly on normal parts."""
        chance = rng.random()
        if self.points and (chance < self.defect_share or not len(self.normals)):
            picture, labels = self._around_defect(rng)
        else:
            somewhere = self.masked if self.points and chance > 1 - SEARCH_SHARE else self.normals
            picture, labels = self._anywhere(int(rng.choice(somewhere)), rng)
            if rng.random() < PASTE_SHARE:
                picture, labels = self._paste(picture, labels, rng)
        return augment(picture, labels, rng)

    def _window(self, index: int, top: int, left: int) -> tuple[Pixels, LabelMap]:
        height, width = self.size
        spec = self.store.spec
        top, left = int(np.clip(top, 0, spec.height - height)), int(np.clip(left, 0, spec.width - width))
        area = np.s_[top : top + height, left : left + width]
        return self.store.input(index)[0][area].astype(np.float32), self.store.label_map(index)[area]

    def _around_defect(self, rng: np.random.Generator) -> tuple[Pixels, LabelMap]:
        # Each label as often as any other, however rare it is.
        places = self.points[int(rng.integers(len(self.points)))]
        index, row, column = places[int(rng.integers(len(places)))]
        height, width = self.size
        return self._window(
            int(index), int(row) - int(rng.integers(height // 6, height - height // 6)),
            int(column) - int(rng.integers(width // 6, width - width // 6)),
        )  # fmt: skip

    def _anywhere(self, index: int, rng: np.random.Generator) -> tuple[Pixels, LabelMap]:
        height, width = self.size
        spec = self.store.spec
        return self._window(
            index, int(rng.integers(0, spec.height - height + 1)), int(rng.integers(0, spec.width - width + 1))
        )

    def _paste(self, picture: Pixels, labels: LabelMap, rng: np.random.Generator) -> tuple[Pixels, LabelMap]:
        if not self.points:
            if self.store.labels:  # a made-up defect would be of no label
                return picture, labels
            return make_up_defect(picture, labels, self._anywhere(int(rng.choice(self.normals)), rng)[0], rng)
        source, mask = self._around_defect(rng)
        if rng.random() < 0.5:
            source, mask = source[:, ::-1], mask[:, ::-1]
        if rng.random() < 0.5:
            source, mask = source[::-1], mask[::-1]
        inside = mask > 0
        if inside.mean() > LARGEST_PASTE:
            return picture, labels
        soft = np.asarray(Image.fromarray((inside * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(5))
                          .filter(ImageFilter.GaussianBlur(1)), np.float32)[..., None] / 255  # fmt: skip
        ring = (soft[..., 0] > 0.02) & ~inside
        # Brought to the brightness of the place where it lands, so that not its light but its shape gives it away.
        shift = picture[ring].mean(axis=0) - source[ring].mean(axis=0) if ring.any() else np.zeros(3, np.float32)
        pasted = picture * (1 - soft) + (source + shift) * soft
        return pasted.clip(0, 255).astype(np.float32), np.where(inside, mask, labels)


def make_up_defect(picture: Pixels, labels: LabelMap, other: Pixels, rng: np.random.Generator) -> tuple[Pixels, LabelMap]:
    """A made-up defect (label 1) for data without masks: another place's texture, or a shade, inside a ragged blob.

    Args:
        picture: of a normal part, or a crop of one.
        labels: of its pixels.
        other: what its texture is taken from, of the same size; it is turned upside down.
        rng: of the defect.
    """
    height, width = labels.shape
    coarse = rng.integers(3, 9)
    noise = Image.fromarray(rng.standard_normal((coarse, coarse)).astype(np.float32))
    field = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
    rows, columns = np.mgrid[:height, :width]
    row, column = rng.uniform(0.2, 0.8, 2) * (height, width)
    reach = np.exp(rng.uniform(np.log(0.02), np.log(0.3))) * min(height, width)
    stretch = np.exp(rng.uniform(-1.2, 1.2))
    bump = ((rows - row) * stretch) ** 2 + ((columns - column) / stretch) ** 2
    inside = (1.2 * (1 - bump / reach**2) + 0.6 * field) > 0
    if not inside.any():
        return picture, labels
    soft = np.asarray(Image.fromarray((inside * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1)), np.float32)
    share = soft[..., None] / 255 * rng.uniform(0.4, 1)
    shade = picture + rng.uniform(15, 60) * rng.choice([-1, 1]) * (1 + 0.2 * rng.standard_normal(3))
    replacement = shade if rng.random() < 0.5 else other[::-1]
    return (picture * (1 - share) + replacement * share).clip(0, 255).astype(np.float32), np.where(inside, 1, labels).astype(
        np.uint8
    )


def augment(picture: Pixels, labels: LabelMap, rng: np.random.Generator) -> tuple[Pixels, LabelMap]:
    """Mirrored either way, other light and tint, as parts and lamps vary."""
    if rng.random() < 0.5:
        picture, labels = picture[:, ::-1], labels[:, ::-1]
    if rng.random() < 0.5:
        picture, labels = picture[::-1], labels[::-1]
    return (picture * rng.uniform(0.85, 1.15) + rng.uniform(-15, 15) + rng.normal(0, 4, 3)).astype(np.float32), labels
