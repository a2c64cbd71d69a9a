"""HTTP/2 as bytes, for peers that misbehave: no library would send what these tests send."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
ACK = END_STREAM = 1
END_HEADERS = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame; see RFC 9113, section 4.1."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def hello(settings: bytes = b"") -> bytes:
    """What a client says first."""
    return PREFACE + frame(SETTINGS, 0, 0, settings)


def literal(name: str, value: str) -> bytes:
    """A header that enters no table; see RFC 7541, section 6.2.2."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: str) -> bytes:
    data = text.encode()
    assert len(data) < 127
    return bytes([len(data)]) + data


def request_block(path: str) -> bytes:
    """The headers of a gRPC call: POST and http from the static table, the rest as it is."""
    return b"\x83\x86" + literal(":path", path) + literal(":authority", "a") + literal("content-type", "application/grpc") + literal("te", "trailers")


def message(data: bytes) -> bytes:
    """With gRPC's prefix."""
    return b"\x00" + len(data).to_bytes(4, "big") + data


def setting(number: int, value: int) -> bytes:
    """One entry of a SETTINGS frame."""
    return number.to_bytes(2, "big") + value.to_bytes(4, "big")


HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
