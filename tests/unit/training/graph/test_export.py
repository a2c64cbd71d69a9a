"""What is not written into a bundle."""

from types import SimpleNamespace

import numpy as np
import pytest

from linewatch.anomaly_model.errors import NotFiniteError
from linewatch.training.graph.export import golden_files


@pytest.mark.parametrize(("score", "heat"), [(np.nan, 0.5), (np.inf, 0.5), (0.0, np.nan)])
def test_a_model_without_finite_golden_outputs_is_not_written(score: float, heat: float) -> None:
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    store = SimpleNamespace(is_anomaly=np.array([False, True]), input=lambda _: picture)
    outputs = [np.array([score], np.float32), np.full((1, 1, 8, 8), heat, np.float32)]
    with pytest.raises(NotFiniteError, match="expected"):
        golden_files(SimpleNamespace(run_arrays=lambda _: outputs), store)  # type: ignore[arg-type]
