"""Choosing the family that draws the masks."""

from collections.abc import Callable

from linewatch.training.options import Budget
from linewatch.training.selection.cross_validation import OutOfFold

WORTH_IOU = 0.05
"""Average IoU: a wish for a budget gives way where keeping it would cost masks more than this."""


def choose_segmenter(found: dict[str, OutOfFold], milliseconds: Callable[[str], float], budget: Budget) -> str | None:
    """The family with the best Average IoU, among those that keep within the budget; the cheapest when none does.

    A wish for a budget gives way where keeping it would cost more than `WORTH_IOU`.
    """
    able = {name: float(oof.average_iou().mean()) for name, oof in found.items() if oof.segments}
    if not able:
        return None
    costs = {name: milliseconds(name) for name in able}
    cheap = [name for name in able if costs[name] <= budget.ms] or [min(costs, key=lambda name: costs[name])]
    best, within = max(able, key=lambda name: able[name]), max(cheap, key=lambda name: able[name])
    return within if budget.is_limit or able[best] - able[within] <= WORTH_IOU else best
