"""The process that runs one model: `python -m edge_agent.worker CHANNEL_FD EXCHANGE_FD BUNDLE RUNTIME THREADS KEYS MEASURED`.

A process of its own gives a stopped model's memory back, and a crash in generated code ends this process only.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
from pathlib import Path

import numpy as np

from anomaly_model.bundle import Bundle, open_bundle
from anomaly_model.detection import detect, mask_rows
from anomaly_model.errors import LinewatchError, PictureError
from anomaly_model.manifest import GOLDEN_NAME
from anomaly_model.parity import compare, golden_inputs
from anomaly_model.picture import check_size, wrap_rgb888
from anomaly_model.runtime import Runtime, open_runtime
from anomaly_model.signature import read_trusted_keys
from edge_agent.channel import EXCHANGE_MASK_OFFSET, Answer, Area, DetectRequest, Ready, Refusal, receive_request, send

_WARM_UP = 3


class Worker:
    """Answers requests with one loaded model."""

    def __init__(self, bundle: Bundle, runtime: Runtime, exchange: int) -> None:
        self._manifest, self._runtime, self._exchange = bundle.manifest, runtime, exchange
        self._picture = bytearray()

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

    def warm_up(self) -> None:
        """Run a few pictures, so that the first real one is as fast as the rest."""
        blank = np.zeros((self._manifest.picture.height, self._manifest.picture.width, 3), np.uint8)
        for _ in range(_WARM_UP):
            detect(blank, self._runtime, self._manifest)

    def answer(self, request: DetectRequest, descriptor: int | None) -> Answer:
        """Read the picture, judge it, put the mask's distinct rows into the exchange."""
        check_size(request.width, request.height)
        size = request.width * request.height * 3
        if len(self._picture) != size:
            self._picture = bytearray(size)
        _read(self._exchange if descriptor is None else descriptor, self._picture, request.offset)
        picture = wrap_rgb888(self._picture, request.width, request.height)
        detection = detect(picture, self._runtime, self._manifest)
        distinct, index = 0, b""
        if detection.label_map is not None:
            rows, places = mask_rows(detection.label_map, self._manifest.labels, request.height, request.width)
            distinct, index = len(rows), places.astype("<u2").tobytes()
            _write(self._exchange, rows.data.cast("B"), EXCHANGE_MASK_OFFSET)
        areas = [Area(a.name, a.hex_color, a.area) for a in detection.areas]
        return Answer(
            detection.is_anomalous, detection.confidence, detection.score, detection.threshold, areas,
            distinct,
            index,
        )  # fmt: skip


def _read(descriptor: int, buffer: bytearray, offset: int) -> None:
    view, done = memoryview(buffer), 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if not count:
            raise PictureError(
                f"the shared memory ended after {done} of {len(view)} bytes: it was made smaller during the call"
            )
        done += count


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)


def serve(channel: socket.socket, worker: Worker) -> None:
    """Answer until the agent closes the channel."""
    while received := receive_request(channel):
        request, descriptor = received
        reply: Answer | Refusal
        try:
            reply = worker.answer(request, descriptor)
        except PictureError as error:
            reply = Refusal(str(error), invalid=True)
        except (LinewatchError, OSError, RuntimeError, ValueError) as error:
            reply = Refusal(f"{type(error).__name__}: {error}", invalid=False)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        send(channel, reply)


def main(arguments: list[str]) -> int:
    """Load, say Ready or Refusal, serve."""
    channel_fd, exchange, folder, runtime_name, threads, keys, measured = arguments
    # The agent decides when to end: a Ctrl-C in a terminal reaches the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(channel_fd)) as channel, contextlib.suppress(BrokenPipeError):
        try:
            # Nothing of a bundle is run before its signature and all hashes are checked.
            bundle = open_bundle(Path(folder), trusted=read_trusted_keys(Path(keys)) if keys else ())
            runtime = open_runtime(
                bundle, runtime_name, threads=int(threads), measured=Path(measured) if measured else None  # type: ignore[arg-type]
            )
            worker = Worker(bundle, runtime, int(exchange))
            worker.check(bundle)
            worker.warm_up()
        # Whatever stops a model from loading is told to the agent, which shows it as the model's status message.
        except Exception as error:
            send(channel, Refusal(f"{type(error).__name__}: {error}"[:4000], invalid=False))
            return 1
        gc.freeze()
        send(channel, Ready(runtime.name, bundle.manifest.is_segmentation))
        serve(channel, worker)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
