"""The keys of a bucket in a directory, in order, from any key on, without reading more folders or names than a page needs.

A folder's sorted names are kept while its time of change says that they are still those. A time is trusted only when it was
some time ago as the folder was read: two changes within one tick of a file system's clock have the same time.
"""

import os
import threading
import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

_SETTLED_NS = 2_000_000_000
_NAMES = 500_000
"""Names that are kept of all folders together; about 50 MB."""
LAST = "\U0010ffff" * 256
"""Behind every key that a prefix has: keys have at most 1024 bytes."""


class Keys:
    """Sorted names of folders."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, tuple[int, Sequence[str]]] = OrderedDict()
        self._count = 0

    def walk(self, folder: Path, prefix: str, after: str, base: str = "") -> Iterator[str]:
        """Keys below a folder, in the order of their bytes; folders without files are keys with a slash at the end.

        Args:
            folder: a bucket's, or one below it.
            prefix: of the keys.
            after: only keys behind this one.
            base: what keys of this folder begin with.
        """
        names = self._names(folder)
        if base and not names and base.startswith(prefix) and base > after:
            yield base
        wanted = prefix[len(base) :]  # empty below the prefix
        head, slash, _ = wanted.partition("/")
        start = bisect_left(names, head + slash)
        if after.startswith(base):
            passed = after[len(base) :]
            inside, slash, rest = passed.partition("/")
            enters = slash and rest != LAST  # the folder that the key lies in has further ones
            start = max(start, bisect_left(names, inside + slash) if enters else bisect_right(names, passed))
        elif after > base:
            return
        for name in names[start:] if start else names:
            key = base + name
            if not (key.startswith(prefix) or prefix.startswith(key)):
                break
            if name.endswith("/"):
                yield from self.walk(folder / name[:-1], prefix, after, key)
            elif key.startswith(prefix):
                yield key

    def _names(self, folder: Path) -> Sequence[str]:
        """Names in a folder, sorted, those of folders with a slash; none when it is gone."""
        began = time.time_ns()
        try:
            changed = folder.stat().st_mtime_ns
            with self._lock:
                kept = self._kept.get(folder)
                if kept is not None and kept[0] == changed:
                    self._kept.move_to_end(folder)
                    return kept[1]
            with os.scandir(folder) as entries:
                names = sorted(e.name + ("/" if e.is_dir() else "") for e in entries if e.name.isprintable() or _is_text(e.name))
        except (FileNotFoundError, NotADirectoryError):
            return ()
        if began - changed > _SETTLED_NS and len(names) <= _NAMES:
            self._keep(folder, changed, names)
        return names

    def _keep(self, folder: Path, changed: int, names: Sequence[str]) -> None:
        with self._lock:
            old = self._kept.pop(folder, None)
            self._count += len(names) - (len(old[1]) if old else 0)
            self._kept[folder] = (changed, names)
            while self._count > _NAMES:
                self._count -= len(self._kept.popitem(last=False)[1][1])


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8; another cannot be a key."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
