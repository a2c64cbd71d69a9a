"""What the operating system refuses, as one sentence: what was found, and what to do. Pure but for the names that it looks at."""

import errno
import os
import tempfile
from pathlib import Path

from linewatch.anomaly_model.errors import LinewatchError

_PLACE = "Name another place"
_TOLD: dict[int, tuple[str, str]] = {
    errno.ENOENT: ("does not exist, or nothing can be made there", _PLACE),
    errno.ENOTDIR: ("a part of this path is a file, where a folder is needed", _PLACE),
    errno.EEXIST: ("is there already and is no folder", f"Move it, or {_PLACE.lower()}"),
    errno.EISDIR: ("is a folder; expected a file", "Name a file"),
    errno.ENOTEMPTY: ("is a folder with something in it", _PLACE),
    errno.EACCES: ("this user may not use it", "Change its owner or mode, run as another user, or name another place"),
    errno.EPERM: ("this user may not do that", "Change its owner or mode, run as another user, or name another place"),
    errno.EROFS: ("lies on a file system that is read-only", _PLACE),
    errno.ENAMETOOLONG: ("has a name that is longer than the file system allows", "Name a shorter one"),
    errno.EINVAL: ("is no name that the file system allows", "Name another one"),
    errno.ELOOP: ("is a link that leads back to itself", _PLACE),
    errno.EBUSY: ("is in use", "Stop what uses it, or name another place"),
    errno.EIO: ("the device does not read or write", "Look at the disk, or name another place"),
    errno.ENXIO: ("is no file that can be read or written", "Name a file"),
    errno.EXDEV: ("lies on another file system than the folder it is in", _PLACE),
}
_ANYWHERE: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("no space left", "Free some and try again; nothing half-written is left"),
    errno.EDQUOT: ("no space left within this user's quota", "Free some and try again; nothing half-written is left"),
    errno.EFBIG: ("no space left: a file would be larger than is allowed here", "Raise the limit (ulimit -f), or name another place"),
    errno.EMFILE: ("too many open files for one process", "Raise the limit (ulimit -n)"),
    errno.ENFILE: ("too many open files on this machine", "Stop other programs, or raise fs.file-max"),
    errno.ENOMEM: ("no memory left", "Stop other programs"),
    errno.EADDRINUSE: ("the address is in use", "Stop the program that has it, or name another port"),
    errno.EADDRNOTAVAIL: ("this machine has no such address", "Name one that it has"),
}
"""True wherever it happens; those above only of a file that is named."""
_OURS = Path(__file__).parents[1]


def explain(error: OSError) -> str | None:
    """An error of the system in a sentence, or None when it is more likely a fault of ours, of which the trace tells more.

    Ours are those that name no file, and those about the program's own files.
    """
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if error.errno in _ANYWHERE:
        found, advice = _ANYWHERE[error.errno]
        return f"{name}{': ' if name else ''}{found}. {advice}"
    if not name or error.errno not in _TOLD or _is_ours(name):
        return None
    found, advice = _TOLD[error.errno]
    return f"{name[:200]}: {found} ({error.strerror}). {advice}"


def _is_ours(name: str) -> bool:
    return os.path.abspath(name).startswith(f"{_OURS}/")  # noqa: PTH100


def check_folder(folder: Path) -> None:
    """See that a folder can be written before the work whose result goes there; leaves nothing behind.

    Raises:
        LinewatchError: it has no name, as `.` has none, so that nothing can lie beside it.
        OSError: it, or the nearest folder above it that is there, cannot.
    """
    if not folder.name:
        raise LinewatchError(f"{folder} is no name for what is made; name a folder in it")
    try:
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        os.rmdir(tempfile.mkdtemp(prefix=".linewatch-", dir=there))  # noqa: PTH106
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(folder)) from error
