"""What nets are fitted by, beside torch's own."""

import torch


def dice_loss(share: torch.Tensor, truth: torch.Tensor, over: tuple[int, ...]) -> torch.Tensor:
    """1 - Dice over the whole batch (Milletari et al. 2016): a thin scratch counts as much as a hole.

    Args:
        share: what is found, 0 to 1.
        truth: what is there, 0 or 1, of the same shape.
        over: dimensions that are summed over; the result has the others.
    """
    both, either = (share * truth).sum(dim=over), (share**2 + truth**2).sum(dim=over)
    return 1 - (2 * both + 1) / (either + 1)
