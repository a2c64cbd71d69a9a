"""What tools ask for: health (grpc.health.v1), reflection, and the metrics that `linewatch top` shows."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from google.protobuf import empty_pb2, wrappers_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from linewatch.edge_agent.api.contract import INSPECTION
from linewatch.edge_agent.api.endpoint import Conversation, Method, Unary, Watch
from linewatch.edge_agent.errors import ExhaustedError, UnknownServiceError
from linewatch.edge_agent.http2.calls import Call
from linewatch.edge_agent.quoting import quoted

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
REFLECTIONS = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
"""Two names for one protocol; its messages are the same on the wire."""
_WATCHERS = 128
"""Together; a user may have as many as are left, so that others find some."""
_CONVERSATIONS = 4
_CONVERSATION_S = 60
_QUESTIONS = 200
"""In one conversation: more than there are files and symbols to ask for."""


class Health:
    """Whether services take calls: one answer for all of them."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services) | {""}
        self._lock = threading.RLock()  # what cannot be sent ends its connection, and those who watch on it
        self._watching: set[Call] = set()
        self._status = _SERVING

    def methods(self) -> Mapping[str, Method]:
        """By path."""
        return {f"/{HEALTH}/Check": Unary(health_pb2.HealthCheckRequest, self._check),
                f"/{HEALTH}/Watch": Watch(health_pb2.HealthCheckRequest, self._watch)}  # fmt: skip

    def _check(self, request: Any, _: Call) -> Any:
        if request.service not in self._services:
            raise UnknownServiceError(f"no service {quoted(request.service)} here")
        return health_pb2.HealthCheckResponse(status=self._status)

    def _watch(self, request: Any, call: Call) -> None:
        known = request.service in self._services
        with self._lock:
            mine = sum(each.peer.name == call.peer.name for each in self._watching)
            if mine >= _WATCHERS - len(self._watching):
                raise ExhaustedError(f"{len(self._watching)} callers are watching already, {mine} of them yours; ask with Check")
            call.send(_health(self._status if known else _UNKNOWN))
            if self._status != _SERVING:
                call.finish()
                return
            self._watching.add(call)
        call.when_gone(lambda: self._forget(call))

    def _forget(self, call: Call) -> None:
        with self._lock:
            self._watching.discard(call)

    def shut_down(self) -> None:
        """Tell those who watch, and let them go."""
        with self._lock:
            self._status = _NOT_SERVING
            watching, self._watching = self._watching, set()
        for call in watching:
            call.send(_health(self._status), more=True)
            call.finish()


def _health(status: int) -> bytes:
    return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())


def reflection_methods(services: Iterable[str]) -> Mapping[str, Method]:
    """By path."""
    names = [*services, HEALTH, *REFLECTIONS]
    open_now = threading.BoundedSemaphore(_CONVERSATIONS)

    def reflect(requests: Iterator[Any], call: Call) -> Iterator[Any]:
        if not open_now.acquire(blocking=False):
            raise ExhaustedError(f"{_CONVERSATIONS} callers are asking already; try again")
        try:
            call.ends_at = time.monotonic() + _CONVERSATION_S
            # Loaded at the first question: it takes 20 MB, and a device is asked once in its life, if ever.
            from grpc_reflection.v1alpha import reflection

            servicer = reflection.ReflectionServicer(names)
            yield from servicer.ServerReflectionInfo(islice(requests, _QUESTIONS), None)
            if next(requests, None) is not None:
                raise ExhaustedError(f"those were {_QUESTIONS} questions; call again for more")
        finally:
            open_now.release()

    return {f"/{name}/ServerReflectionInfo": Conversation(reflection_pb2.ServerReflectionRequest, reflect) for name in REFLECTIONS}


def inspection_methods(metrics: Callable[[], bytes]) -> Mapping[str, Method]:
    """`Metrics` takes google.protobuf.Empty and returns a StringValue with Prometheus's text: what `linewatch top` shows."""
    return {f"/{INSPECTION}/Metrics": Unary(empty_pb2.Empty, lambda *_: wrappers_pb2.StringValue(value=metrics().decode()))}
