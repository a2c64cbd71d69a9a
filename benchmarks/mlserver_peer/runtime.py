"""What MLServer hosts: the bundle's ONNX graph behind the same resize, in ONNX Runtime. Runs in MLServer's own environment."""

import os

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from PIL import Image


class AnomalyRuntime(MLModel):
    """Takes `picture`, height x width x 3 uint8, and returns the graph's score and label logits."""

    async def load(self) -> bool:
        """Open the graph that the environment names, with one thread, as the agent's workers have."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Resize, run, return the score; the masks' logits are left out, which spares MLServer their way back."""
        picture = NumpyCodec.decode_input(payload.inputs[0])
        _, height, width, _ = self._input.shape
        image = Image.fromarray(picture).resize((width, picture.shape[0]), Image.Resampling.BOX)
        ready = np.asarray(image.resize((width, height), Image.Resampling.BOX))[np.newaxis]
        score = self._session.run(None, {self._input.name: ready})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("score", score)])
