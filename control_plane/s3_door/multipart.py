"""Multipart uploads over a directory: parts are files of the upload's folder until they are put together."""

import hashlib
import re
import secrets
import shutil
import time
from pathlib import Path

import msgspec

from anomaly_model.bundle import replace_file
from control_plane.objects.directory import PRIVATE, DirectoryObjects
from control_plane.s3_door.errors import S3Error

_ID = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"(\d{5})-([0-9a-f]{32})")
MOST_PARTS = 10_000
FORGOTTEN_S = 7 * 24 * 3600
"""Uploads that nobody completed are removed after this time."""


class Upload(msgspec.Struct, frozen=True):
    """What an upload is for."""

    bucket: str
    key: str
    content_type: str
    metadata: dict[str, str]


class Multipart:
    """The uploads of a directory of buckets."""

    def __init__(self, objects: DirectoryObjects) -> None:
        self._objects, self._root = objects, objects.root / PRIVATE / "uploads"
        for folder in self._root.iterdir():
            if time.time() - folder.stat().st_mtime > FORGOTTEN_S:
                shutil.rmtree(folder, ignore_errors=True)

    def begin(self, upload: Upload) -> str:
        """Begin an upload; returns its id."""
        upload_id = secrets.token_hex(16)
        folder = self._root / upload_id
        folder.mkdir()
        replace_file(folder / "upload.json", msgspec.json.encode(upload))
        return upload_id

    def find(self, upload_id: str, bucket: str, key: str) -> tuple[Path, Upload]:
        """An upload's folder, and what it is for.

        Raises:
            S3Error: there is no such upload of this key.
        """
        missing = S3Error("NoSuchUpload", 404, "there is no such upload; it was completed, aborted, or forgotten after a week")
        if not _ID.fullmatch(upload_id):
            raise missing
        folder = self._root / upload_id
        try:
            upload = msgspec.json.decode((folder / "upload.json").read_bytes(), type=Upload)
        except (OSError, msgspec.DecodeError):
            raise missing from None
        if (upload.bucket, upload.key) != (bucket, key):
            raise missing
        return folder, upload

    def add_part(self, folder: Path, number: int, incoming: Path, etag: str) -> None:
        """Keep a part; an earlier one of its number goes."""
        for old in folder.glob(f"{number:05d}-*"):
            old.unlink()
        incoming.replace(folder / f"{number:05d}-{etag}")

    def parts(self, folder: Path) -> dict[int, tuple[str, Path]]:
        """Parts by number: ETag and file."""
        found = {}
        for path in sorted(folder.iterdir()):
            match = _PART.fullmatch(path.name)
            if match:
                found[int(match[1])] = (match[2], path)
        return found

    def complete(self, folder: Path, upload: Upload, wanted: list[tuple[int, str]]) -> str:
        """Put the parts together as an object; returns its ETag.

        Args:
            folder: of the upload.
            upload: what it is for.
            wanted: numbers and ETags, in order.

        Raises:
            S3Error: a part is missing, another, or out of order.
        """
        there = self.parts(folder)
        numbers = [number for number, _ in wanted]
        if not wanted or numbers != sorted(set(numbers)):
            raise S3Error("InvalidPartOrder", 400, "the parts are not in ascending order, each once")
        digests = bytearray()
        incoming = self._objects.incoming()
        with incoming.open("xb") as target:
            for number, etag in wanted:
                if number not in there or there[number][0] != etag:
                    incoming.unlink()
                    raise S3Error("InvalidPart", 400, f"part {number} was not uploaded, or is another than the one named")
                with there[number][1].open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)
                digests += bytes.fromhex(etag)
        etag = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(wanted)}"
        self._objects.adopt(upload.bucket, upload.key, incoming, etag, upload.content_type, upload.metadata)
        shutil.rmtree(folder, ignore_errors=True)
        return etag
