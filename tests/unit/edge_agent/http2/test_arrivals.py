"""Connections that come in numbers: which are begun with, by a clock that the test holds."""

import socket
from collections.abc import Iterator

import pytest

from linewatch.edge_agent.http2.arrivals import Arrivals
from linewatch.edge_agent.http2.transport import Peer

BURST, PER_SECOND, WAITING = 200, 100, 128


class Arriving:
    """Connections come here; those that were begun with are counted by user."""

    def __init__(self) -> None:
        self.now, self.begun, self.theirs = 0.0, [], []  # type: ignore[var-annotated]
        self.arrivals = Arrivals(self._begin, lambda: self.now)

    def _begin(self, connection: socket.socket, peer: Peer) -> None:
        self.begun.append(peer.name)
        connection.close()

    def come(self, user: str, count: int) -> list[socket.socket]:
        peers = []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            self.arrivals.put(user, ours, Peer(1, user))
            peers.append(theirs)
        self.theirs += peers
        return peers

    def close(self) -> None:
        self.arrivals.close()
        for theirs in self.theirs:
            theirs.close()


@pytest.fixture
def arriving() -> Iterator[Arriving]:
    made = Arriving()
    yield made
    made.close()


def test_a_user_s_burst_is_begun_with_and_the_rest_as_time_goes_by(arriving: Arriving) -> None:
    arriving.come("a", BURST + 50)
    at_once = len(arriving.begun)
    assert BURST <= at_once <= BURST + 1
    assert arriving.arrivals.waiting
    arriving.now += 0.2
    arriving.arrivals.admit()
    assert at_once + 0.2 * PER_SECOND - 1 <= len(arriving.begun) <= at_once + 0.2 * PER_SECOND + 1
    arriving.now += 10
    arriving.arrivals.admit()
    assert len(arriving.begun) == BURST + 50
    assert not arriving.arrivals.waiting


def test_one_user_s_flood_keeps_no_other_waiting(arriving: Arriving) -> None:
    arriving.come("greedy", BURST + WAITING)
    arriving.come("other", 1)
    assert arriving.begun[-1] == "other"


def test_one_too_many_is_closed_and_those_who_left_make_room(arriving: Arriving) -> None:
    waiting = arriving.come("a", BURST + 1 + WAITING)[-WAITING:]
    [refused] = arriving.come("a", 1)
    assert refused.recv(1) == b""
    waiting[0].close()
    [taken] = arriving.come("a", 1)
    taken.setblocking(False)
    with pytest.raises(BlockingIOError):
        taken.recv(1)


def test_those_who_left_cost_their_user_nothing(arriving: Arriving) -> None:
    waiting = arriving.come("a", BURST + 1 + 30)[-30:]
    for theirs in waiting[:20]:
        theirs.close()
    before = len(arriving.begun)
    arriving.now += 0.11
    arriving.arrivals.admit()
    assert len(arriving.begun) - before >= 10, "ten are left, and a tenth of a second pays for them"


def test_all_that_wait_are_closed_at_the_end(arriving: Arriving) -> None:
    last = arriving.come("a", BURST + 10)[-1]
    arriving.arrivals.close()
    assert last.recv(1) == b""
    assert not arriving.arrivals.waiting
