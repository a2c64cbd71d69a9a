"""The order in which pictures should be labelled: what the model is unsure of, and what is unlike everything before. Pure.

The rule is greedy: next comes the picture with the largest product of its uncertainty and its distance to the nearest picture that is
labelled or was ranked before it. Uncertainty sampling (Lewis and Gale 1994) alone takes the same unclear part twenty times, as it comes
down the line; farthest-first traversal (Gonzalez 1985, for labelling Sener and Savarese 2018) alone takes every odd picture, however
sure the model is. The product has neither fault, and no weight between the two that somebody would have to choose.

Considered, and not taken:
  * gradient embeddings (Ash et al. 2020), from which the idea of one length for both comes: they need the last layer of one net, and a
    bundle's score is a sum over families;
  * a committee (Seung, Opper and Sompolinsky 1992): the models of the folds are not kept, and to fit others takes as long as training;
  * density (Settles and Craven 2008): it prefers what there is much of, and hides the one part with a defect that nobody has seen.

A calibrated probability says little of a picture that is unlike those it was calibrated on. So nothing counts as quite certain
(`LEAST_WEIGHT`): what is far enough away comes up although the model is sure of it.
"""

from dataclasses import dataclass

import numpy as np

from linewatch.anomaly_model.progress import ProgressCallback, no_progress
from linewatch.training.arrays import F32, F64

LEAST_WEIGHT = 0.25
"""What the distance of a picture counts of which the model is certain, where 1 is at the threshold: four times as far, it comes as early."""
UNSURE = 0.5
"""Uncertainty from which a picture is near the threshold: a confidence up to 0.75."""
USUAL_SHARE = 0.99
"""Share of the labelled pictures that lie nearer than 1 to another labelled one: what is farther from all is unlike anything seen."""
ALIKE = 0.25
"""Distance below which a picture is said to be like one that was ranked before it."""
NEAR_THRESHOLD, UNLIKE, LIKE_EARLIER = "near the threshold", "unlike anything seen", "like one further up"
CLEAR, CLEAR_AND_LIKE = "clear", "clear, and like labelled pictures"
ONE_BY_ONE = 2000
"""Places that are taken one after another; the others follow by what the rule says then. Who labels so many trains in between."""
_BLOCK = 256
_STEPS_TOLD = 100


@dataclass(frozen=True, slots=True)
class Ranked:
    """One picture's place.

    Attributes:
        index: of the picture.
        uncertainty: 0 where the model is certain, 1 at a probability of 0.5.
        distance: to the nearest picture that is labelled or was ranked before, 0 and more; 99 % of the labelled pictures are nearer than 1
            to another labelled one.
        reason: in words.
    """

    index: int
    uncertainty: float
    distance: float
    reason: str


def rank(probabilities: F64, features: F32, labelled: F32, progress: ProgressCallback = no_progress) -> list[Ranked]:
    """Order pictures by what a label would teach.

    Args:
        probabilities: N, of an anomaly, 0 to 1, calibrated.
        features: N x F, what is near in them looks alike.
        labelled: M x F, of labelled pictures; with none, the first is the one that the model is most unsure of, and distances are shares
            of the largest that there might be.
        progress: told now and then of how many have their place.

    Returns:
        every picture once; the first `ONE_BY_ONE` by the rule. Those that equal a labelled one or one ranked before come last, by their
        uncertainty.
    """
    if not len(features):
        return []
    uncertainty = 1 - np.abs(2 * probabilities - 1)
    weight = LEAST_WEIGHT + (1 - LEAST_WEIGHT) * uncertainty
    away = _nearest(features, labelled) if len(labelled) else _farthest(features)
    unit = _usual_distance(labelled, away)
    nearest, room = away.copy(), np.empty_like(features)
    order: list[int] = []
    distances = np.empty(len(features))
    places = min(ONE_BY_ONE, len(features))
    while len(order) < places:
        if len(order) % _STEPS_TOLD == 0:
            progress("choosing what to label", len(order), places)
        gain = weight * nearest
        best = int(gain.argmax())
        if gain[best] <= 0:  # what was taken is at no distance from itself
            break
        order.append(best)
        distances[best] = nearest[best] / unit
        np.subtract(features, features[best], out=room)
        np.minimum(nearest, np.sqrt(np.einsum("ij,ij->i", room, room)), out=nearest)
    left = np.setdiff1d(np.arange(len(features)), order)
    distances[left] = nearest[left] / unit
    order += left[np.lexsort((-uncertainty[left], -weight[left] * nearest[left]))].tolist()
    progress("choosing what to label", places, places)
    return [
        Ranked(
            i,
            float(uncertainty[i]),
            float(distances[i]),
            _reason(uncertainty[i], distances[i], away[i] / unit, any_labelled=len(labelled) > 0),
        )
        for i in order
    ]


def _nearest(features: F32, others: F32, *, besides_itself: bool = False) -> F64:
    """N, the distance of each of N x F to the nearest of M x F; `besides_itself` where both are the same pictures."""
    known = others.astype(np.float64)
    squares = np.einsum("ij,ij->i", known, known)
    found = np.empty(len(features))
    for start in range(0, len(features), _BLOCK):
        block = features[start : start + _BLOCK].astype(np.float64)
        squared = np.einsum("ij,ij->i", block, block)[:, None] + squares - 2 * block @ known.T
        if besides_itself:
            squared[np.arange(len(block)), start + np.arange(len(block))] = np.inf
        found[start : start + len(block)] = np.sqrt(np.maximum(squared.min(axis=1), 0))
    return found


def _farthest(features: F32) -> F64:
    """N times the same: a distance that no two of N x F exceed."""
    return np.full(len(features), 2 * _nearest(features, features.mean(axis=0, keepdims=True)).max())


def _usual_distance(labelled: F32, away: F64) -> float:
    """The unit of distances; by the pictures themselves where labelled ones do not tell, and 1 where nothing differs."""
    between = _nearest(labelled, labelled, besides_itself=True) if len(labelled) > 1 else np.zeros(0)
    for distances in (between, away):
        if (distances > 0).any():
            return float(np.quantile(distances[distances > 0], USUAL_SHARE))
    return 1.0


def _reason(uncertainty: float, distance: float, away: float, *, any_labelled: bool) -> str:
    """Why a picture has its place.

    Args:
        uncertainty: of the model.
        distance: to the nearest picture that is labelled or was ranked before.
        away: distance to the nearest labelled one.
        any_labelled: whether there are labelled ones.
    """
    reasons = []
    if uncertainty >= UNSURE:
        reasons.append(NEAR_THRESHOLD)
    if any_labelled and away > 1:
        reasons.append(UNLIKE)
    if distance < min(ALIKE, away):
        reasons.append(LIKE_EARLIER)
    return "; ".join(reasons) or (CLEAR_AND_LIKE if any_labelled else CLEAR)
