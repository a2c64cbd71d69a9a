"""What every action of the S3 API works with, and reading bodies: small documents, and objects that become files."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from linewatch.anomaly_model.numbers import read_digits
from linewatch.control_plane.access.sigv4 import UNSIGNED, chunk_signature, declared_hash, trailer_signature
from linewatch.control_plane.authentication import STREAMING, Caller, check_body, sha256
from linewatch.control_plane.body_budget import BodyBudget
from linewatch.control_plane.limits import DOCUMENT_BYTES, OBJECT_BYTES
from linewatch.control_plane.objects.directory import DirectoryObjects
from linewatch.control_plane.request_context import RequestContext, in_thread
from linewatch.control_plane.s3_api.checksums import Digest, Expected
from linewatch.control_plane.s3_api.chunked import ChunkDecoder
from linewatch.control_plane.s3_api.errors import S3Error
from linewatch.control_plane.s3_api.multipart import Multipart
from linewatch.control_plane.services import Call, Services

BLOCK = 1 << 20

XML = [("content-type", "application/xml")]
META = "x-amz-meta-"


@dataclass(frozen=True, slots=True)
class S3Context:
    """What actions work with.

    Attributes:
        services: of the server.
        pool: threads for what blocks.
        budget: memory for documents.
        objects: the buckets.
        uploads: multipart uploads to them.
    """

    services: Services
    pool: ThreadPoolExecutor
    budget: BodyBudget
    objects: DirectoryObjects
    uploads: Multipart


@dataclass(slots=True)
class S3Request:
    """A call of S3.

    Attributes:
        context: of it.
        caller: who calls.
        bucket: first part of the path; empty for the list of buckets.
        key: the rest.
        query: decoded.
        signing_key: for chunks that are signed.
    """

    context: RequestContext
    caller: Caller
    bucket: str
    key: str
    query: dict[str, str]
    signing_key: bytes = b""

    def call(self, services: Services) -> Call:
        """For asking what the caller may do."""
        return Call(services, self.caller.scope, self.caller.identity)


Action = Callable[[S3Context, S3Request], Awaitable[None]]


async def read_document(s3: S3Context, request: S3Request) -> bytes:
    """A small body, checked against its declared hash."""
    body = await request.context.body(DOCUMENT_BYTES, s3.budget, verified=True)
    signature = request.caller.signature
    declared = declared_hash(request.context.raw, signature) if signature else None
    if declared is not None:
        check_body(declared, sha256(body))
    return body


@dataclass(frozen=True, slots=True)
class ReceivedBody:
    """A body that became a file, and is as its headers say.

    Attributes:
        path: of the file.
        md5: of the body, hexadecimal.
        checksum_headers: headers that tell the client which checksum was compared.
    """

    path: Path
    md5: str
    checksum_headers: list[tuple[str, str]]


async def receive(s3: S3Context, request: S3Request) -> ReceivedBody:
    """Write a body to a file. The file is removed when the body is not as declared.

    Raises:
        S3Error: too large, cut off, or not as its headers say.
        InvalidSignatureError: another SHA-256 than declared.
    """
    context, signature = request.context, request.caller.signature
    declared = (declared_hash(context.raw, signature) if signature else context.headers.get("x-amz-content-sha256")) or UNSIGNED
    decoder = None
    sign_trailers = None
    if declared in STREAMING:
        if "HMAC" in declared and signature is None:
            raise S3Error("AccessDenied", 403, "signed chunks need a signed request")
        sign = partial(chunk_signature, request.signing_key, signature) if signature and "HMAC" in declared else None
        sign_trailers = partial(trailer_signature, request.signing_key, signature) if signature and sign and "TRAILER" in declared else None
        decoder = ChunkDecoder(sign, signature.digest if signature else "")
    expected = Expected(context.headers)
    length = read_digits(context.headers.get("x-amz-decoded-content-length", "0"), OBJECT_BYTES)
    if length is None or (context.length or 0) > OBJECT_BYTES:
        raise S3Error("EntityTooLarge", 400, f"an object comes in parts of at most {OBJECT_BYTES} bytes")
    incoming = s3.objects.incoming()
    md5, sha = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    try:
        with incoming.open("xb") as stream:
            pending, total = bytearray(), 0
            async for raw in context.chunks():
                for part in decoder.feed(raw) if decoder else (raw,):
                    pending += part
                    total += len(part)
                if total > OBJECT_BYTES:
                    raise S3Error("EntityTooLarge", 400, f"an object comes in parts of at most {OBJECT_BYTES} bytes")
                if len(pending) >= BLOCK:
                    await in_thread(s3.pool, _write, stream, bytes(pending), md5, sha, expected)
                    pending.clear()
            await in_thread(s3.pool, _write, stream, bytes(pending), md5, sha, expected)
        if decoder is not None and not decoder.finished:
            raise S3Error("IncompleteBody", 400, "the body ended before its last chunk")
        if decoder is not None and "x-amz-decoded-content-length" in context.headers and total != length:
            raise S3Error("IncompleteBody", 400, f"the chunks have {total} bytes; x-amz-decoded-content-length says {length}")
        check_body(declared, sha.hexdigest())
        if context.length is not None and context.read != context.length:
            raise S3Error("IncompleteBody", 400, f"the body has {context.read} of {context.length} bytes")
        checksum_headers = expected.check(md5.digest(), decoder.trailers(sign_trailers) if decoder else {})
    except BaseException:
        incoming.unlink(missing_ok=True)
        raise
    return ReceivedBody(incoming, md5.hexdigest(), checksum_headers)


def _write(stream: Any, data: bytes, *digests: Digest | Expected) -> None:
    for digest in digests:
        digest.update(data)
    stream.write(data)


def require_bucket(s3: S3Context, request: S3Request) -> None:
    """Refuse a call on a bucket that is not there.

    Raises:
        S3Error: there is no such bucket.
    """
    if not s3.objects.bucket_exists(request.bucket):
        raise S3Error("NoSuchBucket", 404, f"there is no bucket {request.bucket[:80]!r}")


def content_metadata(request: S3Request) -> tuple[str, dict[str, str]]:
    """Content type and the client's own metadata."""
    headers = request.context.headers
    metadata = {k.removeprefix(META): v for k, v in headers.items() if k.startswith(META)}
    return headers.get("content-type") or "binary/octet-stream", metadata


def byte_range(text: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a Range header; None for one that is to be ignored.

    Raises:
        S3Error: beyond the end.
    """
    match = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", text)
    if not match or not (match[1] or match[2]):
        return None
    first = int(match[1]) if match[1] else max(size - int(match[2]), 0)
    last = min(int(match[2]), size - 1) if match[1] and match[2] else size - 1
    if first >= size or first > last:
        raise S3Error("InvalidRange", 416, f"the range {text[:80]} lies outside the object's {size} bytes")
    return first, last
