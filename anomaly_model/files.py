"""Files and folders that appear whole or not at all, even after a power cut, and zips that are the same each time."""

import ctypes
import errno
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_ZIP_DATE = (2020, 1, 1, 0, 0, 0)  # fixed, so that the same files always give the same zip


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def atomic_file(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Write a file that appears whole or not at all: temporary file, fsync, rename. Folders are made as needed.

    Nobody but its owner may read it before it is there, and then those whom `mode` allows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file's content atomically."""
    with atomic_file(path, mode) as stream:
        stream.write(data)


def replace_folder(source: Path, target: Path) -> None:
    """Move `source` to `target` in one step; whoever looks sees the old folder or the new one, and never neither.

    NFS and others cannot exchange names. There it takes two steps: for a moment there is nothing at `target`, and a power cut
    in between leaves the old folder beside it as `.NAME.before`, which the next call removes once the new one is in place.

    Raises:
        OSError: the folder cannot be moved, and the old one stays at `target`; or the file system failed afterwards.
    """
    before = target.with_name(f".{target.name}.before")
    if not target.exists():
        source.replace(target)
    elif _exchange(source, target):
        before = source
    else:
        shutil.rmtree(before, ignore_errors=True)
        target.replace(before)
        try:
            source.replace(target)
        except OSError:
            before.replace(target)
            raise
    _sync_folder(target.parent)
    if before.exists():
        shutil.rmtree(before)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders atomically (Linux's renameat2, which Python does not offer); False where the file system cannot.

    Raises:
        OSError: it failed for another reason.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not libc.renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE):
        return True
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(b))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def zip_files(path: Path, files: Iterable[tuple[str, bytes]], compression: int) -> None:
    """Zip files in the order in which they come, with fixed dates and modes: the same files give the same bytes."""
    with atomic_file(path) as stream, zipfile.ZipFile(stream, "w", compression, compresslevel=6) as archive:
        for name, data in files:
            entry = zipfile.ZipInfo(name, _ZIP_DATE)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = compression
            archive.writestr(entry, data)
