"""One connection that is served: its threads, its calls, and what goes out.

One of its threads reads, and runs the handler of a call that is complete itself: no call is handed from thread to thread, which is where
most of the time of a short call goes otherwise. A handler that begins to wait says so, and another thread reads on meanwhile: that is
what makes cancelling, flow control and several calls at once work.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from edge_agent.http2.calls import Call, Method
from edge_agent.http2.connection import Connection, ConnectionLimits, Happening, Stream
from edge_agent.http2.frames import ConnectionFaultError, ErrorCode
from edge_agent.http2.messages import message_prefix
from edge_agent.http2.status import Status, StatusError
from edge_agent.http2.transport import Peer, Transport

log = structlog.get_logger()
_FRAMES_AT_ONCE = 64
_OUT_BYTES = 256 * 1024
_DRAIN_S = 2.0


class Budget:
    """Bytes of messages that are being received or handled, of all connections together."""

    def __init__(self, most: int) -> None:
        self._left, self._lock = most, threading.Lock()

    def reserve(self, count: int) -> bool:
        """Take `count` bytes, if so many are left."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def release(self, count: int) -> None:
        """Give them back."""
        with self._lock:
            self._left += count


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What all peers together may take, and how long they may take.

    Attributes:
        connection: of each.
        connections: at a time; further ones are closed.
        buffered_bytes: of messages that are being received or handled.
        stall_s: seconds that a peer may take to read what is sent, or to send the rest of what it began.
    """

    connection: ConnectionLimits
    connections: int = 128
    buffered_bytes: int = 256 * 1024 * 1024
    stall_s: int = 30


class Owner(Protocol):
    """Who keeps the connections."""

    limits: ServerLimits
    budget: Budget

    def gone(self, served: "ServedConnection") -> None:
        """This one is over."""
        ...

    def idle(self) -> None:
        """A call was answered."""
        ...


class ServedConnection:
    """One connection, its threads, and its calls."""

    def __init__(self, owner: Owner, transport: Transport, methods: Mapping[str, Method]) -> None:
        self._owner, self._transport, self._methods = owner, transport, methods
        self.peer: Peer = transport.peer
        self._state = threading.Condition()
        self._connection = Connection(owner.limits.connection, owner.budget.reserve, owner.budget.release)
        self._reading, self._sending = threading.Lock(), threading.Lock()
        self._ready: list[Call] = []
        self._calls: dict[Stream, Call] = {}
        self._waiting, self._threads = 0, 1
        self._closed = False
        self._looked = time.monotonic()
        self._opened: dict[Stream, float] = {}

    # --- threads

    def run(self) -> None:
        """Read and handle until the connection is over; the first of its threads."""
        with contextlib.suppress(OSError):
            self._flush()
        self._take_turns()

    def _take_turns(self) -> None:
        while True:
            with self._state:
                self._waiting += 1
            self._reading.acquire()
            with self._state:
                self._waiting -= 1
            while True:
                call = self._next_call()
                if call is None:
                    self._reading.release()
                    self._thread_ends()
                    return
                self._handle(call)
                if not call.reads:
                    break

    def leave_reading(self) -> None:
        """Have another of this connection's threads read; see `Call.about_to_wait`."""
        with self._state:
            somebody_waits = self._waiting > 0
            self._threads += not somebody_waits
        self._reading.release()
        if not somebody_waits:
            threading.Thread(target=self._take_turns, name="call", daemon=True).start()

    def _thread_ends(self) -> None:
        """The last one gives the descriptor back: while a thread may still read or write, its number must not become another's."""
        with self._state:
            self._threads -= 1
            last = self._threads == 0
        if last:
            with self._sending:
                self._transport.close()
            self._owner.gone(self)

    def _next_call(self) -> Call | None:
        while not self._ready and not self._closed:
            try:
                self._read()
            except ConnectionFaultError as fault:
                log.warning("connection ended", reason=str(fault), peer=self.peer.name)
                with contextlib.suppress(OSError):
                    self._flush()
                self.close()
            except OSError:
                self.close()
        with self._state:
            return self._ready.pop(0) if self._ready and not self._closed else None

    def _read(self) -> None:
        try:
            data = self._transport.read()
        except BlockingIOError:
            data = None
        else:
            if not data:
                self.close()
                return
        now = time.monotonic()
        with self._state:
            if data is not None:
                for happening, stream in self._connection.receive(data):
                    self._happened(happening, stream, now)
                if len(self._connection.out) > _OUT_BYTES:
                    raise ConnectionFaultError(ErrorCode.ENHANCE_YOUR_CALM, "the peer asks and does not read")
            self._end_stalled(now)
            self._state.notify_all()
        self._flush()

    def _happened(self, happening: Happening, stream: Stream, now: float) -> None:
        match happening:
            case Happening.OPENED:
                method = self._methods.get(stream.headers[":path"])
                if method is None:
                    self._connection.finish(stream, Status.UNIMPLEMENTED, f"there is no method {stream.headers[':path'][:200]}")
                    return
                self._opened[stream] = now
                if not method.unary:
                    self._begin(stream, now)
            case Happening.ENDED:
                if stream not in self._calls:
                    self._begin(stream, now)
            case Happening.RESET:
                self._opened.pop(stream, None)
                call = self._calls.get(stream)
                if call is not None:
                    call.cancelled()

    def _begin(self, stream: Stream, now: float) -> None:
        self._opened.pop(stream, None)
        if stream.closed:
            return
        try:
            call = Call(self, stream, now)
        except StatusError as error:
            self._connection.finish(stream, error.status, str(error))
            return
        stream.busy = True
        self._calls[stream] = call
        self._ready.append(call)

    def _end_stalled(self, now: float) -> None:
        """Calls that were begun and do not come to their end would hold memory for ever."""
        if now - self._looked < self._owner.limits.stall_s / 4:
            return
        self._looked = now
        for stream, opened in list(self._opened.items()):
            if now - opened > self._owner.limits.stall_s:
                self._opened.pop(stream)
                self._connection.finish(stream, Status.DEADLINE_EXCEEDED, f"the request was not complete after {self._owner.limits.stall_s} s")

    # --- calls

    @property
    def busy(self) -> bool:
        """Whether unary calls wait for their answers, or for the rest of their request; streams are open for as long as their callers like."""
        with self._state:
            paths = [stream.headers[":path"] for stream in self._connection.streams.values()]
        return any(path in self._methods and self._methods[path].unary for path in paths)

    def _handle(self, call: Call) -> None:
        stream = call.stream
        status, text, response = Status.OK, "", None
        try:
            if call.deadline is not None and call.deadline <= time.monotonic():
                raise StatusError(Status.DEADLINE_EXCEEDED, "the deadline was over before the call began")
            if not call.gone:
                response = self._methods[call.path].handle(call)
        except StatusError as error:
            status, text = error.status, str(error)
        # A fault of ours: INTERNAL says so, the log has the trace, the caller does not.
        except Exception:
            log.exception("call failed", method=call.path, request_id=call.request_id)
            status, text = Status.INTERNAL, "internal fault of the agent; its log has the details"
        try:
            if response is not None:
                self._respond(call, response)
            else:
                with self._state:
                    self._connection.finish(stream, status, text)
                self._flush()
        except StatusError:
            pass  # nobody is there to be told
        except OSError:
            self.close()
        finally:
            with self._state:
                self._forget(call)
            self._owner.idle()

    def _forget(self, call: Call) -> None:
        self._calls.pop(call.stream, None)
        self._connection.forget(call.stream)

    def _respond(self, call: Call, response: bytes) -> None:
        stream = call.stream
        with self._state:
            whole = stream.closed or self._connection.answer_small(stream, response)
        if whole:
            self._flush()
            return
        call.about_to_wait()  # for the peer's windows
        self.send(stream, response)
        with self._state:
            self._connection.finish(stream, Status.OK)
        self._flush()

    def messages(self, stream: Stream) -> Iterator[bytearray]:
        """See `Call.messages`."""
        while True:
            with self._state:
                self._state.wait_for(lambda: stream.messages or stream.ended or stream.closed)
                if stream.closed or not stream.messages:
                    return
                message = stream.messages.popleft()
                stream.reader.give_back(len(message))
            yield message

    def send(self, stream: Stream, message: bytes) -> None:
        """Send a message in as many frames as the peer's windows ask for.

        Raises:
            StatusError: the caller is gone, or its windows stayed shut for too long.
            OSError: the connection broke.
        """
        with self._state:
            self._connection.begin_answer(stream)
        data, at = memoryview(message_prefix(len(message)) + message), 0
        while at < len(data):
            with self._state:
                open_again = self._state.wait_for(
                    lambda: stream.closed or self._connection.sendable(stream, 1) > 0, self._owner.limits.stall_s
                )
                if stream.closed:
                    raise StatusError(Status.CANCELLED, "the caller is gone")
                if not open_again:
                    self._connection.abandon(stream, ErrorCode.CANCEL)
            if not open_again:
                self._flush()
                raise StatusError(Status.CANCELLED, "the caller does not read")
            at = self._send_frames(stream, data, at)
        self._flush()

    def _send_frames(self, stream: Stream, data: memoryview, at: int) -> int:
        with self._sending:
            with self._state:
                parts: list[bytes | bytearray | memoryview] = [self._take_out()]
                while len(parts) < 2 * _FRAMES_AT_ONCE and not stream.closed:
                    count = self._connection.sendable(stream, len(data) - at)
                    if not count:
                        break
                    parts += [self._connection.data_header(stream, count), data[at : at + count]]
                    at += count
            self._transport.write(parts)
        return at

    # --- what goes

    def _take_out(self) -> bytearray:
        out, self._connection.out = self._connection.out, bytearray()
        return out

    def _flush(self) -> None:
        """Send what is to be sent. Whoever sends already takes ours along: nobody waits for a peer that does not read."""
        while self._connection.out:
            if not self._sending.acquire(blocking=False):
                return
            try:
                with self._state:
                    out = self._take_out()
                if out:
                    self._transport.write([out])
            finally:
                self._sending.release()

    def leave(self) -> None:
        """Take no further calls."""
        with self._state:
            self._connection.leave()
        with contextlib.suppress(OSError):
            self._flush()

    def drain(self) -> None:
        """Wait until answers that another thread took along are sent, then say that no more comes; the peer may close."""
        if self._sending.acquire(timeout=_DRAIN_S):
            self._sending.release()
        with contextlib.suppress(OSError):
            self._flush()
            self._transport.end_writing()

    def close(self) -> None:
        """End the connection; its callers are gone."""
        with self._state:
            if self._closed:
                return
            self._closed = True
            for stream in list(self._connection.streams.values()):
                self._connection.close(stream)
            calls = list(self._calls.values())
            for call in self._ready:  # no handler will see them
                self._forget(call)
            self._ready.clear()
            self._state.notify_all()
        self._transport.shut()
        for call in calls:
            call.cancelled()
