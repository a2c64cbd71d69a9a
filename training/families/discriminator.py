"""A head that tells normal feature cells from the same cells with noise added, and from defects where they are marked.

After SimpleNet (Liu et al. 2023) and SuperSimpleNet (Rolih et al. 2024): an adaptor brings pretrained features into a
space of their own, Gaussian noise there stands for defects nobody has seen, and marked defects are added where there are
masks. Convolutions of 1 x 1 only, so it is fitted on sampled cells in seconds.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from linewatch.training.arrays import F32
from linewatch.training.families.one_class import peak
from linewatch.training.families.torch_setup import device, seeded
from linewatch.training.graph.outputs import Score, Supervision
from linewatch.training.graph.writer import GraphWriter

STEPS = 400
BATCH = 256
NOISE = 0.3
"""Deviation of the noise, in deviations of the features."""
MARGIN = 0.5


@dataclass(frozen=True, slots=True)
class Discriminator:
    """A perceptron with one hidden layer over adapted cells.

    Attributes:
        weights, biases: adaptor (features x features), hidden, last (1 x hidden).
    """

    weights: tuple[F32, ...]
    biases: tuple[F32, ...]

    @classmethod
    def fit(cls, normal: F32, defects: F32, seed: int) -> "Discriminator":
        """Fit on n x F normal cells and m x F cells of marked defects (m may be 0)."""
        mean, scale = normal.mean(axis=0), normal.std(axis=0) + 1e-3
        width = normal.shape[1]
        rng = np.random.default_rng([seed, 5])
        where = device()
        with seeded(seed):
            adaptor = nn.Linear(width, width).to(where)
            head = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 1)).to(where)
            optimiser = torch.optim.AdamW(
                [{"params": adaptor.parameters(), "lr": 1e-3}, {"params": head.parameters(), "lr": 2e-3}], weight_decay=1e-4
            )
            for _ in range(STEPS):
                batch = (normal[rng.integers(0, len(normal), BATCH)] - mean) / scale
                x = adaptor(torch.from_numpy(batch.astype(np.float32)).to(where))
                bad = [x + NOISE * torch.from_numpy(rng.standard_normal(batch.shape).astype(np.float32)).to(where)]
                if len(defects):
                    marked = (defects[rng.integers(0, len(defects), BATCH // 2)] - mean) / scale
                    bad.append(adaptor(torch.from_numpy(marked.astype(np.float32)).to(where)))
                # A margin on both sides (Liu et al.): cells that are told apart already stop pulling.
                good = torch.relu(MARGIN + head(x)).mean()
                loss = good + torch.stack([torch.relu(MARGIN - head(b)).mean() for b in bad]).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        layers = [adaptor, head[0], head[2]]
        weights = [layer.weight.detach().cpu().numpy().astype(np.float64) for layer in layers]
        biases = [layer.bias.detach().cpu().numpy().astype(np.float64) for layer in layers]
        biases[0] = biases[0] - weights[0] @ (mean / scale)
        weights[0] = weights[0] / scale
        # The adaptor has no activation behind it: one matrix does the work of two.
        merged = [weights[1] @ weights[0], weights[2]]
        offsets = [weights[1] @ biases[0] + biases[1], biases[2]]
        return cls(tuple(w.astype(np.float32) for w in merged), tuple(b.astype(np.float32) for b in offsets))

    def write(self, g: GraphWriter, features: str) -> dict[str, Score]:
        """Write over features (1 x F x h x w); returns the scores."""
        x = g.node("Relu", g.conv(features, self.weights[0][:, :, None, None], self.biases[0]))
        found = g.conv(x, self.weights[1][:, :, None, None], self.biases[1])
        return {"discriminator peak": peak(g, found, Supervision.ONE_CLASS)}
