"""gRPC's status: how calls end, and how long callers wait, as on the wire. Pure."""

import re
from enum import IntEnum
from urllib.parse import quote

from linewatch.edge_agent.http2.frames import literal


class Status(IntEnum):
    """Numbers as on the wire; those that this agent uses."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class StatusError(Exception):
    """A call ends with this status."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


_SAFE = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")
_MESSAGE_BYTES = 1500
"""Of UTF-8: three times as much when it is encoded, which fits the smallest frame and what gRPC's clients take of trailers."""
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def trailers(status: Status, message: str = "") -> bytes:
    """The header block that ends a call; the message is percent-encoded as gRPC over HTTP/2 prescribes, and cut to 1,500 bytes."""
    block = literal("grpc-status", str(int(status)))
    if message:
        block += literal("grpc-message", quote(message.encode(errors="replace")[:_MESSAGE_BYTES].decode(errors="ignore"), safe=_SAFE))
    return block


def timeout_seconds(value: str) -> float:
    """A `grpc-timeout`, such as 500m.

    Raises:
        StatusError: not a timeout.
    """
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise StatusError(Status.INVALID_ARGUMENT, f"grpc-timeout {value[:40]!r} is no timeout; expected up to 8 digits and one of H, M, S, m, u, n")
    return int(match[1]) * _SECONDS[match[2]]
