"""Every picture and mask is looked at before anything is learnt, so that all that is wrong is told at once."""

import dataclasses
from collections import Counter
from dataclasses import dataclass, field

from linewatch.anomaly_model.errors import DatasetError, PictureError, Remedy, shorten
from linewatch.anomaly_model.manifest import PictureSize
from linewatch.anomaly_model.progress import ProgressCallback, no_progress
from linewatch.training.data.dataset import Dataset, Sample, read_sample
from linewatch.training.data.masks import UnreadableMaskError, defect_width, read_mask

MOST_SKIPPED = 100
"""Names of pictures left out that a bundle keeps."""


@dataclass(slots=True)
class _Findings:
    unreadable: list[str] = field(default_factory=list)
    wrong_masks: list[str] = field(default_factory=list)
    sizes: dict[PictureSize, list[str]] = field(default_factory=dict)


def survey(
    dataset: Dataset, *, leave_out: bool = False, resize: bool = False, expected: PictureSize | None = None,
    progress: ProgressCallback = no_progress,
) -> Dataset:  # fmt: skip
    """Read every picture and mask once, and note the pictures' sizes.

    Args:
        dataset: what was read.
        leave_out: go on without pictures that cannot be read, or whose mask cannot.
        resize: pictures of several sizes are all right: each is brought to the model's input, as the runtime does it.
        expected: size that the pictures must have; None: that of most of them.
        progress: told of each picture.

    Returns:
        The dataset, each sample with its size and the width of its defects, and the names of what was left out.

    Raises:
        DatasetError: unreadable pictures, wrong masks, and sizes that differ, all together, each kind with its number and
            the first few names.
    """
    found = _Findings()
    kept: list[Sample] = []
    skipped: list[str] = []
    for i, sample in enumerate(dataset.samples):
        progress("looking at pictures", i, len(dataset.samples))
        try:
            size = _read_size(sample)
            found.sizes.setdefault(size, []).append(sample.display_name)
            mask = read_mask(sample, dataset.labels, size.height, size.width)
        except (PictureError, UnreadableMaskError) as error:
            found.unreadable.append(str(error))
            skipped.append(sample.display_name)
        except DatasetError as error:
            found.wrong_masks.append(str(error))
        else:
            width = None if sample.mask is None else defect_width(mask)
            kept.append(dataclasses.replace(sample, size=size, defect_width=width))
    progress("looking at pictures", len(dataset.samples), len(dataset.samples))
    _refuse(dataset, found, leave_out, resize, expected)
    return dataclasses.replace(dataset, samples=tuple(kept), skipped=(*dataset.skipped, *skipped))


def _refuse(dataset: Dataset, found: _Findings, leave_out: bool, resize: bool, expected: PictureSize | None) -> None:
    problems: list[str] = []
    remedies: list[Remedy] = []
    if found.unreadable and not leave_out:
        shown = shorten(found.unreadable, between="; ")
        problems.append(f"{len(found.unreadable)} of {len(dataset.samples)} pictures or their masks cannot be read: {shown}")
        remedies.append(Remedy.LEAVE_OUT)
    if found.wrong_masks:
        masks = sum(sample.mask is not None for sample in dataset.samples)
        problems.append(f"{len(found.wrong_masks)} of {masks} masks are wrong: {shorten(found.wrong_masks, between='; ')}")
    if found.sizes and not resize:
        by_number = sorted(found.sizes, key=lambda size: -len(found.sizes[size]))
        wanted = expected or by_number[0]
        others = [size for size in by_number if size != wanted]
        if others:
            number = sum(len(found.sizes[size]) for size in others)
            each = [f"{name_size(size)}: {shorten(found.sizes[size])}" for size in others]
            whose = "the training pictures" if expected else f"{len(found.sizes[wanted])} others"
            problems.append(
                f"{number} of {len(dataset.samples)} pictures are not of the size of {whose}, {name_size(wanted)}; all must be of one size. "
                f"{shorten(each, between='; ')}"
            )
            remedies.append(Remedy.RESIZE)
    if problems:
        listed = "\n  ".join(problems)
        raise DatasetError(f"{dataset.source} cannot be used:\n  {listed}", *remedies)


def name_size(size: PictureSize) -> str:
    """Width x height."""
    return f"{size.width}x{size.height}"


def size_of(sample: Sample) -> PictureSize:
    """Size of a sample's picture, surveyed or not.

    Raises:
        PictureError: it cannot be read.
    """
    return _read_size(sample) if sample.size is None else sample.size


def _read_size(sample: Sample) -> PictureSize:
    height, width = read_sample(sample).shape[:2]
    return PictureSize(height=height, width=width)


def count_sizes(dataset: Dataset) -> Counter[PictureSize]:
    """How many pictures there are of each size; `most_common` begins with the one that stands for all."""
    return Counter(size_of(sample) for sample in dataset.samples)
