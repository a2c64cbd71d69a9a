"""What peers that mean harm send to an agent, and what another client notices of it.

For each kind of flood: the p50 and p99 of a client that calls with a pause of 10 ms (DescribeModel, or DetectAnomalies with --package),
before it and meanwhile; the agent's resident memory; the lines in its log.

Bars (exit code 1 when one is missed): each of the other client's calls is answered, its p99 is within three times that of before (or of
5 ms, where that is more), memory grows by no more than 300 MiB, the log by no more than 50 lines a second.
"""

import argparse
import contextlib
import itertools
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    hello,
    literal,
    message,
    request_block,
    setting,
)  # fmt: skip
from benchmarks.processes import children, resident_mib
from linewatch.commands.demo import running_agent
from linewatch.edge_agent.client import AgentCallError, AgentClient

DESCRIBE = "/AWS.LookoutVision.EdgeAgent/DescribeModel"
DETECT = "/AWS.LookoutVision.EdgeAgent/DetectAnomalies"
LIST = "/AWS.LookoutVision.EdgeAgent/ListModels"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
_PIECE = 32 * 1024
_BEGINNING_S = 2
"""Of a flood, before anybody looks."""
Connect = Callable[[], socket.socket]


@dataclass(frozen=True, slots=True)
class Flood:
    """A way of doing harm.

    Attributes:
        pieces: what is sent on one connection, one after the other; it is opened again when that is over.
        connections: at a time.
        reads: whether what comes back is read.
        pause_s: seconds between pieces.
    """

    pieces: Callable[[], Iterator[bytes]]
    connections: int = 2
    reads: bool = True
    pause_s: float = 0


def _same(unit: bytes, first: bytes = b"") -> Callable[[], Iterator[bytes]]:
    """The same frames again and again."""
    piece = unit * max(1, _PIECE // len(unit))
    return lambda: itertools.chain([hello() + first], itertools.repeat(piece))


def _streams(unit: Callable[[int], bytes], settings: bytes = b"", at_once: int = 100, then: bytes | None = None) -> Callable[[], Iterator[bytes]]:
    """Frames for stream after stream; `then`, if anything, for ever after a hundred."""

    def pieces() -> Iterator[bytes]:
        yield hello(settings)
        numbers = itertools.count(1, 2)
        while True:
            yield b"".join(unit(number) for number in itertools.islice(numbers, at_once))
            if then is not None:
                yield from itertools.repeat(then)

    return pieces


def _call(path: str, body: bytes = b"", *, end: bool = True) -> Callable[[int], bytes]:
    return lambda n: frame(HEADERS, END_HEADERS, n, request_block(path)) + frame(DATA, END_STREAM if end else 0, n, body)


def _slow_headers() -> Iterator[bytes]:
    yield hello() + frame(HEADERS, 0, 1, request_block(DESCRIBE))
    for i in itertools.count():
        yield frame(CONTINUATION, 0, 1, literal(f"a{i}", "b"))


def _hpack_bomb() -> Iterator[bytes]:
    """One large entry in the peer's table, and references to it: a byte each on the wire."""
    large = b"\x40\x01a\x7f\xb9\x16" + b"x" * 3000
    yield hello() + frame(HEADERS, END_HEADERS | END_STREAM, 1, request_block(DESCRIBE) + large)
    for n in itertools.count(3, 2):
        yield frame(HEADERS, END_HEADERS | END_STREAM, n, request_block(DESCRIBE) + b"\xbe" * 16_000)


def _rubbish() -> Iterator[bytes]:
    yield (hello() if secrets.randbits(1) else b"") + secrets.token_bytes(4000)


def _oversized_metadata(n: int) -> bytes:
    block = request_block(DESCRIBE) + b"".join(literal(f"name{i}", "x" * 120) for i in range(120))
    return frame(HEADERS, END_HEADERS | END_STREAM, n, block[:16_384])


def _cheap_headers(n: int) -> bytes:
    """A byte for each field, by the number that it has in everybody's table."""
    return frame(HEADERS, END_HEADERS | END_STREAM, n, request_block(DESCRIBE) + b"\x90" * 400)


def _flips(n: int) -> bytes:
    sizes = frame(SETTINGS, 0, 0, setting(HEADER_TABLE_SIZE, 0)) + frame(SETTINGS, 0, 0, setting(HEADER_TABLE_SIZE, 2**30))
    return sizes + frame(SETTINGS, ACK, 0) + _call(DESCRIBE, message(b""))(n)


SHUT = setting(INITIAL_WINDOW_SIZE, 0)
FLOODS: dict[str, Flood] = {
    "ping": Flood(_same(frame(PING, 0, 0, bytes(8)))),
    "ping, nothing read": Flood(_same(frame(PING, 0, 0, bytes(8))), reads=False),
    "settings": Flood(_same(frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 65_535)))),
    "header table sizes": Flood(_streams(_flips)),
    "rapid reset": Flood(_streams(lambda n: _call(DESCRIBE, message(b""))(n) + frame(RST_STREAM, 0, n, b"\0\0\0\x08"))),
    "continuation": Flood(_same(frame(CONTINUATION, 0, 1, literal("a", "b")), frame(HEADERS, 0, 1, request_block(DESCRIBE)))),
    "hpack bomb": Flood(_hpack_bomb),
    "window updates": Flood(_same(frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\x01"))),
    "window overflow": Flood(_same(frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"))),
    "empty data": Flood(_same(frame(DATA, 0, 1), frame(HEADERS, END_HEADERS, 1, request_block(DETECT)))),
    "silent connections": Flood(lambda: iter([b""] * 2), connections=200, pause_s=30),
    "slow headers": Flood(_slow_headers, connections=50, pause_s=0.05),
    "slow bodies": Flood(_streams(_call(DETECT, b"\0\0\x20\0\0", end=False), then=b"", at_once=30), connections=50, pause_s=0.5),
    "answers not read": Flood(_streams(_call(LIST, message(b"")), SHUT), reads=False),
    "priority": Flood(_same(frame(PRIORITY, 0, 3, b"\0\0\0\0\x10"))),
    "unknown frames": Flood(_same(frame(0xF0, 0xFF, 1, bytes(50)))),
    "oversized metadata": Flood(_streams(_oversized_metadata, at_once=10)),
    "streams without end": Flood(_streams(lambda n: frame(HEADERS, END_HEADERS, n, request_block(DETECT)))),
    "cheap headers": Flood(_streams(_cheap_headers, at_once=5), connections=32),
    "checks": Flood(_streams(_call(CHECK, message(b"")), at_once=30), connections=32),
    "watching and going": Flood(
        _streams(lambda n: _call(WATCH, message(b""))(n) + frame(RST_STREAM, 0, n, b"\0\0\0\x08"), at_once=20), connections=4
    ),
    "connecting": Flood(lambda: iter([hello()]), connections=8),
    "calls": Flood(_streams(_call(DESCRIBE, message(b"\xff")), at_once=30), connections=4),
    "watching health": Flood(_streams(_call(WATCH, message(b"")), at_once=30, then=b""), connections=20, pause_s=0.05),
    "messages of no length": Flood(_same(frame(DATA, 0, 1, message(b"") * 200), frame(HEADERS, END_HEADERS, 1, request_block(REFLECTION)))),
    "messages of no length to health": Flood(_same(frame(DATA, 0, 1, message(b"") * 200), frame(HEADERS, END_HEADERS, 1, request_block(WATCH)))),
    "rubbish": Flood(_rubbish, connections=4),
}


class _Peer:
    """One connection of a flood, opened again whenever the agent ends it."""

    def __init__(self, flood: Flood, connect: Connect) -> None:
        self._flood, self._connect = flood, connect
        self._socket: socket.socket | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._rest, self._next = b"", 0.0

    def turn(self) -> bool:
        """Send what can be sent now; returns whether anything could."""
        try:
            if self._socket is None:
                self._socket, self._pieces, self._rest, self._next = self._connect(), self._flood.pieces(), b"", 0.0
                self._socket.setblocking(False)
            if self._flood.reads:
                with contextlib.suppress(BlockingIOError):
                    if self._socket.recv(2**20) == b"":
                        raise ConnectionResetError
            if not self._rest and time.monotonic() >= self._next:
                self._rest, self._next = next(self._pieces), time.monotonic() + self._flood.pause_s
            sent = self._socket.send(self._rest) if self._rest else 0
        except BlockingIOError:
            return False
        except (OSError, StopIteration):
            self.close()
            return True
        self._rest = self._rest[sent:]
        return sent > 0

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def pour_apart(name: str, address: str, seconds: float, user: int | None = None) -> subprocess.Popen[bytes]:
    """Do harm from a process of its own, as another user where one is given; that takes root."""
    command = [sys.executable, "-P", "-m", "benchmarks.floods", "--pour", name, "--address", address, "--seconds", str(seconds)]
    if user is not None:
        command += ["--as-user", str(user)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1])


def pour(flood: Flood, connect: Connect, seconds: float) -> None:
    """Do harm for some seconds."""
    peers = [_Peer(flood, connect) for _ in range(flood.connections)]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        moved = [peer.turn() for peer in peers]
        if not any(moved):
            time.sleep(0.001)
    for peer in peers:
        peer.close()


def connector(address: str) -> Connect:
    """Connections to an agent's Unix socket."""

    def connect() -> socket.socket:
        raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(5)
        try:
            raw.connect(address.removeprefix("unix://"))
        except OSError:  # as many wait already as the kernel lets wait
            raw.close()
            raise
        return raw

    return connect


def _paced(call: Callable[[], object], seconds: float) -> tuple[list[float], list[str]]:
    """Milliseconds of calls, and what the others failed of."""
    times, errors, until = [], [], time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
        begun = time.perf_counter()
        try:
            call()
            times.append((time.perf_counter() - begun) * 1e3)
        except AgentCallError as error:
            errors.append(str(error))
    return times, errors


def measure(
    name: str, address: str, call: Callable[[], object], agent: int, log: Path, seconds: float, user: int | None
) -> dict[str, object]:
    """What a client notices of a flood."""
    before, _ = _paced(call, seconds / 2)
    resident, lines = resident_mib(agent), log.read_bytes().count(b"\n")
    flood = pour_apart(name, address, seconds + _BEGINNING_S, user)
    time.sleep(_BEGINNING_S)
    times, errors = _paced(call, seconds)
    peak = resident_mib(agent)
    flood.wait()
    found = {"p50_before_ms": np.quantile(before, 0.5), "p99_before_ms": np.quantile(before, 0.99), "p50_ms": np.quantile(times, 0.5),
             "p99_ms": np.quantile(times, 0.99), "grown_mib": peak - resident,
             "lines_per_s": (log.read_bytes().count(b"\n") - lines) / (seconds + _BEGINNING_S)}  # fmt: skip
    holds = not errors and found["p99_ms"] <= 3 * max(5.0, found["p99_before_ms"]) and found["grown_mib"] <= 300 and found["lines_per_s"] <= 50
    return {**{key: round(float(value), 2) for key, value in found.items()}, "calls": len(times), "failed": len(errors), "errors": errors[:2],
            "holds": bool(holds)}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--models", type=Path, help="folder with one model; default: none, and calls are DescribeModel's")
    parser.add_argument("--seconds", type=float, default=5, help="of each flood")
    parser.add_argument("--only", help="one kind of flood")
    parser.add_argument("--as-user", type=int, help="number of the user who does harm; takes root. Default: the one who calls")
    parser.add_argument("--pour", help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pour:
        if arguments.as_user is not None:
            os.setuid(arguments.as_user)
        pour(FLOODS[arguments.pour], connector(arguments.address), arguments.seconds)
        return 0
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as empty, running_agent(arguments.models or Path(empty)) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        log = Path(address.removeprefix("unix://")).with_name("agent.log")
        [agent] = children(os.getpid(), address)
        if arguments.as_user is not None:  # it may come in
            path = Path(address.removeprefix("unix://"))
            path.parent.chmod(0o711)
            path.chmod(0o666)
        call: Callable[[], object] = client.models
        if arguments.models:
            [model] = [m.model_component for m in client.models()]
            client.start(model)
            picture = np.zeros((720, 1280, 3), np.uint8)

            def call() -> object:
                return client.detect(picture, model)

        for name in [arguments.only] if arguments.only else FLOODS:
            figures[name] = measure(name, address, call, agent, log, arguments.seconds, arguments.as_user)
            print(f"{name:32}", json.dumps(figures[name]), flush=True)
            time.sleep(1)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if all(found["holds"] for found in figures.values()) else 1  # type: ignore[index]


if __name__ == "__main__":
    sys.exit(main())
