"""Painting a mask into a client's segment, or into bytes, from its distinct rows.

A mask is as large as the picture and mostly white. The worker sends only what its distinct rows have on them; this side paints. Into a
segment it writes the white while the worker still computes, so that only the rows with something on them are left.
"""

import os
from dataclasses import dataclass

from linewatch.edge_agent.workers.shared_memory import Segment

_GATHER = 1024
"""Buffers in one pwritev: Linux's IOV_MAX."""


@dataclass(frozen=True, slots=True)
class CompactMask:
    """A mask's distinct rows (row 0 is white) and which of them each of its rows is."""

    rows: list[bytes]
    index: list[int]

    def to_bytes(self) -> bytes:
        """The whole mask, RGB888."""
        return b"".join([self.rows[i] for i in self.index])


def overlap(a: Segment, b: Segment) -> bool:
    """Whether two parts lie in the same segment and share bytes."""
    first, second = os.fstat(a.descriptor), os.fstat(b.descriptor)
    same = (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
    return same and a.offset < b.offset + b.size and b.offset < a.offset + a.size


def whiten(target: Segment, height: int, row_bytes: int) -> None:
    """Fill the mask's part of a segment with white."""
    _write(target.descriptor, [b"\xff" * row_bytes] * height, target.offset)


def paint(target: Segment, mask: CompactMask, *, whitened: bool) -> None:
    """Write the mask; rows that are white are left out where they are white already."""
    row_bytes = len(mask.rows[0])
    y = 0
    while y < len(mask.index):
        end = y + 1
        if whitened and mask.index[y] == 0:
            y = end
            continue
        while end < len(mask.index) and not (whitened and mask.index[end] == 0):
            end += 1
        _write(target.descriptor, [mask.rows[i] for i in mask.index[y:end]], target.offset + y * row_bytes)
        y = end


def _write(descriptor: int, lines: list[bytes], offset: int) -> None:
    """Write equally long lines one after the other, gathered by the kernel."""
    length = len(lines[0])
    for first in range(0, len(lines), _GATHER):
        batch = lines[first : first + _GATHER]
        start = offset + first * length
        written = os.pwritev(descriptor, batch, start)
        if written < len(batch) * length:  # interrupted: the rest from where it stopped
            data = memoryview(b"".join(batch))
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], start + written)
