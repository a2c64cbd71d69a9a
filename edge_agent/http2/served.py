"""One connection that is served: its threads, its calls, and what goes out.

One of its threads reads, and runs the handler of a call that is complete itself: no call is handed from thread to thread, which is where
most of the time of a short call goes otherwise. A handler that begins to wait says so, and another thread reads on meanwhile: that is
what makes cancelling and several calls at once work. Nobody waits for a peer that does not read: what the kernel does not take at
once goes when it tells that it would, by the hand of the `event_loop`.
"""

import contextlib
import socket
import threading
import time
from collections import deque
from typing import Protocol

import structlog

from linewatch.edge_agent.http2 import rate_limit
from linewatch.edge_agent.http2.application import Application
from linewatch.edge_agent.http2.budget import Account, Budget
from linewatch.edge_agent.http2.call_threads import CallThreads
from linewatch.edge_agent.http2.calls import Call
from linewatch.edge_agent.http2.connection import Connection
from linewatch.edge_agent.http2.frames import ConnectionFaultError
from linewatch.edge_agent.http2.limits import ServerLimits
from linewatch.edge_agent.http2.progress import Progress
from linewatch.edge_agent.http2.socket_writer import SocketWriter
from linewatch.edge_agent.http2.status import Status, StatusError
from linewatch.edge_agent.http2.streams import Buffer, Stream, StreamEvent
from linewatch.edge_agent.http2.transport import Peer, Transport

log = structlog.get_logger()
_READ_BYTES = 64 * 1024
_READ_AT_FIRST_BYTES = 2048
_UNREAD_BYTES = 256 * 1024
"""Of frames that answer a peer's own, at most: it asks and does not read."""
_LINGER_S = 2.0
_LONGEST_WAIT_S = 0.1
"""Before it is looked again whether a connection may be read."""


class Owner(Protocol):
    """Who keeps the connections of a socket."""

    limits: ServerLimits
    budget: Budget
    threads: threading.BoundedSemaphore

    def gone(self, served: "ServedConnection") -> None:
        """This one is over."""
        ...

    def idle(self) -> None:
        """A call was answered."""
        ...

    def when_writable(self, served: "ServedConnection") -> None:
        """Have its `resume` called when the kernel takes more."""
        ...


class ServedConnection:
    """One connection, its threads, and its calls.

    Attributes:
        peer: at the other end.
        number: of its descriptor.
        answered: whether a call was ever answered.
        read_at: when anything came, on the monotonic clock.
        called_at: when a call was answered, or the connection began.
    """

    def __init__(
        self, owner: Owner, connection: socket.socket, peer: Peer, transport: Transport, application: Application, rate: rate_limit.RateLimit
    ) -> None:
        """Nothing was read yet; `run` must follow.

        Args:
            owner: keeps the connections of the socket that was listened on.
            connection: the socket.
            peer: at its other end.
            transport: between plain bytes and those on the wire; a handshake is over.
            application: what calls are for.
            rate: how much work that leads to nothing the peer may make.
        """
        self._owner, self._socket, self._transport, self._application, self._rate = owner, connection, transport, application, rate
        self.peer, self.number = peer, connection.fileno()
        self._account: Account = owner.budget.account()
        self._state = threading.Condition()
        self._connection = Connection(owner.limits.connection, self._account, lambda path: application.expected(path, peer))
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._threads = CallThreads(owner.threads, self._next_call, self._handle_whatever_happens, self._over)
        self._writer = SocketWriter(connection, transport, self._take, lambda: owner.when_writable(self))
        self._ready: deque[Call] = deque()
        self._calls: dict[Stream, Call] = {}
        self._gone: list[Call] = []
        self._progress = Progress()
        self._listening = 0
        self._closed, self._half_closed_at, self._go_away_at = False, 0.0, 0.0
        self._since = self.read_at = self.called_at = time.monotonic()
        self.answered = False

    # --- threads

    def run(self) -> None:
        """Read and handle until the connection is over; the first of its threads."""
        self._flush()
        try:
            came = self._transport.unwrap(memoryview(b""))  # behind the handshake's last record
            if came:
                self._receive(came, time.monotonic())
        except OSError:
            self.close()
        self._threads.run()

    def hand_over_reading(self) -> bool:
        """See `CallThreads`."""
        return self._threads.hand_over_reading()

    def _over(self) -> None:
        """The last thread gives the descriptor back: while one may still read or write, its number must not become another's."""
        self._writer.close()
        self._owner.gone(self)

    def _next_call(self) -> Call | None:
        while not self._ready and not self._closed:
            try:
                self._read()
            except OSError:
                self.close()
            except Exception:
                self.close()
                log.exception("connection ended", peer=self.peer.name)
        with self._state:
            return self._ready.popleft() if self._ready and not self._closed else None

    def _read(self) -> None:
        # Little at a time from who has not shown yet that it is fair: what it sends cannot keep others waiting for long.
        fair = self._half_closed_at or (self.answered and self._rate.fair)
        count = self._socket.recv_into(self._buffer if fair else self._buffer[:_READ_AT_FIRST_BYTES])
        if fair:
            self._unwrap(count)
            return
        while not self._closed:
            with self._rate.reading:
                now = time.monotonic()
                self._rate.spend(0, now)
                wait = self._rate.wait
                if not wait:
                    self._unwrap(count)
                    return
            with self._state:
                self._state.wait_for(lambda: self._closed, min(wait, _LONGEST_WAIT_S))

    def _unwrap(self, count: int) -> None:
        data = self._transport.unwrap(self._buffer[:count]) if count else None
        if data is None:
            self.close()
            return
        self.read_at = now = time.monotonic()
        if not self._half_closed_at:  # else what it still sends is for nobody
            self._receive(data, now)

    def _receive(self, data: memoryview, now: float) -> None:
        fault = None
        with self._state:
            if self._closed:
                return
            try:
                for event, stream in self._connection.receive(data):
                    self._react(event, stream, now)
                if len(self._connection.sender.out) > _UNREAD_BYTES:
                    fault = "the peer asks and does not read"
            except ConnectionFaultError as error:
                fault = str(error)
            cost, self._connection.cost = self._connection.cost + self._transport.records * rate_limit.RECORD, 0.0
            if self._listening:
                self._state.notify_all()
        self._rate.spend(cost, now)
        self._tell_gone()
        if fault is not None:
            self._end(fault)
        elif self._connection.sender.out or self._connection.sender.waits:
            self._flush()

    def _end(self, fault: str) -> None:
        """The peer broke the protocol. It is told why, and has some time to read that."""
        log.warning("connection ended", reason=fault, peer=self.peer.name)
        with self._state:
            self._end_calls()
        self._tell_gone()
        self.half_close()
        if self._writer.blocked:
            self.close()

    def _end_calls(self) -> None:
        self._connection.end()
        for call in self._ready:  # no handler will see them
            self._connection.forget(call.stream)
        self._ready.clear()
        self._gone += self._calls.values()
        self._calls = {stream: call for stream, call in self._calls.items() if stream.busy}
        self._state.notify_all()

    def _tell_gone(self) -> None:
        """Handlers learn that their callers have gone; not while the state is locked: they have locks of their own."""
        while self._gone:
            with contextlib.suppress(IndexError):  # another thread was quicker
                self._gone.pop().over()

    def _react(self, event: StreamEvent, stream: Stream, now: float) -> None:
        match event:
            case StreamEvent.OPENED:
                self._progress.begin(stream, now, 0)
                if stream.reader.expected.streaming:
                    self._begin(stream, now)
            case StreamEvent.ENDED:
                if not stream.begun:
                    self._begin(stream, now)
            case StreamEvent.RESET:
                self._progress.end(stream)
                call = self._calls.get(stream)
                if call is not None:
                    self._gone.append(call)
                    if not stream.busy:
                        del self._calls[stream]

    def _begin(self, stream: Stream, now: float) -> None:
        self._progress.end(stream)
        if stream.closed:
            return
        try:
            call = Call(self, stream, now)
        except StatusError as error:
            self._connection.finish(stream, error.status, str(error))
            return
        stream.busy = stream.begun = True
        self._calls[stream] = call
        self._ready.append(call)

    # --- calls

    @property
    def busy(self) -> bool:
        """Whether calls wait for their answers, or for the rest of their request; streams are open for as long as their callers like."""
        with self._state:
            awaited = any(stream.reader.expected.awaited for stream in self._connection.streams.values())
            unsent = self._connection.sender.ready
        return unsent or awaited or self._writer.blocked

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self._closed

    @property
    def handles(self) -> bool:
        """Whether it has calls now."""
        return bool(self._calls)

    def _handle_whatever_happens(self, call: Call) -> None:
        try:
            self._handle(call)
        except Exception:  # nothing is known of its state; not even a log line could be written, maybe
            self.close()

    def _handle(self, call: Call) -> None:
        status, text, ended = Status.OK, "", True
        try:
            remaining = call.remaining
            if remaining is not None and remaining <= 0:
                raise StatusError(Status.DEADLINE_EXCEEDED, "the deadline was over before the call began")
            if not call.gone:
                ended = self._application.handle(call)
        except StatusError as error:
            status, text = error.status, str(error)
        except Exception:  # not even told as an error of ours
            log.exception("call failed", method=call.path, request_id=call.request_id)
            status, text = Status.INTERNAL, "internal fault of the agent; its log has the details"
        if ended:
            call.answered()
        with self._state:
            was_gone = call.gone
            if ended:
                self._connection.finish(call.stream, status, text)
            self._connection.forget(call.stream)
            if ended or call.stream.closed:
                self._calls.pop(call.stream, None)
        if status is Status.OK and not was_gone:
            self.answered, self.called_at = True, time.monotonic()
            if call.stream.reader.expected.refunded:
                self._rate.spend(-call.stream.cost, self.called_at)
        self._flush()

    def next_message(self, call: Call) -> memoryview | None:
        """See `Call.messages`."""
        stream = call.stream
        with self._state:
            self._listening += 1
            self._state.wait_for(lambda: stream.reader.messages or stream.ended or stream.closed)
            self._listening -= 1
            return stream.reader.take() if stream.reader.messages and not stream.closed else None

    def send(self, call: Call, message: bytes, *, more: bool) -> None:
        """See `Call.send`."""
        with self._state:
            self._connection.send(call.stream, message)
        if not more:
            self._flush()

    def finish(self, call: Call, status: Status, text: str) -> None:
        """See `Call.finish`."""
        with self._state:
            self._connection.finish(call.stream, status, text)
            self._calls.pop(call.stream, None)
        self._flush()

    # --- what goes

    def _flush(self) -> None:
        try:
            self._writer.flush(self._has_output)
        except OSError:
            self.close()
        self._owner.idle()

    def _take(self, most: int) -> list[Buffer]:
        with self._state:
            return [] if self._closed else self._connection.take(most)

    def _has_output(self) -> bool:
        with self._state:
            return not self._closed and self._connection.sender.ready

    def resume(self) -> None:
        """The kernel takes more."""
        self._writer.resume()
        self._flush()

    # --- how it ends

    def sweep(self, now: float) -> None:
        """End what has taken too long; to be called now and then."""
        limits = self._owner.limits
        if self._closed:
            return
        if not self._connection.greeted and now - self._since > limits.handshake_s:
            log.info("connection ended", peer=self.peer.name, reason="the peer says nothing that begins a connection")
            self.close()
        elif self._writer.blocked and now - self._writer.taken_at > limits.stall_s:
            log.info("connection ended", peer=self.peer.name, reason="the peer does not read")
            self.close()
        elif self._linger_is_over(now):
            self.close()
        elif now - self.read_at > limits.idle_s and not self._connection.streams:
            self.go_away()
        else:
            self._end_slow(now)

    def _linger_is_over(self, now: float) -> bool:
        if self._half_closed_at:
            return now - self._half_closed_at > _LINGER_S
        return self._go_away_at > 0 and now - self._go_away_at > _LINGER_S and not self._connection.streams

    def _end_slow(self, now: float) -> None:
        """See `progress`."""
        with self._state:
            for stream in self._connection.streams.values():
                if stream.outgoing:
                    self._progress.begin(stream, now, stream.moved)
            late = self._progress.late(
                now, self._owner.limits.stall_s, memory_is_short=self._owner.budget.short, is_over=lambda s: s in self._calls and not s.outgoing
            )
            ended = [*late]
            ended += [call.stream for call in self._calls.values() if call.ends_at is not None and now > call.ends_at]
            for stream in ended:
                self._progress.end(stream)
                self._connection.sender.drop(stream)
                self._connection.finish(stream, Status.DEADLINE_EXCEEDED, "the call took longer than its caller may take to send or to read it")
                self._react(StreamEvent.RESET, stream, now)
            if ended and self._listening:
                self._state.notify_all()
        if ended:
            self._tell_gone()
            self._flush()

    def go_away(self) -> None:
        """Take no further calls."""
        with self._state:
            self._connection.go_away()
            self._go_away_at = self._go_away_at or time.monotonic()
        self._flush()

    def half_close(self) -> None:
        """Say that no more comes; the peer may close, and loses nothing that was sent."""
        self._flush()
        if not self._writer.blocked:
            self._half_closed_at = time.monotonic()
            with contextlib.suppress(OSError):
                self._writer.end()

    def close(self) -> None:
        """End the connection; its callers are gone."""
        with self._state:
            if self._closed:
                return
            self._closed = True
            self._end_calls()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._tell_gone()
