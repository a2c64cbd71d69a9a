"""Who makes room when there are too many connections."""

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from linewatch.edge_agent.http2.limits import ServerLimits
from linewatch.edge_agent.http2.listener import Listener
from linewatch.edge_agent.http2.transport import Peer


@dataclass(eq=False)
class Connected:
    """A connection, as far as it matters here."""

    uid: int
    answered: bool = True
    handles: bool = False
    idle_s: float = 0.0
    closed: bool = False
    peer: Peer = field(init=False)
    called_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.peer, self.called_at = Peer(self.uid, f"uid {self.uid}"), time.monotonic() - self.idle_s

    def close(self) -> None:
        self.closed = True


class NoApplication:
    """Has no methods."""

    def expected(self, path: str, peer: Peer) -> None:
        return None

    def handle(self, call: object) -> bool:
        raise AssertionError(call)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with socket.socket(socket.AF_UNIX) as listening:
        yield Listener(listening, ServerLimits(connections=4), None, NoApplication(), lambda _: None)


def test_the_one_that_is_missed_least_makes_room(listener: Listener) -> None:
    silent, old = Connected(1, answered=False), Connected(1, idle_s=60)
    listener._served = {Connected(1, handles=True), old, Connected(1, idle_s=2), silent}  # type: ignore[assignment,arg-type]
    assert listener._make_room("uid 1")
    assert silent.closed
    listener._served.add(Connected(1, handles=True))  # type: ignore[arg-type]
    assert listener._make_room("uid 1")
    assert old.closed


def test_one_s_own_that_are_in_use_stay(listener: Listener) -> None:
    listener._served = {Connected(1), Connected(1), Connected(1, handles=True), Connected(1)}  # type: ignore[assignment,arg-type]
    assert not listener._make_room("uid 1")


def test_no_user_keeps_another_out_whatever_it_does_on_its_connections(listener: Listener) -> None:
    greedy = [Connected(1, handles=True), Connected(1, handles=True), Connected(1)]
    listener._served = {*greedy, Connected(2, handles=True)}  # type: ignore[assignment,arg-type]
    assert listener._make_room("uid 3")
    assert greedy[2].closed
    listener._served |= {Connected(3)}  # type: ignore[arg-type]
    assert not listener._make_room("uid 3"), "two are not more than it would have"
