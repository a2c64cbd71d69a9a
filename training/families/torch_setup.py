"""How torch is used here: on CUDA when it is there, and so that one seed gives one result on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from linewatch.training.graph.color import to_planes


def device() -> torch.device:
    """CUDA's first device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def planes_of(pictures: npt.NDArray[np.floating] | npt.NDArray[np.uint8]) -> torch.Tensor:
    """N x H x W x 3 pixels, 0 to 255, to N x 3 x H x W opponent colours on that device, channels last in memory."""
    return torch.from_numpy(to_planes(pictures)).to(device(), memory_format=torch.channels_last)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run with torch's generator seeded and deterministic algorithms; what the caller had set is put back."""
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(mode=True, warn_only=torch.cuda.is_available())
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
