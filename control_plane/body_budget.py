"""Memory that bodies take, from their first byte until their call is answered: bounded in all, by address and by key.

Memory is counted when a byte is there, not when a header announces it: who has sent little holds little. Bodies whose
signature cannot be checked before they are there (most SDKs sign the body's hash without telling it) share a half, and one
address or one key a quarter, so that nobody who merely knows a key's name can keep others out.
"""

import threading
from collections import Counter

from linewatch.control_plane.errors import ThrottlingError

_Account = tuple[str, str]
_ADVICE = "send fewer calls at a time"


class BodyBudget:
    """Memory for bodies. Safe for several threads."""

    def __init__(self, size: int, largest: int) -> None:
        """Nothing is held yet.

        Args:
            size: bytes, all together.
            largest: of one body; no share is smaller.
        """
        half, quarter = (min(size, max(size // part, largest)) for part in (2, 4))
        self._most = {"all": size, "unverified": half, "address": quarter, "unverified key": quarter, "key": half}
        self._held: Counter[_Account] = Counter()
        self._lock = threading.Lock()

    def reserve(self, address: str, key: str, verified: bool) -> "Reservation":
        """An account for one body.

        Args:
            address: of the caller.
            key: access key that the caller names.
            verified: the caller's signature was checked.
        """
        return Reservation(self, address, key, verified)

    def move(self, size: int, before: tuple[_Account, ...], after: tuple[_Account, ...]) -> None:
        """Take bytes from some accounts to others.

        Raises:
            ThrottlingError: one of them has not so many left; nothing was moved.
        """
        with self._lock:
            change = Counter(dict.fromkeys(after, size))
            change.subtract(dict.fromkeys(before, size))
            for account, more in change.items():
                if more > 0 and self._held[account] + more > self._most[account[0]]:
                    raise ThrottlingError(f"bodies of {_describe(account)} fill the memory that is set aside for them; {_ADVICE}")
            for account, more in change.items():
                self._held[account] += more
                if not self._held[account]:
                    del self._held[account]

    @property
    def held(self) -> int:
        """Bytes that bodies hold now."""
        return self._held["all", ""]


def _describe(account: _Account) -> str:
    match account:
        case ("address", address):
            return f"calls from {address}"
        case ("key" | "unverified key", key):
            return f"calls of {key}"
        case _:
            return "all calls"


class Reservation:
    """What one body holds; `BodyBudget.reserve` makes it."""

    def __init__(self, budget: BodyBudget, address: str, key: str, verified: bool) -> None:
        """Nothing is held yet.

        Args:
            budget: that the bytes are taken from.
            address: of the caller.
            key: access key that the caller names.
            verified: the caller's signature was checked.
        """
        self._budget, self._size = budget, 0
        self._verified: tuple[_Account, ...] = (("all", ""), ("key", key))
        unverified: tuple[_Account, ...] = (("all", ""), ("unverified", ""), ("address", address), ("unverified key", key))
        self._accounts = self._verified if verified else unverified

    def take(self, size: int) -> None:
        """Hold more bytes.

        Raises:
            ThrottlingError: there are not so many left.
        """
        self._budget.move(size, (), self._accounts)
        self._size += size

    def mark_verified(self) -> None:
        """The signature was checked: hold the bytes as the key's own.

        Raises:
            ThrottlingError: the key holds too many.
        """
        self._budget.move(self._size, self._accounts, self._verified)
        self._accounts = self._verified

    def release(self) -> None:
        """Give all back."""
        self._budget.move(self._size, self._accounts, ())
        self._size = 0
