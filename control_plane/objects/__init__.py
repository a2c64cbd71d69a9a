"""Where pictures, manifests and results lie: buckets of objects, in a directory or in S3. A seam of a few methods."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from linewatch.anomaly_model.errors import LinewatchError

_ADDRESS = re.compile(r"s3://([^/]+)/(.+)", re.DOTALL)


class ObjectsError(LinewatchError):
    """An object or a bucket cannot be used."""


class NoSuchBucketError(ObjectsError):
    """There is no such bucket."""


class NoSuchObjectError(ObjectsError):
    """There is no such object, or no such version of it."""


class InvalidNameError(ObjectsError):
    """The name of a bucket or object cannot be stored."""


class BucketTakenError(ObjectsError):
    """Another account has a bucket of this name."""


class BucketNotEmptyError(ObjectsError):
    """A bucket with objects is not deleted."""


class UnavailableError(ObjectsError):
    """The store does not answer, or refuses the server's own credentials. Trying again may help."""


class Stream(Protocol):
    """An object that is being read."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; all of them when it is negative."""
        ...

    def readline(self, size: int, /) -> bytes:
        """A line with its end, or the first `size` bytes of it."""
        ...


class Objects(Protocol):
    """Buckets of objects."""

    def owner(self, bucket: str) -> str | None:
        """The account that a bucket belongs to; None when there is no such bucket."""
        ...

    def open(self, bucket: str, key: str, version: str | None = None) -> AbstractContextManager[Stream]:
        """Read an object as a stream.

        Raises:
            NoSuchBucketError: there is no such bucket.
            NoSuchObjectError: there is no such object, or no such version of it.
            UnavailableError: the store does not answer, or refuses the server's own credentials.
        """
        ...

    def size(self, bucket: str, key: str, version: str | None = None) -> int:
        """Bytes of an object; raises as `open` does."""
        ...

    def fetch(self, bucket: str, key: str, path: Path) -> None:
        """Bring an object to a file; raises as `open` does."""
        ...

    def put(self, bucket: str, key: str, path: Path, content_type: str) -> None:
        """Store a file as an object; either whole or not at all.

        Args:
            bucket: where.
            key: as what.
            path: of the file.
            content_type: of the object.

        Raises:
            NoSuchBucketError: there is no such bucket.
            InvalidNameError: the key cannot be stored.
            UnavailableError: the store does not answer, or refuses the server's own credentials.
        """
        ...


def split_address(address: str) -> tuple[str, str]:
    """Bucket and key of s3://BUCKET/KEY.

    Raises:
        InvalidNameError: another form.
    """
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise InvalidNameError(f"{address[:200]!r} is not of the form s3://BUCKET/KEY")
    return match[1], match[2]


def is_foreign(objects: Objects, bucket: str, account: str) -> bool:
    """Whether a bucket belongs to another account; one that is not there belongs to nobody."""
    return objects.owner(bucket) not in (None, account)


def read_lines(stream: Stream, longest: int) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without empty ones and without a byte order mark; a line over `longest` bytes is cut there."""
    number = 0
    while raw := stream.readline(longest + 1):
        number += 1
        raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if raw.strip():
            yield number, raw
        while len(raw) > longest and not raw.endswith(b"\n"):  # the rest of a line that is too long
            raw = stream.readline(longest + 1)
