"""Header fields of requests: unpacked within bounds, and checked as RFC 9113 (sections 8.2 and 8.3) asks. Pure."""

import re
from collections.abc import Iterable

from hpack import Decoder, HPACKError, OversizedHeaderListError

from linewatch.anomaly_model.numbers import read_digits
from linewatch.edge_agent.http2.frames import ConnectionFaultError, ErrorCode

_PSEUDO = frozenset({":method", ":scheme", ":path", ":authority"})
_NEEDED = (":method", ":scheme", ":path")
_OF_CONNECTIONS = frozenset({"connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"})
"""They say something of an HTTP/1.1 connection, and must not be there."""
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(r"(?![ \t])[^\0\r\n]*(?<![ \t])")
_UNPACKED = 2
"""Times what a call may have of fields that a block may unpack to: beyond the one the call is refused, beyond the other the connection ends."""
_LONGEST = 2**40

Fields = Iterable[tuple[str, str]]


class MalformedError(Exception):
    """The request is malformed: its stream ends with PROTOCOL_ERROR."""


class FieldDecoder:
    """Unpacks header blocks of one connection, one after the other."""

    def __init__(self, most: int) -> None:
        """No entry in its table yet.

        Args:
            most: bytes that the fields of one call should have, as RFC 9113 counts them (name, value, and 32 for each).
        """
        self._decoder = Decoder(max_header_list_size=most * _UNPACKED)
        self._decoder.max_allowed_table_size = self._decoder.header_table_size

    def decode(self, block: bytes) -> list[tuple[str, str]]:
        """The fields of a block, each byte a character.

        Raises:
            ConnectionFaultError: it cannot be unpacked, or unpacks to too much; no later block could be, then.
        """
        try:
            return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError as error:
            raise ConnectionFaultError(ErrorCode.ENHANCE_YOUR_CALM, "a header block that unpacks to far too much") from error
        except HPACKError as error:
            raise ConnectionFaultError(ErrorCode.COMPRESSION_ERROR, "a header block that cannot be unpacked") from error


def size(fields: Fields) -> int:
    """Bytes as RFC 9113, section 6.5.2, counts them."""
    return sum(len(name) + len(value) + 32 for name, value in fields)


def request_fields(fields: Fields) -> dict[str, str]:
    """A request's, by name; of those that come twice the last.

    Raises:
        MalformedError: RFC 9113 forbids them.
    """
    found: dict[str, str] = {}
    regular = False
    for name, value in fields:
        if name[:1] == ":":
            if regular or name in found or name not in _PSEUDO:
                raise MalformedError("a pseudo-header field that is unknown, comes twice or comes late")
            _check_value(value)
        else:
            regular = True
            _check_field(name, value)
        found[name] = value
    if not all(found.get(name) for name in _NEEDED):
        raise MalformedError("a request without :method, :scheme or :path")
    return found


def check_trailers(fields: Fields) -> None:
    """What comes after a request's body.

    Raises:
        MalformedError: RFC 9113 forbids them.
    """
    for name, value in fields:
        _check_field(name, value)


def content_length(fields: dict[str, str]) -> int | None:
    """What a request says of its body; None when it says nothing.

    Raises:
        MalformedError: no number.
    """
    value = fields.get("content-length")
    if value is None:
        return None
    length = read_digits(value, _LONGEST)
    if length is None:
        raise MalformedError("content-length is no number")
    return length


def _check_field(name: str, value: str) -> None:
    if not _NAME.fullmatch(name):
        raise MalformedError("a field's name has characters that names do not have")
    if name in _OF_CONNECTIONS or (name == "te" and value != "trailers"):
        raise MalformedError("a field of HTTP/1.1 connections")
    _check_value(value)


def _check_value(value: str) -> None:
    if not _VALUE.fullmatch(value):
        raise MalformedError("a field's value has characters that values do not have")
