"""What every part of Linewatch must agree on: the bundle, pre- and postprocessing, and the runtimes.

This package imports none of the others. Training writes a bundle, the packager adds compiled code to it, the agent
serves it; all three read pictures, run the graph and read its outputs through the code in here, which is why the same
picture gets the same answer everywhere.
"""

from linewatch.anomaly_model.bundle import Bundle, open_bundle, write_bundle, zip_bundle
from linewatch.anomaly_model.detection import Detection, LabelArea, detect
from linewatch.anomaly_model.errors import BundleError, LinewatchError, PictureError, RuntimeUnavailableError
from linewatch.anomaly_model.limits import LIMITS, Limits
from linewatch.anomaly_model.manifest import Manifest
from linewatch.anomaly_model.picture import decode_picture, to_model_input
from linewatch.anomaly_model.runtime import ModelOutputs, Runtime
from linewatch.anomaly_model.runtime_choice import open_runtime

__all__ = [
    "Bundle",
    "BundleError",
    "Detection",
    "LIMITS",
    "LabelArea",
    "Limits",
    "LinewatchError",
    "Manifest",
    "ModelOutputs",
    "PictureError",
    "Runtime",
    "RuntimeUnavailableError",
    "decode_picture",
    "detect",
    "open_bundle",
    "open_runtime",
    "to_model_input",
    "write_bundle",
    "zip_bundle",
]
