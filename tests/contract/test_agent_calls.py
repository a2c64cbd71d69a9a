"""The five calls, by real gRPC clients against a real agent process."""

import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from linewatch.anomaly_model.bundle import Bundle
from linewatch.anomaly_model.detection import detect, draw_mask
from linewatch.anomaly_model.picture import read_picture
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.commands.demo import running_agent
from linewatch.edge_agent.client import AgentCallError, AgentClient, SharedFrame
from linewatch.edge_agent.models.states import State
from linewatch.edge_agent.protos import edge_agent_pb2 as pb
from linewatch.edge_agent.workers.shared_memory import SEGMENTS
from linewatch.packager.package import Package


def raw(width: int, height: int, count: int | None = None, model: str = "parts") -> pb.DetectAnomaliesRequest:
    data = bytes(width * height * 3 if count is None else count)
    return pb.DetectAnomaliesRequest(model_component=model, bitmap=pb.Bitmap(width=width, height=height, byte_data=data))


def shared(name: str, size: int, offset: int = 0, width: int = 64, height: int = 64) -> pb.DetectAnomaliesRequest:
    handle = pb.SharedMemoryHandle(name=name, size=size, offset=offset)
    return pb.DetectAnomaliesRequest(
        model_component="parts", bitmap=pb.Bitmap(width=width, height=height, shared_memory_handle=handle)
    )


def refused(client: AgentClient, name: str, request: object) -> AgentCallError:
    with pytest.raises(AgentCallError) as caught:
        client.call(name, request)
    return caught.value


@pytest.mark.parametrize("transport", ["shared-memory", "bytes"])
def test_answer_is_the_one_of_onnxruntime(client: AgentClient, bundle: Bundle, parts: Path, transport: str) -> None:
    runtime = OnnxRuntime(bundle.read("model.onnx"))
    for path in sorted((parts / "test" / "anomaly").iterdir())[:4]:
        picture = read_picture(path)
        expected = detect(picture, runtime, bundle.manifest)
        result, mask = client.detect(picture, "parts", transport)  # type: ignore[arg-type]
        assert result.is_anomalous == expected.is_anomalous
        assert result.confidence == pytest.approx(expected.confidence, abs=1e-4)
        assert result.anomaly_score == pytest.approx(expected.score, abs=1e-3)
        assert result.anomaly_threshold == pytest.approx(expected.threshold, abs=1e-5)
        assert [(a.name, a.pixel_anomaly.hex_color) for a in result.anomalies] == [
            (a.name, a.hex_color) for a in expected.areas
        ]
        assert sum(a.pixel_anomaly.total_percentage_area for a in result.anomalies) == pytest.approx(1, abs=1e-5)
        assert result.anomalies[0].name == "background"
        assert mask is not None
        assert expected.label_map is not None
        right = draw_mask(expected.label_map, bundle.manifest.labels, *picture.shape[:2])
        assert (mask != right).any(axis=2).mean() < 1e-3


def test_a_frame_of_another_size_gets_a_mask_of_its_size(client: AgentClient) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    for transport in ("shared-memory", "bytes"):
        _, mask = client.detect(picture, "parts", transport)  # type: ignore[arg-type]
        assert mask is not None
        assert mask.shape == picture.shape
        assert (mask[0, 0] == 255).all()


@pytest.mark.parametrize("size", [(64, 64), (4096, 64), (4096, 4096)])
def test_smallest_and_largest_pictures(client: AgentClient, size: tuple[int, int]) -> None:
    result = client.call("DetectAnomalies", raw(*size)).detect_anomaly_result
    assert (result.anomaly_mask.width, result.anomaly_mask.height) == size
    assert len(result.anomaly_mask.byte_data) == size[0] * size[1] * 3


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (raw(63, 63), "63x63"),
        (raw(4097, 4096, 100), "4097x4096"),
        (raw(-64, 64, 0), "-64x64"),
        (raw(64, 64, 64 * 64 * 3 - 1), "expected width x height x 3 = 12288"),
        (raw(64, 64, 64 * 64 * 4), "16384 bytes"),
        (pb.DetectAnomaliesRequest(model_component="parts", bitmap=pb.Bitmap(width=64, height=64)), "no data"),
        (pb.DetectAnomaliesRequest(model_component="parts"), "no data"),
        (raw(64, 64, model=""), "model_component is empty"),
        (shared("linewatch-none", 64 * 64 * 3), "does not exist"),
        (shared("../../etc/passwd", 64 * 64 * 3), "not allowed"),
        (shared("linewatch-none", 5), "does not exist"),
    ],
)
def test_bad_pictures_are_invalid_arguments(client: AgentClient, request_: object, words: str) -> None:
    error = refused(client, "DetectAnomalies", request_)
    assert error.code == "INVALID_ARGUMENT"
    assert words in str(error)
    client.detect(np.zeros((64, 64, 3), np.uint8), "parts")


@pytest.fixture
def frame() -> Iterator[SharedFrame]:
    made = SharedFrame()
    made.write(np.zeros((64, 64, 3), np.uint8))
    yield made
    made.close()


def test_bad_shared_memory(client: AgentClient, frame: SharedFrame) -> None:
    size = 64 * 64 * 3
    link = SEGMENTS / f"{frame.name}-link"
    link.symlink_to(SEGMENTS / frame.name)
    try:
        cases = {
            "picture needs": shared(frame.name, size - 1),
            "past its end": shared(frame.name, size, offset=2 * size - 10),
            "reaches to": shared(frame.name, size, offset=2**64 - 1),
            "symbolic link": shared(link.name, size),
            "picture needs 1080000": shared(frame.name, 2 * size, width=600, height=600),
            "not of the segment": shared(frame.name, 2 * size),
        }
        for words, request in cases.items():
            error = refused(client, "DetectAnomalies", request)
            assert error.code == "INVALID_ARGUMENT"
            assert words in str(error)
    finally:
        link.unlink()
    assert client.call("DetectAnomalies", shared("/" + frame.name, size)).detect_anomaly_result.anomaly_mask.byte_data


def test_a_name_of_two_megabytes_comes_back_short(client: AgentClient, agent_address: str) -> None:
    log = Path(agent_address.removeprefix("unix://")).with_name("agent.log")
    before = log.stat().st_size
    error = refused(client, "DetectAnomalies", shared("\N{BLACK STAR}" * 700_000, 64 * 64 * 3))
    assert error.code == "INVALID_ARGUMENT"
    assert len(str(error)) < 2000
    assert log.stat().st_size - before < 10_000
    error = refused(client, "DescribeModel", pb.DescribeModelRequest(model_component="x" * 60_000))
    assert error.code == "NOT_FOUND"
    assert len(str(error)) < 2000


def test_a_segment_that_grows_between_calls(client: AgentClient, frame: SharedFrame) -> None:
    for side in (64, 400, 128):
        frame.write(np.zeros((side, side, 3), np.uint8))
        client.call("DetectAnomalies", shared(frame.name, side * side * 3, width=side, height=side))


def padded(picture: np.ndarray) -> bytes:
    """Rows padded to four bytes."""
    rows = picture.reshape(len(picture), -1)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)), constant_values=77).tobytes()


def test_rows_that_are_padded_are_refused_or_taken_as_such(models: Path, parts: Path) -> None:
    picture = np.ascontiguousarray(read_picture(min((parts / "test" / "anomaly").iterdir()))[:190, :254])
    frame = SharedFrame()
    try:
        frame.write(np.zeros((190, 256, 3), np.uint8))
        stride, size = 764, 764 * 190
        (SEGMENTS / frame.name).write_bytes(padded(picture) + bytes(size))
        request = shared(frame.name, size, width=254, height=190)
        request.anomaly_mask_params.shared_memory_handle.CopyFrom(pb.SharedMemoryHandle(name=frame.name, size=size, offset=size))
        mixed = shared(frame.name, size, width=254, height=190)
        mixed.anomaly_mask_params.shared_memory_handle.CopyFrom(pb.SharedMemoryHandle(name=frame.name, size=762 * 190, offset=size))
        with running_agent(models) as address, AgentClient(address) as client:
            client.wait_until_listening(30)
            client.start("parts")
            error = refused(client, "DetectAnomalies", request)
            assert (error.code, "row_padding" in str(error)) == ("INVALID_ARGUMENT", True)
        with running_agent_with(models, LINEWATCH_AGENT_ROW_PADDING="4") as address, AgentClient(address) as client:
            client.wait_until_listening(30)
            client.start("parts")
            expected, mask = client.detect(picture, "parts")
            assert mask is not None
            assert client.call("DetectAnomalies", request).detect_anomaly_result.anomaly_score == expected.anomaly_score
            written = (SEGMENTS / frame.name).read_bytes()[size:]
            rows = np.frombuffer(written, np.uint8).reshape(190, stride)
            assert (rows[:, :762].reshape(190, 254, 3) == mask).all()
            assert client.call("DetectAnomalies", mixed).detect_anomaly_result.anomaly_score == expected.anomaly_score
            packed = (SEGMENTS / frame.name).read_bytes()[size : size + 762 * 190]
            assert packed == mask.tobytes(), "each handle says how its own rows lie"
    finally:
        frame.close()


def test_a_picture_behind_others_in_a_segment(client: AgentClient, frame: SharedFrame) -> None:
    picture, size = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8), 64 * 64 * 3
    with (SEGMENTS / frame.name).open("r+b") as segment:
        segment.seek(size)
        segment.write(picture.tobytes())
    found = client.call("DetectAnomalies", shared(frame.name, size, offset=size)).detect_anomaly_result
    assert found.anomaly_score == client.detect(picture, "parts", "bytes")[0].anomaly_score


def test_mask_handles(client: AgentClient, frame: SharedFrame) -> None:
    size = 64 * 64 * 3
    good, other = (pb.SharedMemoryHandle(name=frame.name, size=size, offset=o) for o in (size, 0))
    for field in ("shared_memory_handle", "shared_memory_handle_of_samples"):
        request = shared(frame.name, size)
        getattr(request.anomaly_mask_params, field).CopyFrom(good)
        mask = client.call("DetectAnomalies", request).detect_anomaly_result.anomaly_mask
        assert mask.shared_memory_handle == good
        assert not mask.byte_data
    both = shared(frame.name, size)
    both.anomaly_mask_params.shared_memory_handle.CopyFrom(good)
    both.anomaly_mask_params.shared_memory_handle_of_samples.CopyFrom(good)
    client.call("DetectAnomalies", both)
    both.anomaly_mask_params.shared_memory_handle.CopyFrom(other)
    assert "two different" in str(refused(client, "DetectAnomalies", both))
    small = shared(frame.name, size)
    small.anomaly_mask_params.shared_memory_handle.CopyFrom(
        pb.SharedMemoryHandle(name=frame.name, size=size, offset=size + 1)
    )
    assert refused(client, "DetectAnomalies", small).code == "INVALID_ARGUMENT"


def test_unknown_models_and_wrong_states(client: AgentClient) -> None:
    for call, request in {
        "DetectAnomalies": raw(64, 64, model="nobody"),
        "StartModel": pb.StartModelRequest(model_component="nobody"),
        "StopModel": pb.StopModelRequest(model_component="nobody"),
        "DescribeModel": pb.DescribeModelRequest(model_component="nobody"),
    }.items():
        error = refused(client, call, request)
        assert error.code == "NOT_FOUND"
        assert "installed" in str(error)
        assert "parts" in str(error)
    for call, request in {"StartModel": pb.StartModelRequest(), "StopModel": pb.StopModelRequest(),
                          "DescribeModel": pb.DescribeModelRequest()}.items():  # fmt: skip
        error = refused(client, call, request)
        assert (error.code, "model_component is empty" in str(error)) == ("INVALID_ARGUMENT", True)
    error = refused(client, "StartModel", pb.StartModelRequest(model_component="parts"))
    assert (error.code, "RUNNING" in str(error)) == ("FAILED_PRECONDITION", True)


def test_stop_gives_memory_back_and_start_works_again(client: AgentClient) -> None:
    client.stop("parts")
    assert client.describe("parts").status == State.STOPPED
    assert refused(client, "StopModel", pb.StopModelRequest(model_component="parts")).code == "FAILED_PRECONDITION"
    error = refused(client, "DetectAnomalies", raw(64, 64))
    assert (error.code, "STOPPED" in str(error)) == ("FAILED_PRECONDITION", True)
    assert client.call("StartModel", pb.StartModelRequest(model_component="parts")).status == State.STARTING
    client.start("parts")
    assert "tvm" in client.describe("parts").status_message
    client.detect(np.zeros((64, 64, 3), np.uint8), "parts")


def test_a_flipped_byte_fails_that_model_only(client: AgentClient) -> None:
    with pytest.raises(AgentCallError, match=r"HashMismatchError: model\.onnx was changed or damaged"):
        client.start("broken")
    listed = {m.model_component: m for m in client.models()}
    assert listed["broken"].status == State.FAILED
    assert listed["parts"].status == State.RUNNING
    assert listed["parts"].lookout_vision_model_arn.endswith("model/parts/3")
    described = client.describe("broken")
    assert "model.onnx" in described.status_message
    assert described.lookout_vision_model_arn == listed["broken"].lookout_vision_model_arn
    client.detect(np.zeros((64, 64, 3), np.uint8), "parts")


def test_describe_accepts_a_start_request(client: AgentClient) -> None:
    call = client._channel.unary_unary(
        "/AWS.LookoutVision.EdgeAgent/DescribeModel",
        pb.StartModelRequest.SerializeToString,
        pb.DescribeModelResponse.FromString,
    )
    assert call(pb.StartModelRequest(model_component="parts")).model_description.model_component == "parts"


def test_several_clients_at_once_get_their_own_answers(agent_address: str, client: AgentClient, parts: Path) -> None:
    pictures = [read_picture(p) for p in sorted((parts / "test" / "anomaly").iterdir())[:4]]
    alone = [client.detect(p, "parts")[0].anomaly_score for p in pictures]
    wrong: list[str] = []

    def ask(i: int) -> None:
        with AgentClient(agent_address) as mine:
            for _ in range(10):
                found = mine.detect(pictures[i], "parts", "bytes" if i % 2 else "shared-memory")[0].anomaly_score
                if found != alone[i]:
                    wrong.append(f"{i}: {found} instead of {alone[i]}")

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_too_many_calls_are_told_so(models: Path) -> None:
    with running_agent_with(models, LINEWATCH_AGENT_QUEUE="1") as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        frame = SharedFrame()
        try:
            frame.write(np.zeros((2048, 2048, 3), np.uint8))
            request = shared(frame.name, 2048 * 2048 * 3, width=2048, height=2048)
            calls = [client._stub.DetectAnomalies.future(request) for _ in range(12)]
            codes = [call.code() for call in calls]
        finally:
            frame.close()
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
    assert grpc.StatusCode.OK in codes
    assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OK}


def test_several_models_run_at_a_time_with_the_second_runtime_too(packaged: Package, picture: np.ndarray, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(packaged.bundle.folder, tmp_path / name)
        manifest = tmp_path / name / "bundle.json"
        manifest.write_text(manifest.read_text().replace('"component": "parts"', f'"component": "{name}"'))
    with running_agent_with(tmp_path, LINEWATCH_AGENT_RUNTIME="onnxruntime") as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        for name in ("one", "two"):
            client.start(name)
        assert {m.model_component: m.status for m in client.models()} == {"one": State.RUNNING, "two": State.RUNNING}
        assert "onnxruntime" in client.describe("two").status_message
        one, two = (client.detect(picture, name)[0] for name in ("one", "two"))
        assert one == two
        client.stop("one")
        assert client.detect(picture, "two")[0] == two


def test_short_memory_refuses_to_start(models: Path) -> None:
    with running_agent_with(models, LINEWATCH_AGENT_FREE_MIB="100000000") as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        error = refused(client, "StartModel", pb.StartModelRequest(model_component="parts"))
        assert error.code == "RESOURCE_EXHAUSTED"
        assert client.describe("parts").status == State.STOPPED


def test_health_and_reflection(client: AgentClient) -> None:
    health = health_pb2_grpc.HealthStub(client._channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(client._channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    names = {s.name for s in next(reflection.ServerReflectionInfo(asked)).list_services_response.service}
    assert "AWS.LookoutVision.EdgeAgent" in names


def test_socket_mode(agent_address: str) -> None:
    mode = Path(agent_address.removeprefix("unix://")).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


@contextmanager
def running_agent_with(models: Path, **environment: str) -> Iterator[str]:
    os.environ.update(environment)
    try:
        with running_agent(models) as address:
            yield address
    finally:
        for name in environment:
            del os.environ[name]


def test_calls_after_the_end_say_that_no_agent_answers(models: Path) -> None:
    with running_agent(models) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
    started = time.monotonic()
    with AgentClient(address, timeout_s=5) as client:
        error = refused(client, "ListModels", pb.ListModelsRequest())
    assert error.code == "UNAVAILABLE"
    assert "linewatch agent" in str(error)
    assert time.monotonic() - started < 10


def test_a_mask_in_the_pictures_own_place(client: AgentClient, parts: Path) -> None:
    """The mask overwrites the picture only after the picture was read."""
    picture = read_picture(min((parts / "test" / "anomaly").iterdir()))
    height, width = picture.shape[:2]
    expected, mask = client.detect(picture, "parts")
    frame = SharedFrame()
    try:
        frame.write(picture)
        request = shared(frame.name, picture.nbytes, width=width, height=height)
        request.anomaly_mask_params.shared_memory_handle.CopyFrom(
            pb.SharedMemoryHandle(name=frame.name, size=picture.nbytes)
        )
        result = client.call("DetectAnomalies", request).detect_anomaly_result
        assert result.anomaly_score == expected.anomaly_score
        data = (SEGMENTS / frame.name).read_bytes()[: picture.nbytes]
    finally:
        frame.close()
    assert mask is not None
    assert (np.frombuffer(data, np.uint8).reshape(picture.shape) == mask).all()
