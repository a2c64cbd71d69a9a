"""One call's way through a worker: picture in, answer and mask out, with the mask painted where the client wants it."""

import contextlib
import sys
import time
from array import array
from dataclasses import dataclass

from linewatch.edge_agent.errors import CallerGoneError, InvalidRequestError
from linewatch.edge_agent.workers.channel_pool import Caller
from linewatch.edge_agent.workers.mask import CompactMask, overlap, paint, whiten
from linewatch.edge_agent.workers.messages import Answer, Exchange
from linewatch.edge_agent.workers.shared_memory import Segment, read_rows, read_segment
from linewatch.edge_agent.workers.worker_link import Lane, Picture


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer.

    Attributes:
        answer: of the worker.
        mask: as bytes, unless it went into the client's segment or there is none.
        seconds: by stage; see `STAGES`.
    """

    answer: Answer
    mask: bytes | None
    seconds: tuple[float, ...]


STAGES = ("queue", "read", "prepare", "model", "interpret", "paint", "hand_over")
"""Waiting for a worker; in it: reading the picture, resizing it, running the model, labels and mask; painting; the rest."""


def judge(lane: Lane, caller: Caller, width: int, height: int, picture: bytes | memoryview | Segment, mask: Segment | None,
          timeout_s: float) -> Judged:  # fmt: skip
    """Send a picture through a lane.

    Raises:
        InvalidRequestError: the picture was refused, or the mask's segment cannot be written.
        WorkerError, CallerGoneError: see `Lane.ask`.
    """
    whitened, mask_stride = False, mask.stride if mask is not None else width * 3
    begun = time.perf_counter()

    def meanwhile() -> None:
        nonlocal whitened
        caller.about_to_wait()
        # A client may want the mask in the picture's own place: no white there before the picture was read.
        with contextlib.suppress(OSError):  # painting will meet the same error, and tell the client
            if mask is not None and lane.link.makes_masks and not (isinstance(picture, Segment) and overlap(picture, mask)):
                whiten(mask, height, mask_stride)
                whitened = True

    reading = 0.0
    match picture:
        case Segment(stride=stride) if stride != width * 3:
            read_rows(picture, lane.exchange.picture(width * height * 3), width * 3)
            reading = time.perf_counter() - begun
            sent = Picture(width, height, None)
        case Segment(descriptor, offset) if lane.worker_is_busy:
            # This thread would wait for the worker anyhow: a picture less that the worker has to read.
            read_segment(descriptor, lane.exchange.picture(width * height * 3), offset)
            reading = time.perf_counter() - begun
            sent = Picture(width, height, None)
        case Segment(descriptor, offset):
            sent = Picture(width, height, None, descriptor, offset)
        case _:
            sent = Picture(width, height, picture)
    answer = lane.ask(sent, caller, timeout_s, meanwhile)
    remaining = caller.remaining
    if caller.gone or (remaining is not None and remaining <= 0):  # its segment may have another picture by now
        raise CallerGoneError("the caller left while its picture was judged")
    answered = time.perf_counter()
    data = None
    if answer.mask_index:
        compact = _read_mask(lane.exchange, answer, mask_stride)
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
    return Judged(answer, data, (read + reading, *others, painting, max(0.0, answered - begun - reading - sum(answer.stages))))


def _read_mask(exchange: Exchange, answer: Answer, row_bytes: int) -> CompactMask:
    """What pads rows is white."""
    data = exchange.mask()
    length, right = answer.mask_length, row_bytes - answer.mask_left - answer.mask_length
    before, behind = b"\xff" * answer.mask_left, b"\xff" * right
    rows = [b"\xff" * row_bytes]
    rows += [b"".join((before, data[i * length : (i + 1) * length], behind)) for i in range(answer.mask_rows)]
    index = array("H", answer.mask_index)
    if sys.byteorder == "big":
        index.byteswap()
    return CompactMask(rows, index.tolist())
