"""gRPC's server as the agent uses it: whom a call comes from, how its request arrives, how it ends. No service of its own."""

import contextlib
import logging
import os
import random
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import structlog
from google.protobuf.message import DecodeError, Message

from anomaly_model.errors import LinewatchError
from edge_agent.echo import cut
from edge_agent.errors import ExhaustedError, InvalidRequestError
from edge_agent.intake import LARGE_BYTES, Intake, IntakeLimits
from edge_agent.relay import Limits, Peer, Relay

# Read when gRPC is loaded. It would write to standard error what peers do wrong, as often as they do it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from edge_agent.status import Status, status_of

log = structlog.get_logger()
_LEVELS = {Status.INTERNAL: logging.ERROR, Status.RESOURCE_EXHAUSTED: logging.WARNING, Status.PERMISSION_DENIED: logging.WARNING}
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:/=+-]{1,64}")
_DETAILS_BYTES = 1500
"""Of an error that its caller is told: encoded for the wire, they stay below what gRPC's clients take."""
_AHEAD_BYTES = 64 * 1024
"""Of a message that nobody has asked for yet."""
_NEVER_S = 1e9
_FAREWELL_S = 1.0
_REFUSING_S = 0.1


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """What the callers at one socket may take together, and how long they may take.

    Attributes:
        message_bytes: of the largest request.
        threads: calls that are handled or arrive at a time; they are started as they are needed.
        calls: further ones are refused.
        streams: calls of one connection at a time.
        handshake_s: seconds in which a connection has come about.
        idle_s: seconds after which a connection without calls is asked to leave.
        ping_s: seconds between pings of a peer that has no calls; one that asks more often is sent away.
        relay: of connections.
        intake: of requests that arrive.
    """

    message_bytes: int
    threads: int = 96
    calls: int = 1024
    streams: int = 32
    handshake_s: float = 10
    idle_s: float = 900
    ping_s: float = 5
    relay: Limits = field(default_factory=Limits)
    intake: IntakeLimits = field(default_factory=IntakeLimits)

    def options(self) -> list[tuple[str, int]]:
        """As gRPC takes them."""
        return [
            ("grpc.max_receive_message_length", self.message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.http2.lookahead_bytes", _AHEAD_BYTES),
            ("grpc.http2.bdp_probe", 0),  # would let streams send megabytes ahead
            ("grpc.max_metadata_size", 4 * 1024),
            ("grpc.absolute_max_metadata_size", 8 * 1024),
            ("grpc.http2.hpack_table_size.decoder", 512),  # holds a fair call's headers, and nothing that references could multiply
            ("grpc.server_handshake_timeout_ms", int(self.handshake_s * 1e3)),
            ("grpc.max_connection_idle_ms", int(self.idle_s * 1e3)),
            ("grpc.http2.settings_timeout", int(self.handshake_s * 1e3)),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", int(self.ping_s * 1e3)),
            ("grpc.http2.max_ping_strikes", 2),
            ("grpc.compression_enabled_algorithms_bitset", 1),  # none: what is small on the wire could be large here
            ("grpc.enable_channelz", 0),
            ("grpc.so_reuseport", 0),
        ]


class Call:
    """One call, seen from its handler.

    Attributes:
        method: its name.
        peer: who calls.
        request_id: the caller's own, or a new one; it is in log lines and in the answer's trailers (x-request-id).
    """

    def __init__(self, method: str, context: grpc.ServicerContext, peer: Peer, name: str) -> None:
        self.method, self.peer, self.name, self._context = method, peer, name, context
        remaining = context.time_remaining()
        self._deadline = None if remaining is None or remaining > _NEVER_S else time.monotonic() + remaining
        self.request_id = _request_id(context)
        self._answered = False
        context.set_trailing_metadata((("x-request-id", self.request_id),))

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return not self._context.is_active()

    @property
    def remaining(self) -> float | None:
        """Seconds until the caller stops waiting; None when it did not say."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, from another thread, when nobody waits for the answer any more; at once when that is so."""

        def gone() -> None:
            if not self._answered:
                callback()

        self.when_over(gone)

    def when_over(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, from another thread, when the call is over, whoever ended it."""
        if not self._context.add_callback(callback):
            callback()

    def answered(self) -> None:
        """The handler is done: from now on nobody can go."""
        self._answered = True

    def end_after(self, seconds: float) -> None:
        """Have it cancelled unless it is over by then."""
        timer = threading.Timer(seconds, self._context.cancel)
        timer.daemon = True
        self.when_over(timer.cancel)
        timer.start()


def _request_id(context: grpc.ServicerContext) -> str:
    for key, value in context.invocation_metadata():
        if key == "x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value)
    return f"{random.getrandbits(64):016x}"


Send = Callable[[Message | None], None]


@dataclass(frozen=True, slots=True)
class Unary:
    """One request, of at most `largest` bytes, and one response."""

    request: type[Message]
    handle: Callable[[Any, Call], Message]
    largest: int = LARGE_BYTES


@dataclass(frozen=True, slots=True)
class Watch:
    """One request; responses are sent from anywhere, and None ends the call. No thread waits meanwhile."""

    request: type[Message]
    handle: Callable[[Any, Call, Send], None]
    largest: int = 1024


@dataclass(frozen=True, slots=True)
class Conversation:
    """Requests and responses, as they come."""

    request: type[Message]
    handle: Callable[[Iterator[Any], Call], Iterator[Message]]
    largest: int = 1024


Method = Unary | Watch | Conversation


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


class Endpoint:
    """Serves methods on sockets that are listened on already, each with limits of its own."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        """Serve nothing yet.

        Args:
            methods: by path, `/SERVICE/METHOD`.
        """
        self._methods = methods
        self._relay = Relay(self._sweep)
        self._servers: list[grpc.Server] = []
        self._intakes: list[Intake] = []
        # Nobody else can reach what is in it: a call that does not come through the relay is nobody's.
        self._folder = tempfile.TemporaryDirectory(prefix="linewatch-agent-")

    def listen(self, listener: socket.socket, limits: EndpointLimits, tls: grpc.ServerCredentials | None = None) -> None:
        """Serve on this socket; with TLS where credentials are given.

        Raises:
            OSError: gRPC cannot listen.
        """
        intake = Intake(limits.intake)
        pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="call")
        server = grpc.server(pool, handlers=self._handlers(intake), options=limits.options(), maximum_concurrent_rpcs=limits.calls)
        target = str(Path(self._folder.name) / str(len(self._servers)))
        try:
            bound = server.add_secure_port(f"unix:{target}", tls) if tls else server.add_insecure_port(f"unix:{target}")
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {target}: {error}") from error
        if not bound:
            raise OSError(f"gRPC cannot listen on {target}")
        self._servers.append(server)
        self._intakes.append(intake)
        self._relay.listen(listener, target, limits.relay)

    def _handlers(self, intake: Intake) -> list[grpc.GenericRpcHandler]:
        services: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
        for path, method in self._methods.items():
            _, service, name = path.split("/")
            services.setdefault(service, {})[name] = _Served(name, method, intake, self._relay).handler()
        return [grpc.method_handlers_generic_handler(service, handlers) for service, handlers in services.items()]

    def start(self) -> None:
        """Begin to accept."""
        for server in self._servers:
            server.start()
        self._relay.start()

    def _sweep(self) -> None:
        for intake in self._intakes:
            intake.end_stalled()

    def stop(self, grace_s: float) -> bool:
        """Take no more calls, wait for those that run, then close what is open. Returns whether all were answered."""
        self._relay.leave()
        begun = time.monotonic()
        # Calls that gRPC has not told of yet would be cancelled, not refused.
        time.sleep(_REFUSING_S)
        for ended in [server.stop(grace_s) for server in self._servers]:
            ended.wait(grace_s + _FAREWELL_S)
        self._relay.stop()
        self._folder.cleanup()
        return time.monotonic() - begun < grace_s


class _Served:
    """One method at one socket.

    All are served as calls with a stream of requests: gRPC would wait for the request of any other in a thread, for as long as it takes.
    """

    def __init__(self, name: str, method: Method, intake: Intake, relay: Relay) -> None:
        self._name, self._method, self._intake, self._relay = name, method, intake, relay
        self._handle: Any = method.handle  # of one of three types; `handler` knows which

    def handler(self) -> grpc.RpcMethodHandler:
        if isinstance(self._method, Unary):
            return grpc.stream_unary_rpc_method_handler(self._unary)
        if isinstance(self._method, Conversation):
            return grpc.stream_stream_rpc_method_handler(self._conversation, response_serializer=_serialized)

        def watch(requests: Iterator[bytes], context: grpc.ServicerContext, send: Send) -> None:
            self._watch(requests, context, send)

        watch.experimental_non_blocking = True  # type: ignore[attr-defined]
        return grpc.stream_stream_rpc_method_handler(watch, response_serializer=_serialized)

    def _unary(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        call = self._begin(context)
        held = 0
        try:
            request, held = self._take(requests, call, context)
            call.peer.calls.add(call)
            answer: bytes = self._handle(request, call).SerializeToString()
        except Exception as error:
            self._end(error, call, context)
        finally:
            call.answered()
            call.peer.calls.discard(call)
            if held:
                self._intake.release(held)
        call.peer.answered = True
        if len(answer) > LARGE_BYTES:
            self._intake.leaving(len(answer), context.cancel, call.when_over)
        return answer

    def _watch(self, requests: Iterator[bytes], context: grpc.ServicerContext, send: Send) -> None:
        call = self._begin(context)
        try:
            request, _ = self._take(requests, call, context)
            self._handle(request, call, send)
        except Exception as error:
            self._end(error, call, context)

    def _conversation(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Message]:
        call = self._begin(context)

        def arriving() -> Iterator[Any]:
            with contextlib.suppress(_NoRequestError):
                while True:
                    yield self._take(requests, call, context)[0]

        try:
            yield from self._handle(arriving(), call)
        except Exception as error:
            self._end(error, call, context)

    def _begin(self, context: grpc.ServicerContext) -> Call:
        """Know who calls."""
        peer = self._relay.peer(context.peer())
        if peer is None or self._relay.leaving:
            context.abort(Status.UNAVAILABLE, "the agent is stopping, or the connection is being closed; call again")
            raise AssertionError
        return Call(self._name, context, peer, _certificate(context) if peer.uid is None else peer.name)

    def _take(self, requests: Iterator[bytes], call: Call, context: grpc.ServicerContext) -> tuple[Any, int]:
        """The next request, and its bytes if they are counted: they are to be released."""
        ticket = self._intake.arrive(call.peer, context.cancel, lambda: call.peer.received)
        try:
            data = next(requests, None)
        finally:
            self._intake.arrived(ticket)
        if data is None:
            raise _NoRequestError("the call has no request; expected one message")
        size = len(data)
        if size > self._method.largest:
            raise ExhaustedError(f"the request has {size} bytes; {self._name} takes at most {self._method.largest}")
        held = size if size > LARGE_BYTES else 0
        if held:
            self._intake.hold(held)
        try:
            return self._method.request.FromString(data), held
        except DecodeError as error:
            self._intake.release(held)
            raise InvalidRequestError(f"the message is no {self._method.request.DESCRIPTOR.full_name}: {error}") from None

    def _end(self, error: Exception, call: Call, context: grpc.ServicerContext) -> NoReturn:
        """End the call with a status for what went wrong."""
        call.peer.answered = True
        if isinstance(error, grpc.RpcError):  # the caller has gone
            raise error
        if isinstance(error, LinewatchError):
            status, reason = status_of(error), _bounded(str(error))
            log.log(_LEVELS.get(status, logging.INFO), "call failed", method=call.method, status=status.name, reason=reason,
                    request_id=call.request_id, peer=call.name)  # fmt: skip
        else:  # a fault of ours: INTERNAL says so, the log has the trace, the caller does not
            status, reason = Status.INTERNAL, "internal fault of the agent; its log has the details"
            log.error("call failed", exc_info=error, method=call.method, request_id=call.request_id)
        context.abort(status, reason)
        raise AssertionError("abort raises")


class _NoRequestError(InvalidRequestError):
    """The caller has sent all it will send."""


def _bounded(text: str) -> str:
    return cut(text, _DETAILS_BYTES).encode(errors="replace")[:_DETAILS_BYTES].decode(errors="ignore")


def _certificate(context: grpc.ServicerContext) -> str:
    names = context.auth_context().get("x509_common_name", [])
    return f"certificate {names[0].decode(errors='replace') if names else '?'}"
