"""Types of arrays."""

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
LabelMap = npt.NDArray[np.uint8]
"""H x W: 0 background, i + 1 the i-th label."""
