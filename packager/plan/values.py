"""What a plan is made of.

Layout: every tensor is kept as H x W x C with C padded to whole vectors (`Tensor.stored`), so that no transpose is left
between convolutions. One-channel maps are kept unpadded. The graph's inputs and outputs have the graph's own order, and
are converted once.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from linewatch.anomaly_model.errors import LinewatchError

F32 = npt.NDArray[np.float32]


class UnsupportedGraphError(LinewatchError):
    """The graph has an operator, attribute or shape that the schedules do not cover."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Memory of a plan: H x W x stored floats.

    Attributes:
        name: of the graph's value.
        channels, height, width: what it holds.
        stored: channels as laid out in memory: C, or C rounded up to whole vectors.
    """

    name: str
    channels: int
    height: int
    width: int
    stored: int

    @property
    def size(self) -> int:
        """Floats in memory."""
        return self.height * self.width * self.stored


NCHW = ("-", "C", "H", "W")


@dataclass(frozen=True, slots=True)
class View:
    """How a value of the graph lies in a tensor.

    Attributes:
        axes: for each of the value's dimensions which of the tensor's it is: a string of C, H and W; `-` for a
            dimension of 1, and several letters for dimensions that were flattened into one, slowest first. The usual
            order is ("-", "C", "H", "W").
    """

    tensor: Tensor
    axes: tuple[str, ...]

    def __post_init__(self) -> None:
        # Dimensions of 1 could be called by several letters; the usual order is always called by its own.
        tensor = self.tensor
        if self.shape == (1, tensor.channels, tensor.height, tensor.width) and self.order in ("CHW", "HW", "CH", "CW", "C", "H", "W", ""):
            object.__setattr__(self, "axes", NCHW)

    @property
    def order(self) -> str:
        """Dimensions longer than 1, slowest first."""
        return "".join(a for axis in self.axes for a in axis if a != "-" and self.length(a) > 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """As the graph sees it."""
        return tuple(int(np.prod([self.length(a) for a in axis])) for axis in self.axes)

    def length(self, axis: str) -> int:
        """Of C, H or W; 1 for `-`."""
        return {"C": self.tensor.channels, "H": self.tensor.height, "W": self.tensor.width, "-": 1}[axis]

    def of(self, tensor: Tensor) -> "View":
        """The same order over another tensor."""
        return View(tensor, self.axes)


@dataclass(frozen=True, slots=True)
class Unary:
    """An elementwise operator with constants; `kernels.writer.apply` says what each kind computes."""

    kind: str
    a: float = 1.0
    b: float = 0.0


@dataclass(slots=True)
class Step:
    """One kernel call.

    Attributes:
        kind: which kernel; `linewatch.packager.compile` has the table.
        inputs: tensors read; a fused residual comes last.
        output: tensor written.
        attributes: static parameters.
        weight, bias: of convolutions: O x I x KH x KW and O. Of elementwise steps: a constant second operand, as stored.
        residual: whether the last input is added before the epilogue.
        epilogue: applied to each value before it is stored.
        parts: of a `fused` step: the steps that it stands for, the last of which has its residual and epilogue.
    """

    kind: str
    inputs: list[Tensor]
    output: Tensor
    attributes: dict[str, int | str] = field(default_factory=dict)
    weight: F32 | None = None
    bias: F32 | None = None
    residual: bool = False
    epilogue: tuple[Unary, ...] = ()
    parts: "tuple[Step, ...]" = ()

    def number(self, name: str) -> int:
        """An attribute that is a number."""
        return int(self.attributes[name])


@dataclass(frozen=True, slots=True)
class Source:
    """The graph's input: its name, shape and dtype (`uint8` or `float32`) there, and the tensor that it becomes."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Output:
    """A graph output, and where its value is."""

    name: str
    view: View


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compiled."""

    source: Source
    steps: list[Step]
    outputs: list[Output]
