"""What the agent and a worker process say to each other: msgpack messages on a socket pair, descriptors beside them.

Pictures and masks do not pass through the socket: they lie in the client's segment, or in the exchange, an anonymous
file that both hold. No pickling.
"""

import socket

import msgspec

MESSAGE_BYTES = 256 * 1024
EXCHANGE_MASK_OFFSET = 64 * 1024 * 1024
"""In the exchange the picture begins at 0 and the mask here; untouched pages take no memory."""


class Region(msgspec.Struct, frozen=True):
    """Where a picture or mask lies. `descriptor`: index among the message's descriptors; None: in the exchange."""

    descriptor: int | None
    offset: int


class DetectRequest(msgspec.Struct, frozen=True):
    """Judge a picture."""

    width: int
    height: int
    picture: Region
    mask: Region


class Area(msgspec.Struct, frozen=True):
    """See `anomaly_model.LabelArea`."""

    name: str
    hex_color: str
    area: float


class Answer(msgspec.Struct, frozen=True, tag=True):
    """See `anomaly_model.Detection`. `has_mask`: it was written to the mask's region."""

    is_anomalous: bool
    confidence: float
    score: float
    threshold: float
    areas: list[Area]
    has_mask: bool


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded and warm."""

    runtime: str


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """The request was wrong (`invalid`), or something is wrong with the model or this program."""

    message: str
    invalid: bool


Reply = Answer | Ready | Refusal
_REPLY = msgspec.msgpack.Decoder(Reply)
_REQUEST = msgspec.msgpack.Decoder(DetectRequest)
_ENCODER = msgspec.msgpack.Encoder()


def send(channel: socket.socket, message: msgspec.Struct, descriptors: list[int] | None = None) -> None:
    """Send one message."""
    data = _ENCODER.encode(message)
    if descriptors:
        socket.send_fds(channel, [data], descriptors)
    else:
        channel.send(data)


def receive_reply(channel: socket.socket) -> Reply | None:
    """The next reply; None when the worker is gone."""
    try:
        data = channel.recv(MESSAGE_BYTES)
    except ConnectionError:
        return None
    return _REPLY.decode(data) if data else None


def receive_request(channel: socket.socket) -> tuple[DetectRequest, list[int]] | None:
    """The next request and its descriptors, which the caller closes; None when the agent wants an end or is gone."""
    try:
        data, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 2)
    except ConnectionError:
        return None
    return (_REQUEST.decode(data), descriptors) if data else None
