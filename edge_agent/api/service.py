"""The gRPC service: a call is admitted and decoded, handed over, and answered. No behaviour of its own."""

import time
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.edge_agent.api.call_record import CallRecord
from linewatch.edge_agent.api.contract import MESSAGE_BYTES
from linewatch.edge_agent.api.detect_anomalies import decoded, encoded
from linewatch.edge_agent.api.endpoint import Unary
from linewatch.edge_agent.errors import NotAllowedError
from linewatch.edge_agent.http2.budget import SMALL_BYTES
from linewatch.edge_agent.http2.calls import Call
from linewatch.edge_agent.http2.transport import Peer
from linewatch.edge_agent.models.manager import Description, ModelManager
from linewatch.edge_agent.protos import edge_agent_pb2 as pb
from linewatch.edge_agent.quoting import truncated

_STATUS_MESSAGE = 2000


class EdgeAgentService:
    """Implements AWS.LookoutVision.EdgeAgent."""

    def __init__(self, models: ModelManager, record: CallRecord, *, allowed: frozenset[int] | None = None) -> None:
        """Serve the models of a device.

        Args:
            models: those that are installed.
            record: told how each DetectAnomalies call ended.
            allowed: users that may call; None for all who get here.
        """
        self._models, self._record, self._allowed = models, record, allowed

    def methods(self) -> Mapping[str, Unary]:
        """By path."""
        service = pb.DESCRIPTOR.services_by_name["EdgeAgent"]
        return {f"/{service.full_name}/{method.name}": self._method(method.name, getattr(pb, method.input_type.name)) for method in service.methods}

    def _method(self, name: str, request: type[Message]) -> Unary:
        handle, detects = getattr(self, f"_{_snake(name)}"), name == "DetectAnomalies"
        return Unary(request, handle, MESSAGE_BYTES if detects else SMALL_BYTES, self._admit, tells_when_it_waits=detects, refunded=detects)

    def _admit(self, peer: Peer) -> None:
        if self._allowed is not None and peer.uid is not None and peer.uid not in self._allowed:
            raise NotAllowedError(f"user {peer.uid} may not call; the agent's setting allowed_users names who may")

    def _detect_anomalies(self, message: Any, call: Call) -> Any:
        begun = time.perf_counter()
        host = self._models.host(message.model_component)
        try:
            with decoded(message, call.peer, padded=self._models.settings.row_padding == "4") as request:
                prediction = host.predict(request, call)
            response = encoded(message, prediction)
        except LinewatchError as error:
            self._record.failed(host.component, error)
            raise
        self._record.answered(host, prediction, call.request_id, time.perf_counter() - begun)
        return response

    def _start_model(self, message: Any, _: Call) -> Any:
        return pb.StartModelResponse(status=self._models.start(message.model_component).name)

    def _stop_model(self, message: Any, _: Call) -> Any:
        return pb.StopModelResponse(status=self._models.stop(message.model_component).name)

    def _list_models(self, *_: Any) -> Any:
        return pb.ListModelsResponse(models=[pb.ModelMetadata(**_fields(d)) for d in self._models.descriptions()])

    def _describe_model(self, message: Any, _: Call) -> Any:
        return pb.DescribeModelResponse(model_description=pb.ModelDescription(**_fields(self._models.describe(message.model_component))))


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _fields(description: Description) -> dict[str, Any]:
    return {
        "model_component": description.component,
        "lookout_vision_model_arn": description.arn,
        "status": int(description.state),
        "status_message": truncated(description.message, _STATUS_MESSAGE),
    }
