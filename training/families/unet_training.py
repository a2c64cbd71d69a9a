"""Fits a project's U-Net: with masks on every pixel, without them on made-up defects and whole pictures' labels."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from linewatch.anomaly_model.progress import ProgressCallback
from linewatch.training.arrays import Bools
from linewatch.training.data.crops import CropSource
from linewatch.training.data.pictures import PictureStore
from linewatch.training.families.descent import descend, fit_once
from linewatch.training.families.losses import dice_loss
from linewatch.training.families.torch_setup import device, planes_of, seeded
from linewatch.training.families.unet import FittedUNet, UNet, export, placeholder
from linewatch.training.workspace import Workspace

BATCH = 16
CROP = 96
"""Crops rather than whole pictures: at the same cost five times as many defects are seen."""
RATE = 6e-3
WEAK_PICTURES = 2
"""Whole anomalous pictures a step, where no mask says what is wrong in them."""


@dataclass(frozen=True, slots=True)
class UNetFamily:
    """See `Family`."""

    store: PictureStore
    steps: int
    seed: int
    workspace: Workspace
    progress: ProgressCallback

    @property
    def name(self) -> str:
        """See `Family`."""
        return "U-Net"

    @property
    def folds(self) -> int:
        """See `Family`."""
        return 3

    @property
    def divisions(self) -> int:
        """See `Family`."""
        return 1

    @property
    def classes(self) -> int:
        """Outputs of the net: the background and each label, or whatever is anomalous where there are no labels."""
        return max(1, len(self.store.labels)) + 1

    def placeholder(self) -> FittedUNet:
        """See `Family`."""
        return placeholder(self.classes)

    def fit(self, chosen: Bools, key: str) -> FittedUNet:
        """Fit; a finished fit is kept in the workspace, an unfinished one goes on from its last checkpoint."""
        with seeded(self.seed):
            net = UNet(self.classes).to(device(), memory_format=torch.channels_last)
            fit_once(net, self.workspace, f"unet-{key}", lambda: _Fit(self, net, chosen, key).run())
        return export(net)


class _Fit:
    def __init__(self, family: UNetFamily, net: UNet, chosen: Bools, key: str) -> None:
        self.family, self.net, self.key = family, net, key
        self.where = device()
        store = family.store
        self.source = CropSource.make(store, chosen & store.has_pixel_labels(), CROP, family.seed)
        self.weak = np.flatnonzero(chosen & ~store.has_pixel_labels()) if not store.labels else np.zeros(0, np.int64)
        self.optimiser = torch.optim.AdamW([{"params": list(net.parameters()), "highest": RATE, "from": 0.0}], weight_decay=1e-3)

    def run(self) -> None:
        """All steps, from the last checkpoint on."""
        family = self.family
        descend(
            self.net, self.optimiser, family.steps, self._loss, family.workspace, f"unet-{self.key}",
            lambda step: family.progress(f"training the U-Net ({self.key})", step, family.steps),
        )  # fmt: skip

    def _loss(self, step: int) -> torch.Tensor:
        rng = np.random.default_rng([self.family.seed, 7, step])
        crops = [self.source.draw(rng) for _ in range(BATCH)]
        planes = planes_of(np.stack([c[0] for c in crops]))
        labels = torch.from_numpy(np.stack([c[1] for c in crops]).astype(np.int64)).to(self.where)
        logits = functional.interpolate(self.net(planes), scale_factor=2, mode="bilinear", align_corners=False)
        entropy = functional.cross_entropy(logits, labels)
        share = logits.softmax(dim=1)[:, 1:]
        truth = functional.one_hot(labels, logits.shape[1]).permute(0, 3, 1, 2)[:, 1:].to(share.dtype)
        loss = entropy + dice_loss(share, truth, (0, 2, 3)).mean()  # each label alike
        return loss + self._weak_loss(rng) if len(self.weak) else loss

    def _weak_loss(self, rng: np.random.Generator) -> torch.Tensor:
        """Somewhere in an anomalous picture something must be anomalous: the mean of its strongest places is."""
        store = self.family.store
        index = rng.choice(self.weak, WEAK_PICTURES)
        planes = planes_of(np.concatenate([store.input(int(i)) for i in index]))
        logits = self.net(planes)
        strongest = functional.avg_pool2d(logits[:, 1:] - logits[:, :1], 3, 1).flatten(1)
        top = strongest.topk(max(4, strongest.shape[1] // 3000), dim=1).values.mean(dim=1)
        return 0.3 * functional.softplus(-top).mean()
