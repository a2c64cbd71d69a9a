"""Results on disk until they are published: in order, bounded, whole after a kill or a full disk.

SQLite with a write-ahead log: what was appended is there after the process was killed, and the file is never half-written. After a
power cut the last second may be missing. Two processes use one spool: the agent appends, the bridge reads and forgets.
"""

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger()
NAME = "results.sqlite"
_BUSY_S = 5
_SCHEMA = """
create table if not exists results (id integer primary key autoincrement, model text not null, body blob not null);
create table if not exists cursors (destination text primary key, id integer not null) without rowid;
create table if not exists dropped (one integer primary key check (one = 1), number integer not null);
insert or ignore into dropped values (1, 0);
"""


@dataclass(frozen=True, slots=True)
class SpooledResult:
    """One result: `number` counts up; `body` is JSON."""

    number: int
    model: str
    body: bytes


class Spool:
    """The results of one agent. Each thread and process opens its own."""

    def __init__(self, folder: Path, most: int) -> None:
        """Open, or make, the spool of a folder.

        Args:
            folder: made if need be.
            most: results that are kept; the oldest leave first, and are counted.

        Raises:
            OSError: the folder cannot be made, or a damaged file cannot be put aside.
            sqlite3.DatabaseError: the database cannot be opened or written. A damaged file is put aside, and a new one begun.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._most = folder / NAME, most
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            aside = self._path.with_name(f"{NAME}.damaged-{int(time.time())}")
            log.error("results were damaged", reason=str(error), put_aside=str(aside))
            self._path.rename(aside)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(NAME + suffix).unlink(missing_ok=True)
            self._open()

    def _open(self) -> None:
        self._connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._connection.execute("pragma journal_mode = wal")
            self._connection.execute("pragma synchronous = normal")
            self._connection.executescript(_SCHEMA)
            self._connection.execute("select count(*) from cursors").fetchone()
        except sqlite3.Error:
            self._connection.close()
            raise

    def append(self, results: Iterable[tuple[str, bytes]]) -> None:
        """Keep results (model, body), and drop the oldest beyond the bound.

        Raises:
            sqlite3.Error: nothing was kept; the disk may be full.
        """
        with self._transaction():
            self._connection.executemany("insert into results (model, body) values (?, ?)", results)
            [(first, last)] = self._connection.execute("select min(id), max(id) from results")
            if last - first + 1 > self._most:
                gone = self._connection.execute("delete from results where id <= ?", (last - self._most,)).rowcount
                self._connection.execute("update dropped set number = number + ?", (gone,))

    def after(self, destination: str, count: int) -> list[SpooledResult]:
        """The oldest results that a destination does not have yet."""
        rows = self._connection.execute(
            "select id, model, body from results where id > coalesce((select id from cursors where destination = ?), 0) order by id limit ?",
            (destination, count),
        )
        return [SpooledResult(*row) for row in rows]

    def published(self, destination: str, number: int) -> None:
        """A destination has everything up to this result."""
        with self._transaction():
            self._connection.execute("insert or replace into cursors values (?, ?)", (destination, number))

    def forget(self, destinations: Iterable[str]) -> None:
        """Remove what all of these have."""
        names = list(destinations)
        with self._transaction():
            cursors = dict(self._connection.execute("select destination, id from cursors"))
            if names and cursors.keys() >= set(names):
                self._connection.execute("delete from results where id <= ?", (min(cursors[name] for name in names),))

    def counts(self) -> tuple[int, int]:
        """How many results are kept, and how many were dropped since the spool was made."""
        [(kept,)] = self._connection.execute("select count(*) from results")
        [(dropped,)] = self._connection.execute("select number from dropped")
        return kept, dropped

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._connection)

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()


class _Transaction:
    """All or nothing; sees and locks the newest state from its first statement."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("begin immediate")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._connection.execute("commit")
        elif self._connection.in_transaction:
            self._connection.execute("rollback")


class SpoolWriter:
    """Takes results from calls without making them wait, and appends them from a thread of its own."""

    def __init__(self, spool: Spool, in_memory: int = 1000, retry_s: float = 1.0) -> None:
        """Write to `spool`; `in_memory` results wait while the disk does not take them, tried again each `retry_s` seconds."""
        self._spool, self._most, self._retry_s = spool, in_memory, retry_s
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._changed = threading.Condition()
        self._lost = 0
        self._ended = False
        self._thread = threading.Thread(target=self._write, name="results", daemon=True)
        self._thread.start()

    def put(self, model: str, body: bytes) -> None:
        """Keep a result."""
        with self._changed:
            if len(self._waiting) >= self._most:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append((model, body))
            self._changed.notify()

    def _write(self) -> None:
        failing = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                batch, self._waiting = self._waiting, deque()
                if not batch:
                    return
            try:
                self._spool.append(batch)
            except sqlite3.Error as error:
                if not failing:
                    log.error("results are not written", reason=str(error), kept_in_memory=self._most)
                failing = True
                with self._changed:
                    self._waiting.extendleft(reversed(batch))
                    while len(self._waiting) > self._most:
                        self._waiting.popleft()
                        self._lost += 1
                    if self._changed.wait_for(lambda: self._ended, self._retry_s):
                        return
                continue
            if failing:
                log.info("results are written again")
            failing = False

    def counts(self) -> tuple[int, int]:
        """How many results wait, in memory and on disk, and how many were dropped."""
        try:
            kept, dropped = self._spool.counts()
        except sqlite3.Error:
            kept, dropped = 0, 0
        with self._changed:
            return kept + len(self._waiting), dropped + self._lost

    def close(self) -> None:
        """Write what waits, and end."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(10)
        self._spool.close()
