"""The ONNX Runtime runtime: the reference that compiled code is compared with."""

import numpy as np
import numpy.typing as npt
import onnxruntime

from linewatch.anomaly_model.errors import RuntimeUnavailableError
from linewatch.anomaly_model.manifest import InputSpec
from linewatch.anomaly_model.picture import Rgb, to_model_input, wrap_rgb888
from linewatch.anomaly_model.runtime import ModelOutputs, ReadPicture, split_outputs


class OnnxRuntime:
    """Runs a serialised ONNX graph on the CPU, or on an NVIDIA GPU with the package onnxruntime-gpu."""

    def __init__(self, model: bytes, *, threads: int = 1, gpu: bool = False) -> None:
        """Load a graph.

        Args:
            model: the graph.
            threads: of the CPU, for one picture.
            gpu: by TensorRT where the installed ONNX Runtime has it, else by CUDA.

        Raises:
            RuntimeUnavailableError: there is no ONNX Runtime with a GPU here.
        """
        self.name, providers = "onnxruntime", ["CPUExecutionProvider"]
        if gpu:
            there = onnxruntime.get_available_providers()
            found = [p for p in ("TensorrtExecutionProvider", "CUDAExecutionProvider") if p in there]
            if not found:
                raise RuntimeUnavailableError(
                    f"this ONNX Runtime has no GPU: it offers {', '.join(there)}. Install onnxruntime-gpu for this machine's CUDA, in "
                    "place of onnxruntime"
                )
            self.name, providers = f"onnxruntime ({found[0].removesuffix('ExecutionProvider')})", [*found, *providers]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin between pictures would take the core from the camera program.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        _, height, width, _ = self._session.get_inputs()[0].shape
        self._spec = InputSpec(height=height, width=width)
        self._picture = bytearray()

    def prepare(self, picture: Rgb) -> npt.NDArray[np.uint8]:
        """See `Runtime.prepare`."""
        return to_model_input(picture, self._spec)

    def prepare_from(self, read: ReadPicture, height: int, width: int) -> npt.NDArray[np.uint8]:
        """See `Runtime.prepare_from`: as a whole, for Pillow resizes whole pictures."""
        if len(self._picture) != height * width * 3:
            self._picture = bytearray(height * width * 3)
        read(memoryview(self._picture), 0)
        return self.prepare(wrap_rgb888(self._picture, width, height))

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
