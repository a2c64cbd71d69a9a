"""Multipart uploads over a directory: parts are files of the upload's folder until they are put together."""

import hashlib
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.numbers import read_digits
from linewatch.control_plane.objects.directory import PRIVATE, DirectoryObjects, Precondition
from linewatch.control_plane.s3_api.checksums import digest_of, read_header, read_value
from linewatch.control_plane.s3_api.errors import S3Error

_ID = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"([0-9]{5})-([0-9a-f]{32})")

FORGOTTEN_S = 7 * 24 * 3600
"""Uploads that nobody completed are removed after this time."""


class Upload(msgspec.Struct, frozen=True):
    """What an upload is for."""

    bucket: str
    key: str
    content_type: str
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class Part:
    """A part that a client wants in the object.

    Attributes:
        number: of the part.
        etag: MD5, hexadecimal.
        checksums: further ones, by algorithm.
    """

    number: int
    etag: str
    checksums: dict[str, bytes] = field(default_factory=dict)


class Whole:
    """What a client says of a whole object: its size, and a checksum of its bytes or of its parts' checksums."""

    def __init__(self, size: int | None = None, algorithm: str = "", text: str = "", composite: bool = False) -> None:
        """Begin.

        Args:
            size: in bytes; None where it is not told.
            algorithm: of the checksum; empty without one.
            text: the checksum as it is written; behind a composite one may be a dash and the number of parts.
            composite: the checksum is one of checksums.

        Raises:
            S3Error: the checksum is malformed.
        """
        value, dash, count = text.partition("-")
        self._size, self._algorithm, self._count = size, algorithm, count if dash else ""
        self._value = read_value(algorithm, value) if algorithm else b""
        self.digest = digest_of(algorithm or "sha256")
        self.of_parts = (algorithm,) if composite and algorithm else ()
        self.of_bytes = () if composite or not algorithm else (self.digest,)

    def check(self, size: int, parts: int) -> None:
        """Compare with the object that was put together.

        Raises:
            S3Error: it is another one.
        """
        if self._size is not None and size != self._size:
            raise S3Error("InvalidRequest", 400, f"the parts have {size} bytes; x-amz-mp-object-size says {self._size}")
        if self._algorithm and (self.digest.digest() != self._value or self._count not in ("", str(parts))):
            raise S3Error("BadDigest", 400, f"the object's {self._algorithm} is not the one that the call states")


def read_whole(headers: Mapping[str, str]) -> Whole:
    """What the headers of CompleteMultipartUpload say of the object.

    Raises:
        S3Error: malformed.
    """
    size, text = None, headers.get("x-amz-mp-object-size")
    if text is not None and (size := read_digits(text, 1 << 50)) is None:
        raise S3Error("InvalidRequest", 400, f"x-amz-mp-object-size is {text[:40]!r}; expected a number of bytes")
    algorithm, value = read_header(headers) or ("", "")
    kind = headers.get("x-amz-checksum-type", "FULL_OBJECT" if algorithm == "crc64nvme" else "COMPOSITE")
    return Whole(size, algorithm, value, composite=kind != "FULL_OBJECT")


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
        """Keep a part; an earlier one of its number goes.

        Args:
            folder: of the upload.
            number: of the part, from 1 on.
            incoming: the part's file; it is gone afterwards.
            etag: its MD5, hexadecimal.
        """
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

    def complete(self, folder: Path, upload: Upload, parts: list[Part], whole: Whole, check: Precondition | None) -> str:
        """Put the parts together as an object; returns its ETag.

        Args:
            folder: of the upload.
            upload: what it is for.
            parts: in order.
            whole: what the client says of the object.
            check: asked before the object is put in place, as `DirectoryObjects.adopt` has it.

        Raises:
            S3Error: a part is missing, another, or out of order; the object is not as the client says.
        """
        there = self.parts(folder)
        numbers = [part.number for part in parts]
        if not parts or numbers != sorted(set(numbers)):
            raise S3Error("InvalidPartOrder", 400, "the parts are not in ascending order, each once")
        digests = bytearray()
        incoming = self._objects.incoming()
        try:
            with incoming.open("xb") as target:
                for part in parts:
                    if part.number not in there or there[part.number][0] != part.etag:
                        raise S3Error("InvalidPart", 400, f"part {part.number} was not uploaded, or is another than the one named")
                    _append(there[part.number][1], target, part, whole)
                    digests += bytes.fromhex(part.etag)
                whole.check(target.tell(), len(parts))
        except BaseException:
            incoming.unlink(missing_ok=True)
            raise
        etag = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
        self._objects.adopt(upload.bucket, upload.key, incoming, etag, upload.content_type, upload.metadata, check)
        shutil.rmtree(folder, ignore_errors=True)
        return etag


def _append(path: Path, target: BinaryIO, part: Part, whole: Whole) -> None:
    """Add a part to the object, and compare its checksums.

    Raises:
        S3Error: a checksum of the part is not the one that was named.
    """
    found = {algorithm: digest_of(algorithm) for algorithm in {*part.checksums, *whole.of_parts}}
    with path.open("rb") as source:
        while block := source.read(1 << 20):
            target.write(block)
            for digest in (*found.values(), *whole.of_bytes):
                digest.update(block)
    for algorithm, value in part.checksums.items():
        if found[algorithm].digest() != value:
            raise S3Error("InvalidPart", 400, f"the {algorithm} of part {part.number} is not the one named")
    for algorithm in whole.of_parts:
        whole.digest.update(found[algorithm].digest())
