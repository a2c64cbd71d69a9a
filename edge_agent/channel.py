"""What the agent and a worker process say to each other: msgpack messages on a socket pair, descriptors beside them.

Pictures and masks do not pass through the socket: they lie in the client's segment, or in the exchange, an anonymous
file that both hold. No pickling.
"""

import socket

import msgspec

MESSAGE_BYTES = 256 * 1024
EXCHANGE_MASK_OFFSET = 64 * 1024 * 1024
"""In the exchange the picture begins at 0 and the mask's rows here; untouched pages take no memory."""


class DetectRequest(msgspec.Struct, frozen=True):
    """Judge a picture: in the file whose descriptor comes with the message, else in the exchange, from `offset` on."""

    width: int
    height: int
    offset: int


class Area(msgspec.Struct, frozen=True):
    """See `anomaly_model.LabelArea`."""

    name: str
    hex_color: str
    area: float


class Answer(msgspec.Struct, frozen=True, tag=True):
    """See `anomaly_model.Detection`.

    Attributes:
        mask_rows: distinct rows of the mask, which lie in the exchange, width * 3 bytes each; 0 when there is no mask.
        mask_index: for each row of the mask, which of them it is: height little-endian 16-bit numbers.
    """

    is_anomalous: bool
    confidence: float
    score: float
    threshold: float
    areas: list[Area]
    mask_rows: int
    mask_index: bytes


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded and warm."""

    runtime: str
    makes_masks: bool


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """The request was wrong (`invalid`), or something is wrong with the model or this program."""

    message: str
    invalid: bool


Reply = Answer | Ready | Refusal
_REPLY = msgspec.msgpack.Decoder(Reply)
_REQUEST = msgspec.msgpack.Decoder(DetectRequest)
_ENCODER = msgspec.msgpack.Encoder()


def send(channel: socket.socket, message: msgspec.Struct, descriptor: int | None = None) -> None:
    """Send one message, and a descriptor with it."""
    data = _ENCODER.encode(message)
    if descriptor is not None:
        socket.send_fds(channel, [data], [descriptor])
    else:
        channel.send(data)


def receive_reply(channel: socket.socket) -> Reply | None:
    """The next reply; None when the worker is gone."""
    try:
        data = channel.recv(MESSAGE_BYTES)
    except ConnectionError:
        return None
    return _REPLY.decode(data) if data else None


def receive_request(channel: socket.socket) -> tuple[DetectRequest, int | None] | None:
    """The next request and its descriptor, which the caller closes; None when the agent wants an end or is gone."""
    try:
        data, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 1)
    except ConnectionError:
        return None
    return (_REQUEST.decode(data), descriptors[0] if descriptors else None) if data else None
