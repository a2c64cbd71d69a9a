"""Frames out of bytes, however those are cut: their sizes checked, header blocks put together, DATA passed on as it comes. Pure."""

import struct
from dataclasses import dataclass
from typing import Protocol

from linewatch.edge_agent.http2.frames import (
    HEADER_BYTES,
    LARGEST_WINDOW,
    PREFACE,
    SMALLEST_MAX_FRAME,
    ConnectionFaultError,
    ErrorCode,
    Flag,
    FrameType,
    expect,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """A whole header block.

    Attributes:
        number: of its stream.
        ends: whether the stream's request ends with it.
        on_itself: whether it says that its stream depends on itself.
        data: packed.
    """

    number: int
    ends: bool
    on_itself: bool
    data: bytes


class Frames(Protocol):
    """What takes frames."""

    def frame(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        """A whole frame that is none of the others.

        Args:
            kind: its type.
            flags: see `Flag`.
            number: of its stream.
            payload: all of it.

        Raises:
            ConnectionFaultError: RFC 9113 forbids it.
        """
        ...

    def block(self, block: Block) -> None:
        """A header block."""
        ...

    def begin_data(self, kind: int, number: int, length: int, body: int, *, ends: bool) -> None:
        """A frame begins whose payload comes in pieces: DATA, or one of a type that nobody knows.

        Args:
            kind: its type.
            number: of its stream.
            length: of the payload.
            body: of what is not padding.
            ends: whether the stream's request ends with it.
        """
        ...

    def data(self, part: memoryview, coming: int) -> None:
        """A piece of the body, and how much is still to come; one of nothing for a frame that has none."""
        ...

    def end_data(self) -> None:
        """The frame is over."""
        ...


class FrameReader:
    """Of one connection.

    Attributes:
        greeted: whether the peer has said what a client says first.
    """

    def __init__(self, sink: Frames, data_bytes: int, block_bytes: int) -> None:
        """Nothing has come yet.

        Args:
            sink: takes frames.
            data_bytes: of the largest DATA frame; other frames may have gRPC's usual 16 KiB.
            block_bytes: of the largest header block.
        """
        self._sink, self._data_bytes, self._block_bytes = sink, data_bytes, block_bytes
        self._rest = bytearray()
        self._preface = len(PREFACE)
        self.greeted = False
        self._in_data, self._body_left, self._padding_left = False, 0, 0
        self._begun: tuple[int, bool, bool, bytearray] | None = None

    def feed(self, data: memoryview) -> None:
        """Take the next bytes.

        Raises:
            ConnectionFaultError: they are no frames, or the sink does not take them.
        """
        if self._rest:
            self._rest += data
            whole, self._rest = self._rest, bytearray()
            data = memoryview(whole)
        self._rest += data[self._take(data) :]

    def _take(self, data: memoryview) -> int:
        at = 0
        if self._preface:
            part = bytes(data[: self._preface])
            expect(PREFACE[-self._preface :].startswith(part), ErrorCode.PROTOCOL_ERROR, "this is no HTTP/2 connection")
            self._preface -= len(part)
            at = len(part)
        while not self._preface:
            if self._in_data:
                at = self._continue_data(data, at)
                if self._in_data:
                    break
            if len(data) - at < HEADER_BYTES:
                break
            high, low, kind, flags, number = struct.unpack_from(">BHBBI", data, at)
            length, number = high << 16 | low, number & LARGEST_WINDOW
            streamed = kind == FrameType.DATA or kind > FrameType.CONTINUATION
            self._check(kind, flags, length, number, self._data_bytes if streamed else SMALLEST_MAX_FRAME)
            if streamed:
                padding = 0
                if kind == FrameType.DATA and flags & Flag.PADDED:
                    expect(length > 0, ErrorCode.FRAME_SIZE_ERROR, "DATA without the length of its padding")
                    if len(data) - at == HEADER_BYTES:
                        break
                    padding = data[at + HEADER_BYTES] + 1
                    expect(padding <= length, ErrorCode.PROTOCOL_ERROR, "more padding than frame")
                at += HEADER_BYTES + (padding > 0)
                self._in_data, self._body_left, self._padding_left = True, length - padding, max(0, padding - 1)
                self._sink.begin_data(kind, number, length, length - padding, ends=bool(flags & Flag.END_STREAM))
                continue
            if len(data) - at - HEADER_BYTES < length:
                break
            at += HEADER_BYTES + length
            self._whole(kind, flags, number, data[at - length : at])
        return at

    def _check(self, kind: int, flags: int, length: int, number: int, most: int) -> None:
        if not self.greeted:
            expect(kind == FrameType.SETTINGS and not flags & Flag.ACK, ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
            self.greeted = True
        expect(length <= most, ErrorCode.FRAME_SIZE_ERROR, "a frame that is too long")
        if self._begun is not None:
            expect(kind == FrameType.CONTINUATION and number == self._begun[0], ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")

    def _continue_data(self, data: memoryview, at: int) -> int:
        part = data[at : at + self._body_left]
        self._body_left -= len(part)
        at += len(part)
        self._sink.data(part, self._body_left + self._padding_left)
        if self._body_left:
            return at
        skipped = min(self._padding_left, len(data) - at)
        self._padding_left -= skipped
        if not self._padding_left:
            self._in_data = False
            self._sink.end_data()
        return at + skipped

    def _whole(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        if kind == FrameType.HEADERS:
            self._begin_block(flags, number, payload)
        elif kind == FrameType.CONTINUATION:
            if self._begun is None:
                raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
            self._sink.frame(kind, flags, number, payload)
            self._begun[3].extend(payload)
        else:
            self._sink.frame(kind, flags, number, payload)
            return
        assert self._begun is not None
        number, ends, on_itself, block = self._begun
        expect(len(block) <= self._block_bytes, ErrorCode.ENHANCE_YOUR_CALM, f"a header block of more than {self._block_bytes} bytes")
        if flags & Flag.END_HEADERS:
            self._begun = None
            self._sink.block(Block(number, ends, on_itself, bytes(block)))

    def _begin_block(self, flags: int, number: int, payload: memoryview) -> None:
        if flags & Flag.PADDED:
            expect(len(payload) > 0, ErrorCode.FRAME_SIZE_ERROR, "HEADERS without the length of their padding")
            expect(payload[0] < len(payload), ErrorCode.PROTOCOL_ERROR, "more padding than frame")
            payload = payload[1 : len(payload) - payload[0]]
        expect(number % 2 == 1, ErrorCode.PROTOCOL_ERROR, "clients' streams have odd numbers")
        on_itself = False
        if flags & Flag.PRIORITY:
            expect(len(payload) >= 5, ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for their priority")
            on_itself = depends_on(payload) == number
            payload = payload[5:]
        self._begun = (number, bool(flags & Flag.END_STREAM), on_itself, bytearray(payload))


def depends_on(priority: memoryview) -> int:
    """The stream that a priority names."""
    return int.from_bytes(priority[:4], "big") & LARGEST_WINDOW
