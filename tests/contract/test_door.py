"""The agent's own gRPC server against gRPC's clients and against peers that misbehave. No model is needed for that."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from edge_agent.http2.calls import Call, Method
from edge_agent.http2.connection import ConnectionLimits
from edge_agent.http2.frames import PREFACE, FrameType, frame, settings_frame, window_update
from edge_agent.http2.served import ServerLimits
from edge_agent.http2.server import Server
from edge_agent.http2.status import Status, StatusError
from edge_agent.http2.transport import tls_context
from edge_agent.side_services import Health, reflection_methods
from tests.certificates import Authority

LARGEST = 8 * 1024 * 1024


@dataclass
class Service:
    """Methods that show how a server treats calls."""

    release: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    gone: threading.Event = field(default_factory=threading.Event)
    handled: int = 0

    def methods(self) -> dict[str, Method]:
        return {"/t.T/Echo": Method(self.echo), "/t.T/Hold": Method(self.hold), "/t.T/Fail": Method(self.fail),
                "/t.T/Break": Method(self.break_), "/t.T/Grow": Method(self.grow)}  # fmt: skip

    def echo(self, call: Call) -> bytes:
        self.handled += 1
        return bytes(call.message())

    def grow(self, call: Call) -> bytes:
        return bytes(int(call.message().decode()))

    def hold(self, call: Call) -> bytes:
        call.about_to_wait()
        call.when_gone(self.gone.set)
        self.entered.release()
        assert self.release.wait(30)
        return bytes(call.message())

    def fail(self, _: Call) -> bytes:
        raise StatusError(Status.NOT_FOUND, "nö: 100 %")

    def break_(self, _: Call) -> bytes:
        raise ZeroDivisionError("secret")


@dataclass
class Door:
    """A running server and how to reach it."""

    address: str
    service: Service
    server: Server
    health: Health

    def call(self, name: str, channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable:
        return channel.unary_unary(f"/t.T/{name}")

    def connect(self) -> socket.socket:
        raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(20)
        raw.connect(self.address.removeprefix("unix:"))
        return raw


@contextlib.contextmanager
def serving(path: Path, limits: ServerLimits | None = None) -> Iterator[Door]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(16)
    service, health = Service(), Health(["t.T"])
    methods = {**service.methods(), **health.methods(), **reflection_methods(["t.T"])}
    server = Server(methods, limits or ServerLimits(ConnectionLimits(message_bytes=LARGEST), stall_s=2))
    server.listen(listener)
    server.start()
    try:
        yield Door(f"unix:{path}", service, server, health)
    finally:
        service.release.set()
        server.stop(5)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with serving(tmp_path / "d.sock") as made:
        yield made


LIMITS = [("grpc.max_receive_message_length", LARGEST), ("grpc.max_send_message_length", -1)]


@pytest.fixture
def channel(door: Door) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(door.address, options=LIMITS) as made:
        yield made


@pytest.mark.parametrize("size", [0, 1, 16_000, 70_000, 3_000_000, LARGEST])
def test_messages_of_all_sizes(door: Door, channel: grpc.Channel, size: int) -> None:
    data = bytes(i % 251 for i in range(1000)) * (size // 1000) + bytes(size % 1000)
    for _ in range(3):
        assert door.call("Echo", channel)(data, timeout=20) == data


def test_many_callers_on_one_connection(door: Door, channel: grpc.Channel) -> None:
    echo = door.call("Echo", channel)
    with ThreadPoolExecutor(16) as pool:
        sent = [bytes([i % 256]) * (i * 97) for i in range(400)]
        assert list(pool.map(lambda data: echo(data, timeout=30), sent)) == sent


def test_a_call_that_waits_does_not_hold_up_others_on_its_connection(door: Door, channel: grpc.Channel) -> None:
    held = door.call("Hold", channel).future(b"held", timeout=20)
    assert door.service.entered.acquire(timeout=10)
    assert door.call("Echo", channel)(b"quick", timeout=5) == b"quick"
    door.service.release.set()
    assert held.result(timeout=10) == b"held"


def test_errors(door: Door, channel: grpc.Channel, capfd: pytest.CaptureFixture[str]) -> None:
    def status(name: str, data: bytes = b"") -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as error:
            door.call(name, channel)(data, timeout=10)
        return error.value.code(), error.value.details()

    assert status("Fail") == (grpc.StatusCode.NOT_FOUND, "nö: 100 %")
    code, details = status("Break")
    assert code == grpc.StatusCode.INTERNAL
    assert "secret" not in details
    assert "secret" in capfd.readouterr().out, "the log says what the caller is not told"
    assert status("Nothing")[0] == grpc.StatusCode.UNIMPLEMENTED
    code, details = status("Echo", bytes(LARGEST + 1))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(LARGEST) in details
    with pytest.raises(grpc.RpcError) as error:
        door.call("Echo", channel)(b"x" * 1000, timeout=10, compression=grpc.Compression.Gzip)
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert door.call("Echo", channel)(b"fine", timeout=10) == b"fine", "the connection has survived all of it"


@pytest.mark.parametrize("how", ["cancel", "deadline", "close"])
def test_handlers_learn_that_their_caller_has_gone(door: Door, channel: grpc.Channel, how: str) -> None:
    held = door.call("Hold", channel).future(b"held", timeout=0.3 if how == "deadline" else 20)
    assert door.service.entered.acquire(timeout=10)
    if how == "cancel":
        held.cancel()
    if how == "close":
        channel.close()
    assert door.service.gone.wait(10)


def test_a_deadline_that_is_over_is_not_worked_for(door: Door) -> None:
    raw = door.connect()
    block = b"\x83\x86" + b"".join(b"\x00" + bytes([len(n)]) + n + bytes([len(v)]) + v for n, v in [
        (b":path", b"/t.T/Echo"), (b"content-type", b"application/grpc"), (b"grpc-timeout", b"1n")])  # fmt: skip
    raw.sendall(PREFACE + settings_frame({}) + frame(FrameType.HEADERS, 4, 1, block) + frame(FrameType.DATA, 1, 1, bytes(5)))
    assert b"grpc-status\x014" in read_until(raw, b"grpc-status\x014")
    raw.close()
    assert door.service.handled == 0


def read_until(raw: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        part = raw.recv(65536)
        if not part:
            break
        data += part
    return data


def request_block(path: bytes = b"/t.T/Echo") -> bytes:
    fields = [(b":path", path), (b"content-type", b"application/grpc")]
    return b"\x83\x86" + b"".join(b"\x00" + bytes([len(n)]) + n + bytes([len(v)]) + v for n, v in fields)


def test_a_peer_that_does_not_read_loses_its_connection_only(door: Door, channel: grpc.Channel) -> None:
    raw = door.connect()
    hello = PREFACE + settings_frame({}) + window_update(0, 2**30) + frame(FrameType.HEADERS, 4, 1, request_block(b"/t.T/Grow"))
    raw.sendall(hello + window_update(1, 2**30) + frame(FrameType.DATA, 1, 1, b"\0\0\0\0\x088000000"[:5] + b"80000000"))
    begun = time.monotonic()
    time.sleep(0.5)
    assert door.call("Echo", channel)(b"others are served", timeout=5) == b"others are served"
    with contextlib.suppress(OSError):
        while time.monotonic() - begun < 30:
            time.sleep(0.2)
            raw.sendall(frame(FrameType.PING, 0, 0, bytes(8)))
    assert time.monotonic() - begun < 30, "the server has closed it"
    raw.close()


def test_a_peer_that_opens_no_window_loses_its_call(door: Door, channel: grpc.Channel) -> None:
    raw = door.connect()
    raw.sendall(PREFACE + settings_frame({}) + frame(FrameType.HEADERS, 4, 1, request_block(b"/t.T/Grow")))
    raw.sendall(frame(FrameType.DATA, 1, 1, b"\0\0\0\0\x06100000"))
    data, deadline = b"", time.monotonic() + 20
    while frame(FrameType.RST_STREAM, 0, 1, b"\0\0\0\x08") not in data and time.monotonic() < deadline:
        data += raw.recv(65536)
    assert frame(FrameType.RST_STREAM, 0, 1, b"\0\0\0\x08") in data
    raw.close()
    assert door.call("Echo", channel)(b"x", timeout=5) == b"x"


def test_a_request_that_never_ends_is_ended(door: Door) -> None:
    raw = door.connect()
    raw.sendall(PREFACE + settings_frame({}) + frame(FrameType.HEADERS, 4, 1, request_block()) + frame(FrameType.DATA, 0, 1, b"\0\0\x10\0\0"))
    assert b"grpc-status\x014" in read_until(raw, b"grpc-status\x014")
    assert door.server.budget.reserve(ServerLimits(ConnectionLimits()).buffered_bytes), "its memory is free again"
    raw.close()


def test_too_many_large_messages_at_once(tmp_path: Path) -> None:
    limits = ServerLimits(ConnectionLimits(message_bytes=LARGEST), buffered_bytes=10_000_000)
    with serving(tmp_path / "d.sock", limits) as door, grpc.insecure_channel(door.address, options=LIMITS) as channel:
        held = door.call("Hold", channel).future(bytes(6_000_000), timeout=20)
        assert door.service.entered.acquire(timeout=10)
        with pytest.raises(grpc.RpcError) as error:
            door.call("Echo", channel)(bytes(6_000_000), timeout=10)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        door.service.release.set()
        held.result(timeout=10)
        assert len(door.call("Echo", channel)(bytes(6_000_000), timeout=10)) == 6_000_000


def test_too_many_connections_are_closed(tmp_path: Path) -> None:
    with serving(tmp_path / "d.sock", ServerLimits(ConnectionLimits(), connections=2)) as door:
        kept = [door.connect() for _ in range(2)]
        for raw in kept:
            raw.sendall(PREFACE + settings_frame({}))
            assert raw.recv(9)
        third = door.connect()
        assert third.recv(9) == b""
        for raw in [*kept, third]:
            raw.close()


def test_stopping_answers_what_was_accepted(door: Door, channel: grpc.Channel) -> None:
    calls = [door.call("Hold", channel).future(bytes([i]), timeout=20) for i in range(4)]
    for _ in calls:
        assert door.service.entered.acquire(timeout=10)
    stopping = threading.Thread(target=door.server.stop, args=(10,))
    stopping.start()
    time.sleep(0.2)
    with pytest.raises(grpc.RpcError) as error:
        door.call("Echo", channel)(b"late", timeout=2)
    assert error.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    door.service.release.set()
    assert [call.result(timeout=10) for call in calls] == [bytes([i]) for i in range(4)]
    stopping.join(10)
    assert not stopping.is_alive()


def test_health(door: Door, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    serving_now, unknown = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    assert stub.Check(health_pb2.HealthCheckRequest(service="t.T"), timeout=5).status == serving_now
    with pytest.raises(grpc.RpcError) as error:
        stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    watched = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
    assert next(watched).status == serving_now
    assert next(stub.Watch(health_pb2.HealthCheckRequest(service="other"), timeout=20)).status == unknown
    door.health.shut_down()
    assert [r.status for r in watched] in ([], [health_pb2.HealthCheckResponse.NOT_SERVING])


def test_reflection_goes_back_and_forth(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services=""),
                  reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health")])  # fmt: skip
    listed, described = stub.ServerReflectionInfo(asked, timeout=20)
    assert {"t.T", "grpc.health.v1.Health"} <= {s.name for s in listed.list_services_response.service}
    assert described.file_descriptor_response.file_descriptor_proto
    raw = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    assert len(list(raw(iter([reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()]), timeout=20))) == 1


def test_tls_on_tcp_asks_clients_for_a_certificate(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    certificate, key = authority.issue("localhost")
    listener = socket.create_server(("127.0.0.1", 0))
    service = Service()
    server = Server(service.methods(), ServerLimits(ConnectionLimits(message_bytes=LARGEST), stall_s=5))
    server.listen(listener, tls_context(str(certificate), str(key), str(authority.certificate)))
    address = f"localhost:{listener.getsockname()[1]}"
    server.start()

    def credentials(of: Authority | None) -> grpc.ChannelCredentials:
        if of is None:
            return grpc.ssl_channel_credentials(authority.certificate.read_bytes())
        mine, mine_key = of.issue("camera")
        return grpc.ssl_channel_credentials(authority.certificate.read_bytes(), mine_key.read_bytes(), mine.read_bytes())

    try:
        with grpc.secure_channel(address, credentials(authority), options=LIMITS) as channel:
            data = bytes(range(256)) * 20_000
            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(lambda _: channel.unary_unary("/t.T/Echo")(data, timeout=30) == data, range(8))) == [True] * 8
        for wrong in (None, stranger):
            with grpc.secure_channel(address, credentials(wrong)) as channel:
                with pytest.raises(grpc.RpcError) as error:
                    channel.unary_unary("/t.T/Echo")(b"x", timeout=5)
                assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/t.T/Echo")(b"x", timeout=3)
        assert service.handled == 8
    finally:
        server.stop(5)
