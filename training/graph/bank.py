"""The filter bank: 83 numbers for each cell of 4 x 4 pixels, without any weights that were learnt."""

import numpy as np
import numpy.typing as npt

from linewatch.training.arrays import F32
from linewatch.training.graph.writer import GraphWriter

KERNEL = 7
ORIENTATIONS = 4
STRIDE = 4
"""Features have one cell for STRIDE x STRIDE input pixels."""
COARSE = 2
"""The nearest-neighbour branch works on cells of STRIDE * COARSE pixels."""


def filters() -> F32:
    """The bank's 16 filters over (luminance, red-green, blue-yellow), 16 x 3 x 7 x 7.

    Gabor pairs (even: lines, odd: edges; Daugman 1985) at 4 orientations, wavelength 5 pixels; differences of Gaussians
    (Marr and Hildreth 1980) of two widths on luminance and one on each colour; four local derivatives of colour.
    Each filter has zero mean, so flat areas answer 0, and absolute sum 2.
    """
    r = KERNEL // 2
    y, x = np.mgrid[-r : r + 1, -r : r + 1].astype(np.float64)
    bank = np.zeros((16, 3, KERNEL, KERNEL))

    def gaussian(sigma: float) -> npt.NDArray[np.float64]:
        g = np.exp(-(x * x + y * y) / (2 * sigma * sigma))
        return np.asarray(g / g.sum())

    for i in range(ORIENTATIONS):
        angle = np.pi * i / ORIENTATIONS
        along = x * np.cos(angle) + y * np.sin(angle)
        window = gaussian(1.8)
        bank[2 * i, 0] = window * np.cos(2 * np.pi * along / 5)
        bank[2 * i + 1, 0] = window * np.sin(2 * np.pi * along / 5)
    bank[8, 0] = gaussian(0.7) - gaussian(1.4)
    bank[9, 0] = gaussian(1.2) - gaussian(2.4)
    bank[10, 1] = gaussian(0.9) - gaussian(1.8)
    bank[11, 2] = gaussian(0.9) - gaussian(1.8)
    for i, channel in enumerate((1, 2)):
        bank[12 + 2 * i, channel] = gaussian(1.5) * x
        bank[13 + 2 * i, channel] = gaussian(1.5) * y
    bank -= bank.mean(axis=(2, 3), keepdims=True) * (np.abs(bank).sum(axis=(2, 3), keepdims=True) > 0)
    bank *= 2 / np.abs(bank).sum(axis=(1, 2, 3), keepdims=True)
    return bank.astype(np.float32)


def write_bank(g: GraphWriter, color: str) -> str:
    """Write the filter bank over `write_color`'s planes; returns the features' name: 1 x 83 x H/4 x W/4.

    Filter energies (|response|) of the picture at four scales (1, 1/2, 1/4, 1/8), averaged per cell, and at the finest
    scale also the largest per cell, so that lines thinner than a cell are not averaged away; then the mean colour.
    """
    bank = filters()
    features = []
    for level in range(4):
        energy = g.node("Abs", g.conv(color, bank))
        if level < 2:
            cell = STRIDE >> level
            features.append(g.pool("AveragePool", energy, cell, cell))
            if level == 0:
                features.append(g.pool("MaxPool", energy, cell, cell))
        elif level == 2:
            features.append(energy)
            features.append(color)
        else:
            features.append(g.upsample(energy, 2))
        color = g.pool("AveragePool", color, 2, 2)
    return g.concat(*features)


FEATURES = 16 * 5 + 3
