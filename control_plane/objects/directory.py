"""Buckets in a directory: an object is a plain file, ROOT/BUCKET/KEY, so that files put there by hand are objects too.

What files cannot say lies below ROOT/.linewatch: `owners` has the account of each bucket, `notes` what belongs to an object.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from linewatch.anomaly_model.files import replace_file
from linewatch.control_plane.limits import KEY_BYTES, NAME_BYTES
from linewatch.control_plane.objects import (
    BucketNotEmptyError,
    BucketTakenError,
    InvalidNameError,
    NoSuchBucketError,
    NoSuchObjectError,
    Stream,
)
from linewatch.control_plane.objects.keys import Keys
from linewatch.control_plane.objects.metadata import DEFAULT_TYPE, MetadataStore, ObjectMetadata

PRIVATE = ".linewatch"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")

_STRIPES = 64
_TRIES = 100

Precondition = Callable[[str | None], None]
"""Given the ETag of the object that is there, or None, raises what keeps it from being replaced or deleted."""


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object in a listing."""

    key: str
    size: int
    modified: float
    etag: str


class DirectoryObjects:
    """Buckets below a directory. Names of buckets are those of all accounts, as on S3; each belongs to one account."""

    def __init__(self, root: Path, account: str = "") -> None:
        """Open, or make, the directory.

        Args:
            root: of the buckets.
            account: that a bucket without an owner, such as a folder made by hand, belongs to from when it is first seen.
        """
        self.root = root
        self._account = account
        self._private = root / PRIVATE
        for name in ("incoming", "owners", "uploads"):
            (self._private / name).mkdir(parents=True, exist_ok=True)
        self._metadata = MetadataStore(self._private / "notes")
        self._keys = Keys()
        self._buckets = threading.Lock()  # of what makes and removes buckets
        self._stripes = [threading.Lock() for _ in range(_STRIPES)]

    # --- buckets

    def bucket_exists(self, bucket: str) -> bool:
        """Whether there is a bucket."""
        return bool(_BUCKET.fullmatch(bucket)) and (self.root / bucket).is_dir()

    def owner(self, bucket: str) -> str | None:
        """See `Objects`."""
        if not self.bucket_exists(bucket):
            return None
        with suppress(FileNotFoundError):
            return self._owner_path(bucket).read_text()
        with self._buckets:
            if not self._owner_path(bucket).exists():
                self._own(bucket, self._account)
            return self._owner_path(bucket).read_text()

    def _own(self, bucket: str, account: str) -> None:
        replace_file(self._owner_path(bucket), account.encode())

    def _owner_path(self, bucket: str) -> Path:
        return self._private / "owners" / bucket

    def create_bucket(self, bucket: str, account: str) -> bool:
        """Make a bucket; False when it was there, and the account's.

        Raises:
            InvalidNameError: the name is not allowed.
            BucketTakenError: the bucket is another account's.
        """
        if not _BUCKET.fullmatch(bucket):
            raise InvalidNameError(f"bucket name {bucket[:80]!r} is not allowed: 3 to 63 letters, digits, '-', '_' and '.'")
        owner = self.owner(bucket)
        with self._buckets:
            if owner is None and not self.bucket_exists(bucket):
                self._own(bucket, account)  # first: a bucket is never without an owner
                with suppress(FileExistsError):  # made by hand in this moment
                    (self.root / bucket).mkdir()
                return True
        owner = self.owner(bucket)
        if owner != account:
            raise BucketTakenError(f"the name {bucket!r} is taken: names of buckets are those of all accounts")
        return False

    def delete_bucket(self, bucket: str) -> None:
        """Remove an empty bucket.

        Raises:
            NoSuchBucketError: there is no such bucket.
            BucketNotEmptyError: the bucket has objects.
            OSError: the folder cannot be removed for another reason.
        """
        folder = self._bucket(bucket)
        with self._buckets:
            try:
                folder.rmdir()  # the kernel's word: an object that came in this moment stays, and so does the bucket
            except OSError as error:
                if error.errno == errno.ENOENT:
                    raise NoSuchBucketError(_no_bucket(bucket)) from None
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    raise BucketNotEmptyError(f"bucket {bucket!r} has objects; delete them first") from None
                raise
            self._metadata.remove_bucket(bucket)
            self._owner_path(bucket).unlink(missing_ok=True)

    def buckets(self, account: str) -> list[tuple[str, float]]:
        """Names and creation times of an account's buckets, by name."""
        found = []
        with os.scandir(self.root) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # deleted in this moment
                    if self.owner(entry.name) == account:
                        found.append((entry.name, entry.stat().st_ctime))
        return sorted(found)

    def _bucket(self, bucket: str) -> Path:
        if not self.bucket_exists(bucket):
            raise NoSuchBucketError(_no_bucket(bucket))
        return self.root / bucket

    # --- objects

    def _path(self, bucket: str, key: str) -> Path:
        """Where an object lies, whether or not it is there.

        Raises:
            NoSuchBucketError: there is no such bucket.
            InvalidNameError: the key is too long, or cannot be a file's name below the bucket.
        """
        folder = self._bucket(bucket)
        names = key.removesuffix("/").split("/")
        if len(key.encode(errors="surrogatepass")) > KEY_BYTES:
            raise InvalidNameError(f"the key has over {KEY_BYTES} bytes")
        for name in names:
            if name in ("", ".", "..") or "\0" in name or len(name.encode(errors="surrogatepass")) > NAME_BYTES:
                raise InvalidNameError(
                    f"the key {key[:200]!r} cannot be a file: its parts between slashes must be 1 to {NAME_BYTES} bytes "
                    "and not '.' or '..'"
                )
        return folder.joinpath(*names)

    def _file(self, bucket: str, key: str, version: str | None = None) -> Path:
        """The file of an object that is there.

        Raises:
            NoSuchBucketError: there is no such bucket.
            NoSuchObjectError: there is no such object, or `version` is not the one that a directory keeps.
        """
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
        """See `Objects`; raises as `adopt` does.

        Args:
            bucket: where.
            key: as what.
            path: of the file, which is copied.
            content_type: of the object.
        """
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
        metadata: dict[str, str] | None = None, check: Precondition | None = None,
    ) -> None:  # fmt: skip
        """Make a file of `incoming` an object, on disk for good when this returns.

        Args:
            bucket: where.
            key: as what.
            incoming: the file; it is gone afterwards, whatever happens.
            etag: of the object.
            content_type: of the object.
            metadata: the client's own.
            check: asked, and the object put in place, with no other call in between.

        Raises:
            NoSuchBucketError: there is no such bucket.
            InvalidNameError: the key cannot be a file, is in the way of another, or ends with a slash though there is
                content.
            OSError: the file cannot be written, such as on a full disk.
            Exception: whatever `check` raises.
        """
        try:
            target = self._path(bucket, key)
            if key.endswith("/") and incoming.stat().st_size:
                raise InvalidNameError(f"the key {key[:200]!r} ends with a slash: a folder, which cannot have content")
            with incoming.open("rb") as stream:
                os.fsync(stream.fileno())
            with self._stripe(bucket, key):
                if check is not None:
                    check(self._etag(bucket, key))
                self._move_into_place(bucket, target, incoming, is_folder=key.endswith("/"))
                if not key.endswith("/"):
                    status = target.stat()
                    stored = ObjectMetadata(key, status.st_size, status.st_mtime_ns, etag, content_type or DEFAULT_TYPE, metadata or {})
                    self._metadata.write(bucket, stored)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
                raise InvalidNameError(
                    f"the key {key[:200]!r} is in the way of another: in a directory a name is a file or a folder, not both"
                ) from None
            raise
        finally:
            incoming.unlink(missing_ok=True)

    def _move_into_place(self, bucket: str, target: Path, incoming: Path, is_folder: bool) -> None:
        """Move a file, or make a folder, below a bucket; the bucket itself, which may just have been deleted, is never made.

        Raises:
            NoSuchBucketError: there is no such bucket.
            FileNotFoundError: folders above the file were removed again, each time that it was tried.
        """
        folder = self._bucket(bucket)
        above = [p for p in reversed(target.parents) if p.is_relative_to(folder) and p != folder]
        for attempt in range(_TRIES):  # a call that deletes takes folders that have become empty
            try:
                for parent in above:
                    with suppress(FileExistsError):
                        parent.mkdir()
                if not is_folder:
                    incoming.replace(target)
                elif not target.is_dir():
                    target.mkdir()
                break
            except FileNotFoundError:
                self._bucket(bucket)
                if attempt == _TRIES - 1:
                    raise
        descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _stripe(self, bucket: str, key: str) -> threading.Lock:
        """The lock of a key, and of some others: changes of one object come one after the other."""
        return self._stripes[hash((bucket, key)) % _STRIPES]

    def _etag(self, bucket: str, key: str) -> str | None:
        try:
            return self.describe(bucket, key)[0].etag
        except NoSuchObjectError:
            return None

    def delete(self, bucket: str, key: str, check: Precondition | None = None) -> None:
        """Remove an object; nothing happens when it is not there. Folders that become empty go too.

        Args:
            bucket: where.
            key: which one.
            check: as in `adopt`.

        Raises:
            NoSuchBucketError: there is no such bucket.
            Exception: whatever `check` raises.
        """
        folder = self._bucket(bucket)
        with self._stripe(bucket, key):
            if check is not None:
                check(self._etag(bucket, key))
            with suppress(NoSuchObjectError):
                path = self._file(bucket, key)
                with suppress(OSError):
                    if path.is_dir():
                        path.rmdir()
                    else:
                        path.unlink()
                self._metadata.remove(bucket, key)
                for parent in path.parents:
                    if parent == folder:
                        break
                    try:
                        parent.rmdir()
                    except OSError:
                        break

    def describe(self, bucket: str, key: str) -> tuple[ObjectMetadata, float, Path]:
        """What is known of an object, its time of change, and its file.

        Raises:
            NoSuchBucketError: there is no such bucket.
            NoSuchObjectError: there is no such object.
        """
        path = self._file(bucket, key)
        try:
            status = path.stat()
        except FileNotFoundError:  # deleted in this moment
            raise NoSuchObjectError(f"there is no object s3://{bucket}/{key}") from None
        return self._metadata.read(bucket, key, status), status.st_mtime, path

    def keys(self, bucket: str, prefix: str = "", after: str = "") -> Iterator[str]:
        """Keys in the order of their bytes.

        Args:
            bucket: which one.
            prefix: of the keys.
            after: only keys behind this one.

        Raises:
            NoSuchBucketError: there is no such bucket.
        """
        return self._keys.walk(self._bucket(bucket), prefix, after)

    def entry(self, bucket: str, key: str) -> ListedObject | None:
        """A key that `keys` gave, with what a listing tells of it; None when it was deleted meanwhile.

        Raises:
            NoSuchBucketError: there is no such bucket.
        """
        try:
            stored, modified, _ = self.describe(bucket, key)
        except NoSuchObjectError:
            return None
        return ListedObject(key, stored.size, modified, stored.etag)


def _no_bucket(bucket: str) -> str:
    return f"there is no bucket {bucket[:80]!r}; create it first"
