"""Opening a client's POSIX shared memory without trusting it.

Not multiprocessing.shared_memory: in Python 3.11 it unlinks the client's segment when a reader exits. Data is read and
written with pread and pwrite rather than through a mapping: a client that shrinks its segment in the middle then causes a
short read, which is an error message, instead of SIGBUS, which is the end of the process.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from linewatch.edge_agent.errors import SharedMemoryError
from linewatch.edge_agent.quoting import quoted

SEGMENTS = Path("/dev/shm")
_GATHER = 512
"""Rows in one preadv, each with its padding: Linux's IOV_MAX is 1024."""
_NAME = re.compile(r"[^/\0]{1,255}")


@dataclass(frozen=True, slots=True)
class Segment:
    """An opened part of a segment: `size` bytes from `offset` on, within the segment when it was opened; rows begin `stride` bytes apart."""

    descriptor: int
    offset: int
    size: int
    stride: int


@contextmanager
def open_segment(
    name: str, size: int, offset: int, *, rows: tuple[int, int], caller: int, writable: bool = False, padded: bool = False
) -> Iterator[Segment]:
    """Open a segment by its shm_open name.

    Args:
        name: with or without the leading slash.
        size: bytes that the client says belong to the picture, from `offset` on.
        offset: bytes from the start of the segment.
        rows: bytes of a row of the picture, and how many rows there are; see `row_stride`.
        caller: user who calls. The segment must be theirs or everybody's: the agent may be able to open what they are not.
        writable: whether a mask will be written.
        padded: see `row_stride`.

    Raises:
        SharedMemoryError: a name that is no plain name, a segment that does not exist, is a link, may not be opened, or
            is too small, or a size that is not the picture's.
    """
    plain = name.removeprefix("/")
    if not _NAME.fullmatch(plain) or plain in (".", ".."):
        raise SharedMemoryError(
            f"shared memory name {quoted(name)} is not allowed: expected a name as for shm_open, one slash at most"
        )
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(SEGMENTS / plain, flags)
    except OSError as error:
        reason = {
            "ENOENT": "does not exist; create it before the call and unlink it after the last one",
            "ELOOP": "is a symbolic link; expected a segment made by shm_open",
            "EACCES": f"may not be opened for {'writing' if writable else 'reading'} by the agent's user; "
            "create it with a group and mode that allow it",
        }.get(_errno_name(error), f"cannot be opened: {error.strerror}")
        raise SharedMemoryError(f"shared memory {quoted(name)} {reason}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SharedMemoryError(f"shared memory {quoted(name)} is not a plain segment")
        everybody = stat.S_IROTH | (stat.S_IWOTH if writable else 0)
        if caller not in (0, status.st_uid) and status.st_mode & everybody != everybody:
            raise SharedMemoryError(f"shared memory {quoted(name)} belongs to user {status.st_uid}; expected one of the caller's, user {caller}")
        if offset + size > status.st_size:
            raise SharedMemoryError(
                f"shared memory {quoted(name)} has {status.st_size} bytes; offset {offset} + size {size} reaches to "
                f"{offset + size}, past its end"
            )
        yield Segment(descriptor, offset, size, row_stride(size, *rows, padded=padded))
    finally:
        os.close(descriptor)


def row_stride(size: int, row_bytes: int, count: int, *, padded: bool) -> int:
    """Bytes from one row to the next.

    A picture that does not fit exactly would be read sheared. Rows that some programs (GStreamer among them) pad to four bytes are told
    from packed ones by their size alone.

    Args:
        size: bytes that the client says belong to the picture.
        row_bytes: of a row's pixels.
        count: of rows.
        padded: whether rows padded to four bytes are taken; packed ones always are.

    Raises:
        SharedMemoryError: the size is neither.
    """
    stride = -(-row_bytes // 4) * 4
    if size == row_bytes * count:
        return row_bytes
    if size == stride * count:
        if padded:
            return stride
        hint = (
            f"this is the size of rows padded to {stride} bytes: copy the rows without their padding, or set the agent's setting row_padding to 4"
        )
    else:
        hint = "give the size of the picture, not of the segment, in which more may lie"
    raise SharedMemoryError(
        f"the shared memory handle says size {size}; the picture needs {row_bytes * count} bytes, {count} rows of {row_bytes}; {hint}"
    )


def read_rows(segment: Segment, buffer: memoryview, row_bytes: int) -> None:
    """Fill a buffer with rows without what pads them.

    Raises:
        SharedMemoryError: the segment is shorter by now.
    """
    padding = bytearray(segment.stride - row_bytes)
    rows = len(buffer) // row_bytes
    for first in range(0, rows, _GATHER):
        last = min(first + _GATHER, rows)
        pieces = [piece for y in range(first, last) for piece in (buffer[y * row_bytes : (y + 1) * row_bytes], padding)]
        start, end = segment.offset + first * segment.stride, segment.offset + last * segment.stride
        if os.preadv(segment.descriptor, pieces, start) < end - start:
            raise SharedMemoryError(f"the shared memory ended before byte {end}: it was made smaller during the call")


def read_segment(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Fill a buffer from a segment.

    Raises:
        SharedMemoryError: the segment is shorter by now.
    """
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if not count:
            raise SharedMemoryError(f"the shared memory ended at byte {offset + done}: it was made smaller during the call")
        done += count


def _errno_name(error: OSError) -> str:
    import errno

    return errno.errorcode.get(error.errno or 0, "")
