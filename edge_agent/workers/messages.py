"""What the agent and a worker process say to each other: msgpack messages on a socket pair, descriptors beside them.

Each reply carries the number of its request, and a number is never given twice: a reply that was left unread cannot pass for another's.
Pictures and masks do not pass through the socket: they lie in the client's segment, or in the shared buffer
(`shared_buffer`). No pickling.
"""

import socket
from typing import Literal

import msgspec

from linewatch.edge_agent.socket_pair import receive_message

_REQUEST_BYTES = 256  # four numbers
_TEXT_CHARS = 4000


class WorkerOptions(msgspec.Struct, frozen=True):
    """What a worker is told when it is started; it is one argument of its command line, as JSON.

    Attributes:
        channels: descriptors of each: its socket's and its shared buffer's.
        folder: of the bundle.
        runtime: see `Settings`; so are the others of the same name.
        cpus: processors that it may use; empty means any.
        address_space_mib: 0 for no limit.
    """

    channels: list[tuple[int, int]]
    folder: str
    runtime: str
    threads: int
    trusted_keys: str
    measured: str
    cpus: list[int]
    other_sizes: Literal["resize", "refuse"]
    confine: bool
    address_space_mib: int


class PredictRequest(msgspec.Struct, frozen=True):
    """Run the model on a picture: in the file whose descriptor comes with the message, else in the shared buffer, from `offset` on.

    `number` is the agent's, for this request alone, from 1 on: the reply has it, and the marks of `SharedBuffer`.
    """

    number: int
    width: int
    height: int
    offset: int


class Area(msgspec.Struct, frozen=True):
    """See `anomaly_model.LabelArea`."""

    name: str
    hex_color: str
    area: float


class PredictResponse(msgspec.Struct, frozen=True, tag=True):
    """See `anomaly_model.Detection`.

    Attributes:
        number: of the request.
        mask_rows: distinct rows of the mask that are not white; their parts lie in the shared buffer. See
            `linewatch.anomaly_model.detection.MaskRows`.
        mask_left: bytes from the start of a row to its part.
        mask_length: bytes of a part.
        mask_index: for each row of the mask, which one it is: height little-endian 16-bit numbers; empty when there is no mask.
        stages: seconds that reading, preparing, running and interpreting took.
    """

    number: int
    is_anomalous: bool
    confidence: float
    score: float
    threshold: float
    areas: list[Area]
    mask_rows: int
    mask_left: int
    mask_length: int
    mask_index: bytes
    stages: tuple[float, float, float, float]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded and warm. `unconfined` says why the worker kept what workers give up; empty when it did not."""

    runtime: str
    makes_masks: bool
    unconfined: str
    version: str


class Cancelled(msgspec.Struct, frozen=True, tag=True):
    """The request was passed over, as nobody wants its answer any more."""

    number: int


class ErrorReply(msgspec.Struct, frozen=True, tag=True):
    """There is no answer.

    Attributes:
        number: of the request; 0 where the model was not loaded.
        message: why; cut where it is long.
        fault: what is wrong: the `request`, what the `model` gave, or this `program`.
    """

    number: int
    message: str
    fault: Literal["request", "model", "program"]


def error_reply(number: int, error: Exception, fault: Literal["request", "model", "program"]) -> ErrorReply:
    """What an error becomes. The kind of what nobody foresaw is told too."""
    text = f"{type(error).__name__}: {error}" if fault == "program" else str(error)
    return ErrorReply(number, text[:_TEXT_CHARS], fault)


Loaded = Ready | ErrorReply
Reply = PredictResponse | ErrorReply | Cancelled
_LOADED = msgspec.msgpack.Decoder(Loaded)
_REPLY = msgspec.msgpack.Decoder(Reply)
_REQUEST = msgspec.msgpack.Decoder(PredictRequest)
_ENCODER = msgspec.msgpack.Encoder()


def send(channel: socket.socket, message: msgspec.Struct, descriptor: int | None = None) -> None:
    """Send one message, and a descriptor with it."""
    data = _ENCODER.encode(message)
    if descriptor is not None:
        socket.send_fds(channel, [data], [descriptor])
    else:
        channel.send(data)


def receive_loaded(channel: socket.socket) -> Loaded | None:
    """What a worker says first; None when it is gone."""
    data = receive_message(channel)
    return _LOADED.decode(data) if data else None


def receive_reply(channel: socket.socket) -> Reply | None:
    """The next reply; None when the worker is gone."""
    data = receive_message(channel)
    return _REPLY.decode(data) if data else None


def receive_request(channel: socket.socket) -> tuple[PredictRequest, int | None] | None:
    """The next request and its descriptor, which the caller closes; None when the agent wants an end or is gone."""
    try:
        data, descriptors, _, _ = socket.recv_fds(channel, _REQUEST_BYTES, 1)
    except ConnectionError:
        return None
    return (_REQUEST.decode(data), descriptors[0] if descriptors else None) if data else None
