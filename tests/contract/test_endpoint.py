"""The agent's gRPC endpoint against gRPC's clients and against peers that misbehave. No model is needed for that."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, wrappers_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from benchmarks.http2_frames import DATA, END_HEADERS, END_STREAM, HEADERS, frame, hello, message, request_block
from linewatch.edge_agent.api.endpoint import Endpoint, Method, Unary
from linewatch.edge_agent.api.side_services import Health, reflection_methods
from linewatch.edge_agent.api.sockets import bind, tls_context
from linewatch.edge_agent.errors import UnknownModelError
from linewatch.edge_agent.http2.calls import Call
from linewatch.edge_agent.http2.limits import ServerLimits
from linewatch.edge_agent.settings import Settings
from tests.certificates import Authority

LARGEST = 8 * 1024 * 1024


@dataclass
class Service:
    """Methods that show how a server treats calls."""

    release: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    gone: threading.Event = field(default_factory=threading.Event)
    remaining: float | None = None
    callers: list[int | None] = field(default_factory=list)
    handled: int = 0

    def methods(self) -> dict[str, Method]:
        text = wrappers_pb2.BytesValue
        return {"/t.T/Echo": Unary(text, self.echo, LARGEST), "/t.T/Hold": Unary(text, self.hold, LARGEST), "/t.T/Fail": Unary(text, self.fail),
                "/t.T/Break": Unary(empty_pb2.Empty, self.break_), "/t.T/Grow": Unary(wrappers_pb2.Int64Value, self.grow)}  # fmt: skip

    def echo(self, request: Any, call: Call) -> Any:
        self.handled += 1
        self.callers.append(call.peer.uid)
        return request

    def grow(self, request: Any, _: Call) -> Any:
        return wrappers_pb2.BytesValue(value=bytes(request.value))

    def hold(self, request: Any, call: Call) -> Any:
        self.remaining = call.remaining
        call.when_gone(self.gone.set)
        self.entered.release()
        assert self.release.wait(30)
        return request

    def fail(self, *_: Any) -> Any:
        raise UnknownModelError("nö: 100 % \U0001f600" * 10_000)

    def break_(self, *_: Any) -> Any:
        raise ZeroDivisionError("secret")


@dataclass
class Served:
    """A running endpoint and how to reach it."""

    address: str
    service: Service
    endpoint: Endpoint
    health: Health

    def call(self, name: str, channel: grpc.Channel) -> Any:
        wire = wrappers_pb2.BytesValue
        return channel.unary_unary(f"/t.T/{name}", lambda data: wire(value=data).SerializeToString(), lambda data: wire.FromString(data).value)

    def connect(self) -> socket.socket:
        raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(20)
        raw.connect(self.address.removeprefix("unix:"))
        return raw


@contextlib.contextmanager
def serving(path: Path, limits: ServerLimits | None = None) -> Iterator[Served]:
    service, health = Service(), Health(["t.T"])
    endpoint = Endpoint({**service.methods(), **health.methods(), **reflection_methods(["t.T"])})
    endpoint.listen(bind(Settings(socket=f"unix:{path}")), limits or ServerLimits())
    endpoint.start()
    try:
        yield Served(f"unix:{path}", service, endpoint, health)
    finally:
        service.release.set()
        endpoint.stop(5)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "d.sock") as made:
        yield made


LIMITS = [("grpc.max_receive_message_length", LARGEST), ("grpc.max_send_message_length", -1)]


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.address, options=LIMITS) as made:
        yield made


@pytest.mark.parametrize("size", [0, 1, 16_000, 70_000, 3_000_000, LARGEST - 8])
def test_messages_of_all_sizes(served: Served, channel: grpc.Channel, size: int) -> None:
    data = bytes(i % 251 for i in range(1000)) * (size // 1000) + bytes(size % 1000)
    for _ in range(3):
        assert served.call("Echo", channel)(data, timeout=20) == data


def test_many_callers_on_one_connection(served: Served, channel: grpc.Channel) -> None:
    echo = served.call("Echo", channel)
    with ThreadPoolExecutor(16) as pool:
        sent = [bytes([i % 256]) * (i * 97) for i in range(400)]
        assert list(pool.map(lambda data: echo(data, timeout=30), sent)) == sent


def test_a_call_that_waits_does_not_hold_up_others_on_its_connection(served: Served, channel: grpc.Channel) -> None:
    held = served.call("Hold", channel).future(b"held", timeout=20)
    assert served.service.entered.acquire(timeout=10)
    assert served.call("Echo", channel)(b"quick", timeout=5) == b"quick"
    served.service.release.set()
    assert held.result(timeout=10) == b"held"


def test_errors(served: Served, channel: grpc.Channel, capfd: pytest.CaptureFixture[str]) -> None:
    def status(name: str, data: bytes = b"", **options: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as error:
            served.call(name, channel)(data, timeout=10, **options)
        return error.value.code(), error.value.details()

    code, details = status("Fail")
    assert code == grpc.StatusCode.NOT_FOUND
    assert details.startswith("nö: 100 %")
    assert len(details.encode()) <= 1500
    code, details = status("Break")
    assert code == grpc.StatusCode.INTERNAL
    assert "secret" not in details
    assert "secret" in capfd.readouterr().out, "the log says what the caller is not told"
    assert status("Nothing")[0] == grpc.StatusCode.UNIMPLEMENTED
    assert status("Echo", bytes(LARGEST + 1))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert status("Echo", b"x" * 1000, compression=grpc.Compression.Gzip)[0] == grpc.StatusCode.UNIMPLEMENTED
    assert served.call("Echo", channel)(b"fine", timeout=10) == b"fine", "the connection has survived all of it"


@pytest.mark.parametrize("path", ["t.T/Echo", "grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch",
                                  "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"])  # fmt: skip
def test_requests_that_are_no_messages_are_the_caller_s_fault(channel: grpc.Channel, path: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        list(channel.unary_stream(f"/{path}")(b"\xff\xff", timeout=10))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_the_kernel_says_who_calls(served: Served) -> None:
    with grpc.insecure_channel(served.address) as one, grpc.insecure_channel(served.address) as other:
        for channel in (one, other):
            served.call("Echo", channel)(b"x", timeout=10)
    assert served.service.callers == [os.getuid()] * 2


def test_handlers_know_how_long_their_callers_wait(served: Served, channel: grpc.Channel) -> None:
    for timeout in (20, None):
        held = served.call("Hold", channel).future(b"held", timeout=timeout)
        assert served.service.entered.acquire(timeout=10)
        remaining = served.service.remaining
        assert remaining is None if timeout is None else 0 < remaining <= 20
        held.cancel()


@pytest.mark.parametrize("how", ["cancel", "deadline", "close"])
def test_handlers_learn_that_their_caller_has_gone(served: Served, channel: grpc.Channel, how: str) -> None:
    held = served.call("Hold", channel).future(b"held", timeout=0.3 if how == "deadline" else 20)
    assert served.service.entered.acquire(timeout=10)
    if how == "cancel":
        held.cancel()
    if how == "close":
        channel.close()
    assert served.service.gone.wait(10)


def closed(raw: socket.socket) -> bool:
    """Whether the other side has ended it; what it still says is thrown away."""
    try:
        while raw.recv(65536):
            pass
    except ConnectionResetError:
        pass
    raw.close()
    return True


def read_until(raw: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        part = raw.recv(65536)
        if not part:
            break
        data += part
    return data


def test_a_request_that_never_ends_is_ended(tmp_path: Path) -> None:
    with serving(tmp_path / "d.sock", ServerLimits(stall_s=0.2)) as served:
        raw = served.connect()
        raw.sendall(hello() + frame(HEADERS, END_HEADERS, 1, request_block("/t.T/Echo")) + frame(DATA, 0, 1, b"\0\0\x10\0\0"))
        assert b"grpc-status" in read_until(raw, b"grpc-status")
        raw.close()


def test_what_came_of_a_request_buys_it_no_time(tmp_path: Path) -> None:
    with serving(tmp_path / "d.sock", ServerLimits(stall_s=1.2)) as served:
        raw = served.connect()
        raw.settimeout(6)
        begun = frame(HEADERS, END_HEADERS, 1, request_block("/t.T/Echo")) + frame(DATA, 0, 1, b"\0\0\x20\0\0" + bytes(16_000))
        raw.sendall(hello() + begun + frame(DATA, 0, 1, bytes(16_000)) * 40)
        assert b"grpc-status" in read_until(raw, b"grpc-status")
        raw.close()


def test_an_answer_that_is_never_read_is_ended(tmp_path: Path) -> None:
    limits = ServerLimits(stall_s=0.2, held_bytes=2_500_000)
    with serving(tmp_path / "d.sock", limits) as served, grpc.insecure_channel(served.address, options=LIMITS) as channel:
        raw = served.connect()
        request = wrappers_pb2.Int64Value(value=2_000_000).SerializeToString()
        raw.sendall(hello() + frame(HEADERS, END_HEADERS, 1, request_block("/t.T/Grow")) + frame(DATA, END_STREAM, 1, message(request)))
        assert b"grpc-status" in read_until(raw, b"grpc-status")
        assert served.call("Echo", channel)(bytes(900_000), timeout=20) == bytes(900_000), "and its memory is free"
        raw.close()


def test_requests_that_never_end_hold_up_nobody(tmp_path: Path) -> None:
    limits = ServerLimits(threads=8, connections=8)
    with serving(tmp_path / "d.sock", limits) as served, grpc.insecure_channel(served.address) as channel:
        raws = [served.connect() for _ in range(4)]
        for raw in raws:
            calls = b"".join(frame(HEADERS, END_HEADERS, n, request_block("/t.T/Echo")) + frame(DATA, 0, n, b"\0\0\x10\0\0") for n in range(1, 40, 2))
            raw.sendall(hello() + calls)
        for _ in range(20):
            assert served.call("Echo", channel)(b"x", timeout=20) == b"x"
        for raw in raws:
            raw.close()


def test_too_many_large_messages_at_once(tmp_path: Path) -> None:
    limits = ServerLimits(held_bytes=20_000_000)
    with serving(tmp_path / "d.sock", limits) as served, grpc.insecure_channel(served.address, options=LIMITS) as channel:
        held = served.call("Hold", channel).future(bytes(6_000_000), timeout=20)
        assert served.service.entered.acquire(timeout=10)
        with pytest.raises(grpc.RpcError) as error:
            served.call("Echo", channel)(bytes(6_000_000), timeout=10)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        served.service.release.set()
        held.result(timeout=10)
        assert len(served.call("Echo", channel)(bytes(4_000_000), timeout=10)) == 4_000_000


def test_silent_connections_lock_nobody_out(tmp_path: Path) -> None:
    with serving(tmp_path / "d.sock", ServerLimits(connections=4, handshake_s=60)) as served:
        with grpc.insecure_channel(served.address) as channel:
            echo = served.call("Echo", channel)
            echo(b"x", timeout=10)
            silent = [served.connect() for _ in range(20)]
            assert echo(b"goes on", timeout=10) == b"goes on"
            with grpc.insecure_channel(served.address, options=[("grpc.use_local_subchannel_pool", 1)]) as newcomer:
                assert served.call("Echo", newcomer)(b"comes in", timeout=10) == b"comes in"
        for raw in silent:
            raw.close()


def test_who_comes_after_very_many_that_have_left_is_let_in(served: Served) -> None:
    for _ in range(600):
        raw = served.connect()
        raw.sendall(hello())
        raw.close()
    with grpc.insecure_channel(served.address, options=[("grpc.use_local_subchannel_pool", 1)]) as newcomer:
        assert served.call("Echo", newcomer)(b"comes in", timeout=10) == b"comes in"


@pytest.mark.parametrize("said", [b"", b"PRI * HTTP/2.0\r\n"])
def test_connections_that_do_not_come_about_end(tmp_path: Path, said: bytes) -> None:
    with serving(tmp_path / "d.sock", ServerLimits(handshake_s=0.5)) as served:
        raw = served.connect()
        raw.sendall(said)
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(65536):
                pass
        raw.close()


def test_one_that_does_not_read_at_all_loses_its_connection(tmp_path: Path) -> None:
    with serving(tmp_path / "d.sock", ServerLimits(stall_s=0.5)) as served:
        raw = served.connect()
        request = wrappers_pb2.Int64Value(value=4_000_000).SerializeToString()
        window = frame(8, 0, 0, (2**30).to_bytes(4, "big"))
        call = frame(HEADERS, END_HEADERS, 1, request_block("/t.T/Grow")) + frame(8, 0, 1, (2**30).to_bytes(4, "big"))
        raw.sendall(hello() + window + call + frame(DATA, END_STREAM, 1, message(request)))
        deadline = time.monotonic() + 20
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:
                time.sleep(0.1)
                raw.sendall(frame(6, 0, 0, bytes(8)))
        assert time.monotonic() < deadline, "the endpoint has closed it"
        raw.close()


def test_stopping_answers_what_was_accepted(served: Served, channel: grpc.Channel) -> None:
    calls = [served.call("Hold", channel).future(bytes([i]), timeout=20) for i in range(4)]
    for _ in calls:
        assert served.service.entered.acquire(timeout=10)
    stopping = threading.Thread(target=served.endpoint.stop, args=(10,))
    stopping.start()
    time.sleep(0.2)
    with pytest.raises(grpc.RpcError) as error:
        served.call("Echo", channel)(b"late", timeout=2)
    assert error.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    served.service.release.set()
    assert [call.result(timeout=10) for call in calls] == [bytes([i]) for i in range(4)]
    stopping.join(10)
    assert not stopping.is_alive()


def test_health(served: Served, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    serving_now, unknown = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    assert stub.Check(health_pb2.HealthCheckRequest(service="t.T"), timeout=5).status == serving_now
    with pytest.raises(grpc.RpcError) as error:
        stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    watched = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
    assert next(watched).status == serving_now
    assert next(stub.Watch(health_pb2.HealthCheckRequest(service="other"), timeout=20)).status == unknown
    served.health.shut_down()
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


def test_reflection_is_for_few_questions_at_a_time(served: Served, channel: grpc.Channel) -> None:
    ask = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    with pytest.raises(grpc.RpcError) as error:
        list(ask(iter([b""] * 100_000), timeout=20))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert served.call("Echo", channel)(b"x", timeout=5) == b"x"


def test_watchers_of_health_hold_no_thread(tmp_path: Path) -> None:
    with serving(tmp_path / "d.sock", ServerLimits(threads=2)) as served, grpc.insecure_channel(served.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watched = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=20) for _ in range(20)]
        assert {next(each).status for each in watched} == {health_pb2.HealthCheckResponse.SERVING}
        assert served.call("Echo", channel)(b"x", timeout=5) == b"x"
        for each in watched:
            each.cancel()


def test_tls_on_tcp_asks_clients_for_a_certificate(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    certificate, key = authority.issue("localhost")
    listener = socket.create_server(("127.0.0.1", 0))
    service = Service()
    endpoint = Endpoint(service.methods())
    settings = Settings(tls_certificate=str(certificate), tls_key=str(key), tls_clients=str(authority.certificate))
    endpoint.listen(listener, ServerLimits(connections=2), tls_context(settings))
    address = f"localhost:{listener.getsockname()[1]}"
    endpoint.start()
    echo = "/t.T/Echo"

    def credentials(of: Authority | None) -> grpc.ChannelCredentials:
        if of is None:
            return grpc.ssl_channel_credentials(authority.certificate.read_bytes())
        mine, mine_key = of.issue("camera")
        return grpc.ssl_channel_credentials(authority.certificate.read_bytes(), mine_key.read_bytes(), mine.read_bytes())

    try:
        with grpc.secure_channel(address, credentials(authority), options=LIMITS) as channel:
            data = wrappers_pb2.BytesValue(value=bytes(range(256)) * 20_000).SerializeToString()
            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(lambda _: channel.unary_unary(echo)(data, timeout=30) == data, range(8))) == [True] * 8
        for wrong in (None, stranger):
            with grpc.secure_channel(address, credentials(wrong)) as channel:
                with pytest.raises(grpc.RpcError) as error:
                    channel.unary_unary(echo)(b"x", timeout=5)
                assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(echo)(b"x", timeout=3)
        assert service.handled == 8
        silent = [socket.create_connection(listener.getsockname()) for _ in range(6)]
        with grpc.secure_channel(address, credentials(authority), options=LIMITS) as channel:
            assert channel.unary_unary(echo)(b"", timeout=20) == b"", "peers that never shake hands lock nobody out"
        assert service.callers == [None] * 9
        for raw in silent:
            raw.close()
    finally:
        endpoint.stop(5)
