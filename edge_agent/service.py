"""The gRPC door: wire messages to calls of the agent, errors to status codes. No behaviour of its own."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
import structlog

from anomaly_model.errors import LinewatchError, PictureError
from anomaly_model.limits import LIMITS
from anomaly_model.picture import check_size, wrap_rgb888
from edge_agent.agent import Agent, Description
from edge_agent.channel import Answer
from edge_agent.errors import (
    ExhaustedError,
    InvalidRequestError,
    SharedMemoryError,
    UnknownModelError,
    WorkerError,
    WrongStateError,
)  # fmt: skip
from edge_agent.protos import edge_agent_pb2 as pb
from edge_agent.protos import edge_agent_pb2_grpc as rpc
from edge_agent.shared_memory import Segment, open_segment

log = structlog.get_logger()

STATUS_CODES: dict[type[LinewatchError], grpc.StatusCode] = {
    PictureError: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    SharedMemoryError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModelError: grpc.StatusCode.NOT_FOUND,
    WrongStateError: grpc.StatusCode.FAILED_PRECONDITION,
    ExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    WorkerError: grpc.StatusCode.INTERNAL,
}
"""The only place where an error becomes a status; anything else is INTERNAL, and logged with its trace."""

MESSAGE_BYTES = LIMITS.picture_side_max**2 * 3 + 1024 * 1024
"""The largest legal picture, and room for the rest of the message; gRPC's default of 4 MiB is less than 1182 x 1182."""

Result = TypeVar("Result")


@contextlib.contextmanager
def _segment(handle: Any, needed: int, *, writable: bool) -> Iterator[Segment]:
    with open_segment(handle.name, handle.size, handle.offset, needed=needed, writable=writable) as segment:
        yield segment


class EdgeAgentService(rpc.EdgeAgentServicer):
    """Implements AWS.LookoutVision.EdgeAgent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def _answer(self, context: Any, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except LinewatchError as error:
            code = next((STATUS_CODES[c] for c in type(error).__mro__ if c in STATUS_CODES), grpc.StatusCode.INTERNAL)
            if code is grpc.StatusCode.INTERNAL:
                log.error("call failed", reason=str(error))
            context.abort(code, str(error))
        # A fault of ours: INTERNAL says so, the log has the trace, the caller does not.
        except Exception:
            log.exception("call failed")
            context.abort(grpc.StatusCode.INTERNAL, "internal fault of the agent; its log has the details")
        raise AssertionError("abort raises")

    def DetectAnomalies(self, request: Any, context: Any) -> Any:  # noqa: N802
        """See the contract."""
        return self._answer(context, lambda: self._detect(request))

    def _detect(self, request: Any) -> Any:
        host = self._agent.host(request.model_component)
        bitmap, params = request.bitmap, request.anomaly_mask_params
        kind = bitmap.WhichOneof("data")
        if kind is None:
            raise InvalidRequestError("bitmap has no data; set byte_data or shared_memory_handle")
        width, height = bitmap.width, bitmap.height
        with contextlib.ExitStack() as stack:
            picture: bytes | Segment
            # Everything about the picture is checked before the queue: a wrong call never takes another's turn.
            if kind == "byte_data":
                pixels = bytes(bitmap.byte_data)  # looked at once: protobuf copies at each look
                wrap_rgb888(pixels, width, height)
                picture = pixels
            else:
                needed = _picture_bytes(width, height)
                picture = stack.enter_context(_segment(bitmap.shared_memory_handle, needed, writable=False))
            handle = _mask_handle(params)
            mask = None
            if handle is not None:
                mask = stack.enter_context(_segment(handle, _picture_bytes(width, height), writable=True))
            answer, data = host.detect(width, height, picture, mask)
        return _response(answer, width, height, data, handle)

    def StartModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        """See the contract."""
        return self._answer(context, lambda: pb.StartModelResponse(status=self._agent.start(request.model_component).name))

    def StopModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        """See the contract."""
        return self._answer(context, lambda: pb.StopModelResponse(status=self._agent.stop(request.model_component).name))

    def ListModels(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """See the contract."""
        return self._answer(
            context, lambda: pb.ListModelsResponse(models=[pb.ModelMetadata(**_fields(d)) for d in self._agent.list()])
        )

    def DescribeModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        """See the contract."""
        return self._answer(context, lambda: pb.DescribeModelResponse(
            model_description=pb.ModelDescription(**_fields(self._agent.describe(request.model_component)))))  # fmt: skip


def _picture_bytes(width: int, height: int) -> int:
    check_size(width, height)
    return width * height * 3


def _mask_handle(params: Any) -> Any | None:
    """The handle from field 2 or field 3; both dialects are in the field."""
    first, second = params.HasField("shared_memory_handle"), params.HasField("shared_memory_handle_of_samples")
    if first and second and params.shared_memory_handle != params.shared_memory_handle_of_samples:
        raise InvalidRequestError("anomaly_mask_params names two different shared memory handles (fields 2 and 3); send one")
    if first:
        return params.shared_memory_handle
    return params.shared_memory_handle_of_samples if second else None


def _response(answer: Answer, width: int, height: int, data: bytes | None, handle: Any | None) -> Any:
    """Filled in place: assembling it from parts would copy a mask that comes as bytes once more."""
    response = pb.DetectAnomaliesResponse()
    result = response.detect_anomaly_result
    result.is_anomalous, result.confidence = answer.is_anomalous, answer.confidence
    result.anomaly_score, result.anomaly_threshold = answer.score, answer.threshold
    for area in answer.areas:
        anomaly = result.anomalies.add(name=area.name)
        anomaly.pixel_anomaly.total_percentage_area, anomaly.pixel_anomaly.hex_color = area.area, area.hex_color
    if answer.mask_rows:
        result.anomaly_mask.width, result.anomaly_mask.height = width, height
        if handle is not None:
            result.anomaly_mask.shared_memory_handle.CopyFrom(handle)
        elif data is not None:
            result.anomaly_mask.byte_data = data
    return response


def _fields(description: Description) -> dict[str, Any]:
    return {
        "model_component": description.component,
        "lookout_vision_model_arn": description.arn,
        "status": int(description.state),
        "status_message": description.message,
    }
