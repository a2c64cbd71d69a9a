"""DetectAnomalies on the wire: a request's picture checked and opened, a prediction as its response."""

import contextlib
from collections.abc import Iterator
from typing import Any

from linewatch.anomaly_model.picture import check_size, wrap_rgb888
from linewatch.edge_agent.errors import InvalidRequestError, SharedMemoryError
from linewatch.edge_agent.http2.transport import Peer
from linewatch.edge_agent.protos import edge_agent_pb2 as pb
from linewatch.edge_agent.workers.prediction import PictureRequest, Prediction
from linewatch.edge_agent.workers.shared_memory import Segment, open_segment


@contextlib.contextmanager
def decoded(message: Any, peer: Peer, *, padded: bool) -> Iterator[PictureRequest]:
    """The picture of a DetectAnomaliesRequest, with its segments open for as long as the context lasts.

    Everything about the picture is checked here, before the queue: a wrong call never takes another's turn.

    Args:
        message: the request.
        peer: who calls. Segments must be theirs or everybody's.
        padded: whether rows in shared memory may be padded to four bytes.

    Raises:
        InvalidRequestError: there is no picture, or two masks are named.
        SharedMemoryError: a segment cannot be used.
        PictureError: the size is none that a picture may have, or not the one of the bytes.
    """
    bitmap = message.bitmap
    kind = bitmap.WhichOneof("data")
    if kind is None:
        raise InvalidRequestError("bitmap has no data; set byte_data or shared_memory_handle")
    width, height = bitmap.width, bitmap.height
    with contextlib.ExitStack() as stack:
        pixels: bytes | Segment
        if kind == "byte_data":
            data: bytes = bitmap.byte_data  # looked at once: protobuf copies at each look
            wrap_rgb888(data, width, height)
            pixels = data
        else:
            pixels = stack.enter_context(_segment(bitmap.shared_memory_handle, bitmap, peer, padded=padded, writable=False))
        handle = _mask_handle(message.anomaly_mask_params)
        mask = None
        if handle is not None:
            mask = stack.enter_context(_segment(handle, bitmap, peer, padded=padded, writable=True))
        yield PictureRequest(width, height, pixels, mask)


def encoded(message: Any, prediction: Prediction) -> Any:
    """The DetectAnomaliesResponse to a request.

    Filled in place: assembling it from parts would copy a mask that comes as bytes once more.
    """
    answer = prediction.answer
    response = pb.DetectAnomaliesResponse()
    result = response.detect_anomaly_result
    result.is_anomalous, result.confidence = answer.is_anomalous, answer.confidence
    result.anomaly_score, result.anomaly_threshold = answer.score, answer.threshold
    for area in answer.areas:
        anomaly = result.anomalies.add(name=area.name)
        anomaly.pixel_anomaly.total_percentage_area, anomaly.pixel_anomaly.hex_color = area.area, area.hex_color
    if answer.mask_index:
        result.anomaly_mask.width, result.anomaly_mask.height = message.bitmap.width, message.bitmap.height
        handle = _mask_handle(message.anomaly_mask_params)
        if handle is not None:
            result.anomaly_mask.shared_memory_handle.CopyFrom(handle)
        elif prediction.mask is not None:
            result.anomaly_mask.byte_data = prediction.mask
    return response


@contextlib.contextmanager
def _segment(handle: Any, bitmap: Any, peer: Peer, *, padded: bool, writable: bool) -> Iterator[Segment]:
    check_size(bitmap.width, bitmap.height)
    if peer.uid is None:
        raise SharedMemoryError("shared memory is for callers on this machine, over the Unix socket; send byte_data")
    with open_segment(handle.name, handle.size, handle.offset, rows=(bitmap.width * 3, bitmap.height), caller=peer.uid, writable=writable,
                      padded=padded) as segment:  # fmt: skip
        yield segment


def _mask_handle(params: Any) -> Any | None:
    """The handle from field 2 or field 3; both dialects are in the field.

    Raises:
        InvalidRequestError: both fields are set, to different handles.
    """
    first, second = params.HasField("shared_memory_handle"), params.HasField("shared_memory_handle_of_samples")
    if first and second and params.shared_memory_handle != params.shared_memory_handle_of_samples:
        raise InvalidRequestError("anomaly_mask_params names two different shared memory handles (fields 2 and 3); send one")
    if first:
        return params.shared_memory_handle
    return params.shared_memory_handle_of_samples if second else None
