"""How fast a peer may make work with HTTP/2's frames. Pure.

Pictures are DATA, and cost what they weigh anyhow; everything else is small in a fair call, and cheap to send without end: pings,
settings, resets, headers, frames without content. So each connection has an allowance for these, and waits when it is used up.
"""

from dataclasses import dataclass

_HEADER_BYTES = 9
_PREFACE_BYTES = 24
_DATA = 0
_EACH, _A_BYTE = 16, 4
"""What a frame costs, and what each of its bytes costs when they are not DATA; bytes of DATA count for nothing."""
_LONG = 64
"""Bytes that make each byte of a frame cost one more: a byte of a long header block can stand for a whole header, time after time."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """For one connection.

    Attributes:
        a_second: cost. A thousand small calls a second cost a third of a million.
        at_once: cost, when it has been quiet.
    """

    a_second: float = 1_000_000
    at_once: float = 1_000_000


class Pace:
    """Follows one connection's frames as they pass."""

    def __init__(self, allowance: Allowance, now: float) -> None:
        self._allowance = allowance
        self._left, self._at = allowance.at_once, now
        self._skip = _PREFACE_BYTES
        self._begun = b""

    def passed(self, data: memoryview, now: float) -> float:
        """Take note of bytes; returns seconds that the connection has to wait now."""
        allowance = self._allowance
        self._left = min(allowance.at_once, self._left + (now - self._at) * allowance.a_second) - self._cost(data)
        self._at = now
        return max(0.0, -self._left / allowance.a_second)

    def _cost(self, data: memoryview) -> int:
        cost, at = 0, self._skip
        if self._begun:
            missing = _HEADER_BYTES - len(self._begun)
            header = self._begun + bytes(data[:missing])
            if len(header) < _HEADER_BYTES:
                self._begun = header
                return 0
            length = int.from_bytes(header[:3], "big")
            cost = _price(header[3], length)
            at, self._begun = missing + length, b""
        size = len(data)
        while at + _HEADER_BYTES <= size:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            cost += _price(data[at + 3], length)
            at += _HEADER_BYTES + length
        if at < size:
            self._begun, self._skip = bytes(data[at:]), 0
        else:
            self._skip = at - size
        return cost


def _price(kind: int, length: int) -> int:
    return _EACH if kind == _DATA else _EACH + length * (_A_BYTE + length // _LONG)
