"""A Greengrass core's IPC, as far as components use it here: event-stream RPC on a Unix socket, for the real awsiotsdk client."""

import base64
import contextlib
import json
import socket
import struct
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MESSAGE, _ERROR, _PING, _PING_ANSWER, _CONNECT, _CONNECTED = range(6)
_ACCEPTED, _ENDS_STREAM = 1, 2
_PREFIX = "aws.greengrass#"
Headers = dict[str, int | str | bytes]


def encode(headers: Headers, payload: bytes) -> bytes:
    """One event-stream message."""
    packed = b""
    for name, value in headers.items():
        packed += bytes([len(name)]) + name.encode()
        packed += b"\x04" + struct.pack(">i", value) if isinstance(value, int) else b"\x07" + struct.pack(">H", len(value)) + str(value).encode()
    prelude = struct.pack(">II", 16 + len(packed) + len(payload), len(packed))
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + packed + payload
    return body + struct.pack(">I", zlib.crc32(body))


def decode(connection: socket.socket) -> tuple[Headers, bytes] | None:
    """The next message; None at the end. Both check sums are looked at."""
    start = _exactly(connection, 12)
    if not start:
        return None
    total, header_bytes, check = struct.unpack(">III", start)
    assert zlib.crc32(start[:8]) == check
    rest = _exactly(connection, total - 12)
    assert zlib.crc32(start + rest[:-4]) == struct.unpack(">I", rest[-4:])[0]
    headers: Headers = {}
    at = 0
    while at < header_bytes:
        length = rest[at]
        name, kind = rest[at + 1 : at + 1 + length].decode(), rest[at + 1 + length]
        at += 2 + length
        if kind == 4:
            [headers[name]] = struct.unpack_from(">i", rest, at)
            at += 4
        else:
            assert kind in (6, 7), kind
            [size] = struct.unpack_from(">H", rest, at)
            headers[name] = rest[at + 2 : at + 2 + size].decode()
            at += 2 + size
    return headers, rest[header_bytes:-4]


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            return b""
        data += part
    return data


@dataclass
class Core:
    """Answers components, and notes what they say.

    Attributes:
        missing: operations that this core does not have.
        offline: whether AWS IoT Core cannot be reached.
    """

    path: Path
    token: str = "the component's own"  # noqa: S105
    configuration: dict[str, Any] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    offline: bool = False
    states: list[str] = field(default_factory=list)
    local: list[tuple[str, Any]] = field(default_factory=list)
    iot: list[tuple[str, Any]] = field(default_factory=list)
    deferred: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self.path.chmod(0o777)
        self._listener.listen()
        self._subscriptions: list[tuple[str, socket.socket, int]] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def environment(self) -> dict[str, str]:
        """What a core gives its components."""
        return {"AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(self.path), "SVCUID": self.token, "AWS_IOT_THING_NAME": "line-7"}

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.disconnect()

    def disconnect(self) -> None:
        """As when the nucleus restarts."""
        with self._lock:
            for _, connection, _ in self._subscriptions:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._subscriptions.clear()

    def configure(self, **values: object) -> None:
        """Merge, as a deployment does, and tell those who asked."""
        self.configuration.update(values)
        self._event("SubscribeToConfigurationUpdate", "ConfigurationUpdateEvents",
                    {"configurationUpdateEvent": {"componentName": "linewatch.EdgeAgent", "keyPath": list(values)}})  # fmt: skip

    def ask_to_update(self, deployment: str) -> None:
        """As before an update."""
        self._event("SubscribeToComponentUpdates", "ComponentUpdatePolicyEvents",
                    {"preUpdateEvent": {"deploymentId": deployment, "isGgcRestarting": False}})  # fmt: skip

    def wait(self, condition: Any, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert condition(), vars(self)

    def _event(self, operation: str, kind: str, payload: dict[str, Any]) -> None:
        with self._lock:
            for subscribed, connection, stream in self._subscriptions:
                if subscribed == operation and connection.fileno() >= 0:
                    connection.sendall(_message(stream, kind, payload, 0))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while (received := decode(connection)) is not None:
                headers, payload = received
                if headers[":message-type"] == _CONNECT:
                    good = json.loads(payload)["authToken"] == self.token
                    self.connections += good
                    answer: Headers = {":message-type": _CONNECTED, ":message-flags": _ACCEPTED if good else 0, ":stream-id": 0}
                    connection.sendall(encode(answer, b""))
                elif headers[":message-type"] == _PING:
                    connection.sendall(encode({":message-type": _PING_ANSWER, ":message-flags": 0, ":stream-id": 0}, b""))
                elif "operation" in headers:
                    stream = headers[":stream-id"]
                    assert isinstance(stream, int)
                    operation = str(headers["operation"]).removeprefix(_PREFIX)
                    with self._lock:
                        connection.sendall(self._answer(operation, stream, json.loads(payload or b"{}"), connection))

    def _answer(self, operation: str, stream: int, request: dict[str, Any], connection: socket.socket) -> bytes:
        if operation in self.missing or (operation == "PublishToIoTCore" and self.offline):
            return _message(stream, "ServiceError", {"message": "not here"}, _ENDS_STREAM, _ERROR)
        response: dict[str, Any] = {}
        flags = _ENDS_STREAM
        match operation:
            case "GetConfiguration":
                response = {"componentName": "linewatch.EdgeAgent", "value": self.configuration}
            case "SubscribeToConfigurationUpdate" | "SubscribeToComponentUpdates":
                self._subscriptions.append((operation, connection, stream))
                flags = 0
            case "UpdateState":
                self.states.append(request["state"])
            case "PublishToTopic":
                self.local.append((request["topic"], request["publishMessage"]["jsonMessage"]["message"]))
            case "PublishToIoTCore":
                self.iot.append((request["topicName"], json.loads(base64.b64decode(request["payload"]))))
            case "DeferComponentUpdate":
                self.deferred.append(request)
        return _message(stream, f"{operation}Response", response, flags)


def _message(stream: int, kind: str, payload: dict[str, Any], flags: int, message_type: int = _MESSAGE) -> bytes:
    headers: Headers = {":message-type": message_type, ":message-flags": flags, ":stream-id": stream, ":content-type": "application/json",
                        "service-model-type": _PREFIX + kind}  # fmt: skip
    return encode(headers, json.dumps(payload).encode())
