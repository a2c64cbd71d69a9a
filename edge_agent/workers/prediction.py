"""One picture's way through a worker: its pixels in, the prediction and its mask out, painted where the client wants it."""

import contextlib
import sys
import time
from array import array
from dataclasses import dataclass

from linewatch.edge_agent.errors import CallerGoneError, InvalidRequestError
from linewatch.edge_agent.workers.caller import Caller
from linewatch.edge_agent.workers.channel import Picture, Process, WorkerChannel
from linewatch.edge_agent.workers.mask import CompactMask, overlap, paint, whiten
from linewatch.edge_agent.workers.messages import PredictResponse
from linewatch.edge_agent.workers.shared_buffer import SharedBuffer
from linewatch.edge_agent.workers.shared_memory import Segment, read_rows, read_segment

STAGES = ("queue", "read", "prepare", "model", "interpret", "paint", "hand_over")
"""Waiting for a worker; in it: reading the picture, resizing it, running the model, labels and mask; painting; the rest."""


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """A picture to be inspected, checked and admitted.

    Attributes:
        width: pixels.
        height: pixels.
        pixels: RGB888, of height x width x 3 bytes; or the part of the client's segment that they lie in.
        mask: the part of the client's segment that the mask goes into; None where it is wanted as bytes.
    """

    width: int
    height: int
    pixels: bytes | memoryview | Segment
    mask: Segment | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What became of a picture.

    Attributes:
        answer: of the worker.
        mask: RGB888 of the picture's size, unless it went into the client's segment or there is none.
        seconds: by stage; see `STAGES`.
    """

    answer: PredictResponse
    mask: bytes | None
    seconds: tuple[float, ...]


def predict(channel: WorkerChannel[Process], caller: Caller, request: PictureRequest, waited_s: float, timeout_s: float) -> Prediction:
    """Send a picture through a channel.

    Args:
        channel: to a worker; nobody else's as long as this takes.
        caller: nothing is painted for one that has gone.
        request: the picture, and where its mask is to go.
        waited_s: seconds that the call has waited for the channel, the first of the stages.
        timeout_s: seconds that the worker may take.

    Raises:
        InvalidRequestError: the picture was refused, or the mask's segment cannot be written.
        WorkerError: the worker failed or has gone; see `WorkerChannel.ask`.
        CallerGoneError: the caller left, or its deadline passed, before the answer was there.
    """
    pixels, mask, row_bytes = request.pixels, request.mask, request.width * 3
    whitened, mask_stride = False, mask.stride if mask is not None else row_bytes
    begun = time.perf_counter()

    def meanwhile() -> None:
        nonlocal whitened
        caller.about_to_wait()
        # A client may want the mask in the picture's own place: no white there before the picture was read.
        with contextlib.suppress(OSError):  # painting will meet the same error, and tell the client
            if mask is not None and channel.worker.makes_masks and not (isinstance(pixels, Segment) and overlap(pixels, mask)):
                whiten(mask, request.height, mask_stride)
                whitened = True

    sent = _put(request, channel)
    reading = time.perf_counter() - begun if isinstance(pixels, Segment) and sent.descriptor is None else 0.0
    answer = channel.ask(sent, caller, timeout_s, meanwhile)
    remaining = caller.remaining
    if caller.gone or (remaining is not None and remaining <= 0):  # its segment may have another picture by now
        raise CallerGoneError("the caller left while its picture was inspected")
    answered = time.perf_counter()
    data = None
    if answer.mask_index:
        compact = _read_mask(channel.buffer, answer, mask_stride)
        if mask is None:
            data = compact.to_bytes()
        else:
            try:
                paint(mask, compact, whitened=whitened)
            except OSError as error:
                raise InvalidRequestError(
                    f"the mask cannot be written to the shared memory that was named for it: {error.strerror}"
                ) from error
    painting = time.perf_counter() - answered
    read, *others = answer.stages
    handing_over = max(0.0, answered - begun - reading - sum(answer.stages))
    return Prediction(answer, data, (waited_s, read + reading, *others, painting, handing_over))


def _put(request: PictureRequest, channel: WorkerChannel[Process]) -> Picture:
    """The picture as the worker gets it: where it is, or in the shared buffer."""
    width, height, row_bytes = request.width, request.height, request.width * 3
    match request.pixels:
        case Segment(stride=stride) as segment if stride != row_bytes:
            read_rows(segment, channel.buffer.picture(row_bytes * height), row_bytes)
            return Picture(width, height, None)
        case Segment(descriptor, offset) if channel.worker_is_busy:
            # This thread would wait for the worker anyhow: a picture less that the worker has to read.
            read_segment(descriptor, channel.buffer.picture(row_bytes * height), offset)
            return Picture(width, height, None)
        case Segment(descriptor, offset):
            return Picture(width, height, None, descriptor, offset)
        case pixels:
            return Picture(width, height, pixels)


def _read_mask(buffer: SharedBuffer, answer: PredictResponse, row_bytes: int) -> CompactMask:
    """What pads rows is white."""
    data = buffer.mask()
    length, right = answer.mask_length, row_bytes - answer.mask_left - answer.mask_length
    before, behind = b"\xff" * answer.mask_left, b"\xff" * right
    rows = [b"\xff" * row_bytes]
    rows += [b"".join((before, data[i * length : (i + 1) * length], behind)) for i in range(answer.mask_rows)]
    index = array("H", answer.mask_index)
    if sys.byteorder == "big":
        index.byteswap()
    return CompactMask(rows, index.tolist())
