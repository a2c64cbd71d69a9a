"""Cyclic redundancy checks that Python's library does not have, some 100 MB/s: lanes of bytes side by side in NumPy.

A register after some bytes is linear in the register before and in the bytes. So a block is cut into lanes whose registers,
begun at zero, are worked out together; then neighbours are joined, two by two: the left one is moved on by as many zero bytes
as the right one has, and the right one is added to it.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

_Words = npt.NDArray[np.uint64]
_LANE = 256
_LANE_DOUBLINGS = 8
_FEWEST, _MOST = 16, 4096
"""Lanes; fewer are not worth it, more do not fit the processor's cache."""


class Crc:
    """A check in the manner of hashlib's objects. Bits are reflected; the register begins and ends inverted."""

    def __init__(self, bits: int, polynomial: int) -> None:
        """Begin.

        Args:
            bits: of the register, at most 64.
            polynomial: reflected, without its highest term.
        """
        self._bytes, self._inverted = bits // 8, (1 << bits) - 1
        self._step, self._moves = _tables(bits, polynomial)
        self._register = self._inverted

    def update(self, data: bytes) -> None:
        """Take bytes."""
        at, lanes = 0, _MOST
        while lanes >= _FEWEST:
            if len(data) - at < lanes * _LANE:
                lanes //= 2
                continue
            self._take(np.frombuffer(data, np.uint8, lanes * _LANE, at).reshape(lanes, _LANE))
            at += lanes * _LANE
        register, step = self._register, self._step
        for byte in data[at:]:
            register = int(step[(register ^ byte) & 0xFF]) ^ (register >> 8)
        self._register = register

    def _take(self, block: npt.NDArray[np.uint8]) -> None:
        registers = np.zeros(len(block), np.uint64)
        for column in np.ascontiguousarray(block.T):
            registers = self._step[registers.astype(np.uint8) ^ column] ^ (registers >> np.uint64(8))
        level = 0
        while len(registers) > 1:
            registers = _move(self._moves[level], registers[::2]) ^ registers[1::2]
            level += 1
        moved = _move(self._moves[level], np.array([self._register], np.uint64))
        self._register = int((moved ^ registers)[0])

    def digest(self) -> bytes:
        """The check, highest byte first."""
        return (self._register ^ self._inverted).to_bytes(self._bytes, "big")


@cache
def _tables(bits: int, polynomial: int) -> tuple[_Words, list[_Words]]:
    """What a byte does to a register, and what 1, 2, 4, ... lanes of zero bytes do to it, by each of its bytes' values."""
    step = np.zeros(256, np.uint64)
    for byte in range(256):
        register = byte
        for _ in range(8):
            register = (register >> 1) ^ (polynomial if register & 1 else 0)
        step[byte] = register
    ones = np.uint64(1) << np.arange(bits, dtype=np.uint64)
    images = step[ones.astype(np.uint8)] ^ (ones >> np.uint64(8))  # of each bit, by one zero byte
    moves = []
    for doubling in range(_LANE_DOUBLINGS + _MOST.bit_length()):
        move = _spread(images)
        if doubling >= _LANE_DOUBLINGS:
            moves.append(move)
        images = _move(move, images)
    return step, moves


def _spread(images: _Words) -> _Words:
    """From images of bits to images of bytes: (bytes of a register, 256)."""
    table = np.zeros((len(images) // 8, 256), np.uint64)
    for bit in range(8):
        table[:, 1 << bit : 2 << bit] = table[:, : 1 << bit] ^ images[bit::8, None]
    return table


def _move(table: _Words, registers: _Words) -> _Words:
    moved = np.zeros(len(registers), np.uint64)
    for place, images in enumerate(table):
        moved ^= images[(registers >> np.uint64(8 * place)).astype(np.uint8)]
    return moved
