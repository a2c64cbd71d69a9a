"""Decoding of `aws-chunked` bodies, with or without signatures and trailers. Pure: bytes go in, bytes come out.

A chunk is its size in hexadecimal, `;chunk-signature=SIGNATURE` when chunks are signed, CRLF, the data, CRLF. A chunk of
size 0 ends the body; trailers may follow it.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterator

from linewatch.control_plane.limits import CHUNK_BYTES, CHUNK_LINE_BYTES, TRAILER_BYTES
from linewatch.control_plane.s3_api.errors import S3Error

_HEADER = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;chunk-signature=([0-9a-f]{64}))?")


class ChunkDecoder:
    """Takes the body as it comes and gives the data in it."""

    def __init__(self, sign: Callable[[str, bytes], str] | None, seed: str = "") -> None:
        """Begin.

        Args:
            sign: (signature before, data) to the signature that a chunk must have; None when chunks are not signed.
            seed: signature of the request, the one before the first chunk.
        """
        self._sign, self._previous = sign, seed
        self._buffer = bytearray()
        self._left = -1
        self._signature = ""
        self.finished = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes of the body and give what they complete.

        Raises:
            S3Error: malformed, too large, or wrongly signed.
        """
        self._buffer += data
        while not self.finished:
            if self._left < 0:
                if not self._read_header():
                    return
                if self._left == 0:
                    self._check(b"")
                    self.finished = True
                    break
            if self._sign is None:
                # Unsigned data goes on at once.
                part = bytes(self._buffer[: self._left])
                if not part:
                    return
                del self._buffer[: len(part)]
                self._left -= len(part)
                yield part
                if self._left == 0:
                    self._left = -2
            elif len(self._buffer) >= self._left:
                part = bytes(self._buffer[: self._left])
                del self._buffer[: self._left]
                self._check(part)
                self._left = -2
                yield part
            else:
                return
        if len(self._buffer) > TRAILER_BYTES:
            raise S3Error("InvalidRequest", 400, f"there are over {TRAILER_BYTES} bytes behind the last chunk")

    def trailers(self, sign: Callable[[str, str], str] | None = None) -> dict[str, str]:
        """What came behind the last chunk: values by lower-case name.

        Args:
            sign: (signature before, SHA-256 of the trailers) to the signature that they must have; None when they are not signed.

        Raises:
            S3Error: malformed, or wrongly signed.
        """
        found, lines = {}, bytes(self._buffer).partition(b"\r\n\r\n")[0].strip().split(b"\r\n")
        for line in filter(None, (part.strip() for part in lines)):
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                raise S3Error("MalformedTrailerError", 400, "a trailer is not of the form NAME:VALUE")
            found[name.strip().lower()] = value.strip()
        if sign is not None and found:
            signature = found.pop("x-amz-trailer-signature", "")
            text = "".join(f"{name}:{value}\n" for name, value in sorted(found.items()))
            if not hmac.compare_digest(sign(self._previous, hashlib.sha256(text.encode()).hexdigest()).encode(), signature.encode()):
                raise S3Error("SignatureDoesNotMatch", 403, "the signature of the body's trailers is another one")
        return found

    def _read_header(self) -> bool:
        """A chunk's first line, and before it the end of the last chunk's data; False when it is not there yet.

        Raises:
            S3Error: the body is not aws-chunked as it says, or a signed chunk is too large.
        """
        if self._left == -2:
            if len(self._buffer) < 2:
                return False
            if self._buffer[:2] != b"\r\n":
                raise S3Error("InvalidRequest", 400, "a chunk of the body is longer than it says")
            del self._buffer[:2]
            self._left = -1
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > CHUNK_LINE_BYTES:
                raise S3Error("InvalidRequest", 400, "the body is not aws-chunked: its first line has no end")
            return False
        match = _HEADER.fullmatch(bytes(self._buffer[:end]))
        if not match or (self._sign is not None and match[2] is None):
            raise S3Error("InvalidRequest", 400, "the body is not aws-chunked as X-Amz-Content-SHA256 says")
        size = int(match[1], 16)
        if self._sign is not None and size > CHUNK_BYTES:
            raise S3Error("InvalidRequest", 400, f"a signed chunk has {size} bytes; at most {CHUNK_BYTES} are allowed")
        del self._buffer[: end + 2]
        self._left, self._signature = size, (match[2] or b"").decode()
        return True

    def _check(self, data: bytes) -> None:
        if self._sign is None:
            return
        expected = self._sign(self._previous, data)
        if not hmac.compare_digest(expected, self._signature):
            raise S3Error("SignatureDoesNotMatch", 403, "the signature of a chunk of the body is another one")
        self._previous = expected
