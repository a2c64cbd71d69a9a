"""What is sent when the kernel does not take it all at once."""

import socket
import threading

from linewatch.edge_agent.http2.socket_writer import SocketWriter
from linewatch.edge_agent.http2.transport import Plain

WHOLE = bytes(range(256)) * 8000


def test_nothing_stays_behind_when_the_kernel_tells_at_once_that_it_takes_more() -> None:
    ours, theirs = socket.socketpair()
    left = [WHOLE[at : at + 100_000] for at in range(0, len(WHOLE), 100_000)]
    told = 0

    def writable() -> None:
        """As when another thread resumes before the one that was refused has let go."""
        nonlocal told
        told += 1
        writer.resume()
        writer.flush(lambda: bool(left))

    writer = SocketWriter(ours, Plain(), lambda _: [left.pop(0)] if left else [], writable)
    came = bytearray()

    def read() -> None:
        while len(came) < len(WHOLE):
            came.extend(theirs.recv(10_000))

    reading = threading.Thread(target=read)
    with ours, theirs:
        theirs.settimeout(10)
        reading.start()
        writer.flush(lambda: bool(left))
        reading.join(10)
        assert bytes(came) == WHOLE
        assert told


def test_nobody_waits_for_a_peer_that_does_not_read() -> None:
    ours, theirs = socket.socketpair()
    left, told = [WHOLE], []
    with ours, theirs:
        writer = SocketWriter(ours, Plain(), lambda _: [left.pop()] if left else [], lambda: told.append(True))
        writer.flush(lambda: bool(left))
        writer.flush(lambda: bool(left))
        assert writer.blocked
        assert told == [True]
