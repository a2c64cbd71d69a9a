"""Workers that are threads: they read requests from real channels and answer with what they read, or do what a broken worker does."""

import contextlib
import itertools
import os
import socket
import struct
import subprocess
import threading
from typing import Any

import msgspec

from linewatch.edge_agent.workers.messages import (
    ErrorReply,
    PredictRequest,
    PredictResponse,
    Ready,
    WorkerOptions,
    receive_request,
    send,
)
from linewatch.edge_agent.workers.shared_buffer import SharedBuffer

SIDE = 64
_PICTURE = struct.Struct("<QB")
FAULTS = ("none", "is silent", "dies before it begins", "dies in the middle", "answers twice", "answers the one before", "sends rubbish",
          "says that it is ready", "refuses with another number", "finds no finite score")  # fmt: skip
"""What a worker may do with a picture; each once, so that a call that goes to the next worker is answered there."""


def picture(identity: int, fault: str = "none") -> bytes:
    """SIDE x SIDE pixels that say who they are and what becomes of them."""
    head = _PICTURE.pack(identity, FAULTS.index(fault))
    return head + bytes(SIDE * SIDE * 3 - len(head))


def mask_of(identity: int) -> bytes:
    """The mask that belongs to a picture: all of one colour."""
    return identity.to_bytes(8, "little")[:3] * SIDE * SIDE


class FakeWorkers:
    """In the place of subprocess.Popen in `linewatch.edge_agent.workers.worker_link`.

    Attributes:
        told: the options of each that was started.
    """

    def __init__(self) -> None:
        self.told: list[WorkerOptions] = []
        self._done: set[int] = set()
        self._pids = itertools.count(10**8)

    def __call__(self, command: list[str], **_: Any) -> "FakeWorker":
        options = msgspec.json.decode(command[-1], type=WorkerOptions)
        self.told.append(options)
        return FakeWorker(options, next(self._pids), self._done)


class FakeWorker:
    """One of them, with what is used of a Popen."""

    def __init__(self, options: WorkerOptions, pid: int, done: set[int]) -> None:
        self.pid, self._done, self._ended = pid, done, threading.Event()
        self._channels = [(socket.socket(fileno=os.dup(number)), SharedBuffer(os.dup(memory))) for number, memory in options.channels]
        self._one_at_a_time = threading.Lock()
        self._last = 0
        self._threads = [threading.Thread(target=self._serve, args=channel, daemon=True) for channel in self._channels]
        send(self._channels[0][0], Ready("fake", True, "", "1"))
        for thread in self._threads:
            thread.start()

    def kill(self) -> None:
        for connection, _ in self._channels:
            with contextlib.suppress(OSError):  # is dead
                connection.shutdown(socket.SHUT_RDWR)
        self._ended.set()

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("a fake worker", timeout or 0)
        return -9

    def _serve(self, connection: socket.socket, buffer: SharedBuffer) -> None:
        try:
            while received := receive_request(connection):
                with self._one_at_a_time:
                    if not self._answer(connection, buffer, received[0]):
                        break
        except (OSError, ValueError):
            pass  # killed
        finally:
            self.kill()
            connection.close()
            buffer.close()

    def _answer(self, connection: socket.socket, buffer: SharedBuffer, request: PredictRequest) -> bool:
        identity, index = _PICTURE.unpack_from(buffer.picture(_PICTURE.size))
        fault = "none" if identity in self._done else FAULTS[index]
        self._done.add(identity)
        if fault == "dies before it begins":
            return False
        buffer.begin(request.number)
        right = mask_of(identity)[: SIDE * 3]
        buffer.mask()[: len(right)] = right
        index_of_rows = struct.pack("<H", 1) * SIDE
        answer = PredictResponse(request.number, identity % 2 == 1, 0.9, float(identity), 0.5, [], 1, 0, len(right), index_of_rows, (0, 0, 0, 0))
        last, self._last = self._last, request.number
        match fault:
            case "is silent":
                self._ended.wait(30)
            case "dies in the middle":
                return False
            case "answers the one before":
                send(connection, msgspec.structs.replace(answer, number=last))
            case "sends rubbish":
                connection.send(b"\xc1 no message")
            case "says that it is ready":
                send(connection, Ready("fake", True, "", "1"))
            case "refuses with another number":
                send(connection, ErrorReply(request.number + 1, "no", "request"))
            case "finds no finite score":
                send(connection, ErrorReply(request.number, "the score is nan", "model"))
            case _:
                send(connection, answer)
                if fault == "answers twice":
                    send(connection, answer)
        return True
