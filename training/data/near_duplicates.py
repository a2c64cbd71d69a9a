"""Pictures that are nearly the same: a part seen twice, or a test picture that was trained on."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from linewatch.anomaly_model.picture import Rgb
from linewatch.training.arrays import F64, Bools, Ints
from linewatch.training.data.groups import renumber

Thumbnails = npt.NDArray[np.float32]
"""N x 16 x 16 x 3, 0 to 255."""

_THUMBNAIL = 16
LARGEST_DIFFERENCE = 2.0
"""Grey levels (root mean square over thumbnails) beyond which two pictures are never near-duplicates."""
DIFFERENCE_SHARE = 0.1
"""...and the share of a small difference between two pictures of a class. Good parts of a line all look alike; only pictures
that are far more alike than these are taken for the same part seen twice."""
SMALL_DIFFERENCE = 0.33
"""The quantile of all differences that stands for it: in a class of two kinds of parts, one between parts of a kind."""
_BLOCK = 1024


def thumbnail(model_input: Rgb) -> npt.NDArray[np.float32]:
    """16 x 16 x 3, 0 to 255, of an H x W x 3 picture at the model's input size."""
    small = Image.fromarray(model_input).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def near_duplicates(thumbnails: Thumbnails, is_anomaly: Bools) -> Ints:
    """Group numbers 0 to G - 1 for N thumbnails (N x h x w x 3, 0 to 255); near-duplicates of one class share one.

    Only what would leak an answer is joined: a picture that was seen in training tells the class of its double. A good part
    and a bad one that look alike tell nothing of each other, and if anything mislead.

    Memory is N x N bits, and time does not depend on how many duplicates there are: a camera that was left running may have
    taken thousands of one part.
    """
    groups = np.zeros(len(thumbnails), np.int64)
    for value in (False, True):
        members = np.flatnonzero(is_anomaly == value)
        if len(members):
            groups[members] = groups.max() + 1 + _joined(_flat(thumbnails[members]))
    return renumber(groups)


def _joined(flat: F64) -> Ints:
    """The connected components of "is nearly the same as", numbered by their first member."""
    count = len(flat)
    rows = [(start, np.packbits(near, axis=1)) for start, near in _near(flat, flat, _limit(flat))]
    groups = np.arange(count)
    while True:
        smallest = groups.copy()
        for start, bits in rows:
            near = np.unpackbits(bits, axis=1, count=count).astype(bool)
            smallest[start : start + len(near)] = np.where(near, groups, count).min(axis=1)
        smallest = smallest[smallest]
        if (smallest == groups).all():
            return groups
        groups = smallest


def leaks(train: Thumbnails, train_is_anomaly: Bools, test: Thumbnails, test_is_anomaly: Bools) -> list[tuple[int, int]]:
    """Pairs (test index, train index) of near-duplicates of one class, one for each such test picture.

    Args:
        train: N thumbnails.
        train_is_anomaly: N bool.
        test: M thumbnails.
        test_is_anomaly: M bool.
    """
    pairs = []
    for value in (False, True):
        known, asked = np.flatnonzero(train_is_anomaly == value), np.flatnonzero(test_is_anomaly == value)
        if not len(known):
            continue
        flat = _flat(train[known])
        for start, near in _near(_flat(test[asked]), flat, _limit(flat)):
            pairs += [(int(asked[start + i]), int(known[near[i].argmax()])) for i in np.flatnonzero(near.any(axis=1))]
    return sorted(pairs)


def _flat(thumbnails: Thumbnails) -> F64:
    return thumbnails.reshape(len(thumbnails), int(np.prod(thumbnails.shape[1:]))).astype(np.float64)


def _limit(flat: F64) -> float:
    """The difference up to which two pictures of a class are near-duplicates."""
    count = len(flat)
    a, b = np.random.default_rng(0).integers(0, count, (2, min(20000, count * count)))
    differences = np.sqrt(((flat[a] - flat[b]) ** 2).mean(axis=1))[a != b]
    return min(LARGEST_DIFFERENCE, DIFFERENCE_SHARE * float(np.quantile(differences, SMALL_DIFFERENCE))) if len(differences) else 0.0


def _near(left: F64, right: F64, limit: float) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Block by block of `left`'s rows: where it starts, and which rows of `right` differ by at most `limit` (root mean square)."""
    size = left.shape[1]
    squares = np.einsum("ij,ij->i", right, right)
    for start in range(0, len(left), _BLOCK):
        block = left[start : start + _BLOCK]
        distance = (np.einsum("ij,ij->i", block, block)[:, None] + squares - 2 * block @ right.T) / size
        yield start, distance <= limit**2 + 1e-6  # the expansion cancels: equal pictures come out a little apart
