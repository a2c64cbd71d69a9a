"""A worker channel: what one call at a time goes through to a worker, a socket for messages and a shared buffer beside it."""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.edge_agent.errors import CallerGoneError, InvalidOutputError, InvalidRequestError, WorkerError
from linewatch.edge_agent.socket_pair import message_socket_pair
from linewatch.edge_agent.workers.caller import Caller
from linewatch.edge_agent.workers.messages import (
    Cancelled,
    ErrorReply,
    Loaded,
    PredictRequest,
    PredictResponse,
    Reply,
    receive_loaded,
    receive_reply,
    send,
)  # fmt: skip
from linewatch.edge_agent.workers.shared_buffer import SharedBuffer

_NUMBERS = itertools.count(1)
"""Of requests, for all channels of this process together."""
_ERRORS: dict[str, type[LinewatchError]] = {"request": InvalidRequestError, "model": InvalidOutputError, "program": WorkerError}


class WorkerGoneError(WorkerError):
    """The worker died, or was ended as it did not answer.

    Attributes:
        begun: whether this call may have been its end; a call that was not can go to another worker.
    """

    def __init__(self, message: str, *, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a call: bytes to be put into the shared buffer, or an open segment's descriptor and offset; neither is in the buffer."""

    width: int
    height: int
    data: bytes | memoryview | None
    descriptor: int | None = None
    offset: int = 0


class Process(Protocol):
    """A worker's process, as its channels see it; see `WorkerLink`."""

    @property
    def channels(self) -> Sequence["WorkerChannel[Any]"]:
        """All channels to it."""
        ...

    @property
    def makes_masks(self) -> bool:
        """Whether its answers come with masks."""
        ...

    @property
    def broken(self) -> bool:
        """Whether it is gone, or was ended."""
        ...

    @property
    def aborted_for(self) -> "WorkerChannel[Any] | None":
        """The channel for whose call's sake it was ended."""
        ...

    def abort(self, channel: "WorkerChannel[Any] | None" = None) -> None:
        """End it, whatever its channels have."""
        ...


Worker_co = TypeVar("Worker_co", bound=Process, covariant=True)


class WorkerChannel(Generic[Worker_co]):
    """What one call at a time goes through to a worker.

    Attributes:
        worker: at the other end.
        buffer: memory that pictures and masks go through.
        theirs: the worker's end of the socket.
    """

    def __init__(self, worker: Worker_co) -> None:
        self.worker, self.buffer = worker, SharedBuffer()
        self._socket, self.theirs = message_socket_pair()
        self._number = 0  # of the request that the worker has; 0 when it has none from here

    @property
    def worker_is_busy(self) -> bool:
        """Whether the worker has a picture from another channel, and would begin with one from here later."""
        return any(channel._number for channel in self.worker.channels if channel is not self)

    @property
    def broken(self) -> bool:
        """Whether no call may go through here any more."""
        return self.worker.broken

    def wait_until_loaded(self, seconds: float) -> Loaded | None:
        """What the worker says first; None when it is gone.

        Raises:
            TimeoutError: nothing came.
        """
        self._socket.settimeout(seconds)
        return receive_loaded(self._socket)

    def ask(self, picture: Picture, caller: Caller, timeout_s: float, meanwhile: Callable[[], None]) -> PredictResponse:
        """Send a request, do something else, and wait for the answer.

        Args:
            picture: to be inspected; one that is in the shared buffer already has neither bytes nor a descriptor.
            caller: the request is cancelled when it goes before the worker has begun.
            timeout_s: seconds after which a worker that has not answered is ended.
            meanwhile: called when the request was sent.

        Raises:
            InvalidRequestError: the picture was refused.
            WorkerError: running the model on it failed.
            InvalidOutputError: what the model gave is no answer.
            CallerGoneError: the caller left before the worker began.
            WorkerGoneError: there is no worker any more, or it was ended as it did not answer within `timeout_s`.
        """
        number = next(_NUMBERS)
        if picture.data is not None:
            self.buffer.picture(len(picture.data))[:] = picture.data
        self._number = number
        try:
            caller.when_gone(lambda: self._cancel(number))
            reply = self._converse(PredictRequest(number, picture.width, picture.height, picture.offset), picture.descriptor, timeout_s, meanwhile)
        finally:
            self._number = 0
        match reply:
            case PredictResponse():
                return reply
            case Cancelled():
                raise CallerGoneError("the caller left before its picture was inspected")
            case ErrorReply(_, message, fault):
                raise _ERRORS[fault](message)

    def _converse(self, request: PredictRequest, descriptor: int | None, timeout_s: float, meanwhile: Callable[[], None]) -> Reply:
        """The reply to this request, and to no other: whatever goes wrong in between ends the worker, as its reply would wait for the next call.

        Raises:
            WorkerGoneError: the worker died, or was ended as the call to it broke off.
        """  # noqa: DOC501 - the WorkerError is told as a WorkerGoneError
        reply = None
        try:
            if self._send(request, descriptor):
                meanwhile()
                self._socket.settimeout(timeout_s)
                reply = receive_reply(self._socket)
            if reply is not None and reply.number != request.number:
                raise WorkerError(f"reply {reply.number} came to request {request.number}")
        except BaseException as error:
            self.worker.abort(self)
            if not isinstance(error, Exception):
                raise
            late = isinstance(error, TimeoutError)
            reason = f"did not answer within {timeout_s:g} s" if late else f"was ended, as a call to it broke off ({type(error).__name__}: {error})"
            raise WorkerGoneError(reason, begun=True) from error
        if reply is None:
            self.worker.abort()
            begun = self.buffer.begun(request.number) and self.worker.aborted_for in (None, self)
            raise WorkerGoneError("died while it inspected a picture", begun=begun)
        return reply

    def _send(self, request: PredictRequest, descriptor: int | None) -> bool:
        try:
            send(self._socket, request, descriptor)
        except ConnectionError:
            return False
        return True

    def _cancel(self, number: int) -> None:
        """A caller may go at any time, and its channel may have another's call by then."""
        if number == self._number:
            with contextlib.suppress(TypeError, ValueError):  # closed by now; struct says TypeError then
                self.buffer.cancel(number)

    def close(self) -> None:
        """Close the socket; the worker ends when it reads this on all its channels. The buffer stays."""
        self._socket.close()
