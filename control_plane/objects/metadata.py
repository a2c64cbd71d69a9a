"""What a file cannot say of an object: its MD5, content type and the client's own metadata, in a file of its own for each key (below `notes`).

It counts only while size and time of the file are those that it names, so what is kept in memory of it does too.
"""

import hashlib
import os
import shutil
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import msgspec

from linewatch.anomaly_model.files import replace_file

_KEPT = 50_000
"""Objects whose metadata is kept in memory; about 30 MB."""
DEFAULT_TYPE = "binary/octet-stream"


class ObjectMetadata(msgspec.Struct, frozen=True):
    """What is known of an object beside its bytes."""

    key: str
    size: int
    mtime_ns: int
    etag: str
    content_type: str = DEFAULT_TYPE
    metadata: dict[str, str] = {}


class MetadataStore:
    """The metadata of all objects, below a folder."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], ObjectMetadata] = OrderedDict()

    def read(self, bucket: str, key: str, status: os.stat_result) -> ObjectMetadata:
        """What is known of an object whose file has this status; it is made up for a file that was put there by hand."""
        stamp = (status.st_size, status.st_mtime_ns)
        with self._lock:
            stored = self._kept.get((bucket, key))
        if stored is not None and (stored.size, stored.mtime_ns) == stamp:
            return stored
        with suppress(OSError, msgspec.DecodeError):
            stored = msgspec.json.decode(self._path(bucket, key).read_bytes(), type=ObjectMetadata)
            if (stored.size, stored.mtime_ns) == stamp:
                self._keep(bucket, stored)
                return stored
        # An ETag that changes with the file, and, by its dash, does not claim to be an MD5.
        etag = f"{status.st_mtime_ns:016x}{status.st_size:016x}-1"
        return ObjectMetadata(key, 0 if key.endswith("/") else status.st_size, status.st_mtime_ns, etag, _guess(key))

    def write(self, bucket: str, stored: ObjectMetadata) -> None:
        """Keep what is known of an object."""
        place = self._path(bucket, stored.key)
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_file(place, msgspec.json.encode(stored))
        self._keep(bucket, stored)

    def remove(self, bucket: str, key: str) -> None:
        """Forget an object."""
        self._path(bucket, key).unlink(missing_ok=True)
        with self._lock:
            self._kept.pop((bucket, key), None)

    def remove_bucket(self, bucket: str) -> None:
        """Forget all objects of a bucket."""
        shutil.rmtree(self._root / bucket, ignore_errors=True)

    def _keep(self, bucket: str, stored: ObjectMetadata) -> None:
        with self._lock:
            self._kept[bucket, stored.key] = stored
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)

    def _path(self, bucket: str, key: str) -> Path:
        name = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
        return self._root / bucket / name[:2] / name


def _guess(key: str) -> str:
    suffixes = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".json": "application/json"}
    return suffixes.get(Path(key).suffix.lower(), DEFAULT_TYPE)
