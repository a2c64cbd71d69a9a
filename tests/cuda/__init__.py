"""GPU code run on the processor: the generated CUDA source as C++, behind TVM's own CUDA runtime and host code."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

_HERE = Path(__file__).parent


def run_gpu_code(model: bytes, pictures: Sequence[npt.NDArray[np.generic]]) -> list[list[npt.NDArray[np.float32]]]:
    """Compile a graph for a GPU, except that the processor executes the kernels; returns the outputs for each picture, in the graph's order.

    In a process of its own, which has CUDA's driver replaced. It fails if kernels read what was not written, where that changes an answer.

    Args:
        model: the serialised graph, of one input.
        pictures: of the input's shape and dtype.
    """
    with tempfile.TemporaryDirectory(prefix="linewatch-cuda-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model)
        np.save(folder / "pictures.npy", np.stack(pictures))
        child = subprocess.run([sys.executable, "-P", str(_HERE / "child.py"), name], capture_output=True, text=True, timeout=900, check=False)
        assert child.returncode == 0, child.stderr[-3000:]
        with np.load(folder / "outputs.npz") as outputs:
            count = len(outputs.files) // len(pictures)
            return [[outputs[f"{i}.{k}"] for k in range(count)] for i in range(len(pictures))]
