"""Fits the segmentation net: on crops where every pixel's label is known, on whole pictures where only the picture's is."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from linewatch.anomaly_model.progress import ProgressCallback
from linewatch.training.arrays import Bools
from linewatch.training.data.crops import CropSource, augment, crop_size
from linewatch.training.data.pictures import PictureStore
from linewatch.training.families.descent import descend, fit_once
from linewatch.training.families.encoder import Encoder
from linewatch.training.families.family import SEGMENTATION_NET
from linewatch.training.families.losses import dice_loss
from linewatch.training.families.segmentation import STRIDE, FittedSegmentation, SegmentationNet, export, placeholder
from linewatch.training.families.torch_setup import device, planes_of, seeded
from linewatch.training.workspace import Workspace

SMALL, SMALL_CROPS = 96, 8
"""Pixels, and crops in a step where there are masks: they teach outlines, and most of them lie around a defect."""
LARGE, LARGE_CROPS = 192, 3
"""Likewise: these also teach whether there is a defect at all, and show how a part goes on around it."""
LARGE_DEFECT_SHARE = 0.5
"""Share of large crops around a defect: both answers are wanted alike."""
WHOLE = 4
"""Whole pictures in a step, half of them anomalous, where no mask says what is wrong in them."""
RATE = 6e-3
ENCODER_RATE = 3e-4
DECAY = 1e-2
UNFREEZE = 0.15
"""Share of the steps after which the encoder is fitted too: before, what the decoder asks of it is noise."""
PICTURE_WEIGHT = 0.3
"""Of what whole crops teach, beside what their pixels teach."""
CLASS_WEIGHT = 0.5
STRONGEST = 3000
"""A place in so many makes a picture anomalous."""


@dataclass(frozen=True, slots=True)
class SegmentationFamily:
    """See `Family`."""

    encoder: Encoder
    store: PictureStore
    steps: int
    seed: int
    workspace: Workspace
    progress: ProgressCallback

    @property
    def name(self) -> str:
        """See `Family`."""
        return SEGMENTATION_NET

    @property
    def folds(self) -> int:
        """See `Family`."""
        return 3

    @property
    def divisions(self) -> int:
        """See `Family`."""
        return 1

    def placeholder(self) -> FittedSegmentation:
        """See `Family`."""
        return placeholder(self.encoder, len(self.store.labels))

    def fit(self, chosen: Bools, key: str) -> FittedSegmentation:
        """Fit; a finished fit is kept in the workspace, an unfinished one goes on from its last checkpoint."""
        with seeded(self.seed):
            net = SegmentationNet(self.encoder, len(self.store.labels)).to(device(), memory_format=torch.channels_last)
            fit_once(net, self.workspace, f"net-{key}", lambda: _Fit(self, net, chosen, key).run())
        return export(net)


class _Fit:
    def __init__(self, family: SegmentationFamily, net: SegmentationNet, chosen: Bools, key: str) -> None:
        self.family, self.net, self.key = family, net, key
        self.where = device()
        store = family.store
        self.small = CropSource.make(store, chosen & store.has_pixel_labels(), SMALL, family.seed)
        self.large = dataclasses.replace(self.small, size=crop_size(store, LARGE), defect_share=LARGE_DEFECT_SHARE)
        outlined = [places[:, 0] for places in self.small.points]
        # A mask may show nothing any more at the model's input; then it is as good as none.
        self.unmasked = np.setdiff1d(np.flatnonzero(chosen & store.is_anomaly), np.concatenate([*outlined, np.zeros(0, np.int64)]))
        self.normals = np.flatnonzero(chosen & ~store.is_anomaly)
        of_encoder = {id(p) for p in net.encoder.parameters()}
        # Without masks too little is known to fit the encoder: it would learn the pictures by heart (measured).
        self.unfreeze = UNFREEZE if store.labels else 1.0
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [p for p in net.parameters() if id(p) not in of_encoder], "highest": RATE, "from": 0.0},
                {"params": net.encoder.fitted(), "highest": ENCODER_RATE, "from": self.unfreeze},
            ],
            weight_decay=DECAY,
        )

    def run(self) -> None:
        """All steps, from the last checkpoint on."""
        family = self.family
        descend(
            self.net, self.optimiser, family.steps, self._loss, family.workspace, f"net-{self.key}",
            lambda step: family.progress(f"training the segmentation net ({self.key})", step, family.steps),
        )  # fmt: skip

    def _loss(self, step: int) -> torch.Tensor:
        rng = np.random.default_rng([self.family.seed, 7, step])
        self.net.encoder.frozen = step < self.unfreeze * self.family.steps
        losses = [self._of_small_crops(rng), self._of_large_crops(rng)] if self.small.points else []
        if len(self.unmasked):
            losses.append(self._of_pictures(rng))
        return torch.stack(losses).sum()

    def _of_small_crops(self, rng: np.random.Generator) -> torch.Tensor:
        outlines, _, _, truth = self._run(self.small, SMALL_CROPS, rng)
        return _outline_loss(outlines, truth)

    def _of_large_crops(self, rng: np.random.Generator) -> torch.Tensor:
        outlines, anomaly, picture, truth = self._run(self.large, LARGE_CROPS, rng)
        return _outline_loss(outlines, truth) + PICTURE_WEIGHT * _picture_loss(anomaly, picture, (truth > 0).flatten(1).any(dim=1))

    def _run(
        self, source: CropSource, count: int, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        crops = [source.draw(rng) for _ in range(count)]
        outlines, anomaly, picture = self.net(planes_of(np.stack([c[0] for c in crops])))
        assert outlines is not None
        return outlines, anomaly, picture, torch.from_numpy(np.stack([c[1] for c in crops]).astype(np.int64)).to(self.where)

    def _of_pictures(self, rng: np.random.Generator) -> torch.Tensor:
        index = [*rng.choice(self.unmasked, WHOLE // 2), *rng.choice(self.normals, WHOLE // 2)]
        pictures = [augment(*self._whole(int(i)), rng)[0] for i in index]
        _, anomaly, picture = self.net(planes_of(np.stack(pictures)))
        return _picture_loss(anomaly, picture, torch.from_numpy(self.family.store.is_anomaly[index]).to(self.where))

    def _whole(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        return self.family.store.input(index)[0].astype(np.float32), self.family.store.label_map(index)


def _outline_loss(outlines: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Of crops whose every pixel is known: where there is a defect, which label it bears, and both together.

    Args:
        outlines: N x 1 + labels x h x w logits, see `SegmentationNet`.
        truth: N x H x W, 0 background, i + 1 label i.
    """
    logits = functional.interpolate(outlines, scale_factor=STRIDE, mode="bilinear", align_corners=False)
    defect, classes = logits[:, 0], logits[:, 1:]
    found, wanted = defect.sigmoid(), (truth > 0).to(defect.dtype)
    loss = functional.binary_cross_entropy_with_logits(defect, wanted) + dice_loss(found, wanted, (0, 1, 2))
    count = classes.shape[1]
    if count == 1:
        return loss
    layers = functional.one_hot(truth, count + 1).permute(0, 3, 1, 2)[:, 1:].to(defect.dtype)
    loss = loss + dice_loss(classes.softmax(dim=1) * found[:, None], layers, (0, 2, 3)).mean()
    inside = truth > 0
    if inside.any():
        bears = truth[inside] - 1
        entropy = functional.cross_entropy(classes.permute(0, 2, 3, 1)[inside], bears, reduction="none")
        weight = 1 / torch.bincount(bears, minlength=count).clamp(min=1).to(entropy.dtype)[bears]  # each label alike
        loss = loss + CLASS_WEIGHT * (entropy * weight).sum() / weight.sum()
    return loss


def _picture_loss(anomaly: torch.Tensor, picture: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Of whole pictures or crops: what the picture's own logit says, and the mean of the strongest places.

    Args:
        anomaly: N x 1 x h x w logits.
        picture: N logits.
        truth: N, whether something is anomalous in it.
    """
    places = functional.avg_pool2d(anomaly, 3, 1).flatten(1)
    strongest = places.topk(max(4, places.shape[1] // STRONGEST), dim=1).values.mean(dim=1)
    wanted = truth.to(picture.dtype)
    return functional.binary_cross_entropy_with_logits(picture, wanted) + functional.binary_cross_entropy_with_logits(strongest, wanted)
