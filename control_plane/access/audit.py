"""The audit log: a JSON line for every call, with no picture, no secret and no signature in it."""

import logging
import os
from pathlib import Path
from typing import Any

import msgspec

log = logging.getLogger(__name__)
_TEXT_CHARS = 500
_ITEMS = 50


class AuditLog:
    """Appends lines to a file. A line is one write, so that lines of several threads do not mix."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def write(self, **facts: Any) -> None:
        """Append a line. A full disk must not keep the line from being judged: the failure is logged."""
        try:
            os.write(self._descriptor, msgspec.json.encode(facts) + b"\n")
        except OSError as error:
            log.error("the audit log cannot be written: %s", error)

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
