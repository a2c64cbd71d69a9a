"""The process that runs one model: `python -P -m linewatch.edge_agent.workers.worker OPTIONS`, with `WorkerOptions` as JSON.

A process of its own gives a stopped model's memory back, and a crash in generated code ends this process only.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from linewatch.anomaly_model.bundle import Bundle, open_bundle
from linewatch.anomaly_model.detection import interpret, mask_rows, strongest_label
from linewatch.anomaly_model.errors import LinewatchError, NotFiniteError, PictureError
from linewatch.anomaly_model.manifest import GOLDEN_NAME
from linewatch.anomaly_model.parity import ParityError, compare, golden_inputs
from linewatch.anomaly_model.picture import check_size, wrap_rgb888
from linewatch.anomaly_model.runtime import Runtime
from linewatch.anomaly_model.runtime_choice import open_runtime
from linewatch.anomaly_model.runtime_tvm import leave_torch_out
from linewatch.anomaly_model.signature import read_trusted_keys
from linewatch.edge_agent.errors import InvalidRequestError
from linewatch.edge_agent.memory import keep_freed_memory
from linewatch.edge_agent.workers.confinement import limit_resources, refuse_system_calls
from linewatch.edge_agent.workers.messages import (
    Area,
    Cancelled,
    PredictRequest,
    PredictResponse,
    Ready,
    Reply,
    WorkerOptions,
    error_reply,
    receive_request,
    send,
)  # fmt: skip
from linewatch.edge_agent.workers.shared_buffer import SharedBuffer
from linewatch.edge_agent.workers.shared_memory import read_segment

_WARM_UP = 3
_REST_MS = 500


class Worker:
    """Answers requests with one loaded model."""

    def __init__(self, bundle: Bundle, runtime: Runtime, other_sizes: Literal["resize", "refuse"]) -> None:
        self._manifest, self._runtime, self._other_sizes = bundle.manifest, runtime, other_sizes

    def check(self, bundle: Bundle) -> None:
        """Run the golden pictures: a model whose answers are not those of its training does not serve.

        Raises:
            ParityError: says what differs.
        """
        if GOLDEN_NAME not in bundle.manifest.files:
            return
        pictures, expected = golden_inputs(bundle)
        found = [self._runtime.run_arrays(picture) for picture in pictures]
        compare(bundle.manifest, self._runtime.name, "this machine", found, [[e] for e in expected], 0).check()
        for picture in pictures:
            outputs = self._runtime.run(picture)
            compiled, logits = outputs.label_map, outputs.label_logits
            if compiled is not None and logits is not None and (compiled != strongest_label(logits)).any():
                raise ParityError(f"{self._runtime.name} finds other labels than its own logits say; package the model again")

    def warm_up(self) -> None:
        """Run a few pictures, so that the first real one is as fast as the rest."""
        blank = np.zeros((self._manifest.picture.height, self._manifest.picture.width, 3), np.uint8)
        for _ in range(_WARM_UP):
            interpret(self._runtime.run(self._runtime.prepare(blank)), self._manifest)

    def predict(self, request: PredictRequest, descriptor: int | None, buffer: SharedBuffer) -> PredictResponse | Cancelled:
        """Read the picture, run the model, put the mask's distinct rows into the buffer.

        Args:
            request: what came from the agent.
            descriptor: of the client's segment that the picture lies in; None when it lies in the buffer.
            buffer: of the channel that the request came through.

        Raises:
            PictureError: the picture is too large, or of another size than the setting other_sizes allows.
            SharedMemoryError: the client's segment is shorter by now.
            NotFiniteError: what the model gave is no answer.
        """
        if buffer.cancelled(request.number):
            return Cancelled(request.number)
        buffer.begin(request.number)
        begun = time.perf_counter()
        check_size(request.width, request.height)
        trained = self._manifest.picture
        if self._other_sizes == "refuse" and (request.width, request.height) != (trained.width, trained.height):
            raise PictureError(
                f"the picture is {request.width}x{request.height} pixels; the model was trained on {trained.width}x{trained.height}, and the "
                "agent's setting other_sizes is refuse"
            )
        if descriptor is None:
            data = buffer.picture(request.width * request.height * 3)
            prepared, reading = self._runtime.prepare(wrap_rgb888(data, request.width, request.height)), 0.0
        else:
            reader = _Reader(descriptor, request.offset)
            prepared = self._runtime.prepare_from(reader.read, request.height, request.width)
            reading = reader.seconds
        ready = time.perf_counter()
        outputs = self._runtime.run(prepared)
        ran = time.perf_counter()
        detection = interpret(outputs, self._manifest, (request.height, request.width))
        rows, left, length, index = 0, 0, 0, b""
        if detection.label_map is not None:
            mask = mask_rows(detection.label_map, self._manifest.labels, request.height, request.width, buffer.mask())
            (rows, length), left, index = mask.parts.shape, mask.left, mask.index.astype("<u2").tobytes()
        areas = [Area(a.name, a.hex_color, a.area) for a in detection.areas]
        stages = (reading, ready - begun - reading, ran - ready, time.perf_counter() - ran)
        return PredictResponse(
            request.number, detection.is_anomalous, detection.confidence, detection.score, detection.threshold, areas, rows, left, length,
            index, stages,
        )  # fmt: skip


class _Reader:
    """Reads a picture from a client's segment, and counts the seconds that this takes."""

    def __init__(self, descriptor: int, offset: int) -> None:
        self._descriptor, self._offset, self.seconds = descriptor, offset, 0.0

    def read(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer with the picture's bytes from an offset on; see `read_segment`."""
        begun = time.perf_counter()
        read_segment(self._descriptor, buffer, self._offset + offset)
        self.seconds += time.perf_counter() - begun


def serve(channels: dict[int, tuple[socket.socket, SharedBuffer]], worker: Worker) -> None:
    """Answer until the agent closes a channel. Garbage is collected while nothing comes."""
    waiting = select.poll()
    for number in channels:
        waiting.register(number, select.POLLIN)
    gc.disable()
    rested = True
    while True:
        ready = waiting.poll(None if rested else _REST_MS)
        if not ready:
            gc.collect()
        rested = not ready
        for number, _ in ready:
            connection, buffer = channels[number]
            received = receive_request(connection)
            if received is None:
                return
            request, descriptor = received
            reply: Reply
            try:
                reply = worker.predict(request, descriptor, buffer)
            except (PictureError, InvalidRequestError) as error:
                reply = error_reply(request.number, error, "request")
            except NotFiniteError as error:
                reply = error_reply(request.number, error, "model")
            except (LinewatchError, OSError, RuntimeError, ValueError) as error:
                reply = error_reply(request.number, error, "program")
            finally:
                if descriptor is not None:
                    os.close(descriptor)
            send(connection, reply)


def _confine(options: WorkerOptions, runtime: Runtime) -> str:
    """Give up what is not needed; returns why not, empty when it was done.

    CUDA reserves address space without end, and opens its devices when it likes.
    """
    if not options.confine:
        return "the setting confine is off"
    if "gpu" in runtime.name:
        return "the model runs on a GPU"
    try:
        limit_resources(options.address_space_mib)
        refuse_system_calls()
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def main(argument: str) -> int:
    """Load, say Ready or ErrorReply, serve."""
    options = msgspec.json.decode(argument, type=WorkerOptions)
    keep_freed_memory()
    leave_torch_out()
    # The agent decides when to end: a Ctrl-C in a terminal reaches the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channels = {number: (socket.socket(fileno=number), SharedBuffer(memory)) for number, memory in options.channels}
    first = channels[options.channels[0][0]][0]
    with contextlib.suppress(BrokenPipeError):
        try:
            if options.cpus:
                os.sched_setaffinity(0, options.cpus)
            # Nothing of a bundle is run before its signature and all hashes are checked.
            bundle = open_bundle(Path(options.folder), trusted=read_trusted_keys(Path(options.trusted_keys)) if options.trusted_keys else ())
            runtime = open_runtime(
                bundle, options.runtime, threads=options.threads, measured=Path(options.measured) if options.measured else None  # type: ignore[arg-type]
            )
            worker = Worker(bundle, runtime, options.other_sizes)
            worker.check(bundle)
            worker.warm_up()
            confined = _confine(options, runtime)
        # Whatever stops a model from loading is told to the agent, which shows it as the model's status message.
        except Exception as error:
            send(first, error_reply(0, error, "program"))
            return 1
        gc.collect()
        gc.freeze()
        send(first, Ready(runtime.name, bundle.manifest.is_segmentation, confined, bundle.manifest.model.version))
        serve(channels, worker)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
