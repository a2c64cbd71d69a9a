"""Bytes of messages that are here, of all connections together. Pure, but for its lock."""

import threading

SMALL_BYTES = 64 * 1024
"""Of a message that there is always room for: how many of these there can be is bounded by the calls that there can be."""


class Budget:
    """A bound of bytes. Each connection may have as much as is left: one that wants all leaves half to others, and so on."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._lock = threading.Lock()

    @property
    def short(self) -> bool:
        """Whether so little is left that those who are slow should make room."""
        return self._left < self._most // 4

    def account(self) -> "Account":
        """For one connection."""
        return Account(self)

    def _take(self, account: "Account", count: int, *, always: bool) -> bool:
        with self._lock:
            if not always and account.held + count > self._left:
                return False
            self._left -= count
            account.held += count
            return True


class Account:
    """What one connection has of a budget.

    Attributes:
        held: bytes.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    def take(self, count: int, *, always: bool = False) -> bool:
        """Take so many, if there are as many as this and what is held already; `always` for small messages."""
        return self._budget._take(self, count, always=always)

    def give_back(self, count: int) -> None:
        """So many are free again."""
        self._budget._take(self, -count, always=True)
