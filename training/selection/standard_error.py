"""How far an area under the ROC curve, and a difference of two, would move with other pictures. Pure functions."""

import numpy as np
from scipy.stats import rankdata

from linewatch.training.arrays import F64, Bools, Ints


def auc_influence(scores: F64, truth: Bools) -> F64:
    """What each of N pictures adds to the error of their ROC AUC: N values that sum to 0.

    A picture's placement is the share of the other class that it stands on the right side of (DeLong et al. 1988); the area is their
    mean over either class, and its error to first order the sum of each placement's distance from that mean.

    Args:
        scores: N scores.
        truth: N, whether anomalous; both classes are there.
    """
    positive, negative = int(truth.sum()), int((~truth).sum())
    ranks = rankdata(scores)
    placements = np.empty(len(scores))
    placements[truth] = (ranks[truth] - rankdata(scores[truth])) / negative
    placements[~truth] = 1 - (ranks[~truth] - rankdata(scores[~truth])) / positive
    area = placements[truth].mean()
    return np.asarray((placements - area) / np.where(truth, positive, negative))


def standard_error(influence: F64, groups: Ints) -> float:
    """Standard error of a statistic whose error is the sum of N pictures' influences; of a difference, give the differences.

    Pictures of one group are not independent: their influences are added before they are squared, as in a jackknife that leaves out
    group by group (for ROC AUC: Obuchowski 1997). 0 where there is one group.

    Args:
        influence: N.
        groups: N group numbers.
    """
    sums = np.bincount(groups, weights=influence)[np.unique(groups)]
    return float(np.sqrt((sums**2).sum() * len(sums) / max(1, len(sums) - 1))) if len(sums) > 1 else 0.0
