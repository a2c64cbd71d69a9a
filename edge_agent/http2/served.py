"""One connection that is served: its threads, its calls, and what goes out.

One of its threads reads, and runs the handler of a call that is complete itself: no call is handed from thread to thread, which is where
most of the time of a short call goes otherwise. A handler that begins to wait says so, and another thread reads on meanwhile: that is
what makes cancelling and several calls at once work. Nobody waits for a peer that does not read: what the kernel does not take at
once goes when it tells that it would, by the keeper's hand (`keeper`).
"""

import contextlib
import socket
import threading
import time
from collections import deque
from typing import Protocol

import structlog

from linewatch.edge_agent.http2 import pace
from linewatch.edge_agent.http2.budget import Account, Budget
from linewatch.edge_agent.http2.calls import Call
from linewatch.edge_agent.http2.connection import Connection
from linewatch.edge_agent.http2.frames import ConnectionFaultError
from linewatch.edge_agent.http2.limits import ServerLimits
from linewatch.edge_agent.http2.messages import Expected
from linewatch.edge_agent.http2.outlet import Outlet
from linewatch.edge_agent.http2.status import Status, StatusError
from linewatch.edge_agent.http2.streams import Buffer, Happening, Stream
from linewatch.edge_agent.http2.transport import Peer, Seal

log = structlog.get_logger()
_READ_BYTES = 64 * 1024
_READ_AT_FIRST_BYTES = 2048
_UNREAD_BYTES = 256 * 1024
"""Of frames that answer a peer's own, at most: it asks and does not read."""
_FAREWELL_S = 2.0
_SHORT_S = 1.0
_LONGEST_WAIT_S = 0.1
"""Before it is looked again whether a connection may be read."""
_SLOW, _FAST = 16 * 1024, 256 * 1024
"""Bytes a second that a message comes or goes by to have more time; the other where memory is short."""


class Application(Protocol):
    """What calls are for."""

    def expected(self, path: str, peer: Peer) -> Expected | None:
        """What the method of this path takes; None when there is none.

        Raises:
            StatusError: this peer may not call it.
        """
        ...

    def handle(self, call: Call) -> bool:
        """Handle a call; returns whether it is ended, or whoever has it now will end it (False).

        Raises:
            StatusError: how it ends instead.
        """
        ...


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

    def __init__(self, owner: Owner, connection: socket.socket, peer: Peer, seal: Seal, application: Application, allowance: pace.Pace) -> None:
        self._owner, self._socket, self._seal, self._application, self._pace = owner, connection, seal, application, allowance
        self.peer, self.number = peer, connection.fileno()
        self._account: Account = owner.budget.account()
        self._state = threading.Condition()
        self._connection = Connection(owner.limits.connection, self._account, lambda path: application.expected(path, peer))
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._reading = threading.Lock()
        self._outlet = Outlet(connection, seal, self._take, lambda: owner.when_writable(self))
        self._ready: deque[Call] = deque()
        self._calls: dict[Stream, Call] = {}
        self._gone: list[Call] = []
        self._moving: dict[Stream, tuple[float, int]] = {}
        self._waiting, self._threads, self._listening = 0, 1, 0
        self._closed, self._draining_since, self._left_at = False, 0.0, 0.0
        self._since = self.read_at = self.called_at = time.monotonic()
        self.answered = False

    # --- threads

    def run(self) -> None:
        """Read and handle until the connection is over; the first of its threads."""
        self._flush()
        try:
            came = self._seal.unsealed(memoryview(b""))  # behind the handshake's last record
            if came:
                self._receive(came, time.monotonic())
        except OSError:
            self.close()
        self._take_turns()

    def _take_turns(self) -> None:
        while True:
            with self._state:
                if self._waiting:  # one that waits is enough
                    break
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
                try:
                    self._handle(call)
                except Exception:  # nothing is known of its state; not even a log line could be written, maybe
                    self.close()
                if not call.reads:
                    break
        self._thread_ends()

    def leave_reading(self) -> bool:
        """Have another of this connection's threads read; see `Call.about_to_wait`."""
        with self._state:
            somebody_waits = self._waiting > 0
        if not somebody_waits:
            if not self._owner.threads.acquire(blocking=False):
                return False
            with self._state:
                self._threads += 1
            try:
                threading.Thread(target=self._take_turns, name="call", daemon=True).start()
            except RuntimeError:  # the system has no more
                with self._state:
                    self._threads -= 1
                self._owner.threads.release()
                return False
        self._reading.release()
        return True

    def _thread_ends(self) -> None:
        """The last one gives the descriptor back: while a thread may still read or write, its number must not become another's."""
        with self._state:
            self._threads -= 1
            last = self._threads == 0
        if not last:
            self._owner.threads.release()
            return
        self._outlet.close()
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
        fair = self._draining_since or (self.answered and self._pace.fair)
        count = self._socket.recv_into(self._buffer if fair else self._buffer[:_READ_AT_FIRST_BYTES])
        if fair:
            self._unseal(count)
            return
        while not self._closed:
            with self._pace.turn:
                now = time.monotonic()
                self._pace.spend(0, now)
                wait = self._pace.wait
                if not wait:
                    self._unseal(count)
                    return
            with self._state:
                self._state.wait_for(lambda: self._closed, min(wait, _LONGEST_WAIT_S))

    def _unseal(self, count: int) -> None:
        data = self._seal.unsealed(self._buffer[:count]) if count else None
        if data is None:
            self.close()
            return
        self.read_at = now = time.monotonic()
        if not self._draining_since:  # else what it still sends is for nobody
            self._receive(data, now)

    def _receive(self, data: memoryview, now: float) -> None:
        fault = None
        with self._state:
            if self._closed:
                return
            try:
                for happening, stream in self._connection.receive(data):
                    self._happened(happening, stream, now)
                if len(self._connection.sender.out) > _UNREAD_BYTES:
                    fault = "the peer asks and does not read"
            except ConnectionFaultError as error:
                fault = str(error)
            cost, self._connection.cost = self._connection.cost + self._seal.records * pace.RECORD, 0.0
            if self._listening:
                self._state.notify_all()
        self._pace.spend(cost, now)
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
        self.drain()
        if self._outlet.blocked:
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

    def _happened(self, happening: Happening, stream: Stream, now: float) -> None:
        match happening:
            case Happening.OPENED:
                self._moving[stream] = (now, 0)
                if stream.reader.expected.streaming:
                    self._begin(stream, now)
            case Happening.ENDED:
                if not stream.begun:
                    self._begin(stream, now)
            case Happening.RESET:
                self._moving.pop(stream, None)
                call = self._calls.get(stream)
                if call is not None:
                    self._gone.append(call)
                    if not stream.busy:
                        del self._calls[stream]

    def _begin(self, stream: Stream, now: float) -> None:
        self._moving.pop(stream, None)
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
        return unsent or awaited or self._outlet.blocked

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self._closed

    @property
    def handles(self) -> bool:
        """Whether it has calls now."""
        return bool(self._calls)

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
            if call.stream.reader.expected.worth_it:
                self._pace.spend(-call.stream.cost, self.called_at)
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
            self._outlet.flush(self._has_output)
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
        self._outlet.resume()
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
        elif self._outlet.blocked and now - self._outlet.taken_at > limits.stall_s:
            log.info("connection ended", peer=self.peer.name, reason="the peer does not read")
            self.close()
        elif self._farewell_is_over(now):
            self.close()
        elif now - self.read_at > limits.idle_s and not self._connection.streams:
            self.leave()
        else:
            self._end_slow(now)

    def _farewell_is_over(self, now: float) -> bool:
        if self._draining_since:
            return now - self._draining_since > _FAREWELL_S
        return self._left_at > 0 and now - self._left_at > _FAREWELL_S and not self._connection.streams

    def _end_slow(self, now: float) -> None:
        """Messages that come or go too slowly would hold memory, or a place, for ever."""
        patience, rate = (_SHORT_S, _FAST) if self._owner.budget.short else (self._owner.limits.stall_s, _SLOW)
        ended = []
        with self._state:
            for stream in [stream for stream in self._connection.streams.values() if stream.outgoing]:
                self._moving.setdefault(stream, (now, stream.moved))
            for stream, (since, moved) in list(self._moving.items()):
                if stream.closed or (stream in self._calls and not stream.outgoing):
                    del self._moving[stream]
                elif now - since > _SHORT_S and stream.moved - moved > rate * (now - since):
                    self._moving[stream] = now, stream.moved
                elif now - since > patience:
                    ended.append(stream)
            ended += [call.stream for call in self._calls.values() if call.ends_at is not None and now > call.ends_at]
            for stream in ended:
                self._moving.pop(stream, None)
                self._connection.sender.drop(stream)
                self._connection.finish(stream, Status.DEADLINE_EXCEEDED, "the call took longer than its caller may take to send or to read it")
                self._happened(Happening.RESET, stream, now)
            if ended and self._listening:
                self._state.notify_all()
        if ended:
            self._tell_gone()
            self._flush()

    def leave(self) -> None:
        """Take no further calls."""
        with self._state:
            self._connection.leave()
            self._left_at = self._left_at or time.monotonic()
        self._flush()

    def drain(self) -> None:
        """Say that no more comes; the peer may close, and loses nothing that was sent."""
        self._flush()
        if not self._outlet.blocked:
            self._draining_since = time.monotonic()
            with contextlib.suppress(OSError):
                self._outlet.end()

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
