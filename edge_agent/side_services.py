"""What tools ask for: health (grpc.health.v1), reflection, and the metrics that `linewatch top` shows."""

import threading
from collections.abc import Callable, Iterable, Mapping

from google.protobuf import wrappers_pb2
from grpc_health.v1 import health_pb2

from edge_agent.http2.calls import Call, Method
from edge_agent.http2.status import Status, StatusError

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
HEALTH = "grpc.health.v1.Health"
REFLECTIONS = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
"""Two names for one protocol; its messages are the same on the wire."""


class Health:
    """Whether services take calls: one answer for all of them."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = {"", *services}
        self._changed = threading.Condition()
        self._serving = True
        self._ended = False

    def methods(self) -> Mapping[str, Method]:
        """By path."""
        return {f"/{HEALTH}/Check": Method(self._check), f"/{HEALTH}/Watch": Method(self._watch, unary=False)}

    def _check(self, call: Call) -> bytes:
        service = health_pb2.HealthCheckRequest.FromString(call.message()).service
        if service not in self._services:
            raise StatusError(Status.NOT_FOUND, f"no service {service[:200]!r} here")
        return self._response(service)

    def _response(self, service: str) -> bytes:
        status = _UNKNOWN if service not in self._services else _SERVING if self._serving else _NOT_SERVING
        return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())

    def _watch(self, call: Call) -> None:
        message = next(call.messages(), None)
        if message is None:
            return
        service = health_pb2.HealthCheckRequest.FromString(message).service
        call.when_gone(self._wake)
        told = b""
        while not call.gone:
            response = self._response(service)
            if response != told:
                call.send(response)
                told = response
            with self._changed:
                if self._ended:
                    return
                if not call.gone:
                    self._changed.wait(60)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def shut_down(self) -> None:
        """Tell those who watch, and let them go."""
        with self._changed:
            self._serving, self._ended = False, True
            self._changed.notify_all()


def reflection_methods(services: Iterable[str]) -> Mapping[str, Method]:
    """By path. What answers is loaded at the first question: it takes 20 MB, and a device is asked once in its life, if ever."""
    names = [*services, HEALTH, *REFLECTIONS]
    return {f"/{name}/ServerReflectionInfo": Method(lambda call: _reflect(call, names), unary=False) for name in REFLECTIONS}


def _reflect(call: Call, names: list[str]) -> None:
    from grpc_reflection.v1alpha import reflection, reflection_pb2

    requests = (reflection_pb2.ServerReflectionRequest.FromString(bytes(message)) for message in call.messages())
    for response in reflection.ReflectionServicer(names).ServerReflectionInfo(requests, None):
        call.send(response.SerializeToString())


INSPECTION = "linewatch.Inspection"


def inspection_methods(metrics: Callable[[], bytes]) -> Mapping[str, Method]:
    """`Metrics` takes google.protobuf.Empty and returns a StringValue with Prometheus's text: what `linewatch top` shows."""

    def answer(call: Call) -> bytes:
        call.about_to_wait()
        return bytes(wrappers_pb2.StringValue(value=metrics().decode()).SerializeToString())

    return {f"/{INSPECTION}/Metrics": Method(answer)}
