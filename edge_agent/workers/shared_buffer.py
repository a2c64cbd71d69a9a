"""The memory that pictures and masks pass through between the agent and a worker: an anonymous file that both have mapped."""

import contextlib
import mmap
import os
import struct

_MASK_OFFSET = 64 * 1024 * 1024
"""The picture begins at 0 and the parts of the mask's rows here; untouched pages take no memory."""
MARKS_OFFSET = 120 * 1024 * 1024
_BUFFER_BYTES = 121 * 1024 * 1024
_MARK = struct.Struct("<Q")


class SharedBuffer:
    """Memory that the agent and a worker share: pictures, masks and two marks; one for each channel.

    Attributes:
        descriptor: of the file; the worker inherits it.
        memory: the whole of it.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        """Make one, or map the one that was inherited."""
        if descriptor is None:
            descriptor = os.memfd_create("linewatch-shared-buffer")
            os.ftruncate(descriptor, _BUFFER_BYTES)
        self.descriptor, self.memory = descriptor, mmap.mmap(descriptor, _BUFFER_BYTES)

    def picture(self, size: int) -> memoryview:
        """Where a picture of so many bytes lies."""
        return memoryview(self.memory)[:size]

    def mask(self) -> memoryview:
        """Where the parts of a mask's rows lie."""
        return memoryview(self.memory)[_MASK_OFFSET:]

    def cancel(self, number: int) -> None:
        """Agent: nobody wants the answer to this request any more."""
        _MARK.pack_into(self.memory, MARKS_OFFSET, number)

    def cancelled(self, number: int) -> bool:
        """Worker: whether nobody wants it."""
        return bool(_MARK.unpack_from(self.memory, MARKS_OFFSET)[0] == number)

    def begin(self, number: int) -> None:
        """Worker: this request is being worked on from now."""
        _MARK.pack_into(self.memory, MARKS_OFFSET + _MARK.size, number)

    def begun(self, number: int) -> bool:
        """Agent: whether the worker had begun with it, should the worker die."""
        return bool(_MARK.unpack_from(self.memory, MARKS_OFFSET + _MARK.size)[0] == number)

    def close(self) -> None:
        """Give the memory back; where something of it is still looked at, when that is over."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:  # never twice: by then the number may be another file's
            os.close(descriptor)
        with contextlib.suppress(BufferError):
            self.memory.close()
