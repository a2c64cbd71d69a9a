"""Golden checks: NaN passes nowhere."""

import math

import msgspec
import numpy as np
import pytest

from linewatch.anomaly_model.parity import ParityError, compare
from tests.unit.anomaly_model.test_manifest import SMALL

MANIFEST = msgspec.structs.replace(SMALL, labels=[])


def outputs(score: float = 1.0, heat: float = 0.5) -> list[np.ndarray]:
    return [np.array([score], np.float32), np.full((1, 1, 4, 5), heat, np.float32)]


def test_equal_outputs_pass() -> None:
    compare(MANIFEST, "avx2", "this machine", [outputs()], [[outputs(), outputs()]], 0).check()


@pytest.mark.parametrize("wrong", [outputs(score=math.nan), outputs(score=math.inf), outputs(heat=math.nan)])
def test_outputs_that_are_not_finite_are_refused_on_either_side(wrong: list[np.ndarray]) -> None:
    with pytest.raises(ParityError, match=r"avx2 \(this machine\) gives no answer to picture 0: .*expected"):
        compare(MANIFEST, "avx2", "this machine", [wrong], [[outputs()]], 0)
    with pytest.raises(ParityError, match="the reference for picture 0 is no answer, train the model again"):
        compare(MANIFEST, "avx2", "this machine", [outputs()], [[outputs(), wrong]], 0)
    with pytest.raises(ParityError, match="gives no answer"):
        compare(MANIFEST, "avx2", "this machine", [wrong], [[wrong]], 0)
