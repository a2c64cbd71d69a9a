"""DetectAnomalies on the wire: what is decoded, what is refused before anything waits, and what a prediction becomes."""

import os
from collections.abc import Iterator

import numpy as np
import pytest

from linewatch.anomaly_model.errors import PictureError
from linewatch.edge_agent.api.detect_anomalies import decoded, encoded
from linewatch.edge_agent.client import SharedFrame
from linewatch.edge_agent.errors import InvalidRequestError, SharedMemoryError
from linewatch.edge_agent.http2.transport import Peer
from linewatch.edge_agent.protos import edge_agent_pb2 as pb
from linewatch.edge_agent.workers.messages import Area, PredictResponse
from linewatch.edge_agent.workers.prediction import Prediction
from linewatch.edge_agent.workers.shared_memory import Segment

WIDTH, HEIGHT = 80, 64
SIZE = WIDTH * HEIGHT * 3
ME = Peer(os.getuid(), "me")


@pytest.fixture
def frame() -> Iterator[SharedFrame]:
    made = SharedFrame()
    made.write(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    yield made
    made.close()


def by_bytes(size: int = SIZE) -> pb.DetectAnomaliesRequest:
    return pb.DetectAnomaliesRequest(bitmap=pb.Bitmap(width=WIDTH, height=HEIGHT, byte_data=bytes(size)))


def by_name(name: str, width: int = WIDTH) -> pb.DetectAnomaliesRequest:
    segment = pb.SharedMemoryHandle(name=name, size=SIZE)
    return pb.DetectAnomaliesRequest(bitmap=pb.Bitmap(width=width, height=HEIGHT, shared_memory_handle=segment))


def handle(frame: SharedFrame, offset: int = 0) -> pb.SharedMemoryHandle:
    return pb.SharedMemoryHandle(name=frame.name, size=SIZE, offset=offset)


def prediction(*, mask: bytes | None, index: bytes) -> Prediction:
    answer = PredictResponse(1, True, 0.75, 2.0, 0.5, [Area("scratch", "#00ff00", 0.25)], 1, 0, 3, index, (0, 0, 0, 0))
    return Prediction(answer, mask, (0.0,) * 7)


def test_bytes_are_passed_on_as_they_are() -> None:
    with decoded(by_bytes(), ME, padded=False) as request:
        assert (request.width, request.height, request.pixels, request.mask) == (WIDTH, HEIGHT, bytes(SIZE), None)


def test_segments_are_open_inside_and_closed_outside(frame: SharedFrame) -> None:
    message = pb.DetectAnomaliesRequest(bitmap=pb.Bitmap(width=WIDTH, height=HEIGHT, shared_memory_handle=handle(frame)))
    message.anomaly_mask_params.shared_memory_handle.CopyFrom(handle(frame, SIZE))
    with decoded(message, ME, padded=False) as request:
        assert isinstance(request.pixels, Segment)
        assert request.mask is not None
        assert (request.pixels.offset, request.mask.offset) == (0, SIZE)
        opened = [request.pixels.descriptor, request.mask.descriptor]
        for descriptor in opened:
            os.fstat(descriptor)
    for descriptor in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize(("message", "error", "match"), [
    (pb.DetectAnomaliesRequest(bitmap=pb.Bitmap(width=WIDTH, height=HEIGHT)), InvalidRequestError, "bitmap has no data"),
    (by_bytes(SIZE - 1), PictureError, str(SIZE - 1)),
    (by_name("x", width=1), PictureError, "1x64"), (by_name("linewatch-none"), SharedMemoryError, "does not exist"),
])  # fmt: skip
def test_what_is_wrong_is_told_at_once(message: pb.DetectAnomaliesRequest, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match), decoded(message, ME, padded=False):
        pass


def test_two_different_masks_are_refused_and_the_same_one_twice_is_not(frame: SharedFrame) -> None:
    message = by_bytes()
    message.anomaly_mask_params.shared_memory_handle.CopyFrom(handle(frame))
    message.anomaly_mask_params.shared_memory_handle_of_samples.CopyFrom(handle(frame, SIZE))
    with pytest.raises(InvalidRequestError, match="two different"), decoded(message, ME, padded=False):
        pass
    message.anomaly_mask_params.shared_memory_handle_of_samples.CopyFrom(handle(frame))
    with decoded(message, ME, padded=False) as request:
        assert request.mask is not None


def test_shared_memory_is_for_callers_on_this_machine(frame: SharedFrame) -> None:
    message = pb.DetectAnomaliesRequest(bitmap=pb.Bitmap(width=WIDTH, height=HEIGHT, shared_memory_handle=handle(frame)))
    with pytest.raises(SharedMemoryError, match="on this machine"), decoded(message, Peer(None, "certificate a"), padded=False):
        pass


def test_a_prediction_is_answered_with_its_mask_where_it_was_wanted(frame: SharedFrame) -> None:
    result = encoded(by_bytes(), prediction(mask=b"abc", index=b"\0\0")).detect_anomaly_result
    assert (result.is_anomalous, result.confidence, result.anomaly_score, result.anomaly_threshold) == (True, 0.75, 2.0, 0.5)
    [anomaly] = result.anomalies
    assert (anomaly.name, anomaly.pixel_anomaly.hex_color, anomaly.pixel_anomaly.total_percentage_area) == ("scratch", "#00ff00", 0.25)
    assert (result.anomaly_mask.width, result.anomaly_mask.height, result.anomaly_mask.byte_data) == (WIDTH, HEIGHT, b"abc")
    message = by_bytes()
    message.anomaly_mask_params.shared_memory_handle_of_samples.CopyFrom(handle(frame))
    result = encoded(message, prediction(mask=None, index=b"\0\0")).detect_anomaly_result
    assert result.anomaly_mask.shared_memory_handle == handle(frame)
    assert not encoded(by_bytes(), prediction(mask=None, index=b"")).detect_anomaly_result.HasField("anomaly_mask")
