"""How long a graph takes, measured here."""

import time

import numpy as np

from anomaly_model.runtime_onnx import OnnxRuntime

ROUNDS = 15


def measure_ms(model: bytes, picture: np.ndarray) -> float:
    """Milliseconds of a graph on one core by ONNX Runtime: the lower quartile of a few runs, as other work only adds."""
    runtime = OnnxRuntime(model, threads=1)
    times = []
    for _ in range(ROUNDS + 2):
        begun = time.perf_counter()
        runtime.run_arrays(picture)
        times.append((time.perf_counter() - begun) * 1e3)
    return float(np.quantile(times[2:], 0.25))
