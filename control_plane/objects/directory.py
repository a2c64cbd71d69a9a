"""Buckets in a directory: an object is a plain file, ROOT/BUCKET/KEY, so that files put there by hand are objects too.

What a file cannot say (its MD5, content type, the client's own metadata) lies in a note below ROOT/.linewatch, which counts
only while size and time of the file are the same.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from anomaly_model.bundle import replace_file
from control_plane.objects import InvalidNameError, NoSuchBucketError, NoSuchObjectError, ObjectsError, Stream

PRIVATE = ".linewatch"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_KEY_BYTES = 1024
_NAME_BYTES = 255


class Note(msgspec.Struct, frozen=True):
    """What is noted of an object."""

    key: str
    size: int
    mtime_ns: int
    etag: str
    content_type: str = "binary/octet-stream"
    metadata: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """An object in a listing."""

    key: str
    size: int
    modified: float
    etag: str


class BucketNotEmptyError(ObjectsError):
    """A bucket with objects is not deleted."""


class DirectoryObjects:
    """Buckets below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._private = root / PRIVATE
        for folder in (self._private / "incoming", self._private / "notes", self._private / "uploads"):
            folder.mkdir(parents=True, exist_ok=True)

    # --- buckets

    def bucket_exists(self, bucket: str) -> bool:
        """Whether there is a bucket."""
        return bool(_BUCKET.fullmatch(bucket)) and (self.root / bucket).is_dir()

    def create_bucket(self, bucket: str) -> bool:
        """Make a bucket; False when it was there.

        Raises:
            InvalidNameError: the name is not allowed.
        """
        if not _BUCKET.fullmatch(bucket):
            raise InvalidNameError(f"bucket name {bucket[:80]!r} is not allowed: 3 to 63 letters, digits, '-', '_' and '.'")
        try:
            (self.root / bucket).mkdir()
        except FileExistsError:
            return False
        return True

    def delete_bucket(self, bucket: str) -> None:
        """Remove an empty bucket.

        Raises:
            NoSuchBucketError, BucketNotEmptyError
        """
        folder = self._bucket(bucket)
        if next(self.list(bucket), None) is not None:
            raise BucketNotEmptyError(f"bucket {bucket!r} has objects; delete them first")
        shutil.rmtree(folder)
        shutil.rmtree(self._private / "notes" / bucket, ignore_errors=True)

    def buckets(self) -> list[tuple[str, float]]:
        """Names and creation times, by name."""
        found = [(p.name, p.stat().st_ctime) for p in self.root.iterdir() if p.is_dir() and _BUCKET.fullmatch(p.name)]
        return sorted(found)

    def _bucket(self, bucket: str) -> Path:
        if not self.bucket_exists(bucket):
            raise NoSuchBucketError(f"there is no bucket {bucket[:80]!r}; create it, or make the folder below {self.root}")
        return self.root / bucket

    # --- objects

    def _path(self, bucket: str, key: str) -> Path:
        """Where an object lies, whether or not it is there."""
        folder = self._bucket(bucket)
        names = key.removesuffix("/").split("/")
        if len(key.encode(errors="surrogatepass")) > _KEY_BYTES:
            raise InvalidNameError(f"the key has over {_KEY_BYTES} bytes")
        for name in names:
            if name in ("", ".", "..") or "\0" in name or len(name.encode(errors="surrogatepass")) > _NAME_BYTES:
                raise InvalidNameError(
                    f"the key {key[:200]!r} cannot be a file: its parts between slashes must be 1 to {_NAME_BYTES} bytes "
                    "and not '.' or '..'"
                )
        return folder.joinpath(*names)

    def _file(self, bucket: str, key: str, version: str | None = None) -> Path:
        """The file of an object that is there."""
        if version not in (None, "null"):
            raise NoSuchObjectError(f"s3://{bucket}/{key} has no version {version!r}: a directory keeps the newest only")
        try:
            path = self._path(bucket, key)
        except InvalidNameError as error:
            raise NoSuchObjectError(str(error)) from None
        if not (path.is_dir() if key.endswith("/") else path.is_file()):
            raise NoSuchObjectError(f"there is no object s3://{bucket}/{key}")
        return path

    @contextmanager
    def open(self, bucket: str, key: str, version: str | None = None) -> Iterator[Stream]:
        """See `Objects`."""
        with self._file(bucket, key, version).open("rb") as stream:
            yield stream

    def size(self, bucket: str, key: str, version: str | None = None) -> int:
        """See `Objects`."""
        return self._file(bucket, key, version).stat().st_size

    def fetch(self, bucket: str, key: str, path: Path) -> None:
        """See `Objects`. The file is linked where that is possible: an object is replaced, never changed in place."""
        source = self._file(bucket, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            os.link(source, path)
        except OSError:
            shutil.copyfile(source, path)

    def put(self, bucket: str, key: str, path: Path, content_type: str) -> None:
        """See `Objects`."""
        incoming = self.incoming()
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as source, incoming.open("xb") as target:
            while block := source.read(1 << 20):
                digest.update(block)
                target.write(block)
        self.adopt(bucket, key, incoming, digest.hexdigest(), content_type)

    def incoming(self) -> Path:
        """A name for a file that will be adopted."""
        return self._private / "incoming" / secrets.token_hex(16)

    def adopt(
        self, bucket: str, key: str, incoming: Path, etag: str, content_type: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Make a file of `incoming` an object, on disk for good when this returns.

        Raises:
            NoSuchBucketError, InvalidNameError: and the file is removed.
        """
        try:
            target = self._path(bucket, key)
            if key.endswith("/"):
                if incoming.stat().st_size:
                    raise InvalidNameError(f"the key {key[:200]!r} ends with a slash: a folder, which cannot have content")
                incoming.unlink()
                target.mkdir(parents=True, exist_ok=True)
                return
            with incoming.open("rb") as stream:
                os.fsync(stream.fileno())
            status = incoming.stat()
            target.parent.mkdir(parents=True, exist_ok=True)
            incoming.replace(target)
        except OSError as error:
            incoming.unlink(missing_ok=True)
            if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
                raise InvalidNameError(
                    f"the key {key[:200]!r} is in the way of another: in a directory a name is a file or a folder, not both"
                ) from None
            raise
        except ObjectsError:
            incoming.unlink(missing_ok=True)
            raise
        descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        note = Note(key, status.st_size, status.st_mtime_ns, etag, content_type or "binary/octet-stream", metadata or {})
        place = self._note_path(bucket, key)
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_file(place, msgspec.json.encode(note))

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object; nothing happens when it is not there. Folders that become empty go too.

        Raises:
            NoSuchBucketError
        """
        folder = self._bucket(bucket)
        with suppress(NoSuchObjectError):
            path = self._file(bucket, key)
            with suppress(OSError):
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()
            self._note_path(bucket, key).unlink(missing_ok=True)
            for parent in path.parents:
                if parent == folder:
                    break
                try:
                    parent.rmdir()
                except OSError:
                    break

    def note(self, bucket: str, key: str) -> tuple[Note, float, Path]:
        """What is known of an object, its time of change, and its file.

        Raises:
            NoSuchBucketError, NoSuchObjectError
        """
        path = self._file(bucket, key)
        status = path.stat()
        return self._noted(bucket, key, status), status.st_mtime, path

    def _noted(self, bucket: str, key: str, status: os.stat_result) -> Note:
        with suppress(OSError, msgspec.DecodeError):
            note = msgspec.json.decode(self._note_path(bucket, key).read_bytes(), type=Note)
            if (note.size, note.mtime_ns) == (status.st_size, status.st_mtime_ns):
                return note
        # Put there by hand: an ETag that changes with the file, and, by its dash, does not claim to be an MD5.
        etag = f"{status.st_mtime_ns:016x}{status.st_size:016x}-1"
        size = 0 if key.endswith("/") else status.st_size
        return Note(key, size, status.st_mtime_ns, etag, _guess(key))

    def _note_path(self, bucket: str, key: str) -> Path:
        name = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
        return self._private / "notes" / bucket / name[:2] / name

    def list(self, bucket: str, prefix: str = "", after: str = "") -> Iterator[Entry]:
        """Objects in the order of their keys' bytes.

        Args:
            bucket: which one.
            prefix: of the keys.
            after: only keys behind this one.

        Raises:
            NoSuchBucketError
        """
        for key, path in _walk(self._bucket(bucket), "", prefix, after):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            note = self._noted(bucket, key, status)
            yield Entry(key, note.size, status.st_mtime, note.etag)


def _walk(folder: Path, base: str, prefix: str, after: str) -> Iterator[tuple[str, Path]]:
    """Keys and files below a folder, in order, without looking into folders that cannot hold a wanted key."""
    names = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        names = sorted(base + e.name + ("/" if e.is_dir() else "") for e in entries)
    if base and not names and base.startswith(prefix) and base > after:
        yield base, folder
    for key in names:
        path = folder / key[len(base) :].removesuffix("/")
        if key.endswith("/"):
            reachable = key.startswith(prefix) or prefix.startswith(key)
            if reachable and (key > after or after.startswith(key)):
                yield from _walk(path, key, prefix, after)
        elif key.startswith(prefix) and key > after:
            yield key, path


def _guess(key: str) -> str:
    suffixes = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".json": "application/json"}
    return suffixes.get(Path(key).suffix.lower(), "binary/octet-stream")
