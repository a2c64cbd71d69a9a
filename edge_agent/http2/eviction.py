"""Which connection is missed least, where there are too many for one more. Pure.

It is one of the user with most of them: first those that never had a call, then the one whose last call is longest ago. No user keeps
another out: with fewer than that one, it gets a place whatever is done on it.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from linewatch.edge_agent.http2.transport import Peer

_REST_S = 1.0
"""How long ago a connection had a call before it makes room for another of its own user."""


class Evictable(Protocol):
    """A connection, as far as it matters here; see `ServedConnection`."""

    @property
    def peer(self) -> Peer:
        """At the other end."""
        ...

    @property
    def handles(self) -> bool:
        """Whether it has calls now."""
        ...

    @property
    def answered(self) -> bool:
        """Whether a call was ever answered."""
        ...

    @property
    def called_at(self) -> float:
        """When a call was answered, or the connection began."""
        ...


Candidate = TypeVar("Candidate", bound=Evictable)


def by_user(served: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    """The connections of each user."""
    users: dict[str, list[Candidate]] = {}
    for one in served:
        users.setdefault(one.peer.name, []).append(one)
    return users


def largest(users: dict[str, list[Candidate]]) -> list[Candidate]:
    """The connections of the user with most of them."""
    return max(users.values(), key=len, default=[])


def resting(connections: Iterable[Candidate], now: float) -> list[Candidate]:
    """Those without a call, and that had none for a second, or never."""
    return [one for one in connections if not one.handles and (not one.answered or now - one.called_at > _REST_S)]


def least_missed(users: dict[str, list[Candidate]], user: str, now: float) -> Candidate | None:
    """The connection that makes room for one more of a user.

    Returns:
        None where there is none: the user has as many as any other, and all of them are in use.
    """
    most = largest(users)
    free: Sequence[Candidate] = resting(most, now)
    if not free and len(most) > len(users.get(user, [])) + 1:
        free = most
    return min(free, key=lambda one: (one.handles, one.answered, one.called_at), default=None)
