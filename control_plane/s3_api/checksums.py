"""What a client says of a body (Content-MD5, x-amz-checksum-...), and whether the body keeps to it.

A checksum comes in a header, or behind the body in a trailer that x-amz-trailer names.
"""

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

from awscrt import checksums

from linewatch.control_plane.s3_api.errors import S3Error

PREFIX = "x-amz-checksum-"
_SETTINGS = ("mode", "algorithm", "type")


class Digest(Protocol):
    """As hashlib has it."""

    def update(self, data: bytes, /) -> None:
        """Take bytes."""
        ...

    def digest(self) -> bytes:
        """Of all bytes so far."""
        ...


class _Crc:
    """A cyclic redundancy check in the manner of hashlib's objects.

    Args:
        function: of bytes and the value before them.
        size: bytes of the value.
    """

    def __init__(self, function: Callable[[bytes, int], int], size: int) -> None:
        self._function, self._size, self._value = function, size, 0

    def update(self, data: bytes) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


_MAKE: dict[str, Callable[[], Digest]] = {
    "crc32": lambda: _Crc(zlib.crc32, 4),
    "crc32c": lambda: _Crc(checksums.crc32c, 4),
    "crc64nvme": lambda: _Crc(checksums.crc64nvme, 8),
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
}
ALGORITHMS = tuple(_MAKE)


def digest_of(algorithm: str) -> Digest:
    """A new digest.

    Raises:
        S3Error: an algorithm that is not here.
    """
    make = _MAKE.get(algorithm)
    if make is None:
        raise S3Error("NotImplemented", 501, f"checksums by {algorithm[:40]!r} are not checked here; take {', '.join(ALGORITHMS)}")
    return make()


def read_value(algorithm: str, text: str) -> bytes:
    """A checksum as it is written: base64 of as many bytes as the algorithm has.

    Raises:
        S3Error: malformed.
    """
    value = _decode(text)
    if value is None or len(value) != len(digest_of(algorithm).digest()):
        raise S3Error("InvalidRequest", 400, f"the value for {PREFIX}{algorithm} is not the base64 of a checksum")
    return value


def write_value(value: bytes) -> str:
    """A checksum as it is written."""
    return base64.b64encode(value).decode()


def read_header(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """Algorithm and value of the checksum that headers state.

    Raises:
        S3Error: several, which S3 does not take either.
    """
    stated = [(k.removeprefix(PREFIX), v) for k, v in headers.items() if k.startswith(PREFIX)]
    stated = [(algorithm, value) for algorithm, value in stated if algorithm not in _SETTINGS]
    if len(stated) > 1:
        raise S3Error("InvalidRequest", 400, f"{len(stated)} checksums; at most one is taken")
    return stated[0] if stated else None


class Expected:
    """What headers say of a body."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        """Read them.

        Raises:
            S3Error: malformed.
        """
        self.md5: bytes | None = None
        if "content-md5" in headers:
            self.md5 = _decode(headers["content-md5"])
            if self.md5 is None or len(self.md5) != 16:
                raise S3Error("InvalidDigest", 400, "Content-MD5 is not the base64 of 16 bytes")
        self.algorithm, self.value = "", b""
        self._digest: Digest | None = None
        stated = read_header(headers)
        trailer = headers.get("x-amz-trailer", "").strip().lower()
        if stated is not None:
            self.algorithm, self.value = stated[0], read_value(*stated)
        elif trailer.startswith(PREFIX):
            self.algorithm = trailer.removeprefix(PREFIX)
        if self.algorithm:
            self._digest = digest_of(self.algorithm)

    def update(self, data: bytes) -> None:
        """Take bytes of the body."""
        if self._digest is not None:
            self._digest.update(data)

    def check(self, md5: bytes, trailers: Mapping[str, str]) -> list[tuple[str, str]]:
        """Compare with the whole body; returns the header that tells the client what was compared.

        Args:
            md5: of the body.
            trailers: that came behind it, by lower-case name.

        Raises:
            S3Error: the body is another one.
        """
        if self.md5 is not None and self.md5 != md5:
            raise S3Error("BadDigest", 400, "the body's MD5 is not the one that Content-MD5 states")
        if self._digest is None:
            return []
        name = f"{PREFIX}{self.algorithm}"
        if not self.value:
            if name not in trailers:
                raise S3Error("MalformedTrailerError", 400, f"there is no {name} behind the body, as x-amz-trailer says")
            self.value = read_value(self.algorithm, trailers[name])
        if self._digest.digest() != self.value:
            raise S3Error("BadDigest", 400, f"the body's {self.algorithm} is not the one that {name} states")
        return [(name, write_value(self.value))]


def check_document(headers: Mapping[str, str], body: bytes) -> None:
    """Compare a small body with its headers.

    Raises:
        S3Error: it is another one, or they are malformed.
    """
    expected = Expected(headers)
    expected.update(body)
    expected.check(hashlib.md5(body, usedforsecurity=False).digest(), {})


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
