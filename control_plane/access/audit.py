"""The audit log: a JSON line for every call, with no picture, no secret and no signature in it."""

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

log = logging.getLogger(__name__)
_TEXT_CHARS = 500
_ITEMS = 50
_TIME = "%Y%m%dT%H%M%S.%fZ"


class AuditLog:
    """Appends lines to a file, each whole or not at all. Safe for several threads.

    The file may be renamed or removed by others, as logrotate does: the next line begins a new one. By itself it is renamed
    to NAME-TIME when it is full, in one step; no line is lost, whenever the server is killed.
    """

    def __init__(self, path: Path, most_bytes: int = 0, most_files: int = 0, clock: Callable[[], float] = time.time) -> None:
        """Open the file.

        Args:
            path: of it.
            most_bytes: of the file; 0 has no bound.
            most_files: older ones that are kept; 0 keeps all.
            clock: epoch seconds, for the names of older ones.
        """
        self._path, self._most_bytes, self._most_files, self._clock = path, most_bytes, most_files, clock
        self._lock = threading.Lock()
        self._descriptor = self._open()

    def write(self, **facts: Any) -> None:
        """Append a line. A full disk must not keep pictures from being inspected: the failure is logged."""
        line = msgspec.json.encode(facts) + b"\n"
        with self._lock:
            try:
                self._follow(len(line))
                self._append(line)
            except OSError as error:
                log.error("the audit log cannot be written: %s", error)

    def _append(self, line: bytes) -> None:
        written = os.write(self._descriptor, line)
        if written < len(line):  # the disk is full: half a line would spoil the next one
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _follow(self, more: int) -> None:
        """Make sure that the descriptor is that of the file at the path, and that the file has room."""
        ours = os.fstat(self._descriptor)
        try:
            there = self._path.stat()
        except FileNotFoundError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            self._reopen()
        elif self._most_bytes and ours.st_size and ours.st_size + more > self._most_bytes:
            self._path.rename(self._free_name())
            self._reopen()
            self._remove_oldest()

    def _free_name(self) -> Path:
        """Later than all that there are, even where the clock went back: the oldest go first."""
        name = datetime.fromtimestamp(self._clock(), UTC).strftime(_TIME)
        older = [path.name.removeprefix(f"{self._path.name}-") for path in self._older()]
        if older and name <= older[-1]:
            name = (datetime.strptime(older[-1], _TIME).replace(tzinfo=UTC) + timedelta(milliseconds=1)).strftime(_TIME)
        return self._path.with_name(f"{self._path.name}-{name}")

    def _older(self) -> list[Path]:
        pattern = re.compile(re.escape(self._path.name) + r"-\d{8}T\d{6}\.\d{6}Z", re.ASCII)
        return sorted(path for path in self._path.parent.iterdir() if pattern.fullmatch(path.name))

    def _remove_oldest(self) -> None:
        if self._most_files:
            for path in self._older()[: -self._most_files]:
                path.unlink(missing_ok=True)

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def _reopen(self) -> None:
        before, self._descriptor = self._descriptor, self._open()
        os.close(before)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def loggable(value: Any) -> Any:
    """Parameters as the audit log tells them: names in lower camel case, bytes as their number, long things cut."""
    match value:
        case dict():
            return {f"{k[:1].lower()}{k[1:]}": loggable(v) for k, v in value.items()}
        case list():
            return [loggable(v) for v in value[:_ITEMS]]
        case bytes():
            return f"<{len(value)} bytes>"
        case str():
            return value[:_TEXT_CHARS]
        case _:
            return value
