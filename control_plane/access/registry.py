"""Making, listing and removing credentials."""

import msgspec
import sqlalchemy as sa

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.control_plane.access.credentials import MasterKey, new_access_key
from linewatch.control_plane.access.policy import Policy
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import Store, now
from linewatch.control_plane.store.schema import credentials

_NAME_CHARS = 255


class Registry:
    """The credentials of a server."""

    def __init__(self, store: Store, master: MasterKey) -> None:
        self._store, self._master = store, master

    def create(self, account: str, name: str, policy: Policy, hours: float | None = None) -> dict[str, str]:
        """Make a credential; the only time that its secret is shown.

        Args:
            account: twelve digits.
            name: for people.
            policy: what it may do.
            hours: it is good for; None for ever. With hours it has a session token, as temporary credentials have.

        Raises:
            LinewatchError: the name is empty or too long.
        """
        if not 0 < len(name) <= _NAME_CHARS:
            raise LinewatchError(f"a credential's name has 1 to {_NAME_CHARS} characters; found {len(name)}")
        key = new_access_key(temporary=hours is not None)
        expires = None if hours is None else now() + 3600 * hours
        document = msgspec.to_builtins(policy)
        with self._store.write() as connection:
            connection.execute(sa.insert(credentials).values(
                access_key=key, account=account, name=name, policy=document, created=now(), expires=expires
            ))  # fmt: skip
        made = {"access_key_id": key, "secret_access_key": self._master.secret(key)}
        if hours is not None:
            made["session_token"] = self._master.session_token(key)
        return made

    def list(self) -> list[dict[str, object]]:
        """All credentials, oldest first, without their secrets."""
        with self._store.read() as connection:
            rows = connection.execute(sa.select(credentials).order_by(credentials.c.created)).mappings().all()
        return [dict(row) for row in rows]

    def delete(self, access_key: str) -> None:
        """Remove a credential: its calls are refused from now on.

        Raises:
            LinewatchError: there is no such key.
        """
        with self._store.write() as connection:
            if connection.execute(sa.delete(credentials).where(credentials.c.access_key == access_key)).rowcount == 0:
                raise LinewatchError(f"there is no access key {access_key}; `linewatch credentials list` shows those there are")


def account_of_found(store: Store, settings: Settings) -> str:
    """The account of buckets without an owner: those of an earlier version, made by hand, or in S3.

    It is the only one that has credentials; where there are several, or none, and in the anonymous mode, the settings name it.
    """
    with store.read() as connection:
        accounts = connection.execute(sa.select(credentials.c.account).distinct()).scalars().all()
    return accounts[0] if len(accounts) == 1 and not settings.anonymous else settings.account
