"""S3's protocol over the directory of buckets: path-style calls, each an action of a table."""

import hashlib
import logging
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from anomaly_model.errors import LinewatchError
from control_plane.access.authenticate import STREAMING, Caller, check_body, identify, prove, sha256
from control_plane.access.sigv4 import chunk_signature, declared_hash, query_pairs, read_claim
from control_plane.errors import ApiError
from control_plane.exchange import BodyBudget, ClientGoneError, Exchange, in_thread
from control_plane.objects import ObjectsError
from control_plane.objects.directory import DirectoryObjects
from control_plane.s3_door import documents as xml
from control_plane.s3_door.chunked import ChunkDecoder
from control_plane.s3_door.errors import S3Error, render, translate
from control_plane.s3_door.listing import list_objects
from control_plane.s3_door.multipart import MOST_PARTS, Multipart, Upload
from control_plane.services import Call, Services

log = logging.getLogger(__name__)

BLOCK = 1 << 20
DOCUMENT_BYTES = 2 << 20
OBJECT_BYTES = 5 << 30
"""S3's own bound on one PUT; larger objects come in parts."""
_XML = [("content-type", "application/xml")]
_META = "x-amz-meta-"


@dataclass(slots=True)
class Request:
    """A call of S3.

    Attributes:
        exchange: of it.
        caller: who calls.
        bucket: first part of the path; empty for the list of buckets.
        key: the rest.
        query: decoded.
        signing_key: for chunks that are signed.
    """

    exchange: Exchange
    caller: Caller
    bucket: str
    key: str
    query: dict[str, str]
    signing_key: bytes = b""


Action = Callable[["S3Door", Request], Awaitable[None]]


class S3Door:
    """Answers S3's calls."""

    def __init__(self, services: Services, pool: ThreadPoolExecutor, budget: BodyBudget) -> None:
        self._services, self._pool, self._budget = services, pool, budget
        objects = services.objects
        self._objects = objects if isinstance(objects, DirectoryObjects) else None
        self._uploads = Multipart(objects) if isinstance(objects, DirectoryObjects) else None

    def is_meant(self, exchange: Exchange) -> bool:
        """Whether a request is one of S3: by its signature, or, unsigned, by not being anything else."""
        try:
            return read_claim(exchange.received).service == "s3"
        except ApiError:
            return True

    async def answer(self, exchange: Exchange) -> None:
        """Answer a request, whatever it is."""
        exchange.facts["eventSource"] = "s3.amazonaws.com"
        try:
            await self._answer(exchange)
        except LinewatchError as error:
            await self._refuse(exchange, translate(error))
        except ClientGoneError:
            raise
        # A fault of ours: the log has the trace, the client an id to ask with.
        except Exception as error:
            log.exception("request %s failed", exchange.request_id)
            full = isinstance(error, OSError) and error.errno in (28, 122)
            message = "no space left for objects" if full else f"internal error; the server's log has request {exchange.request_id}"
            await self._refuse(exchange, S3Error("InternalError", 503 if full else 500, message))

    async def _refuse(self, exchange: Exchange, error: S3Error) -> None:
        exchange.facts |= {"errorCode": error.code, "errorMessage": str(error)[:500]}
        if exchange.status:  # in the midst of an answer: breaking the connection is all that is left to say
            raise ClientGoneError
        await exchange.drain()
        await exchange.answer(error.status, _XML, render(error, exchange.path, exchange.request_id))

    async def _answer(self, exchange: Exchange) -> None:
        bucket, _, key = exchange.path.removeprefix("/").partition("/")
        query = dict(query_pairs(exchange.query))
        name, action, permission = find_action(exchange, bool(bucket), bool(key), query)
        exchange.facts |= {"eventName": name, "readOnly": exchange.method in ("GET", "HEAD"),
                           "requestParameters": {"bucket": bucket[:80], "key": unquote(key)[:500]}}  # fmt: skip
        if self._objects is None:
            raise S3Error("NotImplemented", 501, "the objects of this server lie in S3; call that endpoint")
        caller: Caller = await in_thread(self._pool, identify, self._services, exchange.received)
        exchange.facts |= {"accessKey": caller.identity.access_key, "account": caller.scope.account, "region": caller.scope.region}
        request = Request(exchange, caller, unquote(bucket), unquote(key), query)
        if caller.claim is not None and declared_hash(exchange.received, caller.claim) is not None:
            request.signing_key = prove(caller, exchange.received, None)
        elif caller.claim is not None:
            body = await exchange.body(DOCUMENT_BYTES, self._budget)
            request.signing_key = prove(caller, exchange.received, sha256(body))
            exchange.receive, exchange.ended = _replay(body), False
        resource = f"arn:aws:s3:::{request.bucket}" + (f"/{request.key}" if request.key else "")
        Call(self._services, caller.scope, caller.identity, exchange.request_id).require(permission, resource)
        await action(self, request)

    # --- bodies

    async def _document(self, request: Request) -> bytes:
        """A small body, checked against its declared hash."""
        body = await request.exchange.body(DOCUMENT_BYTES, self._budget)
        claim = request.caller.claim
        declared = declared_hash(request.exchange.received, claim) if claim else None
        if declared is not None:
            check_body(declared, sha256(body))
        return body

    async def _receive(self, request: Request) -> tuple[Path, str]:
        """Write a body to a file; returns it and its MD5. The file is removed when the body is not as declared."""
        exchange, claim = request.exchange, request.caller.claim
        declared = (declared_hash(exchange.received, claim) if claim else exchange.headers.get("x-amz-content-sha256")) or ""
        decoder = None
        if declared in STREAMING:
            sign = partial(chunk_signature, request.signing_key, claim) if claim and "HMAC" in declared else None
            decoder = ChunkDecoder(sign, claim.signature if claim else "")
            if "HMAC" in declared and claim is None:
                raise S3Error("AccessDenied", 403, "signed chunks need a signed request")
        if (exchange.length or 0) > OBJECT_BYTES:
            raise S3Error("EntityTooLarge", 400, f"an object comes in parts of at most {OBJECT_BYTES} bytes")
        assert self._objects is not None
        incoming = self._objects.incoming()
        md5, sha = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        try:
            with incoming.open("xb") as stream:
                pending, total = bytearray(), 0
                async for raw in exchange.chunks():
                    for part in decoder.feed(raw) if decoder else (raw,):
                        pending += part
                        total += len(part)
                    if total > OBJECT_BYTES:
                        raise S3Error("EntityTooLarge", 400, f"an object comes in parts of at most {OBJECT_BYTES} bytes")
                    if len(pending) >= BLOCK:
                        await in_thread(self._pool, _write, stream, bytes(pending), md5, sha)
                        pending.clear()
                await in_thread(self._pool, _write, stream, bytes(pending), md5, sha)
            if decoder is not None and not decoder.finished:
                raise S3Error("IncompleteBody", 400, "the body ended before its last chunk")
            if decoder is None and claim is not None:
                check_body(declared, sha.hexdigest())
            if exchange.length is not None and exchange.read != exchange.length:
                raise S3Error("IncompleteBody", 400, f"the body has {exchange.read} of {exchange.length} bytes")
        except BaseException:
            incoming.unlink(missing_ok=True)
            raise
        return incoming, md5.hexdigest()

    # --- buckets

    async def list_buckets(self, request: Request) -> None:
        """ListBuckets."""
        assert self._objects is not None
        found = await in_thread(self._pool, self._objects.buckets)
        owner = [("ID", request.caller.scope.account), ("DisplayName", "linewatch")]
        buckets = [("Bucket", [("Name", name), ("CreationDate", xml.iso(created))]) for name, created in found]
        body = xml.document("ListAllMyBucketsResult", [("Owner", owner), ("Buckets", buckets)])
        await request.exchange.answer(200, _XML, body)

    async def create_bucket(self, request: Request) -> None:
        """CreateBucket; one that is there is yours already."""
        assert self._objects is not None
        await self._document(request)
        made = await in_thread(self._pool, self._objects.create_bucket, request.bucket)
        # S3 answers so everywhere but in us-east-1, where scripts that run twice rely on success.
        if not made and request.caller.scope.region != "us-east-1":
            raise S3Error("BucketAlreadyOwnedByYou", 409, f"the bucket {request.bucket} exists and is yours")
        await request.exchange.answer(200, [("location", f"/{request.bucket}")])

    async def head_bucket(self, request: Request) -> None:
        """HeadBucket."""
        self._require_bucket(request)
        await request.exchange.answer(200, [("x-amz-bucket-region", request.caller.scope.region)])

    async def get_bucket_location(self, request: Request) -> None:
        """GetBucketLocation: the region that the caller signs for; every region is here."""
        self._require_bucket(request)
        region = request.caller.scope.region
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<LocationConstraint xmlns="{xml.NAMESPACE}">'
        body += ("" if region == "us-east-1" else region) + "</LocationConstraint>"
        await request.exchange.answer(200, _XML, body.encode())

    async def delete_bucket(self, request: Request) -> None:
        """DeleteBucket."""
        assert self._objects is not None
        await in_thread(self._pool, self._objects.delete_bucket, request.bucket)
        await request.exchange.answer(204, [])

    def _require_bucket(self, request: Request) -> None:
        assert self._objects is not None
        if not self._objects.bucket_exists(request.bucket):
            raise S3Error("NoSuchBucket", 404, f"there is no bucket {request.bucket[:80]!r}")

    async def list_objects(self, request: Request) -> None:
        """ListObjects and ListObjectsV2."""
        assert self._objects is not None
        body = await in_thread(self._pool, list_objects, self._objects, request.bucket, request.query)
        await request.exchange.answer(200, _XML, body)

    # --- objects

    async def put_object(self, request: Request) -> None:
        """PutObject."""
        assert self._objects is not None
        self._require_bucket(request)
        incoming, etag = await self._receive(request)
        await in_thread(self._pool, self._objects.adopt, request.bucket, request.key, incoming, etag, *_about(request))
        await request.exchange.answer(200, [("etag", f'"{etag}"')])

    async def copy_object(self, request: Request) -> None:
        """CopyObject."""
        assert self._objects is not None
        note, modified, incoming, etag = await in_thread(self._pool, self._copy_source, request)
        about = _about(request) if request.exchange.headers.get("x-amz-metadata-directive") == "REPLACE" else (
            note.content_type, note.metadata)  # fmt: skip
        await in_thread(self._pool, self._objects.adopt, request.bucket, request.key, incoming, etag, *about)
        body = xml.document("CopyObjectResult", [("LastModified", xml.iso(modified)), ("ETag", f'"{etag}"')])
        await request.exchange.answer(200, _XML, body)

    def _copy_source(self, request: Request) -> tuple[Any, float, Path, str]:
        """The object that x-amz-copy-source names, copied to a file of ours: its note, time, the file and its MD5."""
        assert self._objects is not None
        headers = request.exchange.headers
        bucket, _, key = unquote(headers["x-amz-copy-source"].partition("?")[0]).removeprefix("/").partition("/")
        Call(self._services, request.caller.scope, request.caller.identity, request.exchange.request_id).require(
            "s3:GetObject", f"arn:aws:s3:::{bucket}/{key}"
        )
        self._require_bucket(request)
        note, modified, path = self._objects.note(bucket, key)
        first, last = 0, note.size - 1
        if "x-amz-copy-source-range" in headers:
            first, last = _range(headers["x-amz-copy-source-range"], note.size) or (first, last)
        incoming, md5 = self._objects.incoming(), hashlib.md5(usedforsecurity=False)
        with incoming.open("xb") as target:
            if not key.endswith("/"):
                with path.open("rb") as source:
                    source.seek(first)
                    left = last - first + 1
                    while left and (block := source.read(min(BLOCK, left))):
                        md5.update(block)
                        target.write(block)
                        left -= len(block)
        return note, modified, incoming, md5.hexdigest()

    async def get_object(self, request: Request) -> None:
        """GetObject, whole or a range; HeadObject."""
        assert self._objects is not None
        exchange = request.exchange
        note, modified, path = await in_thread(self._pool, self._objects.note, request.bucket, request.key)
        etag, headers = f'"{note.etag}"', exchange.headers
        if "if-match" in headers and headers["if-match"] not in (etag, "*"):
            raise S3Error("PreconditionFailed", 412, "the object's ETag is another one")
        common = [("etag", etag), ("last-modified", xml.http_date(modified)), ("accept-ranges", "bytes")]
        if headers.get("if-none-match") in (etag, "*"):
            await exchange.answer(304, common)
            return
        common += [("content-type", note.content_type), *((f"{_META}{k}", v) for k, v in note.metadata.items())]
        span = _range(headers["range"], note.size) if "range" in headers else None
        first, last = span or (0, note.size - 1)
        status = 206 if span else 200
        if span:
            common.append(("content-range", f"bytes {first}-{last}/{note.size}"))
        left = last - first + 1
        await exchange.begin(status, [*common, ("content-length", str(left))])
        if exchange.method == "HEAD" or not left:
            await exchange.send({"type": "http.response.body", "body": b""})
            return
        with path.open("rb") as stream:
            stream.seek(first)
            while left:
                block = await in_thread(self._pool, stream.read, min(BLOCK, left))
                if not block:  # it was made smaller meanwhile
                    raise ClientGoneError
                left -= len(block)
                await exchange.send({"type": "http.response.body", "body": block, "more_body": left > 0})

    async def delete_object(self, request: Request) -> None:
        """DeleteObject."""
        assert self._objects is not None
        await in_thread(self._pool, self._objects.delete, request.bucket, request.key)
        await request.exchange.answer(204, [])

    async def delete_objects(self, request: Request) -> None:
        """DeleteObjects: up to a thousand keys."""
        assert self._objects is not None
        root = xml.parse(await self._document(request), "Delete")
        keys = [xml.text_of(item, "Key") or "" for item in xml.children(root, "Object")]
        if len(keys) > 1000:
            raise S3Error("MalformedXML", 400, f"{len(keys)} keys; at most 1000 are deleted at a time")
        call = Call(self._services, request.caller.scope, request.caller.identity, request.exchange.request_id)
        results: list[tuple[str, Any]] = []
        for key in keys:
            try:
                call.require("s3:DeleteObject", f"arn:aws:s3:::{request.bucket}/{key}")
                await in_thread(self._pool, self._objects.delete, request.bucket, key)
                if xml.text_of(root, "Quiet") != "true":
                    results.append(("Deleted", [("Key", key)]))
            except (ObjectsError, ApiError) as error:
                said = translate(error)
                results.append(("Error", [("Key", key), ("Code", said.code), ("Message", str(said))]))
        await request.exchange.answer(200, _XML, xml.document("DeleteResult", results))

    # --- multipart

    async def create_multipart_upload(self, request: Request) -> None:
        """CreateMultipartUpload."""
        assert self._uploads is not None
        self._require_bucket(request)
        content_type, metadata = _about(request)
        upload = Upload(request.bucket, request.key, content_type, metadata)
        upload_id = await in_thread(self._pool, self._uploads.begin, upload)
        body = xml.document("InitiateMultipartUploadResult",
                            [("Bucket", request.bucket), ("Key", request.key), ("UploadId", upload_id)])  # fmt: skip
        await request.exchange.answer(200, _XML, body)

    async def upload_part(self, request: Request) -> None:
        """UploadPart and UploadPartCopy."""
        assert self._uploads is not None
        text = request.query["partNumber"]
        if not text.isdigit() or not 1 <= int(text) <= MOST_PARTS:
            raise S3Error("InvalidArgument", 400, f"partNumber is {text[:40]!r}; expected 1 to {MOST_PARTS}")
        folder, _ = self._uploads.find(request.query["uploadId"], request.bucket, request.key)
        if "x-amz-copy-source" in request.exchange.headers:
            _, modified, incoming, etag = await in_thread(self._pool, self._copy_source, request)
            await in_thread(self._pool, self._uploads.add_part, folder, int(text), incoming, etag)
            body = xml.document("CopyPartResult", [("LastModified", xml.iso(modified)), ("ETag", f'"{etag}"')])
            await request.exchange.answer(200, _XML, body)
            return
        incoming, etag = await self._receive(request)
        await in_thread(self._pool, self._uploads.add_part, folder, int(text), incoming, etag)
        await request.exchange.answer(200, [("etag", f'"{etag}"')])

    async def complete_multipart_upload(self, request: Request) -> None:
        """CompleteMultipartUpload."""
        assert self._uploads is not None
        folder, upload = self._uploads.find(request.query["uploadId"], request.bucket, request.key)
        root = xml.parse(await self._document(request), "CompleteMultipartUpload")
        wanted = []
        for part in xml.children(root, "Part"):
            number, etag = xml.text_of(part, "PartNumber") or "", (xml.text_of(part, "ETag") or "").strip('"')
            if not number.isdigit():
                raise S3Error("MalformedXML", 400, "a part has no number")
            wanted.append((int(number), etag))
        etag = await in_thread(self._pool, self._uploads.complete, folder, upload, wanted)
        body = xml.document("CompleteMultipartUploadResult", [
            ("Location", request.exchange.path), ("Bucket", request.bucket), ("Key", request.key), ("ETag", f'"{etag}"'),
        ])  # fmt: skip
        await request.exchange.answer(200, _XML, body)

    async def abort_multipart_upload(self, request: Request) -> None:
        """AbortMultipartUpload."""
        import shutil

        assert self._uploads is not None
        folder, _ = self._uploads.find(request.query["uploadId"], request.bucket, request.key)
        await in_thread(self._pool, partial(shutil.rmtree, folder, ignore_errors=True))
        await request.exchange.answer(204, [])

    async def list_parts(self, request: Request) -> None:
        """ListParts."""
        assert self._uploads is not None
        folder, _ = self._uploads.find(request.query["uploadId"], request.bucket, request.key)
        found = await in_thread(self._pool, self._uploads.parts, folder)
        parts = [("Part", [("PartNumber", n), ("ETag", f'"{e}"'), ("Size", p.stat().st_size)]) for n, (e, p) in found.items()]
        body = xml.document("ListPartsResult", [
            ("Bucket", request.bucket), ("Key", request.key), ("UploadId", request.query["uploadId"]), ("IsTruncated", False),
            *parts,
        ])  # fmt: skip
        await request.exchange.answer(200, _XML, body)


_IGNORED = {"x-id", "encoding-type", "list-type", "prefix", "delimiter", "max-keys", "continuation-token", "start-after", "marker",
            "fetch-owner", "versionId", "partNumber", "uploadId", "allow-unordered"}  # fmt: skip
_RESPONSE = re.compile(r"response-|X-Amz-|x-amz-", re.IGNORECASE)


_ACTIONS: dict[tuple[str, str, str], tuple[str, Action, str]] = {
    ("GET", "service", ""): ("ListBuckets", S3Door.list_buckets, "s3:ListAllMyBuckets"),
    ("PUT", "bucket", ""): ("CreateBucket", S3Door.create_bucket, "s3:CreateBucket"),
    ("HEAD", "bucket", ""): ("HeadBucket", S3Door.head_bucket, "s3:ListBucket"),
    ("GET", "bucket", ""): ("ListObjects", S3Door.list_objects, "s3:ListBucket"),
    ("GET", "bucket", "location"): ("GetBucketLocation", S3Door.get_bucket_location, "s3:GetBucketLocation"),
    ("DELETE", "bucket", ""): ("DeleteBucket", S3Door.delete_bucket, "s3:DeleteBucket"),
    ("POST", "bucket", "delete"): ("DeleteObjects", S3Door.delete_objects, "s3:DeleteObject"),
    ("PUT", "object", ""): ("PutObject", S3Door.put_object, "s3:PutObject"),
    ("PUT", "object", "copy"): ("CopyObject", S3Door.copy_object, "s3:PutObject"),
    ("GET", "object", ""): ("GetObject", S3Door.get_object, "s3:GetObject"),
    ("HEAD", "object", ""): ("HeadObject", S3Door.get_object, "s3:GetObject"),
    ("DELETE", "object", ""): ("DeleteObject", S3Door.delete_object, "s3:DeleteObject"),
    ("POST", "object", "uploads"): ("CreateMultipartUpload", S3Door.create_multipart_upload, "s3:PutObject"),
    ("PUT", "upload", ""): ("UploadPart", S3Door.upload_part, "s3:PutObject"),
    ("PUT", "upload", "copy"): ("UploadPartCopy", S3Door.upload_part, "s3:PutObject"),
    ("GET", "upload", ""): ("ListParts", S3Door.list_parts, "s3:GetObject"),
    ("POST", "upload", ""): ("CompleteMultipartUpload", S3Door.complete_multipart_upload, "s3:PutObject"),
    ("DELETE", "upload", ""): ("AbortMultipartUpload", S3Door.abort_multipart_upload, "s3:PutObject"),
}
"""(method, what it is about, what the query or a header adds) to name, method and permission."""


def find_action(exchange: Exchange, bucket: bool, key: bool, query: dict[str, str]) -> tuple[str, Action, str]:
    """Name, method and permission of a call.

    Raises:
        S3Error: a part of S3 that this server does not have.
    """
    extra = sorted(q for q in query if q not in _IGNORED and not _RESPONSE.match(q))
    if "x-amz-copy-source" in exchange.headers:
        extra.append("copy")
    what = "service" if not bucket else "bucket" if not key else "upload" if "uploadId" in query else "object"
    found = _ACTIONS.get((exchange.method, what, ",".join(extra)))
    if found is None or (what == "upload" and exchange.method == "PUT" and "partNumber" not in query):
        raise S3Error(
            "NotImplemented", 501, f"{exchange.method} of a {what} with {', '.join(extra) or 'this query'} is a part of S3 that "
            "this server does not have; its how-to guide lists those it has"
        )  # fmt: skip
    return found


def _about(request: Request) -> tuple[str, dict[str, str]]:
    """Content type and the client's own metadata."""
    headers = request.exchange.headers
    metadata = {k.removeprefix(_META): v for k, v in headers.items() if k.startswith(_META)}
    return headers.get("content-type") or "binary/octet-stream", metadata


def _range(text: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a Range header; None for one that is to be ignored.

    Raises:
        S3Error: beyond the end.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", text)
    if not match or not (match[1] or match[2]):
        return None
    first = int(match[1]) if match[1] else max(size - int(match[2]), 0)
    last = min(int(match[2]), size - 1) if match[1] and match[2] else size - 1
    if first >= size or first > last:
        raise S3Error("InvalidRange", 416, f"the range {text[:80]} lies outside the object's {size} bytes")
    return first, last


def _write(stream: Any, data: bytes, md5: Any, sha: Any) -> None:
    md5.update(data)
    sha.update(data)
    stream.write(data)


def _replay(body: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
