"""The connection to SQLite (in WAL mode) or PostgreSQL, transactions, and migrations."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.url import make_url
from sqlalchemy.exc import ArgumentError

from linewatch.anomaly_model.errors import LinewatchError

MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_MS = 30_000
"""How long SQLite waits for another writer."""


class StoreError(LinewatchError):
    """The database cannot be used."""


class Store:
    """The database. Safe for several threads; every change is one transaction."""

    def __init__(self, url: str) -> None:
        """Connect; nothing is read yet.

        Args:
            url: sqlite:///PATH or postgresql://USER@HOST/NAME.

        Raises:
            StoreError: the address is malformed, or of another kind of database.
        """
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise StoreError("the database's address is malformed; expected sqlite:///PATH or postgresql://USER@HOST/NAME") from None
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise StoreError(f"databases of kind {parsed.drivername} are not supported; expected sqlite or postgresql")
        self.url = parsed
        self.engine = _engine(parsed)

    @property
    def is_sqlite(self) -> bool:
        """A file beside us rather than a server."""
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def read(self, snapshot: bool = False) -> Iterator[Connection]:
        """A transaction that only reads.

        Args:
            snapshot: all of it sees one moment. SQLite's always do.
        """
        options = {} if self.is_sqlite or not snapshot else {"isolation_level": "REPEATABLE READ"}
        with self.engine.connect().execution_options(**options) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; committed at the end, rolled back on an error."""
        # Taking SQLite's write lock at once: a read that turns into a write could not wait for another writer.
        with self.engine.connect().execution_options(immediate=True) as connection, connection.begin():
            yield connection

    def migrate(self) -> None:
        """Bring the schema to this program's version.

        Raises:
            StoreError: the schema is newer than this program, or the database cannot be reached.
        """
        head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
        known = {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
        try:
            found = self.revision()
            if found == head:
                return
            if found is not None and found not in known:
                raise StoreError(
                    f"the database's schema is of revision {found}, newer than this program, which knows up to {head}. Install "
                    "the version of linewatch that wrote it, or restore a backup of before"
                )
            with self.write() as connection:
                command.upgrade(_alembic(connection), "head")
        except sa.exc.OperationalError as error:
            raise StoreError(f"the database {self.url!r} cannot be used: {error.orig}") from error

    def revision(self) -> str | None:
        """Of the schema; None for an empty database."""
        with self.read() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _engine(url: sa.URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return sa.create_engine(url, pool_size=20, max_overflow=20, pool_pre_ping=True)
    engine = sa.create_engine(url, pool_size=20, max_overflow=20)

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late; see `_begin`
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", f"busy_timeout = {BUSY_MS}",
                       "case_sensitive_like = ON"):  # fmt: skip
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def now() -> float:
    """Epoch seconds."""
    return time.time()
