"""DetectAnomalies: one picture, one answer. Runs outside the store's transactions, as it waits for the model."""

import time
from io import BytesIO
from typing import Any

from PIL import Image
from prometheus_client import Counter, Histogram

from linewatch.anomaly_model.errors import PictureError
from linewatch.anomaly_model.limits import LIMITS
from linewatch.anomaly_model.picture import Rgb, decode_picture
from linewatch.control_plane.errors import ApiError, InternalError, ThrottlingError, ValidationError
from linewatch.control_plane.operations.lookup import find_model
from linewatch.control_plane.services import Call, OperationResult
from linewatch.control_plane.wire.requests import Params
from linewatch.edge_agent.client import AgentCallError

_SIGNATURES = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}
_LABELS = ("ProjectName", "ModelVersion")
PROCESSED = Counter("linewatch_processed_images", "ProcessedImageCount and SuccessfulRequestCount: pictures that were answered", _LABELS)
ANOMALIES = Counter("linewatch_detected_anomalies", "DetectedAnomalyCount: pictures that were predicted anomalous", _LABELS)
INVALID = Counter("linewatch_invalid_images", "InvalidImageCount: pictures that were refused", _LABELS)
THROTTLED = Counter("linewatch_throttled_requests", "ThrottledCount: calls over capacity", _LABELS)
FAILED = Counter("linewatch_failed_requests", "ErrorCount: calls that failed for another reason", _LABELS)
TIME = Histogram(
    "linewatch_inference_seconds", "Time: from the decoded picture to the model's answer", _LABELS,
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)  # fmt: skip


def detect_anomalies(call: Call, params: Params) -> OperationResult:
    """DetectAnomalies.

    Raises:
        NotFoundError: there is no such project or model.
        ValidationError: not a PNG or JPEG as declared, or not of the training pictures' size.
        ConflictError: the model is not hosted.
        ThrottlingError: over capacity, or the model is being started again.
        ApiError: the model failed on the picture.
    """
    with call.services.store.read() as connection:
        row = find_model(connection, call.scope, params["ProjectName"], params["ModelVersion"])
    labels = (params["ProjectName"], str(row.version))
    try:
        return _detect(call, params, row, labels)
    except ThrottlingError:
        THROTTLED.labels(*labels).inc()
        raise
    except ValidationError:
        INVALID.labels(*labels).inc()
        raise
    except ApiError:
        FAILED.labels(*labels).inc()
        raise


def _detect(call: Call, params: Params, row: Any, labels: tuple[str, str]) -> OperationResult:
    model = call.services.hosting.find(row, "/".join(labels))
    picture = _decode(params["Body"], params["ContentType"])
    height, width = picture.shape[:2]
    if (width, height) != model.picture_size:
        expected = "x".join(map(str, model.picture_size))
        raise ValidationError(f"the picture is {width}x{height} pixels; this model was trained on {expected}, send that size")
    began = time.perf_counter()
    try:
        found, mask = model.detect(picture)
    except AgentCallError as error:
        raise _translate(error) from None
    TIME.labels(*labels).observe(time.perf_counter() - began)
    PROCESSED.labels(*labels).inc()
    if found.is_anomalous:
        ANOMALIES.labels(*labels).inc()
    result: OperationResult = {
        "Source": {"Type": "direct"}, "IsAnomalous": found.is_anomalous, "Confidence": found.confidence,
    }  # fmt: skip
    if model.is_segmentation and mask is not None:
        result["Anomalies"] = [
            {"Name": a.name, "PixelAnomaly": {"TotalPercentageArea": a.pixel_anomaly.total_percentage_area,
                                              "Color": a.pixel_anomaly.hex_color.upper()}}
            for a in found.anomalies
        ]  # fmt: skip
        result["AnomalyMask"] = _png(mask)
    return {"DetectAnomalyResult": result}


def _decode(body: bytes, content_type: str) -> Rgb:
    kind = content_type.partition(";")[0].strip().lower()
    kind = "image/jpeg" if kind == "image/jpg" else kind
    if kind not in _SIGNATURES:
        raise ValidationError(f"Content-Type is {content_type[:80]!r}; expected image/png or image/jpeg")
    if len(body) > LIMITS.picture_file_bytes:
        raise ValidationError(f"the picture has {len(body)} bytes; at most {LIMITS.picture_file_bytes} are allowed")
    if not body.startswith(_SIGNATURES[kind]):
        raise ValidationError(f"the body is not of the type {kind} that Content-Type says: it begins with {body[:8]!r}")
    try:
        return decode_picture(body, "the picture")
    except PictureError as error:
        raise ValidationError(str(error)) from None


def _png(mask: Rgb) -> bytes:
    """8-bit RGB, no palette, no alpha: clients blend it with the picture."""
    buffer = BytesIO()
    Image.fromarray(mask).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _translate(error: AgentCallError) -> ApiError:
    match error.code:
        case "INVALID_ARGUMENT":
            return ValidationError(str(error))
        case "RESOURCE_EXHAUSTED":
            return ThrottlingError(str(error))
        case "UNAVAILABLE" | "FAILED_PRECONDITION" | "CANCELLED":
            return ThrottlingError(f"the inference unit was lost and is being started again: {error}", retry_after_s=2)
    return InternalError("the model failed on this picture; the server's log has more")
