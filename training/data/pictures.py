"""Decoded training pictures at the model's input size, kept on disk and read one at a time, and the checks on them.

16,000 pictures at 256 x 336 are 4 GB: too much to hold, and little to read. Reads go through pread, so that memory does
not grow with the file as it would with a mapping.
"""

import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from linewatch.anomaly_model.errors import DatasetError, Remedy
from linewatch.anomaly_model.manifest import InputSpec, Label, PictureSize
from linewatch.anomaly_model.picture import Rgb, to_model_input
from linewatch.anomaly_model.progress import ProgressCallback
from linewatch.training.arrays import Ints, LabelMap
from linewatch.training.data.dataset import Dataset, read_sample
from linewatch.training.data.input_size import choose_input
from linewatch.training.data.masks import read_mask
from linewatch.training.data.near_duplicates import thumbnail
from linewatch.training.data.survey import count_sizes
from linewatch.training.workspace import Workspace


@dataclass(frozen=True, slots=True)
class PictureStore:
    """Pictures at the model's input size.

    Attributes:
        folder: where the files lie.
        rows: N, each picture's place in the files.
        is_anomaly: N bool.
        has_mask: N bool; an anomaly without a mask teaches the classifier but not the segmentation.
        names: N picture names.
        label_of: N, the most common label of each picture's mask (0 when it has none), for balanced folds.
        thumbnails: N x 16 x 16 x 3 float32, 0 to 255, for finding near-duplicates.
        labels: anomaly types.
        picture: size of most of the pictures before they were resized.
        spec: the model's input.
    """

    folder: Path
    rows: npt.NDArray[np.int64]
    is_anomaly: npt.NDArray[np.bool_]
    has_mask: npt.NDArray[np.bool_]
    names: list[str]
    label_of: npt.NDArray[np.int64]
    thumbnails: npt.NDArray[np.float32]
    labels: tuple[Label, ...]
    picture: PictureSize
    spec: InputSpec

    def __len__(self) -> int:
        return len(self.names)

    def _read(self, file: str, index: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        size = int(np.prod(shape))
        descriptor = os.open(self.folder / file, os.O_RDONLY)
        try:
            data = os.pread(descriptor, size, int(self.rows[index]) * size)
        finally:
            os.close(descriptor)
        return np.frombuffer(data, np.uint8).reshape(shape)

    def subset(self, index: npt.NDArray[np.int64]) -> "PictureStore":
        """Some of the pictures, numbered anew."""
        return dataclasses.replace(
            self, rows=self.rows[index], is_anomaly=self.is_anomaly[index], has_mask=self.has_mask[index],
            names=[self.names[i] for i in index], label_of=self.label_of[index], thumbnails=self.thumbnails[index],
        )  # fmt: skip

    def input(self, index: int) -> Rgb:
        """One picture as the graph takes it: 1 x H x W x 3 uint8."""
        return self._read("pictures", index, (1, self.spec.height, self.spec.width, 3))

    def label_map(self, index: int) -> LabelMap:
        """One picture's mask at the model's input size; all background without one."""
        if not self.labels:
            return np.zeros((self.spec.height, self.spec.width), np.uint8)
        return self._read("masks", index, (self.spec.height, self.spec.width))

    def coverage(self, index: int, stride: int) -> npt.NDArray[np.float32]:
        """Labels x H/stride x W/stride: the share of each cell that each label covers, 0 to 1."""
        mask = self.label_map(index)
        h, w = mask.shape[0] // stride, mask.shape[1] // stride
        cells = mask[: h * stride, : w * stride].reshape(h, stride, w, stride)
        layers = [(cells == k + 1).mean(axis=(1, 3), dtype=np.float32) for k in range(len(self.labels))]
        return np.stack(layers) if layers else np.zeros((0, h, w), np.float32)

    def has_pixel_labels(self) -> npt.NDArray[np.bool_]:
        """N bool: pictures of which every pixel's label is known."""
        return np.asarray(~self.is_anomaly | self.has_mask)

    def strata(self) -> Ints:
        """N, the kind of each picture: 0 normal, 1 anomaly without a mask, 1 + label otherwise."""
        return np.where(self.is_anomaly, 1 + self.label_of, 0).astype(np.int64)


class _Meta(msgspec.Struct, frozen=True):
    picture: PictureSize
    spec: InputSpec


def load_pictures(dataset: Dataset, side: int, workspace: Workspace, progress: ProgressCallback) -> PictureStore:
    """Decode every picture and mask of a dataset that was surveyed; each is brought to the model's input from its own size.

    Args:
        dataset: the pictures.
        side: shorter side of the model's input in pixels.
        workspace: where the decoded pictures are kept; what an earlier run decoded is not decoded again.
        progress: told of each picture.

    Raises:
        DatasetError: the pictures are all equal, or there is no space.
        PictureError: one cannot be read any more.
    """
    done = workspace.load("pictures")
    meta_path = workspace.folder / "pictures.json"
    if done is None:
        try:
            done, meta = _decode(dataset, side, workspace.folder, progress)
            meta_path.write_bytes(msgspec.json.encode(meta))
            workspace.save("pictures", done)
        except OSError as error:
            raise DatasetError(
                f"the decoded pictures cannot be kept while training runs: {error.strerror}", Remedy.FREE_SPACE, Remedy.OTHER_OUTPUT
            ) from error
    meta = msgspec.json.decode(meta_path.read_bytes(), type=_Meta)
    return PictureStore(
        workspace.folder,
        np.arange(len(dataset.samples)),
        np.array([bool(s.is_anomaly) for s in dataset.samples]),
        np.array([s.mask is not None for s in dataset.samples]),
        [s.name for s in dataset.samples],
        done["label_of"].astype(np.int64),
        done["thumbnails"].astype(np.float32),
        dataset.labels,
        meta.picture,
        meta.spec,
    )


def _decode(
    dataset: Dataset, side: int, folder: Path, progress: ProgressCallback
) -> tuple[dict[str, npt.NDArray[np.generic]], _Meta]:
    if not dataset.samples:
        raise DatasetError(f"{dataset.source} has no labelled pictures")
    thumbnails: list[npt.NDArray[np.float32]] = []
    label_of: list[int] = []
    [(common, _)] = count_sizes(dataset).most_common(1)
    spec = choose_input(common, side)
    count = len(dataset.samples)
    _check_space(folder, count * spec.height * spec.width * (3 + bool(dataset.labels)))
    with (folder / "pictures").open("wb") as pictures, (folder / "masks").open("wb") as masks:
        for i, sample in enumerate(dataset.samples):
            progress("reading pictures", i, count)
            picture = read_sample(sample)
            mask = read_mask(sample, dataset.labels, *picture.shape[:2])
            shrunk = to_model_input(picture, spec)[0]
            thumbnails.append(thumbnail(shrunk))
            label_of.append(int(np.bincount(mask[mask > 0]).argmax()) if mask.any() else 0)
            pictures.write(shrunk.tobytes())
            if dataset.labels:
                masks.write(_shrink_mask(mask, len(dataset.labels), spec).tobytes())
    progress("reading pictures", count, count)
    if count > 1 and all((t == thumbnails[0]).all() for t in thumbnails[1:]):
        raise DatasetError(f"all {count} pictures of {dataset.source} look the same; nothing can be learnt from them")
    arrays = {"thumbnails": np.stack(thumbnails), "label_of": np.array(label_of)}
    return arrays, _Meta(common, spec)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DatasetError(
            f"there are {free / 1e9:.1f} GB free where training works; the decoded pictures need {needed / 1e9:.1f} GB",
            Remedy.FREE_SPACE, Remedy.OTHER_OUTPUT,
        )  # fmt: skip


def _shrink_mask(mask: LabelMap, labels: int, spec: InputSpec) -> LabelMap:
    """To the model's input: each pixel gets the label that covers most of it, if that is at least 40 %.

    Less than half, so that lines which a pixel only straddles do not fall apart.
    """
    size = (spec.width, spec.height)
    if mask.shape == (spec.height, spec.width):
        return mask
    layers = np.stack([
        np.asarray(Image.fromarray((mask == k + 1).astype(np.float32)).resize(size, Image.Resampling.BOX))
        for k in range(labels)
    ])  # fmt: skip
    return np.where(layers.max(axis=0) >= 0.4, layers.argmax(axis=0) + 1, 0).astype(np.uint8)
