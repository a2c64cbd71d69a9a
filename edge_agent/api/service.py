"""The gRPC service: wire messages to calls of the agent, errors to status codes. No behaviour of its own."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from google.protobuf.message import Message

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.picture import check_size, wrap_rgb888
from linewatch.edge_agent.api.contract import MESSAGE_BYTES
from linewatch.edge_agent.api.endpoint import Unary
from linewatch.edge_agent.api.status import status_of
from linewatch.edge_agent.echo import cut
from linewatch.edge_agent.errors import InvalidRequestError, NotAllowedError, SharedMemoryError
from linewatch.edge_agent.http2.budget import SMALL_BYTES
from linewatch.edge_agent.http2.calls import Call
from linewatch.edge_agent.http2.transport import Peer
from linewatch.edge_agent.models.host import ModelHost
from linewatch.edge_agent.models.manager import Agent, Description
from linewatch.edge_agent.models.metrics import Counts
from linewatch.edge_agent.protos import edge_agent_pb2 as pb
from linewatch.edge_agent.results.sink import ResultSink
from linewatch.edge_agent.workers.messages import Answer
from linewatch.edge_agent.workers.prediction import Judged
from linewatch.edge_agent.workers.shared_memory import Segment, open_segment

log = structlog.get_logger()

_STATUS_MESSAGE = 2000


class EdgeAgentService:
    """Implements AWS.LookoutVision.EdgeAgent."""

    def __init__(self, agent: Agent, counts: Counts, results: ResultSink, *, allowed: frozenset[int] | None = None) -> None:
        """Serve an agent; no picture gets a log line before `log_calls` is set.

        Args:
            agent: does the work.
            counts: are told how calls end.
            results: are told what was found.
            allowed: users that may call; None for all who get here.
        """
        self._agent, self._counts, self._results, self._allowed = agent, counts, results, allowed
        self.log_calls = False

    def methods(self) -> Mapping[str, Unary]:
        """By path."""
        service = pb.DESCRIPTOR.services_by_name["EdgeAgent"]
        return {f"/{service.full_name}/{method.name}": self._method(method.name, getattr(pb, method.input_type.name)) for method in service.methods}

    def _method(self, name: str, request: type[Message]) -> Unary:
        handle, judges = getattr(self, f"_{_snake(name)}"), name == "DetectAnomalies"
        return Unary(request, handle, MESSAGE_BYTES if judges else SMALL_BYTES, self._admit, tells_when_it_waits=judges, worth_it=judges)

    def _admit(self, peer: Peer) -> None:
        if self._allowed is not None and peer.uid is not None and peer.uid not in self._allowed:
            raise NotAllowedError(f"user {peer.uid} may not call; the agent's setting allowed_users names who may")

    def _detect_anomalies(self, request: Any, call: Call) -> Any:
        begun = time.perf_counter()
        host = self._agent.host(request.model_component)
        try:
            response, judged = self._detect(host, request, call)
        except LinewatchError as error:
            self._counts.failed(host.component, status_of(error).name)
            raise
        answer, seconds = judged.answer, time.perf_counter() - begun
        self._counts.answered(host.component, seconds, judged.seconds, answer.score, anomalous=answer.is_anomalous)
        self._results.judged(host.component, host.version, answer, call.request_id, seconds)
        if self.log_calls:
            log.info("picture judged", model=host.component, is_anomalous=answer.is_anomalous, confidence=round(answer.confidence, 4),
                     milliseconds=round(seconds * 1e3, 2), request_id=call.request_id)  # fmt: skip
        return response

    def _detect(self, host: ModelHost, request: Any, call: Call) -> tuple[Any, Judged]:
        bitmap, params = request.bitmap, request.anomaly_mask_params
        kind = bitmap.WhichOneof("data")
        if kind is None:
            raise InvalidRequestError("bitmap has no data; set byte_data or shared_memory_handle")
        width, height = bitmap.width, bitmap.height
        with contextlib.ExitStack() as stack:
            picture: bytes | Segment
            # Everything about the picture is checked before the queue: a wrong call never takes another's turn.
            if kind == "byte_data":
                pixels = bitmap.byte_data  # looked at once: protobuf copies at each look
                wrap_rgb888(pixels, width, height)
                picture = pixels
            else:
                picture = stack.enter_context(self._segment(bitmap.shared_memory_handle, width, height, call.peer, writable=False))
            handle = _mask_handle(params)
            mask = None
            if handle is not None:
                mask = stack.enter_context(self._segment(handle, width, height, call.peer, writable=True))
            judged = host.detect(call, width, height, picture, mask)
        return _response(judged.answer, width, height, judged.mask, handle), judged

    @contextlib.contextmanager
    def _segment(self, handle: Any, width: int, height: int, peer: Peer, *, writable: bool) -> Iterator[Segment]:
        check_size(width, height)
        if peer.uid is None:
            raise SharedMemoryError("shared memory is for callers on this machine, over the Unix socket; send byte_data")
        with open_segment(handle.name, handle.size, handle.offset, rows=(width * 3, height), caller=peer.uid, writable=writable,
                          padded=self._agent.settings.row_padding == "4") as segment:  # fmt: skip
            yield segment

    def _start_model(self, request: Any, _: Call) -> Any:
        return pb.StartModelResponse(status=self._agent.start(request.model_component).name)

    def _stop_model(self, request: Any, _: Call) -> Any:
        return pb.StopModelResponse(status=self._agent.stop(request.model_component).name)

    def _list_models(self, *_: Any) -> Any:
        return pb.ListModelsResponse(models=[pb.ModelMetadata(**_fields(d)) for d in self._agent.models()])

    def _describe_model(self, request: Any, _: Call) -> Any:
        return pb.DescribeModelResponse(model_description=pb.ModelDescription(**_fields(self._agent.describe(request.model_component))))


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


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
    if answer.mask_index:
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
        "status_message": cut(description.message, _STATUS_MESSAGE),
    }
