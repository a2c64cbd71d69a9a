"""Numbers that describe pictures, standardised and reduced, so that distances between pictures are small arrays. Pure."""

import numpy as np

from linewatch.training.arrays import F32, F64

MOST_NUMBERS = 64
"""Numbers a picture that are kept."""
_ROUNDING = 1e-6
"""A number whose spread is smaller than this share of its mean is constant but for rounding; and what has a smaller share of the largest
variance than its square is nothing."""
_BLOCK = 1024


def reduce(statistics: F32) -> F32:
    """Standardise each number over all pictures, and keep their principal components (Pearson 1901).

    Labelled and unlabelled pictures are to be given together: what only the unlabelled ones vary in would else be lost. A single odd
    picture among thousands may lie where nothing else varies, outside the components that are kept; so where some are left out the
    last number is the length of what they leave (the squared prediction error of process control, Jackson and Mudholkar 1979).
    Distances are never longer than between the standardised numbers.

    Args:
        statistics: N x numbers, finite, of any scale each.

    Returns:
        N x at most 64 float32; no columns at all where the pictures do not differ.
    """
    mean, deviation = statistics.mean(axis=0, dtype=np.float64), statistics.std(axis=0, dtype=np.float64)
    used = deviation > _ROUNDING * np.abs(mean)
    mean, deviation = mean[used], deviation[used]

    def standardise(start: int) -> F64:
        return np.asarray((statistics[start : start + _BLOCK, used] - mean) / deviation)

    starts = range(0, len(statistics), _BLOCK)
    scatter = np.zeros((len(mean), len(mean)))
    for start in starts:
        block = standardise(start)
        scatter += block.T @ block
    variances, directions = np.linalg.eigh(scatter)
    there = variances > _ROUNDING**2 * max(variances.max(initial=0.0), 0.0)
    complete = int(there.sum()) <= MOST_NUMBERS
    directions = directions[:, there] if complete else directions[:, -(MOST_NUMBERS - 1) :]
    reduced = np.empty((len(statistics), directions.shape[1] + (not complete)), np.float32)
    for start in starts:
        block = standardise(start)
        kept = block @ directions
        reduced[start : start + _BLOCK, : kept.shape[1]] = kept
        if not complete:
            left = (block**2).sum(axis=1) - (kept**2).sum(axis=1)
            reduced[start : start + _BLOCK, -1] = np.sqrt(np.maximum(left, 0))
    return reduced
