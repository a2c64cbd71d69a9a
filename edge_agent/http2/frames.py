"""HTTP/2 frames as bytes: their names, and how ours are written. Pure."""

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum, IntFlag

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
LARGEST_WINDOW = 2**31 - 1
SMALLEST_MAX_FRAME = 2**14
LARGEST_MAX_FRAME = 2**24 - 1


class FrameType(IntEnum):
    """RFC 9113, section 6. Other types are ignored."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntFlag):
    """Flags of all types; ACK and END_STREAM share a bit."""

    END_STREAM = 1
    ACK = 1
    END_HEADERS = 4
    PADDED = 8
    PRIORITY = 32


class Setting(IntEnum):
    """Section 6.5.2: those that mean something here."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """Section 7: those that are sent."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ConnectionFaultError(Exception):
    """The peer broke the protocol: the connection ends with this code, and with a reason that has nothing of what the peer sent."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def expect(holds: bool, code: ErrorCode, message: str) -> None:
    """Raise ConnectionFaultError unless it holds.

    Raises:
        ConnectionFaultError: `holds` is false; it has `code` and `message`.
    """
    if not holds:
        raise ConnectionFaultError(code, message)


def frame_header(length: int, kind: FrameType, flags: int, stream: int) -> bytes:
    """The 9 bytes before a payload.

    Args:
        length: of the payload, in bytes.
        kind: of the frame.
        flags: see `Flag`.
        stream: its number; 0 for the connection.
    """
    return struct.pack(">BHBBI", length >> 16, length & 0xFFFF, kind, flags, stream)


def frame(kind: FrameType, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame.

    Args:
        kind: of the frame.
        flags: see `Flag`.
        stream: its number; 0 for the connection.
        payload: behind the header.
    """
    return frame_header(len(payload), kind, flags, stream) + payload


def settings_frame(values: Mapping[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(FrameType.SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in values.items()))


def read_settings(payload: memoryview) -> Iterator[tuple[int, int]]:
    """The settings of a SETTINGS frame, one after the other, each checked; unknown ones among them.

    Raises:
        ConnectionFaultError: a value is none that its setting may have, or the frame has no whole number of settings.
    """
    expect(len(payload) % 6 == 0, ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a length that is no multiple of 6")
    for key, value in struct.iter_unpack(">HI", payload):
        if key == Setting.INITIAL_WINDOW_SIZE:
            expect(value <= LARGEST_WINDOW, ErrorCode.FLOW_CONTROL_ERROR, "a window of more than 2^31 - 1 bytes")
        elif key == Setting.MAX_FRAME_SIZE:
            expect(SMALLEST_MAX_FRAME <= value <= LARGEST_MAX_FRAME, ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of its range")
        elif key == Setting.ENABLE_PUSH:
            expect(value <= 1, ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        yield key, value


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(FrameType.WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def reset(stream: int, code: ErrorCode) -> bytes:
    """An RST_STREAM frame."""
    return frame(FrameType.RST_STREAM, 0, stream, struct.pack(">I", code))


def go_away(last_stream: int, code: ErrorCode, reason: str = "") -> bytes:
    """A GOAWAY frame."""
    return frame(FrameType.GOAWAY, 0, 0, struct.pack(">II", last_stream, code) + reason.encode())


def literal(name: str, value: str) -> bytes:
    """A header field that enters no table (RFC 7541, section 6.2.2), so that writing needs no state."""
    return b"\x00" + _string(name.encode()) + _string(value.encode())


def _string(data: bytes) -> bytes:
    """Section 5.2, not Huffman-coded; the length as an integer with a 7-bit prefix (section 5.1)."""
    if len(data) < 127:
        return bytes((len(data),)) + data
    rest, out = len(data) - 127, bytearray((127,))
    while rest >= 128:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out) + data
