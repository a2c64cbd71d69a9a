"""The agent's gRPC endpoint: methods by path, what they take, and how what goes wrong ends a call. No service of its own."""

import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from google.protobuf.message import DecodeError, Message

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.edge_agent.api.status import status_of
from linewatch.edge_agent.errors import InvalidRequestError
from linewatch.edge_agent.http2.budget import SMALL_BYTES
from linewatch.edge_agent.http2.calls import Call
from linewatch.edge_agent.http2.event_loop import EventLoop
from linewatch.edge_agent.http2.limits import ServerLimits
from linewatch.edge_agent.http2.messages import Expected
from linewatch.edge_agent.http2.status import Status, StatusError
from linewatch.edge_agent.http2.transport import Peer

log = structlog.get_logger()
_LEVELS = {Status.INTERNAL: logging.ERROR, Status.RESOURCE_EXHAUSTED: logging.WARNING, Status.PERMISSION_DENIED: logging.WARNING}
_WAITING_QUESTIONS = 16


@dataclass(frozen=True, slots=True)
class Unary:
    """One request, of at most `largest` bytes, and one response.

    Attributes:
        request: the type of the request.
        handle: gives the response.
        largest: bytes of the request.
        admit: told who calls before the request is read; raises NotAllowedError.
        tells_when_it_waits: whether the handler calls `Call.about_to_wait` itself, when it does.
        refunded: whether what an answered call cost is given back; see `http2.rate_limit`.
    """

    request: type[Message]
    handle: Callable[[Any, Call], Message]
    largest: int = SMALL_BYTES
    admit: Callable[[Peer], None] | None = None
    tells_when_it_waits: bool = False
    refunded: bool = False


@dataclass(frozen=True, slots=True)
class Watch:
    """One request; responses are sent from anywhere, by `Call.send` and `Call.finish`. No thread waits meanwhile."""

    request: type[Message]
    handle: Callable[[Any, Call], None]
    largest: int = 1024


@dataclass(frozen=True, slots=True)
class Conversation:
    """Requests and responses, as they come."""

    request: type[Message]
    handle: Callable[[Iterator[Any], Call], Iterator[Message]]
    largest: int = 1024


Method = Unary | Watch | Conversation


class Endpoint:
    """Serves methods on sockets that are listened on already, each with limits of its own."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        """Serve nothing yet.

        Args:
            methods: by path, `/SERVICE/METHOD`.
        """
        self._methods = methods
        self._expected = {path: _expected(method) for path, method in methods.items()}
        self._loop = EventLoop(self)

    def listen(self, listening: socket.socket, limits: ServerLimits, tls: ssl.SSLContext | None = None) -> None:
        """Serve on this socket; with TLS where a context is given. Before `start`."""
        self._loop.listen(listening, limits, tls)

    def start(self) -> None:
        """Begin to accept."""
        self._loop.start()

    def stop(self, grace_s: float) -> bool:
        """Take no more calls, wait for those that run, then close what is open. Returns whether all were answered."""
        return self._loop.stop(grace_s)

    def expected(self, path: str, peer: Peer) -> Expected | None:
        """See `Application`.

        Raises:
            StatusError: this peer may not call the method.
        """
        method = self._methods.get(path)
        if isinstance(method, Unary) and method.admit is not None:
            try:
                method.admit(peer)
            except LinewatchError as error:
                raise StatusError(*_ending(error, path, peer)) from None
        return self._expected.get(path)

    def handle(self, call: Call) -> bool:
        """See `Application`.

        Raises:
            StatusError: how the call ends instead: too many wait, the method refused it, or a fault of the agent.
        """
        try:
            match self._methods[call.path]:
                case Unary() as method:
                    if not method.tells_when_it_waits:
                        call.about_to_wait()
                    answer = method.handle(_parsed(method.request, call.message()), call).SerializeToString()
                    call.answered()
                    call.send(answer, more=True)
                    return True
                case Watch() as method:
                    method.handle(_parsed(method.request, call.message()), call)
                    return False
                case Conversation() as method:
                    if not call.about_to_wait():
                        raise StatusError(Status.RESOURCE_EXHAUSTED, "too many calls wait already; try again")
                    for response in method.handle((_parsed(method.request, message) for message in call.messages()), call):
                        call.send(response.SerializeToString())
                    return True
        except StatusError:
            raise
        except Exception as error:
            raise StatusError(*_ending(error, call.path, call.peer, call.request_id)) from None


def _expected(method: Method) -> Expected:
    return Expected(method.largest, _WAITING_QUESTIONS if isinstance(method, Conversation) else 1, isinstance(method, Conversation),
                    awaited=isinstance(method, Unary), refunded=isinstance(method, Unary) and method.refunded)  # fmt: skip


def _parsed(kind: type[Message], data: memoryview) -> Any:
    try:
        return kind.FromString(data)  # type: ignore[arg-type]  # it takes any buffer
    except DecodeError as error:
        raise InvalidRequestError(f"the message is no {kind.DESCRIPTOR.full_name}: {error}") from None


def _ending(error: Exception, path: str, peer: Peer, request_id: str = "") -> tuple[Status, str]:
    """The status for what went wrong, and what the caller is told; the log has it too."""
    method = path.rpartition("/")[2]
    if isinstance(error, LinewatchError):
        status, reason = status_of(error), str(error)
        log.log(_LEVELS.get(status, logging.INFO), "call failed", method=method, status=status.name, reason=reason,
                request_id=request_id, peer=peer.name)  # fmt: skip
        return status, reason
    # A fault of ours: INTERNAL says so, the log has the trace, the caller does not.
    log.error("call failed", exc_info=error, method=method, request_id=request_id)
    return Status.INTERNAL, "internal fault of the agent; its log has the details"
