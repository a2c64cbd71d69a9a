"""What a user may choose."""

from dataclasses import dataclass

import msgspec

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.manifest import ModelIdentity
from linewatch.training.families.backbone import Backbone
from linewatch.training.families.encoder import AUTO

NET_STEPS = 300
"""Training steps of the segmentation net, as measured: see docs/accuracy.md."""
EFFORTS = {"quick": 0, "standard": NET_STEPS, "thorough": 4 * NET_STEPS}
"""Training steps of the segmentation net: none, so that a model is there within a minute; as measured; and four times that."""

WISHED_MS = 25.0
"""What a graph should cost where nobody said otherwise."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a graph may cost.

    Attributes:
        ms: counted by `linewatch.training.graph.cost`, one picture on one core.
        is_limit: nothing over it is chosen. Otherwise it is a wish, which gives way where keeping it costs accuracy.
    """

    ms: float
    is_limit: bool


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What a user may choose.

    Raises:
        LinewatchError: a name or version that no model may have.

    Attributes:
        name: the model's name.
        model_version: its version, a number as text.
        side: shorter side of the model's input in pixels; larger sees finer defects and is slower. None: from the masks.
        seed: same seed, same data, same machine: same model.
        budget_ms: the most that the graph may cost, one picture on one core of the processor that `linewatch.training.graph.cost` names.
            None: 25 are wished for, and exceeded with a warning where only that keeps the accuracy.
        test_share: share of the pictures that is held out for the evaluation when there is no test set; 0 for none.
        false_alarms: with normal pictures only, the share of normal parts that may be called anomalous.
        net_steps: training steps of the segmentation net (of the U-Net, where there is no encoder, two for each); 0 leaves it out.
        encoder: pretrained: `auto` (`lite0` where it is installed), `none`, or one of `linewatch.training.families.encoder.RELEASES`.
        backbone: a pretrained net; None: the filter bank needs none.
        leave_out: go on without pictures that cannot be read.
        resize: take pictures of several sizes; each is brought to the model's input, as the runtime does it.
        arn: Amazon resource name of the model; empty makes one of the name and version.
    """

    name: str = "model"
    model_version: str = "1"
    side: int | None = None
    seed: int = 0
    budget_ms: float | None = None
    test_share: float = 0.2
    false_alarms: float = 0.01
    net_steps: int = NET_STEPS
    encoder: str = AUTO
    backbone: Backbone | None = None
    leave_out: bool = False
    resize: bool = False
    arn: str = ""

    def __post_init__(self) -> None:
        try:
            msgspec.convert({"arn": self.arn, "name": self.name, "version": self.model_version}, ModelIdentity)
        except msgspec.ValidationError:
            raise LinewatchError(
                f"a model cannot be called {self.name[:200]!r} version {self.model_version[:20]!r}: expected a name of letters, digits, "
                "'_', '.' and '-' that begins with a letter or digit, at most 128, and a version of up to ten digits"
            ) from None

    @property
    def budget(self) -> Budget:
        """What a graph may cost."""
        return Budget(WISHED_MS if self.budget_ms is None else self.budget_ms, is_limit=self.budget_ms is not None)
