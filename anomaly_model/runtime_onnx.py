"""The ONNX Runtime runtime: the reference that compiled code is compared with."""

import numpy as np
import numpy.typing as npt
import onnxruntime

from anomaly_model.manifest import InputSpec
from anomaly_model.picture import Rgb, to_model_input
from anomaly_model.runtime import ModelOutputs, split_outputs


class OnnxRuntime:
    """Runs a serialised ONNX graph on the CPU."""

    name = "onnxruntime"

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin between pictures would take the core from the camera program.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        _, height, width, _ = self._session.get_inputs()[0].shape
        self._spec = InputSpec(height=height, width=width)

    def prepare(self, picture: Rgb) -> npt.NDArray[np.uint8]:
        """See `Runtime.prepare`."""
        return to_model_input(picture, self._spec)

    def run_arrays(self, model_input: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        """All outputs in the graph's order."""
        outputs: list[npt.NDArray[np.float32]] = self._session.run(None, {"picture": model_input})
        return outputs

    def run(self, model_input: npt.NDArray[np.uint8]) -> ModelOutputs:
        """See `Runtime.run`."""
        return split_outputs(self.run_arrays(model_input))

    def close(self) -> None:
        """See `Runtime.close`."""
        del self._session
